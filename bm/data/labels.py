"""Segments → classes: what the events say about a segment."""
from collections.abc import Sequence

import numpy as np
import pandas as pd


def label_segments(segments: pd.DataFrame, events: Sequence[pd.DataFrame], kind: str, column: str, inside: bool,
                   sample_rate: float) -> pd.Series:
    """The label of each segment: `column` of the event of `kind` that begins at its trigger, or in which it lies.

    Args:
        segments: the segment table.
        events: checked events of each recording.
        inside: True: the event, with its duration, must hold the whole segment (triggers every so many seconds).
            False: the event is the trigger (to within half a sample).
        sample_rate: Hz.

    Returns:
        Text, or missing where no such event says anything.

    Raises:
        ValueError: no event of the kind has such a column.
    """
    out = pd.Series(np.full(len(segments), None, dtype=object), segments.index)
    half = 0.5 / sample_rate + 1e-9
    known: set[str] = set()
    for recording, own in segments.groupby("recording"):
        table = events[int(recording)]  # type: ignore[call-overload]
        table = table[table["kind"] == kind]
        known |= set(table.columns)
        if not len(table) or column not in table:
            continue
        begin = table["start"].to_numpy()
        at = np.searchsorted(begin, own["time" if not inside else "start"].to_numpy() + half, side="right") - 1
        late = own["stop"].to_numpy() - (begin + table["duration"].to_numpy())[at]
        fits = late <= half if inside else own["time"].to_numpy() - begin[at] <= half
        value = table[column].to_numpy(object)[at]
        keep = (at >= 0) & fits & pd.notna(value)
        out[own.index[keep]] = [str(x) for x in value[keep]]
    if out.isna().all():
        raise ValueError(f"no segment has a class: classify.kind={kind!r} has the columns {sorted(known)}, "
                         f"classify.label is {column!r}; choose a column of these events, or other segments "
                         "(dset.condition, dset.tmin, dset.tmax)")
    return out


def classes_of(labels: pd.Series, wanted: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and the class of each segment (int64, -1: none of them).

    Raises:
        ValueError: a wanted class that no segment has, or fewer than two classes.
    """
    counts = labels.value_counts().to_dict()
    names = sorted(counts) if wanted is None else list(wanted)
    missing = [name for name in names if name not in counts]
    if missing or len(set(names)) < max(2, len(names)):
        raise ValueError(f"classify.classes={wanted}: expected at least two different ones of the labels, which are "
                         f"(with their numbers of segments) {counts}")
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number.get(label, -1) for label in labels], dtype=np.int64)
