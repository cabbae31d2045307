"""Values of sensors, drawn over the head."""
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.figure import Figure

from bm.analysis.plots import new_figure

#: metres; MNE draws the head as a circle of this radius
_HEAD = 0.095


def plot_topomaps(maps: np.ndarray, layout: np.ndarray, titles: Sequence[str], label: str, columns: int = 3,
                  signed: Collection[int] = (), limits: tuple[float, float] | None = None) -> Figure:
    """One map a row of `maps`, interpolated between the sensors (dots), nose up.

    Sensors at one place (e.g. the two gradiometers and the magnetometer of a triplet) are averaged.

    Args:
        maps: values; a sensor that is NaN in a map is left out of it, and no map is drawn of fewer than four.
        layout: flat places, in any unit.
        label: of the colours, with the unit.
        signed: numbers of the maps that are differences: blue to red, the same scale on both sides of 0.
        limits: of the colours of all maps; None: each has its own.

    Shape: maps `(M, C)`, layout `(C, 2)`; the latter finite.
    Errors: ValueError for fewer than 4 places, between which nothing can be interpolated.
    """
    import mne
    place, which = np.unique(np.asarray(layout, dtype=float).round(5), axis=0, return_inverse=True)
    if len(place) < 4 or not np.isfinite(place).all():
        raise ValueError(f"a map needs at least 4 sensors with a finite place in the layout, got {len(place)}")
    values = np.stack([_means(which, row, len(place)) for row in np.asarray(maps, dtype=float)])
    centre = (place.min(0) + place.max(0)) / 2
    place = (place - centre) / np.linalg.norm(place - centre, axis=1).max() * _HEAD
    rows = -(-len(values) // columns)
    figure = new_figure(2.6 * columns, 2.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, (axes, row, title) in enumerate(zip(panels, values, titles, strict=False)):
        known = np.isfinite(row)
        if known.sum() < 4:
            axes.axis("off")
            axes.set_title(f"{title}\n{known.sum()} values".strip(), fontsize=9)
            continue
        row = row[known]
        most = np.abs(row).max() or 1.0
        own = limits or ((-most, most) if i in signed else (min(row.min(), 0), row.max()))
        image, _ = mne.viz.plot_topomap(row, place[known], ch_type="mag", contours=0, sphere=(0, 0, 0, _HEAD), vlim=own,
                                        cmap="coolwarm" if i in signed else "cividis", axes=axes, show=False)
        axes.set_title(title, fontsize=9)
        figure.colorbar(image, ax=axes, shrink=0.6).set_label(label, fontsize=8)
    for axes in panels[len(values):]:
        axes.axis("off")
    return figure


def _means(which: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Means `(n,)` over the known values at each place, NaN where there is none."""
    known = np.isfinite(values)
    count = np.bincount(which[known], minlength=n)
    return np.bincount(which[known], values[known], n) / np.where(count > 0, count, np.nan)
