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


def triggers(events: pd.DataFrame, condition: float | str, duration: float, where: str) -> pd.DataFrame:
    """The trigger times (`start`, s) of one recording, with the columns of their events if they have any."""
    if not isinstance(condition, str):
        return pd.DataFrame({"start": np.arange(0, duration, condition)})
    found = events[events["kind"] == condition]
    if len(found) == 0:
        raise ValueError(f"{where}: no event of kind {condition!r} to put a segment at; its events are "
                         f"{events['kind'].value_counts().to_dict()}: change dset.condition or dset.test.condition")
    return found


def cut(events: pd.DataFrame, blocks: pd.DataFrame, window: Window, sample_rate: int, length: int, where: str
        ) -> pd.DataFrame:
    """The segments of one recording.

    A sample i belongs to a block if `start ≤ i / sample_rate < stop`; a segment is kept only if all its samples belong
    to one block. So two blocks never share a sample.

    Args:
        events: checked events.
        blocks: of this recording, sorted and disjoint, from `splits.plan_blocks`.
        length: samples of the prepared recording.

    Returns:
        `first` (sample), `time` of the trigger, `start`, `stop` (s), `split`, `block` (its uid), `stimulus`,
        `stimulus_start`, `stimulus_stop` (s in the sound), `candidate` (int64: what is heard, the same for everybody),
        `word`, `word_index`, `sentence`.
    """
    found = triggers(events, window.condition, length / sample_rate, where)
    trigger = np.rint(found["start"].to_numpy() * sample_rate).astype(np.int64)
    _, once = np.unique(trigger, return_index=True)
    found, trigger = found.iloc[once], trigger[once]
    first = trigger + round(window.tmin * sample_rate)
    n = window.samples(sample_rate)
    block_first = np.ceil(blocks["start"].to_numpy() * sample_rate - 1e-6).astype(np.int64)
    block_stop = np.minimum(np.ceil(blocks["stop"].to_numpy() * sample_rate - 1e-6).astype(np.int64), length)
    block = np.searchsorted(block_first, first, side="right") - 1
    keep = (first >= 0) & (block >= 0)
    keep[keep] = first[keep] + n <= block_stop[block[keep]]
    found, first, trigger = found[keep], first[keep], trigger[keep]
    inside = blocks.iloc[block[keep]].reset_index(drop=True)
    shift = (inside["chunk_start"] - inside["chunk_time"]).to_numpy()
    start, stop = first / sample_rate, (first + n) / sample_rate
    text = {name: found[name].to_numpy() if name in found else missing
            for name, missing in {"word": "", "word_index": -1, "word_sequence": ""}.items()}
    table = pd.DataFrame({
        "first": first, "time": trigger / sample_rate, "start": start, "stop": stop, "split": inside["split"],
        "block": inside["uid"], "stimulus": inside["stimulus"], "stimulus_start": start + shift,
        "stimulus_stop": np.minimum(stop + shift, inside["chunk_stop"]), "word": text["word"],
        "word_index": text["word_index"], "sentence": text["word_sequence"]})
    table["candidate"] = [stable_id(key) for key in _heard(table, sample_rate)]
    return table


def _heard(table: pd.DataFrame, sample_rate: int) -> list[str]:
    """What a segment is a segment of: word i of a sentence, or a place in a sound, or a place in a block."""
    frames = np.rint(table["stimulus_start"] * sample_rate).astype(int)
    return [f"{row.sentence}|{row.word_index}" if row.sentence
            else f"{row.stimulus}@{frame}" if row.stimulus else f"{row.block}@{frame}"
            for row, frame in zip(table.itertuples(), frames, strict=True)]


def segment_table(events: Sequence[pd.DataFrame], blocks: pd.DataFrame, lengths: Sequence[int],
                  windows: dict[str, Window], sample_rate: int, names: Sequence[str]) -> pd.DataFrame:
    """The segments of all recordings; the row number is the segment's id.

    Args:
        events, lengths, names: one per recording.
        blocks: of all recordings.
        windows: for each split.
    """
    parts = []
    for recording, (table, length, name) in enumerate(zip(events, lengths, names, strict=True)):
        own = blocks[blocks["recording"] == recording]
        for window in dict.fromkeys(windows.values()):
            splits = [split for split, w in windows.items() if w == window]
            part = cut(table, own, window, sample_rate, length, name)
            parts.append(part[part["split"].isin(splits)].assign(recording=recording))
    return pd.concat(parts, ignore_index=True)
