"""What minutes of a new person's data are worth."""
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, new_figure


def plot_calibration(table: pd.DataFrame, k: int) -> Figure:
    """Top-k accuracy over minutes of calibration: a thin line for each person, a thick one with its interval for all.

    Args:
        table: of `bm.analysis.calibrate.calibrate`.

    Errors: ValueError if the table has no such k.
    """
    own = table[table["topk"] == k]
    if own.empty:
        raise ValueError(f"the table has no top-{k} accuracy, only k in {sorted(table['topk'].unique().tolist())}")
    people, everyone = own[own["subject"] != "all"], own[own["subject"] == "all"]
    figure = new_figure(6.0, 3.6)
    axes = figure.subplots()
    for _, line in people.groupby("subject"):
        axes.plot(line["used"], 100 * line["accuracy"], color=GREY, linewidth=0.8, alpha=0.7)
    low, high = (100 * everyone[end] for end in ("low", "high"))
    axes.fill_between(everyone["used"], low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(everyone["used"], 100 * everyone["accuracy"], color=BLUE, marker="o", label="all of them")
    axes.axhline(100 * everyone["chance"].iloc[0], color=GREY, linestyle="--", label="chance")
    n = people["subject"].nunique()
    axes.set(xlabel="minutes of calibration", ylabel=f"top-{k} accuracy (%)", ylim=(0, None),
             title=f"{n} people whom the model never saw, {everyone['n'].iloc[0]} test segments among "
                   f"{everyone['n_candidates'].iloc[0]}")
    axes.title.set_fontsize(9)
    axes.legend(frameon=False, fontsize=8)
    return figure
