"""Layers against the brain, more closely: seeds, components, primary regions, regions among themselves, and fits."""
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, new_figure
from bm.analysis.plots.layers import COLOURS, draw_bars


def plot_component_bars(table: pd.DataFrame, baseline: str = "spectrotemporal") -> Figure:
    """Score of each network with its controls, a panel per component (figures 5 and 9).

    Args:
        table: rows of one group of `bm.analysis.layer_tables.component_table`.
    """
    names = list(dict.fromkeys(table["component"]))
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = new_figure((1.4 + 0.8 * table["network"].nunique()) * columns + 1.2, 2.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in zip(panels.ravel(), names, strict=False):
        draw_bars(axes, table[table["component"] == name], baseline)
        axes.set_title(name, fontsize=9)
    for axes in panels.ravel()[len(names):]:
        axes.axis("off")
    for row in panels:
        row[0].set_ylabel(f"{table['metric'].iloc[0]} ± SE over iterations", fontsize=8)
    panels[0, -1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_primary(table: pd.DataFrame) -> Figure:
    """Position of each network's best layer in primary regions against all others (figure 7).

    Args:
        table: rows of one group of `bm.analysis.layer_tables.primary_table`.
    """
    figure = new_figure(4.2, 3.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for weights, own in table.groupby("weights", sort=False):
        axes.plot(own["primary"], own["non_primary"], "o", color=COLOURS[str(weights)], label=f"{weights}, {len(own)}")
    for row in table.itertuples():
        axes.annotate(str(row.network), (float(row.primary), float(row.non_primary)), fontsize=6, xytext=(3, 3),
                      textcoords="offset points")
    axes.set(xlabel="best layer in primary regions (0: first, 1: last)", ylabel="best layer in the others",
             xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=7, title="networks", title_fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_region_similarity(matrices: dict[str, np.ndarray], how: str = "spearman", pairs: np.ndarray | None = None,
                           item: str = "sound") -> Figure:
    """Correlation of the dissimilarities of each region with those of each other.

    Shape: matrices by region, `(n, n)` sounds (`item`) each, means over people; pairs `(n, n)`: which count, None: all.
    """
    from bm.metrics.rdm import compare
    names = list(matrices)
    stack = np.stack([matrices[name] for name in names])
    values = compare(stack, stack, "pearson" if how == "pearson" else "spearman", pairs)
    figure = new_figure(2.6 + 0.5 * len(names), 1.8 + 0.45 * len(names))
    axes = figure.subplots()
    image = axes.imshow(values, vmin=min(0.0, float(values.min())), vmax=1, cmap="cividis")
    for i, j in np.ndindex(values.shape):
        axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7,
                  color="white" if values[i, j] < 0.6 else "black")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(f"{stack.shape[1]} {item}s", fontsize=9)
    figure.colorbar(image, ax=axes).set_label(f"{how} correlation of dissimilarities", fontsize=8)
    return figure


def plot_diagnostics(arrays: dict[str, np.ndarray]) -> Figure:
    """Of one layer's fits: penalties with those at either edge, standard deviations, and, where there are repetitions,
    reliability against penalty and corrected R² (those above 1 counted).

    Shape: arrays of `bm.linear.voxelwise.Voxelwise` by name, `(voxels, splits)` each.
    """
    repeats = not np.isnan(arrays["r2_test_c"]).all()
    figure = new_figure(7.6, 5.4 if repeats else 2.8)
    panels = figure.subplots(2 if repeats else 1, 2, squeeze=False)
    edge, exponents = arrays["edge"], np.log10(arrays["alphas"])
    low, high = np.floor(exponents.min()), np.ceil(exponents.max())
    panels[0, 0].hist(exponents.ravel(), bins=np.linspace(low - 0.5, high + 0.5, int(min(high - low, 99)) + 2),
                      color=BLUE)
    panels[0, 0].set(xlabel="log10 of the penalty", ylabel="fits", yscale="log")
    panels[0, 0].set_title(f"{edge.size} fits: {(edge == 1).sum()} at the largest penalty, {(edge == 2).sum()} at the "
                           "smallest", fontsize=7)
    _dots(panels[0, 1], np.median(arrays["y_test_std"], 1), np.median(arrays["pred_test_std"], 1))
    panels[0, 1].set(xlabel="SD of measured responses", ylabel="SD of predictions")
    if repeats:
        _dots(panels[1, 0], np.median(arrays["reliability"], 1), np.median(exponents, 1))
        panels[1, 0].set(xlabel="reliability of responses", ylabel="log10 of the penalty")
        corrected = arrays["r2_test_c"]
        panels[1, 1].hist(np.clip(corrected.ravel(), 0, 2), bins=np.linspace(0, 2, 41), color=BLUE)
        panels[1, 1].axvline(1, color="black", linewidth=0.8)
        panels[1, 1].set(xlabel="corrected R² (2: that or more)", ylabel="fits")
        panels[1, 1].set_title(f"{(corrected > 1).sum()} of {corrected.size} above 1", fontsize=7)
    return figure


def _dots(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A voxel each, medians over splits."""
    axes.scatter(x, y, s=6, color=BLUE, alpha=0.5, linewidths=0)
    axes.set_title(f"{len(x)} targets, medians over splits", fontsize=7)
