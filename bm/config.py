"""Reads and checks the config before anything slow happens: unknown keys, wrong types, impossible ranges.

The yaml files in `conf/` hold every default; the classes here say what a value may be. `check_config` turns the
composed config into a frozen `Config`; a fault is a `ConfigError`, one line that names the key, what was got, what
was expected, and the nearest key where the name is unknown.
"""
import difflib
import json
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class ConfigError(SystemExit, ValueError):
    """A fault in the config. Where nobody catches it the process ends with its message alone, without a traceback."""

    def __str__(self) -> str:
        return str(self.code)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Optim(_Section):
    name: Literal["adam"]
    lr: Positive
    beta2: Annotated[float, Field(gt=0, lt=1)]
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    loss: Literal["clip", "l1", "mse", "regression_classification"]
    use_weighting: bool
    max_batches: Count | None
    negatives: Count | None
    negative_pool_size: Count | None
    svd: NonNegative
    clip_grad: Positive | None
    amp: bool
    compile: bool


class Clip(_Section):
    linear: Count | None
    twin: bool
    pool: bool
    center: bool
    dedupe: bool
    gather: bool
    tmin: float | None
    tmax: float | None
    tmin_train: float | None
    tmax_train: float | None


class Test(_Section):
    topk: list[Count]
    wer_negatives: Count | None
    wer_topx: Count
    wer_recordings: Count | None
    wer_random: bool
    wer_study: str | None
    n_boot: Count


class TestSegments(_Section):
    condition: Positive | str
    tmin: float | None
    tmax: float | None


class Dset(_Section):
    selections: Annotated[list[str], Field(min_length=1)]
    features: list[str]
    features_params: dict[str, dict[str, Any]]
    feature_resampling: Literal["bandlimited", "nearest"]
    tmin: float
    tmax: float
    sample_rate: Count
    highpass: NonNegative
    condition: Positive | str
    test: TestSegments
    apply_baseline: bool
    event_mask: bool
    n_recordings: Count
    skip_recordings: Index
    shuffle_recordings_seed: int
    n_subjects: Count | None
    n_subjects_test: Count | None
    test_ratio: Ratio
    valid_ratio: Ratio
    remove_ratio: Ratio
    split_assign_seed: int
    split_by: Literal["stimulus", "subject"]
    n_folds: Annotated[int, Field(ge=2)] | None
    fold: Index
    min_block_duration: NonNegative
    force_uid_assignement: bool
    min_n_blocks_per_split: Index
    allow_empty_split: bool
    purge: NonNegative | None
    strict_text: bool

    @model_validator(mode="after")
    def _coherent(self) -> "Dset":
        for name, tmin, tmax in [("dset", self.tmin, self.tmax), ("dset.test", *self.test_window)]:
            if tmin >= tmax:
                raise ValueError(f"{name}.tmin ({tmin}) must be below {name}.tmax ({tmax})")
            if self.apply_baseline and tmin > 0:
                raise ValueError(f"{name}.tmin is {tmin}: a baseline over [tmin, 0] needs tmin ≤ 0; "
                                 "set dset.apply_baseline=false")
        total = self.test_ratio + self.valid_ratio + self.remove_ratio
        if total >= 1:
            raise ValueError(f"dset.test_ratio + valid_ratio + remove_ratio is {total:g}: nothing is left to train on")
        if self.n_folds is None and self.fold:
            raise ValueError(f"dset.fold={self.fold} needs dset.n_folds")
        if self.n_folds is not None and self.fold >= self.n_folds:
            raise ValueError(f"dset.fold={self.fold}: folds go from 0 to dset.n_folds - 1 = {self.n_folds - 1}")
        if 2 * self.highpass >= self.sample_rate:
            raise ValueError(f"dset.highpass ({self.highpass} Hz) must be below half of "
                             f"dset.sample_rate ({self.sample_rate} Hz)")
        return self

    @property
    def test_window(self) -> tuple[float, float]:
        """`(tmin, tmax)` of test segments, seconds."""
        return (self.tmin if self.test.tmin is None else self.test.tmin,
                self.tmax if self.test.tmax is None else self.test.tmax)


class Scaler(_Section):
    per_channel: bool
    n_samples_per_recording: Count
    n_samples_features: Count


class Norm(_Section):
    max_scale: Positive
    clip: bool
    exclude_empty_features: bool
    scaler: Scaler


class Task(_Section):
    type: Literal["decode", "linear_decode", "linear_encode"]
    offset_meg_ms: NonNegative
    lowpass: NonNegative
    mask_loss: bool


class LinearAlphas(_Section):
    low: float
    high: float
    n: Count


class Linear(_Section):
    alphas: LinearAlphas
    cv: int | str
    alpha_per_target: bool
    tmin: float | None
    tmax: float | None
    brain_bins: Count | None
    feature_tmin: float | None
    feature_tmax: float | None
    bins: Count | None
    global_scale: bool
    metric: Literal["cosine", "correlation"] | None

    @model_validator(mode="after")
    def _coherent(self) -> "Linear":
        if self.cv != "loo" and (isinstance(self.cv, str) or self.cv < 2):
            raise ValueError(f"cv={self.cv!r}: expected loo, or a number of folds of at least 2")
        if self.alphas.low > self.alphas.high or (self.alphas.n == 1) != (self.alphas.low == self.alphas.high):
            raise ValueError(f"alphas are {self.alphas.n} powers of ten from {self.alphas.low:g} to "
                             f"{self.alphas.high:g}: expected low < high and n ≥ 2, or low = high and n = 1")
        return self

    def part(self, what: Literal["brain", "feature"], segment: tuple[float, float], rate: int, offset: int
             ) -> tuple[int, int, int]:
        """First sample, the one after the last, and number of bins, of what is used of a `segment` (s)."""
        brain = what == "brain"
        tmin, tmax = (self.tmin, self.tmax) if brain else (self.feature_tmin, self.feature_tmax)
        names = "tmin, tmax" if brain else "feature_tmin, feature_tmax"
        origin = round(segment[0] * rate)
        length = round(segment[1] * rate) - origin + 1 - offset
        first = 0 if tmin is None else round(tmin * rate) - origin
        stop = length if tmax is None else round(tmax * rate) - origin
        if not 0 <= first < stop <= length:
            raise ValueError(f"linear.{names}=[{tmin}, {tmax}) s is not inside segments of [{segment[0]:g}, "
                             f"{segment[1]:g}] s: it gives samples [{first}, {stop}) of {length}")
        key, bins = ("brain_bins", self.brain_bins) if brain else ("bins", self.bins)
        if bins is not None and (stop - first) % bins:
            raise ValueError(f"linear.{key}={bins} does not divide the {stop - first} samples of linear.{names}: "
                             "change either")
        return first, stop, bins or stop - first


class Wandb(_Section):
    use_wandb: bool
    project: str
    group: str | None
    mode: Literal["online", "offline"]


class Config(_Section):
    seed: Index
    dummy: str | int | float | None
    device: str
    resident: bool
    num_workers: Index
    num_prints: Count
    verbose: Annotated[int, Field(ge=0, le=1)]
    show: Annotated[int, Field(ge=0, le=1)]
    tensorboard: bool
    wandb: Wandb
    continue_sig: str | None
    continue_best: bool
    download_only: bool
    early_stop_patience: Index
    eval_every: Count
    override_n_subjects_model: Count | None
    cache: str
    features_models: str
    model_name: Literal["simpleconv", "convrnn"]
    simpleconv: dict[str, Any]
    convrnn: dict[str, Any]
    feature_model_name: str | None
    feature_model_params: dict[str, Any]
    selections: dict[str, dict[str, Any]]
    study_paths: dict[str, str]
    optim: Optim
    clip: Clip
    test: Test
    dset: Dset
    norm: Norm
    task: Task
    linear: Linear
    slurm: dict[str, Any]
    dora: dict[str, Any]

    @model_validator(mode="after")
    def _coherent(self) -> "Config":
        for name in self.dset.selections:
            if name not in self.selections:
                raise ValueError(f"dset.selections: unknown selection {name!r}; known: {', '.join(self.selections)}"
                                 + nearest(name, self.selections))
            if "study" not in self.selections[name]:
                raise ValueError(f"selections.{name} has no key `study`")
        window = self.dset.tmax - self.dset.tmin
        if self.task.offset_meg_ms / 1000 >= window:
            raise ValueError(f"task.offset_meg_ms ({self.task.offset_meg_ms} ms) leaves nothing of a window "
                             f"of {window:g} s")
        if self.clip.linear is not None and self.optim.loss != "clip":
            raise ValueError(f"clip.linear={self.clip.linear} is a projection that only optim.loss=clip trains, not "
                             f"{self.optim.loss}")
        for key in ("negatives", "negative_pool_size"):
            if getattr(self.optim, key) is not None and self.optim.loss != "clip":
                raise ValueError(f"optim.{key}: only optim.loss=clip compares with negatives, not {self.optim.loss}")
        if self.clip.dedupe and self.optim.loss != "clip":
            raise ValueError(f"clip.dedupe needs optim.loss=clip, not {self.optim.loss}")
        if self.optim.negative_pool_size is not None and self.optim.negative_pool_size < (self.optim.negatives or 1):
            raise ValueError(f"optim.negative_pool_size={self.optim.negative_pool_size} must be at least "
                             f"optim.negatives={self.optim.negatives}")
        if self.optim.use_weighting and self.optim.loss != "regression_classification":
            raise ValueError("optim.use_weighting weighs classes: it needs optim.loss=regression_classification, not "
                             f"{self.optim.loss}")
        if 2 * self.task.lowpass >= self.dset.sample_rate:
            raise ValueError(f"task.lowpass ({self.task.lowpass} Hz) must be below half of dset.sample_rate "
                             f"({self.dset.sample_rate} Hz)")
        if self.feature_model_name is not None and self.optim.loss != "clip":
            raise ValueError(f"feature_model_name={self.feature_model_name} learns the target, so optim.loss must be "
                             f"clip, not {self.optim.loss}: any other loss is won by a constant")
        if self.task.type.startswith("linear"):
            self._linear()
        return self

    def _linear(self) -> None:
        task = f"task.type={self.task.type}"
        if not self.dset.features:
            raise ValueError(f"{task} needs features: dset.features is empty")
        for key, used in [("feature_model_name", self.feature_model_name), ("task.mask_loss", self.task.mask_loss),
                          ("task.lowpass", self.task.lowpass), ("continue_sig", self.continue_sig)]:
            if used:
                raise ValueError(f"{task} has no use for {key}={used}")
        rate, window, what = self.dset.sample_rate, (self.dset.tmin, self.dset.tmax), ("brain", "feature")
        offset = int(self.task.offset_meg_ms / 1000 * rate)
        train, test = ([stop - first for first, stop, _ in (self.linear.part(x, seconds, rate, offset) for x in what)]
                       for seconds in (window, self.dset.test_window))
        if train != test:
            raise ValueError(f"{task} uses {train} samples of brain and features in training, but {test} in the test: "
                             "set linear.tmin, tmax, feature_tmin and feature_tmax to what both windows hold")


def nearest(name: str, known: Any) -> str:
    """`"; did you mean 'x'?"`, or nothing when no known name is close."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _keys(info.annotation, f"{prefix}{name}.")
    return keys


def unknown_key(key: str) -> str:
    """One line about a key that does not exist."""
    known = _keys(Config)
    close = difflib.get_close_matches(key, known, n=1)
    if not close:  # the right last name under the wrong section, or without one
        last = {k.rpartition(".")[2]: k for k in known}
        close = [last[k] for k in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1)]
    return f"config: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed config as plain, resolved dicts and lists."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"config: expected a mapping, got {type(plain).__name__}")
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def check_config(plain: dict[str, Any]) -> Config:
    """Checks a plain config and returns it frozen and typed.

    Raises:
        ConfigError: on the first unknown key, wrong type or impossible value; one line that says what to do.
    """
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        # an unknown key explains a missing one better than the other way round
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        if first["type"] == "extra_forbidden":
            raise ConfigError(unknown_key(".".join(map(str, first["loc"])))) from None
        # a union reports each of its members as a last element of the location
        key = ".".join(str(part) for part in first["loc"] if part not in ("constrained-float", "str", "float", "int"))
        if first["type"] == "value_error":
            message = str(first["ctx"]["error"])
            where = "" if key in ("", "dset") else f"{key}: "
            raise ConfigError(f"config: {where}{message}") from None
        raise ConfigError(f"config: {key}={json.dumps(first['input'], default=str)}: {first['msg'].lower()}") from None


def _flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(plain, dict) or not plain:
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat.update(_flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def config_difference(old: dict[str, Any], new: dict[str, Any], exclude: list[str]) -> list[str]:
    """Lines `key: old → new` for every leaf that differs, but for keys that match an `exclude` pattern."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    missing = object()
    lines = []
    for key in sorted(set(flat_old) | set(flat_new)):
        a, b = flat_old.get(key, missing), flat_new.get(key, missing)
        if a != b and not any(fnmatch(key, pattern) for pattern in exclude):
            before, after = ("(absent)" if value is missing else repr(value) for value in (a, b))
            lines.append(f"{key}: {before} → {after}")
    return lines


def relevant(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that can change an XP's result: only the selections it uses, no paths."""
    used = {name: plain["selections"][name] for name in plain["dset"]["selections"]}
    return {**plain, "selections": used}


def check_stored(folder: Path, sig: str, plain: dict[str, Any], exclude: list[str]) -> None:
    """Stores the config of an XP at its first start; at a later start, refuses one that differs.

    A signature is the difference to the base config, so a changed base would silently pick up an old XP.

    Raises:
        ConfigError: names the keys that differ from those the XP was made with, and the cure.
    """
    path = folder / "config.json"
    exclude = [*exclude, "dora.*", "slurm.*"]
    if path.exists():
        lines = config_difference(relevant(json.loads(path.read_text())), relevant(plain), exclude)
        if lines:
            raise ConfigError(
                f"config: XP {sig} was made with another config, though its signature is the same (a file in conf/ has "
                f"changed): {'; '.join(lines)}. Put the old value back (in conf/ or as an override), or start the XP "
                "anew with --clear")
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".json.{os.getpid()}.tmp")  # several processes of one XP start together
    temporary.write_text(json.dumps(plain, indent=2))
    temporary.replace(path)
