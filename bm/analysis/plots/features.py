"""What a feature says over time, above what is said."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, new_figure
from bm.batch import FeatureSpec
from bm.data.assemble import Data
from bm.data.loader import BufferPool

#: dimensions of a picture; more are averaged in groups of neighbours
_MOST = 256


def tracks_of(data: Data, names: Sequence[str] = (), start: float = 0.0, seconds: float = 10.0
              ) -> tuple[list[tuple[str, np.ndarray, float]], pd.DataFrame, float]:
    """What `plot_features` shows of an XP: features as its model sees them, events, and the time of the first row.

    Args:
        names: of features; none: all.
        start: s after the first block of the first recording.

    Raises:
        ValueError: a feature that the XP does not have.
    """
    specs = {spec.name: spec for spec in data.spec.features}
    unknown = set(names) - set(specs)
    if unknown or not specs:
        raise ValueError(f"it has the features {', '.join(specs) or '(none)'}, not {', '.join(sorted(unknown))}")
    rate = data.spec.sample_rate
    start += float(data.blocks.loc[data.blocks["recording"] == 0, "start"].min())
    at, n, pool = [(0, round(start * rate))], round(seconds * rate), BufferPool()
    chosen: list[FeatureSpec] = [specs[name] for name in names or specs]
    banks = {bank.feature.name: bank for bank in data.banks}
    length = len(data.prepared[0].array) - at[0][1]
    return ([(spec.name, banks[spec.name].gather(at, min(n, length), pool)[0], spec.rate) for spec in chosen],
            data.events[0], start)


def plot_features(tracks: Sequence[tuple[str, np.ndarray, float]], events: pd.DataFrame, start: float, stop: float
                  ) -> Figure:
    """One panel per feature, words and phonemes beneath, over the same seconds.

    Args:
        tracks: name, rows `(n, dim)` and rows a second of each; row 0 is at `start`. One dimension is a line; several
            are a picture, each standardised over the time shown.
        events: with `kind`, `start`, `duration` and the columns `word`, `phoneme`; any times.
        start, stop: s.

    Errors: ValueError where nothing is to be shown.
    """
    if not tracks or stop <= start:
        raise ValueError(f"{len(tracks)} features from {start} to {stop} s: expected at least one, and stop > start")
    kinds = [kind for kind in ("word", "phoneme") if (events["kind"] == kind).any()]
    heights = [1.0 if rows.shape[1] > 1 else 0.7 for _, rows, _ in tracks] + [0.25] * len(kinds)
    figure = new_figure(max(6.0, min(2.0 * (stop - start), 24.0)), 0.8 + 1.6 * sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, rows, rate) in zip(panels, tracks, strict=False):
        _track(axes, name, np.asarray(rows, np.float32)[:max(int(np.ceil((stop - start) * rate)), 1)], rate, start)
    for axes, kind in zip(panels[len(tracks):], kinds, strict=True):
        _labels(axes, events[events["kind"] == kind], kind, start, stop, 65 * figure.get_figwidth() / (stop - start))
    panels[-1].set(xlabel="time (s)", xlim=(start, stop))
    return figure


def _track(axes: Axes, name: str, rows: np.ndarray, rate: float, start: float) -> None:
    axes.set_title(f"{name}: {rows.shape[1]} × {rate:g} Hz", fontsize=9, loc="left")
    end = start + len(rows) / rate
    if rows.shape[1] == 1:
        axes.plot(start + np.arange(len(rows)) / rate, rows[:, 0], color=BLUE, linewidth=1)
        return
    values = (rows - rows.mean(0)) / np.where(rows.std(0) > 0, rows.std(0), 1)
    if values.shape[1] > _MOST:
        values = np.stack([part.mean(1) for part in np.array_split(values, _MOST, axis=1)], 1)
    axes.imshow(values.T, aspect="auto", origin="lower", extent=(start, end, 0, rows.shape[1]), cmap="RdBu_r",
                vmin=-2.5, vmax=2.5, interpolation="nearest")
    axes.set_ylabel("dimension", fontsize=8)


def _labels(axes: Axes, events: pd.DataFrame, kind: str, start: float, stop: float, points: float) -> None:
    """Boxes with what is said, in letters small enough for their box; a second is `points` wide."""
    for begin, duration, text in zip(events["start"], events["duration"], events[kind], strict=True):
        if begin + duration <= start or begin >= stop:
            continue
        axes.axvspan(begin, begin + duration, facecolor="none", edgecolor="black", linewidth=0.5)
        size = 1.5 * duration * points / max(len(str(text)), 1)
        axes.text((max(begin, start) + min(begin + duration, stop)) / 2, 0.5, str(text), ha="center", va="center",
                  fontsize=min(max(size, 2.0), 8.0), clip_on=True)
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_ylabel(kind, rotation=0, ha="right", va="center", fontsize=8)
