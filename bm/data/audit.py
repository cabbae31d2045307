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


def shared_seconds(start_a: np.ndarray, stop_a: np.ndarray, start_b: np.ndarray, stop_b: np.ndarray,
                   of_a: np.ndarray | None = None, of_b: np.ndarray | None = None) -> float:
    """Seconds covered both by an interval of a and by one of b.

    With `of_a` and `of_b`: the number of what each interval is a part of (a recording, a sound); intervals of
    different ones share nothing, and the seconds are summed.
    """
    times = np.concatenate([start_a, stop_a, start_b, stop_b])
    step = np.repeat([[1, 0], [-1, 0], [0, 1], [0, -1]], [len(start_a), len(stop_a), len(start_b), len(stop_b)], axis=0)
    of = np.zeros(len(times)) if of_a is None or of_b is None else np.concatenate([of_a, of_a, of_b, of_b])
    order = np.lexsort((times, of))
    cover = np.cumsum(step[order], axis=0)[:-1]  # back at 0 after the last stop of each recording or sound
    return float((np.diff(times[order]) * (cover > 0).all(1)).sum())


@dataclass(frozen=True)
class Audit:
    """`table`: one row per pair of splits, with the seconds of brain and stimulus, the subjects and texts in both."""

    table: pd.DataFrame

    def check(self, strict_text: bool = False, shared_subjects: bool = True, warn: bool = True) -> None:
        """Raises `LeakError` on any shared second, on shared subjects unless allowed, on texts if `strict_text`.

        Repeated text is else only warned of, if `warn`.
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
            if warn:
                logger.warning("repeated text: %s. Other recordings of the same words; dset.strict_text=true forbids "
                               "it", message)


def sentences_heard(segments: pd.DataFrame, events: Sequence[pd.DataFrame]) -> dict[str, set[str]]:
    """Split → the sentences of which a word begins inside one of its segments; `events`: one table per recording."""
    heard: dict[str, set[str]] = {split: set() for split in SPLITS}
    recording, split, start, stop = (segments[name].to_numpy() for name in ("recording", "split", "start", "stop"))
    for i, table in enumerate(events):
        words = np.flatnonzero(table["kind"].to_numpy() == "word")
        if len(words) == 0:
            continue
        begin = table["start"].to_numpy()[words]
        sentence, texts = pd.factorize(table["word_sequence"].iloc[words])
        mine = np.flatnonzero(recording == i)
        mine = mine[np.argsort(start[mine])]
        for name in np.unique(split[mine]):
            own = mine[split[mine] == name]
            until = np.maximum.accumulate(stop[own])
            before = np.searchsorted(start[own], begin, side="right") - 1
            inside = (before >= 0) & (begin < until[before])
            heard[name].update(texts[np.unique(sentence[inside])])
    return heard


def audit(segments: pd.DataFrame, subjects: Sequence[int], events: Sequence[pd.DataFrame]) -> Audit:
    """Compares every pair of splits of a segment table (`data/segments.py`); `subjects`, `events`: one a recording."""
    numbers = {column: segments[column].to_numpy()
               for column in ("start", "stop", "stimulus_start", "stimulus_stop", "recording")}
    stimulus, _ = pd.factorize(segments["stimulus"])
    has_sound = (segments["stimulus"] != "").to_numpy()
    own = {split: np.flatnonzero(segments["split"] == split) for split in SPLITS}
    heard = {split: rows[has_sound[rows]] for split, rows in own.items()}
    texts = sentences_heard(segments, events)
    people = {split: {subjects[recording] for recording in np.unique(numbers["recording"][rows])}
              for split, rows in own.items()}

    def shared(rows_a: np.ndarray, rows_b: np.ndarray, start: str, stop: str, of: np.ndarray) -> float:
        begin, end = numbers[start], numbers[stop]
        return shared_seconds(begin[rows_a], end[rows_a], begin[rows_b], end[rows_b], of[rows_a], of[rows_b])

    table = []
    for a, b in combinations(SPLITS, 2):
        brain = shared(own[a], own[b], "start", "stop", numbers["recording"])
        sound = shared(heard[a], heard[b], "stimulus_start", "stimulus_stop", stimulus)
        both = sorted(texts[a] & texts[b])
        table.append({"a": a, "b": b, "segments_a": len(own[a]), "segments_b": len(own[b]),
                      "brain_s": round(brain, 6), "stimulus_s": round(sound, 6),
                      "subjects": len(people[a] & people[b]), "texts": len(both),
                      "example": both[0][:60] if both else ""})
    return Audit(pd.DataFrame(table))
