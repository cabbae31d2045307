"""How well the true segment was found."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, new_figure


def plot_ranks(rank: np.ndarray, n_candidates: int) -> Figure:
    """Share of the test segments that are among the k best candidates, for every k, beside chance k / V.

    Shape: rank `(N,)`, 1 is best.
    Errors: ValueError for ranks outside [1, n_candidates].
    """
    rank = np.asarray(rank, dtype=float)
    if not len(rank) or rank.min() < 1 or rank.max() > n_candidates:
        raise ValueError(f"ranks must be in [1, {n_candidates}], got {len(rank)} of them"
                         + (f" in [{rank.min():g}, {rank.max():g}]" if len(rank) else ""))
    k = np.arange(1, n_candidates + 1)
    figure = new_figure(6.5, 3.4)
    axes = figure.subplots()
    axes.plot(k, 100 * np.searchsorted(np.sort(rank), k, side="right") / len(rank), color=BLUE, label="decoder")
    axes.plot(k, 100 * k / n_candidates, color=GREY, linestyle="--", label="chance")
    axes.set(xscale="log", xlabel=f"k (of {n_candidates} candidates)", ylabel="among the k best (%)", ylim=(0, 102),
             title=f"{len(rank)} test segments")
    axes.legend(frameon=False)
    return figure


def plot_subjects(table: pd.DataFrame, ks: Sequence[int], chance: dict[int, float]) -> Figure:
    """Accuracy of each subject with its interval, one panel per k.

    Args:
        table: one row a subject: `subject`, `n`, and for each k `top{k}`, `top{k}_low`, `top{k}_high` (NaN: no
            interval), as fractions.
        chance: of each k, a fraction; no line where it is not given.
    """
    figure = new_figure(7.5, 1.3 + 0.24 * len(table))
    panels = figure.subplots(1, len(ks), sharey=True, squeeze=False)[0]
    place = np.arange(len(table))
    for axes, k in zip(panels, ks, strict=True):
        value = 100 * table[f"top{k}"].to_numpy()
        low, high = (100 * table[f"top{k}_{end}"].to_numpy() for end in ("low", "high"))
        axes.barh(place, value, color=BLUE, height=0.7)
        axes.errorbar(value, place, xerr=np.maximum(0, [value - low, high - value]), fmt="none", ecolor="black",
                      capsize=2, linewidth=1)
        if k in chance:
            axes.axvline(100 * chance[k], color=GREY, linestyle="--", label="chance")
        axes.set(xlabel=f"top-{k} accuracy (%)", xlim=(0, None))
    panels[0].set_yticks(place, [f"{name} (n={n})" for name, n in zip(table["subject"], table["n"], strict=True)],
                         fontsize=8)
    panels[0].invert_yaxis()
    if chance:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
    return figure
