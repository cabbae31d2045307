"""Layers of networks against the brain."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bm.analysis.layer_tables import category_table
from bm.analysis.plots import BLUE, GREY, ORANGE, new_figure

COLOURS = {"trained": BLUE, "permuted": GREY, "untrained": ORANGE}
LINES = {"trained": "-", "permuted": "--", "untrained": ":"}


def _axis(label: str, n: int) -> str:
    return f"{label}; mean of {n} people ± within-person SE" if n > 1 else f"{label} (one group)"


def plot_networks(table: pd.DataFrame, baseline: str = "spectrotemporal") -> Figure:
    """Score of each network with its controls beside it; the baseline is a line, its standard error a band.

    Args:
        table: rows of one group of `bm.analysis.layer_tables.network_table`.
    """
    figure = new_figure(2.6 + 1.1 * max(table["network"].nunique(), 1), 3.4)
    axes = figure.subplots()
    draw_bars(axes, table, baseline)
    axes.set_ylabel(_axis(table["metric"].iloc[0], int(table["n_subjects"].max())), fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def draw_bars(axes: Axes, table: pd.DataFrame, baseline: str = "spectrotemporal") -> None:
    """Bars of `score` ± `sem` of each `network` and its `weights`; the baseline is a line."""
    shown = table[table["network"] != baseline]
    names = list(dict.fromkeys(shown["network"]))
    kinds = [kind for kind in COLOURS if kind in set(shown["weights"])]
    width = 0.8 / max(len(kinds), 1)
    for k, kind in enumerate(kinds):
        own = shown[shown["weights"] == kind].set_index("network").reindex(names)
        axes.bar(np.arange(len(names)) + (k - (len(kinds) - 1) / 2) * width, own["score"], width, yerr=own["sem"],
                 color=COLOURS[kind], label=kind, capsize=3)
    for row in table[table["network"] == baseline].itertuples():
        axes.axhline(row.score, color="black", linewidth=1.2, label=baseline)
        if row.sem == row.sem:
            axes.axhspan(row.score - row.sem, row.score + row.sem, color="black", alpha=0.12)
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)


def plot_curves(table: pd.DataFrame, label: str, baseline: str = "spectrotemporal") -> Figure:
    """Score against relative depth, a line per network, with its standard error; the baseline's best is a level.

    Args:
        table: rows of one group of `bm.analysis.layer_tables.curve_table`.
        label: of the score.
    """
    figure = new_figure(6.5, 3.4)
    axes = figure.subplots()
    networks = [name for name in dict.fromkeys(table["network"]) if name != baseline] or [baseline]
    for (network, weights), own in table.groupby(["network", "weights"], sort=False):
        if len(own) == 1 or network == baseline:
            best = own.loc[own["score"].idxmax()]
            axes.axhline(best["score"], color="black", linewidth=1, label=f"{network} {best['layer']}")
            continue
        axes.errorbar(own["position"], own["score"], own["sem"].fillna(0), color=f"C{networks.index(network)}",
                      linestyle=LINES[weights], marker="o", markersize=3, capsize=2, label=f"{network} {weights}")
    first = table[table["network"] == networks[0]].drop_duplicates("layer")
    if len(networks) == 1 and len(first) <= 14:
        axes.set_xticks(first["position"], first["layer"], rotation=30, ha="right", fontsize=7)
        axes.set_xlabel("layer")
    else:
        axes.set_xlabel("relative depth (0: first layer, 1: last)")
    axes.set_ylabel(label, fontsize=8)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_regions(table: pd.DataFrame) -> Figure:
    """Relative position of the best layer in each region, a dot per XP, with standard errors.

    Args:
        table: rows of one group of `bm.analysis.layer_tables.region_table`.
    """
    regions = list(dict.fromkeys(table["region"]))
    figure = new_figure(2.5 + 0.5 * len(regions), 3.2)
    axes = figure.subplots()
    lines = list(table.groupby(["network", "weights"], sort=False))
    for k, ((network, weights), own) in enumerate(lines):
        own = own.set_index("region").reindex(regions)
        axes.errorbar(np.arange(len(regions)) + 0.5 * (k + 0.5) / len(lines) - 0.25, own["position"],
                      own["sem"].fillna(0), fmt="o", color=COLOURS[weights], capsize=2, markersize=4,
                      alpha=0.9 - 0.5 * k / len(lines), label=f"{network} {weights}")
    axes.set_xticks(range(len(regions)), regions, rotation=30, ha="right", fontsize=8)
    axes.set(ylabel="best layer (0: first, 1: last)", ylim=(-0.05, 1.05))
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _category_colours(categories: Sequence[str]) -> dict[str, tuple]:
    import matplotlib
    colours = matplotlib.colormaps["tab20"]
    return {name: colours(i % 20) for i, name in enumerate(sorted(set(categories)))}


def _category_legend(axes: Axes, colours: dict[str, tuple]) -> None:
    for name, color in colours.items():
        axes.plot([], [], "s", color=color, markersize=5, label=name)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))


def plot_rdms(matrices: dict[str, np.ndarray], categories: Sequence[str] | None = None) -> Figure:
    """Matrices of dissimilarity, sounds ordered by category, which bars beside them colour.

    Shape: each `(n, n)`; categories `(n,)`.
    """
    columns = min(len(matrices), 3)
    rows = -(-len(matrices) // columns)
    figure = new_figure(2.6 * columns + 1.6, 2.6 * rows)
    n = len(next(iter(matrices.values())))
    order = np.arange(n) if categories is None else np.argsort(np.asarray(categories), kind="stable")
    panels = figure.subplots(rows, columns, squeeze=False)
    colours = {} if categories is None else _category_colours(categories)
    for axes, (name, matrix) in zip(panels.ravel(), matrices.items(), strict=False):
        shown = matrix[order][:, order]
        off = shown[~np.eye(n, dtype=bool)]
        axes.imshow(shown, cmap="Greys", vmin=off.min(), vmax=off.max(), interpolation="nearest")
        if categories is not None:
            bar = np.array([[colours[categories[i]] for i in order]])
            width = max(0.04 * n, 1)
            axes.imshow(bar, extent=(-0.5, n - 0.5, -0.5 - width, -0.5), aspect="auto")
            axes.imshow(bar.swapaxes(0, 1), extent=(-0.5 - width, -0.5, n - 0.5, -0.5), aspect="auto")
            axes.set(xlim=(-0.5 - width, n - 0.5), ylim=(n - 0.5, -0.5 - width))
        axes.set_title(name, fontsize=8)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal")
    for axes in panels.ravel()[len(matrices):]:
        axes.axis("off")
    if categories is not None:
        _category_legend(panels[0, -1], colours)
    return figure


def plot_dimensionality(curves: pd.DataFrame, label: str) -> Figure:
    """Effective dimensionality of each layer against its score."""
    figure = new_figure(4.6, 3.4)
    axes = figure.subplots()
    for weights, own in curves.groupby("weights", sort=False):
        axes.plot(own["dimensionality"], own["score"], "o", color=COLOURS[str(weights)], label=str(weights),
                  markersize=4)
    axes.set_xlabel("effective dimensionality")
    axes.set_ylabel(label, fontsize=8)
    axes.set_title(f"{len(curves)} layers", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_components(predicted: np.ndarray, actual: np.ndarray, names: Sequence[str],
                    categories: Sequence[str] | None = None) -> Figure:
    """Predicted against measured response to each sound, one panel a component (or voxel), coloured by category; in
    the title also the mean of the correlations within categories.

    Shape: predicted, actual `(sounds, components)`; NaN where a sound was never held out.
    """
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = new_figure(2.7 * columns + 1.4, 2.5 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    colours = {} if categories is None else _category_colours(categories)
    points = BLUE if categories is None else [colours[name] for name in categories]
    for k, (axes, name) in enumerate(zip(panels.ravel(), names, strict=False)):
        axes.scatter(predicted[:, k], actual[:, k], s=9, c=points)
        there = np.isfinite(predicted[:, k])
        varies = np.ptp(predicted[there, k]) > 0 and np.ptp(actual[there, k]) > 0
        r = f"r = {np.corrcoef(predicted[there, k], actual[there, k])[0, 1]:.2f}, " if varies else ""
        inside = "" if categories is None else _within(predicted[:, [k]], actual[:, [k]], categories)
        axes.set_title(f"{name}: {r}{there.sum()} sounds{inside}", fontsize=8)
        axes.set(xlabel="predicted", ylabel="measured")
    for axes in panels.ravel()[len(names):]:
        axes.axis("off")
    if colours:
        _category_legend(panels[0, -1], colours)
    return figure


def _within(predicted: np.ndarray, actual: np.ndarray, categories: Sequence[str]) -> str:
    found = category_table(predicted, actual, [""], categories)["r"].dropna()
    return f"\nwithin {len(found)} categories: mean r = {found.mean():.2f}" if len(found) else ""


def plot_latencies(values: np.ndarray, latencies: np.ndarray, layers: Sequence[str], label: str, item: str = "sound"
                   ) -> Figure:
    """Score of each layer at each latency; dots: the best layer of each where its score is above 0.

    Shape: values `(layers, latencies)`; latencies in s, evenly spaced.
    """
    figure = new_figure(7, 1.4 + 0.28 * len(layers))
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="cividis", extent=_extent(latencies, len(layers)))
    known = values.max(0) > 0
    axes.plot(latencies[known], values.argmax(0)[known], "o", color="white", markeredgecolor="black", markersize=4)
    axes.set_yticks(range(len(layers)), layers, fontsize=7)
    axes.set_xlabel(f"s after the {item}'s start (middle of the window); dots: best layer")
    figure.colorbar(image, ax=axes).set_label(label, fontsize=8)
    return figure


def plot_channel_latencies(best: np.ndarray, latencies: np.ndarray, layers: Sequence[str], item: str = "sound"
                           ) -> Figure:
    """Which layer is the best for each channel at each latency; channels ordered by their mean.

    Shape: best `(channels, latencies)`, indices of layers, NaN (grey) where no layer predicts anything.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    known = np.isfinite(best)
    mean = np.where(known, best, 0).sum(1) / np.maximum(known.sum(1), 1)
    shown = best[np.argsort(np.where(known.any(1), mean, -1), kind="stable")]
    image = axes.imshow(shown, aspect="auto", origin="lower", cmap="viridis", vmin=0, vmax=max(len(layers) - 1, 1),
                        interpolation="nearest", extent=_extent(latencies, len(best)))
    axes.set(xlabel=f"s after the {item}'s start (middle of the window)", ylabel=f"{len(best)} channels, sorted",
             facecolor="lightgrey")
    ticks = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), 8)).round().astype(int))
    bar = figure.colorbar(image, ax=axes, ticks=ticks)
    bar.ax.set_yticklabels([layers[k] for k in ticks], fontsize=7)
    bar.set_label("best layer" if known.all() else "best layer (grey: none above 0)", fontsize=8)
    return figure


def _extent(latencies: np.ndarray, rows: int) -> tuple[float, float, float, float]:
    half = (latencies[1] - latencies[0]) / 2 if len(latencies) > 1 else 0.5
    return float(latencies[0] - half), float(latencies[-1] + half), -0.5, rows - 0.5


def plot_positions(places: np.ndarray, values: np.ndarray, label: str, axis_names: Sequence[str]) -> Figure:
    """A value at each flat place of a voxel or sensor.

    Shape: places `(n, 2)`, values `(n,)`.
    """
    figure = new_figure(4.6, 3.6)
    axes = figure.subplots()
    points = axes.scatter(places[:, 0], places[:, 1], c=values, s=14, cmap="viridis")
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1], title=f"n = {len(values)}")
    axes.set_aspect("equal", adjustable="datalim")
    figure.colorbar(points, ax=axes).set_label(label, fontsize=8)
    return figure


def plot_consistency(table: pd.DataFrame) -> Figure:
    """Scores of the same networks in two groups, with r² over those of each kind of weights.

    Args:
        table: rows of one pair of groups of `bm.analysis.layer_tables.consistency_table`.
    """
    figure = new_figure(4.6, 3.6)
    axes = figure.subplots()
    for weights, own in table.groupby("weights", sort=False):
        r2 = own["r2"].iloc[0]
        axes.plot(own["x"], own["y"], "o", color=COLOURS[str(weights)],
                  label=f"{weights}, n = {len(own)}" + (f", r² = {r2:.2f}" if r2 == r2 else ""))
    for row in table.itertuples():
        axes.annotate(str(row.network), (float(row.x), float(row.y)), fontsize=6, xytext=(3, 3),
                      textcoords="offset points")
    axes.set(xlabel=table["one"].iloc[0], ylabel=table["other"].iloc[0], title=f"{len(table)} XPs in each")
    axes.legend(frameon=False, fontsize=8)
    return figure
