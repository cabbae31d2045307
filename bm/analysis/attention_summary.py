"""The attention of a trained classifier over a whole split, a batch at a time, its files, and those of many XPs."""
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bm.analysis.attention import HeadFusion, channel_map, class_attention, record_attention, rollout
from bm.analysis.grids import xp_folders
from bm.analysis.xp import NotRestorable, StoredXP
from bm.batch import Batch
from bm.data.loader import EpochSampler, make_loader
from bm.models.eeg_transformer import EEGTransformer
from bm.solvers.classify import ClassifySolver


@dataclass(frozen=True)
class AttentionOptions:
    """What is looked at, and how.

    Args:
        split: valid, test or train.
        reference: rollout and normalisation as in the original program (see `rollout`, `class_attention`).
        head_fusion: over heads; None: mean, or max with `reference`.
        correct: maps are of segments that were classified rightly alone …
        confidence: … with at least this probability of the class that was said.
        memory: bytes that a batch's attention may take.
    """

    split: str = "valid"
    reference: bool = False
    head_fusion: HeadFusion | None = None
    correct: bool = True
    confidence: float = 0.5
    memory: int = 2 ** 29

    def __post_init__(self) -> None:
        if self.split not in ("train", "valid", "test"):
            raise ValueError(f"split={self.split!r}, expected train, valid or test")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence={self.confidence}, expected a probability between 0 and 1")

    @property
    def fusion(self) -> HeadFusion:
        return self.head_fusion or ("max" if self.reference else "mean")

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.split + ("_reference" if self.reference else "")


@dataclass(frozen=True)
class AttentionSummary:
    """The attention of N segments on C channels with K tokens each; NaN for channels that the model ignores.

    Args:
        segments: a row each: `segment` (id), `recording` and `subject` (names), `block`, `start` (s), `label`,
            `predicted`, `confidence`, `correct`, `used` (in the means), and `p_CLASS`.
        tokens: `(N, C, K)` rollout from the class token, 1 for the most seen token of each segment.
        layers: `(classes, L, C, K)` the same of each layer by itself, mean over the used segments of a condition.
        between: `(classes, C, C)` rollout from channel (row) to channel (column): mean over a row's tokens, sum over a
            column's; mean over the used segments of a condition.
        channels: names. positions: `(C, 3)` m. layout: `(C, 2)`. times: `(K,)` middle of the tokens, s.
        settings: with what it was made.
    """

    segments: pd.DataFrame
    tokens: np.ndarray
    layers: np.ndarray
    between: np.ndarray
    channels: list[str]
    positions: np.ndarray
    layout: np.ndarray
    times: np.ndarray
    classes: list[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def of(self, label: str | None = None) -> np.ndarray:
        """Numbers of the used segments of a condition, or of all."""
        keep = self.segments["used"].to_numpy(bool)
        return np.flatnonzero(keep if label is None else keep & (self.segments["label"] == label).to_numpy(bool))

    def confusion(self) -> np.ndarray:
        """`(K, K)` counts of all segments: row = truth, column = predicted."""
        true, said = (pd.Categorical(self.segments[name], self.classes).codes for name in ("label", "predicted"))
        counts = np.zeros((len(self.classes),) * 2, dtype=int)
        np.add.at(counts, (true, said), 1)
        return counts

    def condition_means(self) -> dict[str, np.ndarray]:
        """Condition → `(C, K)`, for conditions with used segments."""
        return {label: self.tokens[rows].mean(0) for label in self.classes if len(rows := self.of(label))}


def transformer(solver: ClassifySolver) -> EEGTransformer:
    """The model of a solver. Raises NotRestorable if its attention cannot be seen."""
    if not isinstance(solver.model, EEGTransformer):
        raise NotRestorable(f"model_name={solver.cfg.model_name} has no attention over channels and times: expected "
                            "eeg_transformer")
    solver.forward = solver.model  # a compiled one keeps its weights to itself
    return solver.model


def batches(solver: ClassifySolver, split: str, ids: np.ndarray, size: int) -> Iterator[Batch]:
    """Finished batches of segments in order, with their classes as `target`."""
    for raw in make_loader(solver.dataset(split), EpochSampler(ids, size), 0, False):
        batch = solver.finish(raw.to(solver.device))
        yield batch.replace(target=solver.labels[batch.segment.cpu()].to(solver.device))


def batch_size(model: EEGTransformer, memory: int, limit: int = 256) -> int:
    """Segments whose attention fits into so many bytes: the weights, a stacked copy, and what the rollout makes."""
    o = model.options
    return max(1, min(limit, memory // (4 * (model.n_tokens + 1) ** 2 * (2 * o.layers * o.heads + 3 * o.layers))))


def _between(rolled: Tensor, model: EEGTransformer) -> Tensor:
    """Channel-to-channel attention `(B, C, C)` of rollouts `(B, S, S)`, NaN for ignored channels."""
    n, k, channels = len(model.kept), model.options.tokens, model.spec.channels
    used = rolled[:, 1:, 1:].reshape(-1, n, k, n, k).sum(4).mean(2)
    out = used.new_full((len(used), channels, channels), torch.nan)
    out[:, model.kept[:, None], model.kept[None]] = used
    return out


def summarise(solver: ClassifySolver, options: AttentionOptions) -> AttentionSummary:
    """The attention of the best state of a restored solver.

    Raises:
        NotRestorable: another model. ValueError: the split is empty.
    """
    model, data = transformer(solver), solver.data
    ids = data.ids(options.split)
    if not len(ids):
        raise ValueError(f"split {options.split!r} has no segment: choose another one (--split)")
    k, channels, layers = model.options.tokens, model.spec.channels, model.options.layers
    classes = len(solver.classes)
    between, per_layer = np.zeros((classes, channels, channels)), np.zeros((classes, layers, channels, k))
    counts, rows, probabilities = np.zeros(classes), [], []
    with solver.use_best(), torch.no_grad():
        solver.modules.eval()
        for batch in batches(solver, options.split, ids, batch_size(model, options.memory)):
            with record_attention(model) as recorded:
                scores = solver.estimate(batch).softmax(1)
            weights = recorded.weights.float()
            rolled = rollout(weights, options.fusion, reference=options.reference)
            assert batch.target is not None
            target = batch.target
            used = scores.amax(1) >= options.confidence
            if options.correct:
                used &= scores.argmax(1) == target
            fused = [rollout(weights[:, [layer]], options.fusion, False, options.reference) for layer in range(layers)]
            seen = torch.stack([channel_map(class_attention(one), model) for one in fused], 1)
            across = _between(rolled, model)
            for c in range(classes):
                own = used & (target == c)
                counts[c] += int(own.sum())
                between[c] += across[own].sum(0).cpu().double().numpy()
                per_layer[c] += seen[own].sum(0).cpu().double().numpy()
            rows.append(rolled[:, :1].clone())  # the class token's row alone: all rows would not fit
            probabilities.append(scores.cpu())
    probability = torch.cat(probabilities).numpy()
    tokens = channel_map(class_attention(torch.cat(rows), options.reference), model).cpu().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [total / counts.reshape(-1, *[1] * (total.ndim - 1)) for total in (per_layer, between)]
    first = int(data.segments["recording"].iloc[ids[0]])
    rate = data.spec.sample_rate
    return AttentionSummary(
        segment_rows(solver, ids, probability, options), tokens, means[0].astype(np.float32),
        means[1].astype(np.float32), data.prepared[first].channels["name"].tolist(), data.montages.positions[first],
        data.montages.layout[first], data.spec.tmin + (np.arange(k) + 0.5) * model.length / rate, solver.classes,
        {"split": options.split, "reference": options.reference, "head_fusion": options.fusion,
         "correct": options.correct, "confidence": options.confidence})


def segment_rows(solver: ClassifySolver, ids: np.ndarray, probability: np.ndarray, options: AttentionOptions
                 ) -> pd.DataFrame:
    """The table `AttentionSummary.segments`."""
    data, names = solver.data, np.array(solver.classes, dtype=object)
    table = data.segments.iloc[ids]
    recording = table["recording"].to_numpy()
    confidence, predicted = probability.max(1), names[probability.argmax(1)]
    correct = predicted == table["label"].to_numpy(object)
    used = (confidence >= options.confidence) & (correct if options.correct else True)
    return pd.DataFrame({
        "segment": ids, "recording": [data.recordings[r].name for r in recording],
        "subject": np.asarray(data.spec.subjects)[np.asarray(data.subjects)[recording]],
        "block": table["block"].to_numpy(), "start": table["start"].to_numpy(), "label": table["label"].to_numpy(),
        "predicted": predicted, "confidence": confidence, "correct": correct, "used": used,
        **{f"p_{name}": probability[:, i] for i, name in enumerate(solver.classes)}})


def pool(summaries: Sequence[AttentionSummary]) -> AttentionSummary:
    """Several XPs as one, e.g. folds of which each leaves out other people; conditions weigh by their used segments.

    Errors: ValueError for other channels, times or classes.
    """
    first = summaries[0]
    if any(one.channels != first.channels or one.classes != first.classes
           or one.tokens.shape[1:] != first.tokens.shape[1:] or one.layers.shape != first.layers.shape
           for one in summaries):
        raise ValueError("these XPs have other channels, classes, tokens or layers: they cannot be pooled")
    counts = np.array([[len(one.of(label)) for label in first.classes] for one in summaries], dtype=float)

    def mean(name: str) -> np.ndarray:
        values = np.stack([getattr(one, name) for one in summaries])
        weights = counts.reshape(*counts.shape, *[1] * (values.ndim - 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weights > 0, values * weights, 0).sum(0) / weights.sum(0)
    return replace(first, segments=pd.concat([one.segments for one in summaries], ignore_index=True),
                   tokens=np.concatenate([one.tokens for one in summaries]), layers=mean("layers"),
                   between=mean("between"))


def channel_table(summary: AttentionSummary) -> pd.DataFrame:
    """A row per condition (of used segments) and channel: mean attention, and its rank (1: most seen)."""
    parts = []
    for label, mean in summary.condition_means().items():
        seen = mean.mean(1)
        parts.append(pd.DataFrame({"condition": label, "channel": summary.channels, "attention": seen,
                                   "rank": pd.Series(seen).rank(ascending=False).to_numpy(),
                                   "n": len(summary.of(label))}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(
        columns=["condition", "channel", "attention", "rank", "n"])


class Folder:
    """`with Folder(path) as folder:` files written into `folder` appear as `path`, all of them or none."""

    def __init__(self, path: Path) -> None:
        self.path, self.work = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        return self.work

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.work, ignore_errors=True)
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        os.rename(self.work, self.path)


def save(summary: AttentionSummary, folder: Path) -> None:
    """Writes segments.parquet, channels.csv, tokens.npy, channels.npy `(N, C)`, times.npy `(N, K)`, layers.npy,
    between.npy and attention.json (names, places, times, settings) into a folder."""
    kept = np.isfinite(summary.tokens[0, :, 0])
    summary.segments.to_parquet(folder / "segments.parquet", index=False)
    channel_table(summary).to_csv(folder / "channels.csv", index=False)
    np.save(folder / "tokens.npy", summary.tokens)
    np.save(folder / "channels.npy", summary.tokens.mean(2))
    np.save(folder / "times.npy", summary.tokens[:, kept].mean(1))
    np.save(folder / "layers.npy", summary.layers)
    np.save(folder / "between.npy", summary.between)
    (folder / "attention.json").write_text(json.dumps({
        "channels": summary.channels, "positions": summary.positions.round(6).tolist(),
        "layout": summary.layout.round(6).tolist(), "times": summary.times.tolist(), "classes": summary.classes,
        **summary.settings}, indent=1))


def load(folder: Path) -> AttentionSummary:
    """What `save` wrote. Errors: FileNotFoundError if nothing is there."""
    if not (folder / "attention.json").exists():
        raise FileNotFoundError(f"no attention in {folder}: python -m scripts.attention SIG --split test")
    about = json.loads((folder / "attention.json").read_text())
    places = {name: np.array(about.pop(name), dtype=float) for name in ("positions", "layout", "times")}
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("tokens", "layers", "between")}
    return AttentionSummary(pd.read_parquet(folder / "segments.parquet"), **arrays, **places,
                            channels=about.pop("channels"), classes=about.pop("classes"), settings=about)


def band_name(xp: StoredXP) -> str:
    """Of the band-pass filter of an XP, e.g. 8–12 Hz."""
    low, high = xp.get("dset.highpass"), xp.get("dset.lowpass")
    return f"{low:g}–{high:g} Hz" if high else f"above {low:g} Hz"


def find_networks(names: Collection[str], outputs: Path | None = None) -> dict[str, list[StoredXP]]:
    """Band → finished XPs of the EEG transformer, from signatures and launched grids (by name).

    Of a grid other methods are left out, and of several settings of one fold, seed and band those that do not have the
    lowest validation loss: test segments choose nothing.

    Args:
        outputs: the folder of XPs; None: that of `bm.analysis.grids.find_outputs`.

    Raises:
        FileNotFoundError: no such grid or XP, one that is not finished; ValueError: a signature of another model.
    """
    chosen: dict[tuple, StoredXP] = {}
    for sig, folder in xp_folders(names, outputs).items():
        xp = StoredXP(folder, Path("."))
        kind = tuple(xp.get(key) for key in ("task.type", "classify.method", "model_name"))
        if kind != ("classify", "network", "eeg_transformer"):
            if sig in names:
                raise ValueError(f"XP {sig} is {' '.join(map(str, kind))}: expected an EEG transformer that classifies")
            continue
        if xp.result is None:
            raise FileNotFoundError(f"XP {sig} is not finished: dora run -f {sig}")
        key = (band_name(xp), sig) if sig in names else (band_name(xp), xp.get("dset.fold"), xp.get("seed"))
        if key not in chosen or xp.result["best_loss"] < chosen[key].result["best_loss"]:  # type: ignore[index]
            chosen[key] = xp
    bands: dict[str, list[StoredXP]] = {}
    for (band, *_), xp in chosen.items():
        bands.setdefault(band, []).append(xp)
    if not bands:
        raise ValueError(f"{', '.join(names)}: no XP of an EEG transformer that classifies")
    return bands


def find_attention(xps: Sequence[StoredXP], name: str = "test") -> Path:
    """Where `scripts.attention` wrote the attention of an XP, or of several of one band together.

    Args:
        name: of the folder (`AttentionOptions.name`).

    Raises:
        FileNotFoundError: it did not, or of other XPs than these; has the command.
    """
    missing = FileNotFoundError(f"no attention of these XPs{' together' * (len(xps) > 1)}: python -m scripts.attention "
                                f"{' '.join(xp.sig for xp in xps)} --split {name.removesuffix('_reference')}"
                                f"{' --reference' * name.endswith('_reference')}")
    own = [xp.folder / "attention" / name for xp in xps]
    if not all((folder / "segments.parquet").exists() for folder in own):
        raise missing
    if len(xps) == 1:
        return own[0]

    def segments(folders: Sequence[Path]) -> pd.DataFrame:
        table = pd.concat([pd.read_parquet(folder / "segments.parquet") for folder in folders])
        return table.sort_values(["recording", "segment", "confidence"]).reset_index(drop=True)
    pooled = [xp.folder / "attention" / f"{name}_pooled" for xp in xps]
    expected = segments(own)
    for folder in pooled:
        if (folder / "segments.parquet").exists() and segments([folder]).equals(expected):
            return folder
    raise missing
