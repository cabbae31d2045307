"""The leak audit: run at every start, on the very segments that will be used.

What is in two splits at once? Any shared second of brain or of stimulus stops the XP; repeated text is counted.
"""
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from bm.splits import SPLITS, LeakError

logger = logging.getLogger(__name__)


def shared_seconds(start_a: np.ndarray, stop_a: np.ndarray, start_b: np.ndarray, stop_b: np.ndarray) -> float:
    """Seconds covered both by an interval of a and by one of b."""
    times = np.concatenate([start_a, stop_a, start_b, stop_b])
    step = np.repeat([[1, 0], [-1, 0], [0, 1], [0, -1]], [len(start_a), len(stop_a), len(start_b), len(stop_b)], axis=0)
    order = np.argsort(times, kind="stable")
    cover = np.cumsum(step[order], axis=0)[:-1]
    return float((np.diff(times[order]) * (cover > 0).all(1)).sum())


@dataclass(frozen=True)
class Audit:
    """`table`: one row per pair of splits, with the seconds of brain and stimulus, the subjects and texts in both."""

    table: pd.DataFrame

    def check(self, strict_text: bool = False, shared_subjects: bool = True) -> None:
        """Raises `LeakError` on any shared second, on shared subjects unless allowed, on texts if `strict_text`.

        Repeated text is else only warned of.
        """
        leak = self.table[(self.table["brain_s"] > 0) | (self.table["stimulus_s"] > 0)]
        if len(leak):
            raise LeakError(f"splits share data, so any score would be worthless:\n{leak.to_string(index=False)}\n"
                            "Blocks must not overlap and a sound's place in the recording must be right: "
                            "check the events of the recordings named by the study")
        if not shared_subjects and (self.table["subjects"] > 0).any():
            raise LeakError(f"dset.split_by=subject, but splits share subjects:\n{self.table.to_string(index=False)}")
        repeated = self.table[self.table["texts"] > 0]
        if len(repeated):
            message = "; ".join(f"{row.texts} sentences are in both {row.a} and {row.b} ({row.example!r})"
                                for row in repeated.itertuples())
            if strict_text:
                raise LeakError(f"{message}: dset.strict_text=true forbids it")
            logger.warning("repeated text: %s. Other recordings of the same words; dset.strict_text=true forbids it",
                           message)


def audit(segments: pd.DataFrame, subjects: Sequence[int]) -> Audit:
    """Compares every pair of splits of a segment table (`data/segments.py`); `subjects`: one per recording."""
    rows = []
    for a, b in combinations(SPLITS, 2):
        part = {name: segments[segments["split"] == name] for name in (a, b)}
        brain = _shared(part[a], part[b], "recording", "start", "stop")
        heard = {name: rows_[rows_["stimulus"] != ""] for name, rows_ in part.items()}
        stimulus = _shared(heard[a], heard[b], "stimulus", "stimulus_start", "stimulus_stop")
        texts = [set(part[name]["sentence"]) - {""} for name in (a, b)]
        both = sorted(texts[0] & texts[1])
        people = [{subjects[recording] for recording in part[name]["recording"].unique()} for name in (a, b)]
        rows.append({"a": a, "b": b, "segments_a": len(part[a]), "segments_b": len(part[b]),
                     "brain_s": round(brain, 6), "stimulus_s": round(stimulus, 6),
                     "subjects": len(people[0] & people[1]), "texts": len(both),
                     "example": both[0][:60] if both else ""})
    return Audit(pd.DataFrame(rows))


def _shared(a: pd.DataFrame, b: pd.DataFrame, by: str, start: str, stop: str) -> float:
    """Seconds shared by the windows of two tables, summed over the values of column `by`."""
    others = dict(list(b.groupby(by)))
    return sum(shared_seconds(*(part[name].to_numpy() for part in (mine, others[value]) for name in (start, stop)))
               for value, mine in a.groupby(by) if value in others)
