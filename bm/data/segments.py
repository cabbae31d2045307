"""The segment table: one row per window that a model may see, each wholly inside one block of one split."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bm.store import stable_id


@dataclass(frozen=True)
class Window:
    """Where segments lie around their trigger.

    Args:
        tmin, tmax: seconds from the trigger, both ends included.
        condition: a trigger every so many seconds, or the kind of event that triggers.
    """

    tmin: float
    tmax: float
    condition: float | str

    def samples(self, sample_rate: int) -> int:
        """Samples per segment: both ends belong to it, 361 for [-0.5, 2.5] s at 120 Hz."""
        return round(self.tmax * sample_rate) - round(self.tmin * sample_rate) + 1


def triggers(events: pd.DataFrame, condition: float | str, duration: float, where: str
             ) -> tuple[np.ndarray, np.ndarray]:
    """The times (s) of the triggers of one recording, and the rows of their events (-1: there is none)."""
    if not isinstance(condition, str):
        times = np.arange(0, duration, condition)
        return times, np.full(len(times), -1)
    rows = np.flatnonzero(events["kind"].to_numpy() == condition)
    if len(rows) == 0:
        raise ValueError(f"{where}: no event of kind {condition!r} to put a segment at; its events are "
                         f"{events['kind'].value_counts().to_dict()}: change dset.condition or dset.test.condition")
    return events["start"].to_numpy()[rows], rows


def cut(events: pd.DataFrame, start: np.ndarray, stop: np.ndarray, window: Window, sample_rate: int, length: int,
        where: str) -> dict[str, np.ndarray]:
    """The segments of one recording.

    A sample i belongs to a block if `start ≤ i / sample_rate < stop`; a segment is kept only if all its samples belong
    to one block. So two blocks never share a sample.

    Args:
        events: checked events.
        start, stop: of its blocks (s), sorted and disjoint.
        length: samples of the prepared recording.

    Returns:
        For each segment, in order: the samples `trigger`, `first` and `stop` (the first one after it), the row `event`
        of the trigger (-1: there is none) and the number of its `block`.
    """
    times, event = triggers(events, window.condition, length / sample_rate, where)
    trigger, once = np.unique(np.rint(times * sample_rate).astype(np.int64), return_index=True)
    first = trigger + round(window.tmin * sample_rate)
    after = first + window.samples(sample_rate)
    block_first = np.ceil(start * sample_rate - 1e-6).astype(np.int64)
    block_stop = np.minimum(np.ceil(stop * sample_rate - 1e-6).astype(np.int64), length)
    block = np.searchsorted(block_first, first, side="right") - 1
    keep = (first >= 0) & (block >= 0)
    keep[keep] = after[keep] <= block_stop[block[keep]]
    return {"trigger": trigger[keep], "first": first[keep], "stop": after[keep], "event": event[once[keep]],
            "block": block[keep]}


def segment_table(events: Sequence[pd.DataFrame], blocks: pd.DataFrame, lengths: Sequence[int],
                  windows: dict[str, Window], sample_rate: int, names: Sequence[str]) -> pd.DataFrame:
    """The segments of all recordings; the row number is the segment's id.

    Args:
        events, lengths, names: one per recording; the events are checked.
        blocks: of all recordings, from `splits.plan_blocks`.
        windows: for each split.

    Returns:
        `first` (sample), `time` of the trigger, `start`, `stop` (s), `split`, `block` (its uid), `stimulus`,
        `stimulus_start`, `stimulus_stop` (s in the sound), `word`, `word_index`, `sentence` ("" and -1 where the
        trigger has none), `candidate` (int64: what is heard, the same for everybody), `recording`.
    """
    # only numbers are gathered here: text is looked up once for all
    recording_of, start, stop = (blocks[column].to_numpy() for column in ("recording", "start", "stop"))
    of_window = {window: blocks["split"].isin([split for split, w in windows.items() if w == window]).to_numpy()
                 for window in windows.values()}
    before, parts = 0, []  # events of the recordings before
    for recording, (table, length, name) in enumerate(zip(events, lengths, names, strict=True)):
        own = np.flatnonzero(recording_of == recording)
        for window, wanted in of_window.items():
            part = cut(table, start[own], stop[own], window, sample_rate, length, name)
            part["block"] = own[part["block"]]
            part["event"] = np.where(part["event"] < 0, -1, part["event"] + before)
            part["recording"] = np.full(len(part["block"]), recording)
            keep = wanted[part["block"]]
            parts.append({column: values[keep] for column, values in part.items()})
        before += len(table)
    found = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}

    inside = blocks.iloc[found["block"]].reset_index(drop=True)
    shift = (inside["chunk_start"] - inside["chunk_time"]).to_numpy()
    start, stop = found["first"] / sample_rate, found["stop"] / sample_rate
    said = _said(events, found["event"])
    segments = pd.DataFrame({
        "first": found["first"], "time": found["trigger"] / sample_rate, "start": start, "stop": stop,
        "split": inside["split"], "block": inside["uid"], "stimulus": inside["stimulus"],
        "stimulus_start": start + shift, "stimulus_stop": np.minimum(stop + shift, inside["chunk_stop"]),
        "word": said["word"], "word_index": said["word_index"], "sentence": said["word_sequence"]})
    return segments.assign(candidate=_candidates(segments, sample_rate), recording=found["recording"])


def _said(events: Sequence[pd.DataFrame], rows: np.ndarray) -> pd.DataFrame:
    """Word, place and sentence of rows of all events together; "" and -1 where a row is -1 or has none."""
    missing = {"word": "", "word_index": -1, "word_sequence": ""}
    all_events = pd.concat([table.reindex(columns=list(missing)) for table in events], ignore_index=True)
    # a label that does not exist, -1, gives missing values
    said = all_events.reindex(rows).reset_index(drop=True).astype({"word": str, "word_sequence": str})
    return said.fillna(missing).astype({"word_index": int})


def _candidates(segments: pd.DataFrame, sample_rate: int) -> np.ndarray:
    """An int64 for what a segment is one of: word i of a sentence, or a place in a sound, or a place in a block."""
    frames = np.rint(segments["stimulus_start"] * sample_rate).astype(int)
    columns = (segments[column].tolist() for column in ("sentence", "word_index", "stimulus", "block"))
    keys = [f"{sentence}|{index}" if sentence else f"{stimulus or block}@{frame}"
            for sentence, index, stimulus, block, frame in zip(*columns, frames.tolist(), strict=True)]
    which, different = pd.factorize(np.array(keys, dtype=object))
    return np.array([stable_id(key) for key in different], dtype=np.int64)[which]
