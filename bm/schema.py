"""What a config may hold: the type and range of every key, and which values go together."""
import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bm.schema_parts import Alphas, Count, Encoding, Index, NonNegative, Positive, Ratio, Trf
from bm.schema_parts import Section as _Section


def nearest(name: str, known: Any) -> str:
    """`"; did you mean 'x'?"`, or nothing when no known name is close."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Optim(_Section):
    name: Literal["adam", "adamw"]
    lr: Positive
    beta2: Annotated[float, Field(gt=0, lt=1)]
    weight_decay: NonNegative
    warmup_steps: Index
    lr_decay: Annotated[float, Field(gt=0, le=1)]
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
    n_permutations: Index


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
    lowpass: NonNegative
    notch: NonNegative
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
        for name, cutoff in [("highpass", self.highpass), ("lowpass", self.lowpass), ("notch", self.notch)]:
            if 2 * cutoff >= self.sample_rate:
                raise ValueError(f"dset.{name} ({cutoff} Hz) must be below half of dset.sample_rate "
                                 f"({self.sample_rate} Hz)")
        if self.lowpass and self.highpass >= self.lowpass:
            raise ValueError(f"dset.highpass ({self.highpass} Hz) must be below dset.lowpass ({self.lowpass} Hz)")
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
    type: Literal["decode", "linear_decode", "linear_encode", "classify", "ridge", "rsa", "encode", "trf"]
    offset_meg_ms: NonNegative
    lowpass: NonNegative
    mask_loss: bool
    shuffle_pairs: bool
    noise_brain: bool
    meg_init: NonNegative
    lowpass_gt: bool
    lowpass_gt_test: bool


class Linear(_Section):
    alphas: Alphas
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


class Classify(_Section):
    label: str
    kind: str | None
    classes: Annotated[list[str], Field(min_length=2)] | None
    scale: Literal["global", "channel", "recording"]
    weighted: bool
    method: Literal["network", "bandpower", "bandpower_centred", "covariance", "csp"]
    bands: Annotated[list[list[NonNegative]], Field(min_length=1)]

    @model_validator(mode="after")
    def _coherent(self) -> "Classify":
        for band in self.bands:
            if len(band) != 2 or band[0] >= band[1]:
                raise ValueError(f"bands: {band}: expected pairs [low, high] in Hz")
        return self


class Encode(_Section):
    window_s: Positive
    warmup_s: NonNegative
    response: Literal["zscore", "max", "none"]
    offset_ms: NonNegative
    loss: Literal["mse", "poisson"]
    predictions: bool


class Encoder(_Section):
    name: str
    params: dict[str, Any]
    prefilter: str | None
    prefilter_params: dict[str, Any]
    wav2spec: str | None
    wav2spec_params: dict[str, Any]


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
    model_name: Literal["simpleconv", "convrnn", "eeg_transformer", "braindecode", "encoder"]
    eeg_transformer: dict[str, Any]
    braindecode: dict[str, Any]
    simpleconv: dict[str, Any]
    convrnn: dict[str, Any]
    encoder: Encoder
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
    classify: Classify
    encoding: Encoding
    encode: Encode
    trf: Trf
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
        for key in ("shuffle_pairs", "noise_brain"):
            if getattr(self.task, key) and self.task.type not in ("decode", "linear_decode", "linear_encode"):
                raise ValueError(f"task.{key} has no use in task.type={self.task.type}, which has no pairs of brain "
                                 "and sound")
        if self.task.type.startswith("linear"):
            self._linear()
        if self.task.type in ("ridge", "rsa"):
            if (self.encoding.model is None) == (self.encoding.activations is None):
                raise ValueError(f"task.type={self.task.type} needs encoding.model (a network) or encoding.activations "
                                 "(published ones), and not both")
            if (self.dset.n_subjects, self.dset.n_subjects_test) != (None, None):
                raise ValueError(f"task.type={self.task.type} has no use for dset.n_subjects and n_subjects_test: take "
                                 "fewer people by the selection's keys, dset.n_recordings or skip_recordings")
        self._encode()
        self._classify()
        return self

    def _encode(self) -> None:
        task = self.task.type
        if task != "trf" and (task != "encode" or self.model_name != "encoder"):
            if self.model_name == "encoder" and task != "encode":
                raise ValueError(f"model_name=encoder is for task.type=encode, not {task}")
            if task == "encode":
                self._prompt()
            return
        if not self.dset.features:
            raise ValueError(f"task.type={task} needs features: dset.features is empty")
        if task == "encode" and self.encode.loss == "poisson" and self.encode.response == "zscore":
            raise ValueError("encode.loss=poisson is for rates, which are never negative: set encode.response=max or "
                             "none")
        for key, used in [("feature_model_name", self.feature_model_name), ("task.mask_loss", self.task.mask_loss),
                          ("task.lowpass", self.task.lowpass), ("continue_sig", self.continue_sig),
                          ("task.offset_meg_ms (it is encode.offset_ms here)", self.task.offset_meg_ms)]:
            if used:
                raise ValueError(f"task.type={task} has no use for {key}={used}")

    def _prompt(self) -> None:
        what = f"task.type=encode with model_name={self.model_name}"
        if self.model_name not in ("simpleconv", "convrnn"):
            raise ValueError(f"{what}: expected encoder, simpleconv or convrnn")
        if self.optim.loss not in ("l1", "mse"):
            raise ValueError(f"{what} predicts the brain: it needs optim.loss=l1 or mse, not {self.optim.loss}")
        if not self.dset.features or self.feature_model_name:
            raise ValueError(f"{what} needs dset.features and no feature_model_name")
        window = min(tmax - tmin for tmin, tmax in [(self.dset.tmin, self.dset.tmax), self.dset.test_window])
        if self.task.meg_init + self.task.offset_meg_ms / 1000 >= window:
            raise ValueError(f"task.meg_init={self.task.meg_init:g} s leaves nothing to predict of {window:g} s")

    def _classify(self) -> None:
        optim = self.optim
        if self.task.type != "classify":
            encode = self.task.type == "encode" and self.model_name == "encoder"
            for name, off in [("optim.name=adamw", encode or optim.name == "adam"),
                              ("optim.weight_decay", encode or not optim.weight_decay),
                              ("optim.lr_decay", optim.lr_decay == 1),
                              ("optim.warmup_steps", not optim.warmup_steps),
                              (f"model_name={self.model_name}",
                               self.model_name not in ("eeg_transformer", "braindecode"))]:
                if not off:
                    raise ValueError(f"{name} is for task.type=classify, not {self.task.type}")
            return
        if self.dset.test_window != (self.dset.tmin, self.dset.tmax):
            raise ValueError(f"task.type=classify tests segments as long as those of training: dset.test has "
                             f"{self.dset.test_window} s, dset ({self.dset.tmin}, {self.dset.tmax}) s")
        condition, test = self.dset.condition, self.dset.test.condition
        if self.classify.kind is None and (not isinstance(condition, str) or condition != test):
            raise ValueError(f"dset.condition={condition} and dset.test.condition={test} are not one kind of event: "
                             "say with classify.kind which events tell the class")
        for key, used in [("feature_model_name", self.feature_model_name), ("continue_sig", self.continue_sig),
                          ("task.mask_loss", self.task.mask_loss), ("task.offset_meg_ms", self.task.offset_meg_ms),
                          ("dset.features", self.dset.features)]:
            if used:
                raise ValueError(f"task.type=classify has no use for {key}={used}")

    def _linear(self) -> None:
        task = f"task.type={self.task.type}"
        if not self.dset.features:
            raise ValueError(f"{task} needs features: dset.features is empty")
        for key, used in [("feature_model_name", self.feature_model_name), ("task.mask_loss", self.task.mask_loss),
                          ("task.lowpass", self.task.lowpass), ("continue_sig", self.continue_sig)]:
            if used:
                raise ValueError(f"{task} has no use for {key}={used}")
        rate, window = self.dset.sample_rate, (self.dset.tmin, self.dset.tmax)
        what: tuple[Literal["brain", "feature"], ...] = ("brain", "feature")
        offset = int(self.task.offset_meg_ms / 1000 * rate)
        train, test = ([stop - first for first, stop, _ in (self.linear.part(x, seconds, rate, offset) for x in what)]
                       for seconds in (window, self.dset.test_window))
        if train != test:
            raise ValueError(f"{task} uses {train} samples of brain and features in training, but {test} in the test: "
                             "set linear.tmin, tmax, feature_tmin and feature_tmax to what both windows hold")
