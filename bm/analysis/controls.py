"""Controls: the same decoder, tested on something that should leave it nothing to decode.

Each is a change of the data of a finished XP; its weights and its candidates stay. A decoder that is above chance on
noise, on reversed recordings or before its training has found its way around the brain.

What has to be trained anew is a control of the training instead: pairs that are shuffled, features of a network with
random weights (`dset.features_params.<feature>.random=true`).
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bm.batch import Batch
from bm.config import nearest
from bm.data.assemble import Data
from bm.data.loader import SegmentDataset
from bm.data.prepare import Prepared

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

#: interquartile range of a standard normal variable
NORMAL_IQR = 1.349

#: rows of noise drawn at once
NOISE_ROWS = 512


class Noise:
    """`(time, channels)` of white Gaussian noise that is drawn where it is read: the same there at every reading.

    Args:
        shape: of the recording it stands for.
        center, scale: median and interquartile range of each channel.
        seed: of its random stream.
    """

    def __init__(self, shape: tuple[int, ...], center: np.ndarray, scale: np.ndarray, seed: Sequence[int]) -> None:
        self.shape, self.center, self.std, self.seed = shape, center, scale / NORMAL_IQR, list(seed)
        self.rows = lru_cache(maxsize=8)(self._draw)

    def __len__(self) -> int:
        return self.shape[0]

    def _draw(self, block: int) -> np.ndarray:
        noise = np.random.default_rng([*self.seed, block]).standard_normal((NOISE_ROWS, self.shape[1]), np.float32)
        return noise * self.std + self.center

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        first, last = start // NOISE_ROWS, max(stop - 1, start) // NOISE_ROWS
        blocks = np.concatenate([self.rows(block) for block in range(first, last + 1)])
        return blocks[start - first * NOISE_ROWS:stop - first * NOISE_ROWS]


@dataclass(frozen=True)
class Altered(Prepared):
    """A prepared recording with another array."""

    array: Any = None  # type: ignore[assignment]

    @classmethod
    def of(cls, prepared: Prepared, array: Any) -> "Altered":
        return cls(prepared.folder, prepared.sample_rate, array)


@dataclass(frozen=True)
class OtherData(Data):
    """Data in which a segment has the brain of segment `partner[id]` (−1: no other subject heard it)."""

    partner: np.ndarray

    def dataset(self, split: str) -> SegmentDataset:
        return OtherBrain(super().dataset(split), self.partner)


class OtherBrain(SegmentDataset):
    """The segments of another dataset, with brain and sensors of their partners; the subject stays."""

    def __init__(self, base: SegmentDataset, partner: np.ndarray) -> None:
        self.__dict__.update(vars(base))
        self.partner = partner

    def __getitems__(self, wanted: Sequence[int] | np.ndarray) -> Batch:
        ids = np.asarray(wanted, dtype=np.int64)
        batch = super().__getitems__(self.partner[ids])
        return batch.replace(subject=torch.from_numpy(self.subjects[self.recording[ids]]),
                             segment=torch.from_numpy(ids))


def noise_brain(solver: "DecodeSolver") -> None:
    """White noise with the centre and scale of each channel, drawn for whole recordings: windows overlap as ever."""
    scaler = solver.finish.scalers.brain
    center, scale = scaler.center.cpu().numpy(), scaler.scale.cpu().numpy()
    solver.data = replace(solver.data, prepared=[
        Altered.of(p, Noise(p.array.shape, center[r, :p.array.shape[1]], scale[r, :p.array.shape[1]],
                            [solver.cfg.seed, r]))
        for r, p in enumerate(solver.data.prepared)])


def reversed_brain(solver: "DecodeSolver") -> None:
    """Every recording backwards, events in place: spectrum, amplitudes and artifacts are those of the brain."""
    solver.data = replace(solver.data, prepared=[Altered.of(p, p.array[::-1]) for p in solver.data.prepared])


def other_subject(solver: "DecodeSolver") -> None:
    """The brain of another subject who heard the same, decoded as if it were one's own (subject layer included).

    No null: what stays above chance is what people have in common, or what their recordings have beside the brain.
    """
    data = solver.data
    test = data.segments[data.segments["split"] == "test"]
    subject = np.asarray(data.subjects)[test["recording"]]
    partner = np.full(len(data.segments), -1)
    rng = np.random.default_rng(solver.cfg.seed)
    for at in test.groupby("candidate").indices.values():
        ids, people = test.index.to_numpy()[at], subject[at]
        for person in np.unique(people):
            others = ids[people != person]
            if len(others):
                own = ids[people == person]
                partner[own] = rng.choice(others, len(own))
    known = {f.name: getattr(data, f.name) for f in fields(Data)}
    solver.data = OtherData(**known, partner=partner)


def untrained(solver: "DecodeSolver") -> None:
    """The networks as they were before the first step: same architecture, same seed."""
    solver.build_model()
    solver.keep_best()


#: control → what it does to a restored solver
CONTROLS: dict[str, Callable[["DecodeSolver"], None]] = {
    "noise_brain": noise_brain, "reversed_brain": reversed_brain, "other_subject": other_subject,
    "untrained": untrained}

#: those on which any decoder is at chance, unless something is wrong
NULLS = ("noise_brain", "reversed_brain", "untrained")

_TRAINING = {"random_features": "train another XP with dset.features_params.<feature>.random=true and evaluate that",
             "shuffled_pairs": "it needs an XP that was trained on shuffled pairs"}


def check_control(name: str) -> None:
    """Raises ValueError if `name` is neither "none" nor one of `CONTROLS`."""
    if name in _TRAINING:
        raise ValueError(f"control={name} is a control of the training, not of the evaluation: {_TRAINING[name]}")
    if name != "none" and name not in CONTROLS:
        raise ValueError(f"control={name}: expected none, {', '.join(CONTROLS)}{nearest(name, ['none', *CONTROLS])}")


def survives(accuracy: Any, control: str) -> bool:
    """Whether a decoder is above chance where it must not be: the interval of a top-k accuracy lies above chance.

    Args:
        accuracy: a row of acc.csv, with `low` and `chance`.
        control: one of `CONTROLS`.
    """
    return control in NULLS and bool(accuracy["low"] > accuracy["chance"])


def control_folders(signature: Path) -> dict[str, Path]:
    """Control → folder, of those that were evaluated for an XP in `signature`; "none" is the decoder itself."""
    folders = {"none": signature} | {name: signature / f"control_{name}" for name in CONTROLS}
    return {name: folder for name, folder in folders.items() if (folder / "complete.json").exists()}
