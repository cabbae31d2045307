"""What a classifier took for what, and whether it needs what it attends to."""
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis.faithfulness import LEAST, MOST, RANDOM, Deletion, Verdict
from bm.analysis.plots import BLUE, GREEN, GREY, ORANGE, new_figure


def plot_confusion(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Share of each true class (row) that was taken for each class (column), and the counts.

    Shape: confusion `(K, K)` counts. Errors: ValueError for another shape.
    """
    counts = np.asarray(confusion)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"a confusion matrix of {len(classes)} classes has shape {counts.shape}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.2 + 0.75 * len(classes)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    image = axes.imshow(100 * share, vmin=0, vmax=100, cmap="cividis")
    for (row, column), value in np.ndenumerate(share):
        axes.text(column, row, f"{100 * value:.0f} %\n{counts[row, column]}", ha="center", va="center", fontsize=8,
                  color="black" if value > 0.6 else "white")
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true", title=f"{int(counts.sum())} segments, rows add up to 100 %")
    figure.colorbar(image, ax=axes, shrink=0.8).set_label("% of the true class")
    return figure


def plot_deletion(deletion: Deletion, verdict: Verdict, n_classes: int) -> Figure:
    """Accuracy and probability of the true class against the share of tokens deleted; the title is the verdict."""
    figure = new_figure(9.5, 3.8)
    styles = {MOST: (ORANGE, "-"), RANDOM: (GREY, "--"), LEAST: (BLUE, "-")}
    for axes, values, name in zip(figure.subplots(1, 2), (deletion.correct, deletion.probability),
                                  ("accuracy (%)", "probability of the true class (%)"), strict=True):
        for order, (color, line) in styles.items():
            axes.plot(100 * deletion.shares, 100 * values[order].mean(1), line, color=color, marker="o", markersize=3,
                      label=order)
        axes.axhline(100 / n_classes, color=GREEN, linestyle=":", label="chance")
        axes.set(xlabel="tokens deleted (%)", ylabel=name)
    figure.axes[0].legend(frameon=False, fontsize=8)
    head, _, numbers = str(verdict).partition(" (")
    figure.suptitle(f"{head}\n({numbers}", fontsize=10)
    return figure


def plot_accuracy(table: pd.DataFrame, column: str, chance: float) -> Figure:
    """Accuracy of each person, or band, or whatever a row is of, with its interval.

    Args:
        table: `column` (its name), `n`, `accuracy`, and maybe `accuracy_low`, `accuracy_high`, as fractions.
    """
    figure = new_figure(1.6 + 1.1 * len(table), 3.2)
    axes = figure.subplots()
    place, value = np.arange(len(table)), 100 * table["accuracy"].to_numpy()
    axes.bar(place, value, color=BLUE, width=0.7)
    if "accuracy_low" in table:
        ends = [value - 100 * table["accuracy_low"], 100 * table["accuracy_high"] - value]
        axes.errorbar(place, value, yerr=np.maximum(0, ends), fmt="none", ecolor="black", capsize=3, linewidth=1.2)
    axes.axhline(100 * chance, color=GREY, linestyle="--", label="chance")
    axes.set_xticks(place, [f"{name}\nn={n}" for name, n in zip(table[column], table["n"], strict=True)], fontsize=8)
    axes.set(ylabel="accuracy (%)", ylim=(0, 100), xlim=(-0.6, len(table) - 0.4))
    figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    return figure
