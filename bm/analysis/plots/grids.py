"""Decoders beside each other."""
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, new_figure


def plot_decoders(table: pd.DataFrame, subjects: pd.DataFrame, k: int) -> Figure:
    """Accuracy of each decoder with its interval, its subjects as dots, and chance; one panel per study.

    Args:
        table: of `bm.analysis.grids.main_table`.
        subjects: of `bm.analysis.grids.subjects_table`.
    """
    studies = list(dict.fromkeys(table["study"]))
    most = max(table["study"].value_counts())
    figure = new_figure(3.2 + 3.2 * len(studies), 1.4 + 0.34 * most)
    rng = np.random.default_rng(0)
    for axes, study in zip(figure.subplots(1, len(studies), squeeze=False)[0], studies, strict=True):
        own = table[table["study"] == study].reset_index(drop=True)
        place = np.arange(len(own))
        mean = 100 * own["mean"]
        axes.barh(place, mean, color=BLUE, height=0.65, alpha=0.75)
        ends = np.maximum(0, [mean - 100 * own["low"], 100 * own["high"] - mean])
        axes.errorbar(mean, place, xerr=ends, fmt="none", ecolor="black", capsize=3, linewidth=1.2)
        for y, name in zip(place, own["decoder"], strict=True):
            values = 100 * subjects[name].dropna()
            values = values[values.index.get_level_values("study").isin(study.split("+"))]
            axes.plot(values, y + rng.uniform(-0.2, 0.2, len(values)), ".", color="black", markersize=3, alpha=0.6)
        axes.vlines(100 * own["chance"], place - 0.45, place + 0.45, color=GREY, linestyle="--")
        axes.set_yticks(place, own["decoder"], fontsize=8)
        axes.invert_yaxis()
        axes.set(title=study, xlabel=f"top-{k} accuracy (%); dots: subjects; dashed: chance", xlim=(0, None))
    return figure


def plot_differences(tests: pd.DataFrame, reference: str) -> Figure:
    """Difference of each decoder to the reference, ± standard error over subjects; those with p_fdr < .05 are filled.

    Args:
        tests: of `bm.analysis.grids.pooled_tests`.
    """
    figure = new_figure(6.5, 1.2 + 0.34 * len(tests))
    axes = figure.subplots()
    place = np.arange(len(tests))
    axes.axvline(0, color=GREY)
    axes.errorbar(100 * tests["difference"], place, xerr=100 * tests["sem"], fmt="none", ecolor="black", capsize=3)
    for y, row in zip(place, tests.itertuples(), strict=True):
        axes.plot(100 * row.difference, y, "o", color=BLUE, markerfacecolor=BLUE if row.p_fdr < 0.05 else "white")
    axes.set_yticks(place, tests["decoder"], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=f"difference to {reference} (percentage points)",
             title=f"{int(tests['n'].max())} subjects; filled: p < .05 after correction")
    return figure


def plot_accuracy_curve(tables: dict[str, pd.DataFrame], n_candidates: int, k_max: int = 50) -> Figure:
    """Accuracy against the number of guesses of several decoders, with chance.

    Args:
        tables: decoder → its `metadata.parquet`, with `rank` (1 is best).
    """
    figure = new_figure(6.5, 3.6)
    axes = figure.subplots()
    k = np.arange(1, min(k_max, n_candidates) + 1)
    for name, table in tables.items():
        ranks = np.sort(table["rank"].to_numpy())
        axes.plot(k, 100 * np.searchsorted(ranks, k, side="right") / len(ranks), label=name)
    axes.plot(k, 100 * k / n_candidates, color=GREY, linestyle="--", label="chance")
    axes.set(xlabel=f"guesses, of {n_candidates} candidates", ylabel="accuracy (%)", ylim=(0, 101))
    axes.legend(frameon=False, fontsize=8)
    return figure
