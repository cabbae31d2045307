"""Spectro-temporal receptive fields: kernels of linear encoders, gradient maps of any."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bm.analysis.plots import GREY, new_figure

#: ticks on the axis of frequency
_TICKS = 5


def _hz(frequency: float) -> str:
    return f"{frequency / 1000:.3g}k" if frequency >= 1000 else f"{frequency:.0f}"


def plot_courses(courses: Mapping[str, tuple[np.ndarray, np.ndarray]], titles: Sequence[str]) -> Figure:
    """Receptive fields of one column of features as curves over lags, a panel per unit, each over its largest value.

    Args:
        courses: encoder → lags in s `(L,)`, negative before the sound, and values `(U, L)`.
        titles: of units.
    """
    figure = new_figure(1 + 2.6 * len(titles), 2.8)
    panels = figure.subplots(1, len(titles), squeeze=False, sharex=True, sharey=True)[0]
    for unit, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for name, (lags, values) in courses.items():
            largest = np.abs(values[unit]).max()
            axes.plot(1000 * lags, values[unit] / (largest if largest > 0 else 1), marker=".", markersize=3, label=name)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
    if len(courses) > 1:
        panels[-1].legend(frameon=False, fontsize=7)
    figure.supxlabel("response after the sound (ms)", fontsize=9)
    figure.supylabel("weight (over the largest)", fontsize=9)
    return figure


def plot_strfs(maps: Any, rate: float, frequencies: Sequence[float] | None = None, titles: Sequence[str] = (),
               channels: Sequence[str] = (), columns: int = 8, shared_scale: bool = False) -> Figure:
    """One panel per unit, and per channel beside each other: red where sound gives more response, blue where less.

    Colours are symmetric around 0. Each unit has its own limit, written on its panel; its channels share it.

    Args:
        maps: as of `bm.analysis.gradmaps.strf_gradmap`; the last frame is lag 0.
        rate: frames a second.
        frequencies: Hz of each band, lowest first; without them the axis counts bands.
        titles: of units; none: their numbers.
        channels: names of the prefilter's channels, e.g. ON and OFF; none: their numbers if there are several.
        columns: panels in a row.
        shared_scale: one limit for all units.

    Shape: maps `(N, F, T)` or `(N, C, F, T)`.
    Errors: ValueError for other shapes, values that are not finite, or names that do not fit.
    """
    maps = np.asarray(maps, dtype=float)
    maps = maps[:, None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or not maps.size or not np.isfinite(maps).all():
        raise ValueError(f"maps have shape {maps.shape}, expected (N, F, T) or (N, C, F, T), all finite")
    n, c, bands, frames = maps.shape
    titles = list(titles) or [f"unit {i}" for i in range(n)]
    channels = list(channels) or ([f"channel {i}" for i in range(c)] if c > 1 else [""])
    for what, names, expected in (("titles", titles, n), ("channels", channels, c),
                                  ("frequencies", frequencies, bands)):
        if names is not None and len(names) != expected:
            raise ValueError(f"{len(names)} {what} for maps of shape {maps.shape}, expected {expected}")
    limits = np.abs(maps).max((1, 2, 3))
    limits = np.full(n, limits.max()) if shared_scale else limits

    columns = max(c, min(columns, n * c) // c * c)  # the channels of a unit stay in one row
    rows = -(-n * c // columns)
    figure = new_figure(0.9 + 1.5 * columns, 0.6 + 1.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    # a frame is what the response heard from its lag on; the present one ends at 0
    extent = (-1000 * frames / rate, 0.0, -0.5, bands - 0.5)
    for index, axes in enumerate(panels.ravel()):
        unit, channel = divmod(index, c)
        if unit >= n:
            axes.axis("off")
            continue
        limit = limits[unit] or 1.0  # a map of zeros is white
        axes.imshow(maps[unit, channel], origin="lower", aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit,
                    extent=extent, interpolation="nearest")
        axes.set_title(f"{titles[unit]} {channels[channel]}".strip(), fontsize=8)
        axes.text(0.03, 0.97, f"±{limits[unit]:.2g}", transform=axes.transAxes, va="top", fontsize=6)
        axes.tick_params(labelsize=7, labelbottom=index + columns >= n * c)  # where no panel is beneath
    if frequencies is not None:
        ticks = np.unique(np.linspace(0, bands - 1, min(bands, _TICKS)).round().astype(int))
        panels[0, 0].set_yticks(ticks, [_hz(frequencies[tick]) for tick in ticks])
    figure.supxlabel("time before the response (ms)", fontsize=9)
    figure.supylabel("band" if frequencies is None else "frequency (Hz)", fontsize=9)
    return figure
