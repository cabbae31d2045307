"""Controls: the same decoder, tested on something that should leave it nothing to decode.

Each is a change of the data of a finished XP; its weights and its candidates stay. A decoder that is above chance on
noise, on reversed recordings or before its training has found its way around the brain.

What has to be trained anew is a control of the training (`TRAINING`), an XP of its own: noise instead of the brain from
the first step on, pairs that are shuffled, features of a network with random weights. `training_controls` finds those
of an XP by their configs.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bm.analysis.xp import StoredXP
from bm.batch import Batch
from bm.config import nearest, relevant
from bm.data.assemble import Data
from bm.data.loader import SegmentDataset
from bm.data.noise import Altered, Noise
from bm.flat import difference

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

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

#: control of the training → pattern of the keys that such an XP has true where the XP itself has not
TRAINING = {"noise_training": "task.noise_brain", "shuffled_pairs": "task.shuffle_pairs",
            "random_features": "dset.features_params.*.random"}

#: those on which any decoder is at chance, unless something is wrong
NULLS = ("noise_brain", "reversed_brain", "untrained", "noise_training", "shuffled_pairs")


def check_control(name: str) -> None:
    """Raises ValueError if `name` is neither "none" nor one of `CONTROLS`."""
    if name in TRAINING:
        raise ValueError(f"control={name} is a control of the training, not of the evaluation: train another XP with "
                         f"{TRAINING[name].replace('*', '<feature>')}=true and evaluate that")
    if name != "none" and name not in CONTROLS:
        raise ValueError(f"control={name}: expected none, {', '.join(CONTROLS)}{nearest(name, ['none', *CONTROLS])}")


def survives(accuracy: Any, control: str) -> bool:
    """Whether a decoder is above chance where it must not be: the interval of a top-k accuracy lies above chance.

    Args:
        accuracy: a row of acc.csv, with `low` and `chance`.
        control: one of `CONTROLS` or `TRAINING`.
    """
    return control in NULLS and bool(accuracy["low"] > accuracy["chance"])


def control_folders(signature: Path) -> dict[str, Path]:
    """Control → folder, of those that were evaluated for an XP in `signature`; "none" is the decoder itself."""
    folders = {"none": signature} | {name: signature / f"control_{name}" for name in CONTROLS}
    return {name: folder for name, folder in folders.items() if (folder / "complete.json").exists()}


def training_controls(xp: StoredXP) -> dict[str, StoredXP]:
    """Control of `TRAINING` → the XP beside this one that differs from it in that alone; those that are there."""
    found: dict[str, StoredXP] = {}
    for folder in sorted(path.parent for path in xp.folder.parent.glob("*/config.json")):
        other = StoredXP(folder, xp.root)
        name = None if folder.name == xp.sig else which_control(xp.config, other.config)
        if name is not None:
            found.setdefault(name, other)
    return found


def which_control(plain: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The control of `TRAINING` that an XP is of one with the config `plain`; None where they differ in more, or not.

    Keys that decide no result (`dora.exclude` of `plain`) may differ.
    """
    exclude = [*plain["dora"]["exclude"], "dora.*", "slurm.*", "dummy"]
    changed = {key: values for key, values in difference(relevant(plain), relevant(other)).items()
               if not any(fnmatch(key, pattern) for pattern in exclude)}
    for name, pattern in TRAINING.items():
        if changed and all(fnmatch(key, pattern) and not old and new is True for key, (old, new) in changed.items()):
            return name
    return None
