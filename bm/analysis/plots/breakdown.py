"""Where an accuracy comes from: groups of words, time, and what predicts the decoder's probabilities."""
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, ORANGE, new_figure
from bm.analysis.plots.sensors import plot_topomaps


def _bars(axes: Axes, values: pd.DataFrame, names: list[str], column: str, factor: float = 100.0) -> None:
    """Horizontal bars with their intervals, the first on top."""
    place = np.arange(len(values))
    value, low, high = (factor * values[name].to_numpy(float) for name in (column, "low", "high"))
    axes.barh(place, value, color=BLUE, height=0.7)
    axes.errorbar(value, place, xerr=np.maximum(0, [value - low, high - value]), fmt="none", ecolor="black", capsize=2,
                  linewidth=1)
    axes.set_yticks(place, names, fontsize=7)
    axes.invert_yaxis()


def plot_breakdown(table: pd.DataFrame, k: int, columns: int = 2) -> Figure:
    """Top-k accuracy of each group of `bm.analysis.breakdown.breakdown`, a panel per grouping, beside chance."""
    parts = list(table[table["topk"] == k].groupby("by", sort=False))
    rows = -(-len(parts) // columns)
    height = sum(max(len(own) for _, own in parts[i:i + columns]) for i in range(0, len(parts), columns))
    figure = new_figure(4.2 * columns, 0.9 * rows + 0.2 * height)
    ratios = [2 + max(len(own) for _, own in parts[i:i + columns]) for i in range(0, len(parts), columns)]
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=ratios).ravel()
    for axes, (by, own) in zip(panels, parts, strict=False):
        _bars(axes, own, [f"{row.group} (n={row.n})" for row in own.itertuples()], "accuracy")
        axes.axvline(100 * own["chance"].iloc[0], color=GREY, linestyle="--", linewidth=1)
        axes.set_title(by, fontsize=9)
        axes.set_xlabel(f"top-{k} accuracy (%)", fontsize=8)
    for axes in panels[len(parts):]:
        axes.axis("off")
    return figure


def plot_time(table: pd.DataFrame, k: int) -> Figure:
    """Top-k accuracy over time of `bm.analysis.timing.accuracy_in_time`: growing windows by their end, sliding ones by
    their middle."""
    own = table[table["topk"] == k]
    figure = new_figure(6.5, 3.5)
    axes = figure.subplots()
    for kind, color in (("growing", BLUE), ("sliding", ORANGE)):
        part = own[own["kind"] == kind]
        time = part["stop"] if kind == "growing" else (part["start"] + part["stop"]) / 2
        width = (part["stop"] - part["start"]).iloc[0]
        label = f"from {part['start'].iloc[0]:g} s to here" if kind == "growing" else f"{width:g} s around here"
        axes.plot(time, 100 * part["accuracy"], color=color, marker=".", label=label)
        axes.fill_between(time, 100 * part["low"], 100 * part["high"], color=color, alpha=0.2, linewidth=0)
    axes.axhline(100 * own["chance"].iloc[0], color=GREY, linestyle="--", label="chance")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="time of the sound from the trigger (s)", ylabel=f"top-{k} accuracy (%)", ylim=(0, None),
             title=f"{own['n'].iloc[0]} segments among {own['n_candidates'].iloc[0]}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_explained(table: pd.DataFrame) -> Figure:
    """R of each family of `bm.analysis.explain.explain` that could be made, with its interval over subjects."""
    own = table[table["r"].notna()]
    figure = new_figure(6.0, 0.9 + 0.3 * len(own))
    axes = figure.subplots()
    _bars(axes, own, [f"{row.family} ({row.dims:.0f})" for row in own.itertuples()], "r", 1.0)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(xlabel="cross-validated R, mean over subjects",
             title=f"{own['n'].iloc[0]:.0f} segments of {own['n_subjects'].iloc[0]:.0f} subjects")
    return figure


def plot_importance(table: pd.DataFrame) -> Figure:
    """What is lost without each group of `bm.analysis.importance.sensor_importance`: a map where the places of at least
    ten are known, else bars."""
    layout = table[["layout_x", "layout_y"]].to_numpy(float)
    known = np.isfinite(layout).all(axis=1)
    k = table["topk"].iloc[0]
    if known.sum() >= 10 and np.ptp(table["drop"][known]) > 0:
        return plot_topomaps(100 * table["drop"].to_numpy()[known][None], layout[known], ["without one at a time"],
                             f"top-{k} accuracy lost (points)", columns=1)
    figure = new_figure(6.0, 0.9 + 0.22 * len(table))
    axes = figure.subplots()
    _bars(axes, table, table["group"].astype(str).tolist(), "drop")
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(xlabel=f"top-{k} accuracy lost without (points)", title=f"{table['n'].iloc[0]} segments")
    return figure


def figure_of(name: str, table: pd.DataFrame) -> Figure | None:
    """The figure of a table that `scripts/breakdown.py` wrote, at the largest k; None where nothing can be drawn."""
    if name == "explained":
        return plot_explained(table) if "r" in table and table["r"].notna().any() else None
    if name == "sensors":
        return plot_importance(table)
    plot = {"breakdown": plot_breakdown, "timing": plot_time}[name]
    return plot(table, int(table["topk"].max()))
