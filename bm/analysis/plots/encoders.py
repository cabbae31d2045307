"""Encoders beside each other: scores, attention over lags, predicted responses."""
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, new_figure


def plot_encoders(table: pd.DataFrame) -> Figure:
    """Median r of each encoder with its interval; as circles CCnorm, with its own, where there is one.

    Args:
        table: of `bm.analysis.encoders.encoder_table`.
    """
    figure = new_figure(6.5, 1.2 + 0.34 * len(table))
    axes = figure.subplots()
    place = np.arange(len(table))
    axes.barh(place, table["r"], color=BLUE, height=0.65, alpha=0.75)
    known = table["r_low"].notna().to_numpy()
    ends = np.maximum(0, [table["r"] - table["r_low"], table["r_high"] - table["r"]])[:, known]
    axes.errorbar(table["r"][known], place[known] - 0.12, xerr=ends, fmt="none", ecolor="black", capsize=3)
    label = f"median r over {table['n_units'].max()} units; bars: 95 % over stimuli"
    if table["ccnorm"].notna().any():
        known = table["ccnorm_low"].notna().to_numpy()
        ends = np.maximum(0, [table["ccnorm"] - table["ccnorm_low"], table["ccnorm_high"] - table["ccnorm"]])[:, known]
        axes.errorbar(table["ccnorm"][known], place[known] + 0.18, xerr=ends, fmt="none", ecolor=GREY, capsize=3)
        axes.plot(table["ccnorm"], place + 0.18, "o", color="black", markerfacecolor="white")
        label += "; circles: CCnorm"
    axes.set_yticks(place, table["encoder"], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=8)
    return figure


def plot_pairs(scores: Mapping[str, np.ndarray], reference: str, columns: int = 3) -> Figure:
    """r of each unit with each encoder against its r with the reference; above the line the encoder is better.

    Args:
        scores: encoder → r `(N,)` of the same units; NaN are left out.
    """
    others = [name for name in scores if name != reference]
    rows = -(-len(others) // columns)
    figure = new_figure(2.9 * columns, 2.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, others, strict=False):
        x, y = scores[reference], scores[name]
        known = np.isfinite(x) & np.isfinite(y)
        low, high = np.nanmin([x[known], y[known]], initial=0), np.nanmax([x[known], y[known]], initial=0.1)
        axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
        axes.plot(x[known], y[known], ".", color=BLUE, markersize=4)
        axes.set_xlabel(f"r of {reference}", fontsize=8)
        axes.set_ylabel(f"r of {name}", fontsize=8)
        axes.set_title(f"{int((y > x)[known].sum())} of {int(known.sum())} units better", fontsize=8)
    for axes in panels[len(others):]:
        axes.axis("off")
    return figure


def plot_lags(profiles: Mapping[str, np.ndarray], rate: float) -> Figure:
    """Mean attention of each encoder to what was heard so long ago; dashed: attention that is the same at all lags.

    Args:
        profiles: encoder → `(W,)`, lag 0 first (`bm.analysis.encoder_attention.lag_profile`).
        rate: frames a second.
    """
    figure = new_figure(6.5, 3.2)
    axes = figure.subplots()
    for name, profile in profiles.items():
        line, = axes.plot(1000 * np.arange(len(profile)) / rate, profile, marker=".", label=name)
        axes.axhline(1 / len(profile), color=line.get_color(), linestyle="--", linewidth=0.8)
    axes.set(xlabel="time before the response (ms)", ylabel="mean attention", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return figure


def plot_responses(measured: np.ndarray, predicted: Mapping[str, np.ndarray], rate: float, units: Sequence[str]
                   ) -> Figure:
    """Measured and predicted responses to one stimulus, a row per unit, each standardised over what is shown.

    Args:
        measured: `(T, U)`, NaN where not measured.
        predicted: encoder → `(T, U)`.
    """
    figure = new_figure(8, 0.6 + 1.6 * len(units))
    seconds = np.arange(len(measured)) / rate
    for number, (axes, unit) in enumerate(zip(figure.subplots(len(units), 1, squeeze=False, sharex=True)[:, 0], units,
                                              strict=True)):
        known = np.isfinite(measured[:, number])
        axes.plot(seconds, _standardised(measured[:, number], known), color="black", linewidth=1.6, label="measured")
        for name, values in predicted.items():
            axes.plot(seconds, _standardised(values[:, number], known), linewidth=1, label=name)
        axes.set_title(unit, fontsize=8)
        if number == 0:
            axes.legend(frameon=False, fontsize=7, ncols=4)
    axes.set_xlabel("time (s)")
    figure.supylabel("response (standard deviations)", fontsize=9)
    return figure


def plot_waveform(wave: np.ndarray, gradient: np.ndarray, rate: float, unit: str) -> Figure:
    """A stretch of sound above what a change of each of its samples does to a response in its last frame.

    Args:
        wave, gradient: `(samples,)`, e.g. of `bm.analysis.gradmaps.waveform_gradmap`.
        rate: Hz.
    """
    figure = new_figure(8, 3.4)
    above, below = figure.subplots(2, 1, sharex=True)
    milliseconds = 1000 * (np.arange(len(wave)) - len(wave)) / rate
    above.plot(milliseconds, wave, color="black", linewidth=0.5)
    above.set(ylabel="sound")
    below.plot(milliseconds, gradient, color="tab:red", linewidth=0.5)
    below.set(xlabel="time before the response (ms)", ylabel=f"effect on {unit}")
    return figure


def _standardised(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over what is known; a constant is 0."""
    if not known.any():
        return np.full(len(values), np.nan)
    spread = values[known].std()
    return np.where(known, (values - values[known].mean()) / (spread if spread > 0 else 1), np.nan)
