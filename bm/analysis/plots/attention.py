"""Where and when a transformer attends, and where the power of a rhythm differs."""
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis.attention_summary import AttentionSummary
from bm.analysis.plots import BLUE, GREEN, GREY, ORANGE, new_figure
from bm.analysis.plots.sensors import plot_topomaps

LABEL = "attention (1: most seen token)"


def conditions(maps: Mapping[str, np.ndarray]) -> tuple[list[str], list[np.ndarray]]:
    """Titles and maps of all conditions, and of two the difference (second − first) as a third."""
    titles, values = list(maps), list(maps.values())
    if len(values) == 2:
        titles, values = [*titles, f"{_name(titles[1])} − {_name(titles[0])}"], [*values, values[1] - values[0]]
    return titles, values


def _name(title: str) -> str:
    """Without the number of segments behind it."""
    return title.partition("\n")[0]


def _rows(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], layout: np.ndarray, label: str) -> Figure:
    """A row of maps `(C,)` for each (name, condition → map), differences last; ignored channels (NaN) are left out."""
    titles, values, columns = [], [], 0
    for name, maps in rows:
        own_titles, own = conditions(maps)
        titles += [f"{name} {title}".strip() for title in own_titles]
        values += own
        columns = len(own)
    keep = np.isfinite(np.stack(values)).all(0)
    signed = [i for i in range(len(values)) if columns == 3 and len(rows[0][1]) == 2 and i % 3 == 2]
    return plot_topomaps(np.stack(values)[:, keep], layout[keep], titles, label, columns, signed)


def plot_attention_maps(summary: AttentionSummary, per_token: bool = False) -> Figure:
    """The mean rollout from the class token to each channel in each condition, and the difference of two; a row per
    token in time with `per_token`.

    Errors: ValueError if no segment is used.
    """
    means = summary.condition_means()
    if not means:
        raise ValueError("no segment is used: none was classified rightly with the confidence asked for")
    rows = [("", {f"{label}\n{len(summary.of(label))} segments": mean.mean(1) for label, mean in means.items()})]
    if per_token:
        rows += [(f"{time:.2f} s:", {label: mean[:, k] for label, mean in means.items()})
                 for k, time in enumerate(summary.times)]
    return _rows(rows, summary.layout, LABEL)


def plot_layer_maps(summary: AttentionSummary) -> Figure:
    """What the class token sees in each layer by itself, a row per layer."""
    known = [i for i, label in enumerate(summary.classes) if len(summary.of(label))]
    if not known:
        raise ValueError("no segment is used: none was classified rightly with the confidence asked for")
    rows = [(f"layer {layer + 1}:", {summary.classes[i]: summary.layers[i, layer].mean(1) for i in known})
            for layer in range(summary.layers.shape[1])]
    return _rows(rows, summary.layout, LABEL)


def plot_received_maps(summary: AttentionSummary) -> Figure:
    """What each channel gets from all channels (rollout between them, mean over query rows) in each condition.

    Errors: ValueError if no segment is used.
    """
    received = {}
    for label, between in zip(summary.classes, summary.between, strict=True):
        if len(rows := summary.of(label)):
            known = np.isfinite(np.diagonal(between))
            received[f"{label}\n{len(rows)} segments"] = np.where(known, between[known].mean(0), np.nan)
    if not received:
        raise ValueError("no segment is used: none was classified rightly with the confidence asked for")
    return _rows([("", received)], summary.layout, "attention, mean over query channels")


def plot_band_maps(bands: Mapping[str, AttentionSummary]) -> Figure:
    """Maps of models of several bands, a row per band; the maps of a condition lie between 0 and 1 (min–max)."""
    def scaled(x: np.ndarray) -> np.ndarray:
        low, high = np.nanmin(x), np.nanmax(x)
        return (x - low) / (high - low) if high > low else np.zeros_like(x)
    rows = [(f"{band}:", {label: scaled(mean.mean(1)) for label, mean in summary.condition_means().items()})
            for band, summary in bands.items()]
    first = next(iter(bands.values()))
    other = [band for band, summary in bands.items() if summary.channels != first.channels
             or list(summary.condition_means()) != list(first.condition_means())]
    if other:
        raise ValueError(f"{', '.join(other)}: other channels, or other conditions with used segments, than "
                         f"{next(iter(bands))}: they cannot be drawn side by side")
    return _rows(rows, first.layout, "attention, min–max of each map")


def plot_attention_time(summary: AttentionSummary) -> Figure:
    """Attention of the class token over time in each condition: mean over channels and segments, band: ± 1 s.e.

    Errors: ValueError for a single token per channel, which has no time.
    """
    if len(summary.times) < 2:
        raise ValueError("a model with one token per channel has no attention over time (eeg_transformer.tokens)")
    figure = new_figure(6.5, 3.4)
    axes = figure.subplots()
    for label, color in zip(summary.classes, (BLUE, ORANGE, GREEN, GREY) * len(summary.classes), strict=False):
        own = np.nanmean(summary.tokens[summary.of(label)], axis=1)
        if not len(own):
            continue
        error = own.std(0, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.zeros(len(summary.times))
        axes.plot(summary.times, own.mean(0), color=color, marker="o", markersize=3, label=f"{label} (n={len(own)})")
        axes.fill_between(summary.times, own.mean(0) - error, own.mean(0) + error, color=color, alpha=0.2)
    axes.set(xlabel="middle of the token (s)", ylabel=LABEL, ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def plot_power(attention: np.ndarray, power: np.ndarray, layout: np.ndarray, name: str, found: pd.Series) -> Figure:
    """A map of attention beside the power difference of one band, with their correlation (a row of `compare`)."""
    keep = np.isfinite(attention)
    figure = plot_topomaps(np.stack([attention, power])[:, keep], layout[keep],
                           [f"attention\n{found['map']}", f"log power, {found['band']}\n{name}"], "", 2,
                           [i for i, row in enumerate((attention[keep], power[keep])) if row.min() < 0])
    figure.suptitle(f"r = {found['r']:+.2f} over {found['n']} channels\np = {found['p']:.3g} (channels permuted), "
                    f"{found['p_spin']:.3g} (maps rotated)", fontsize=9)
    return figure


def plot_power_maps(summary: AttentionSummary, power: np.ndarray, table: pd.DataFrame) -> dict[str, Figure]:
    """Band → the difference of the maps of two conditions beside that of the power (`plot_power`).

    Args:
        power: `(bands, C)`. table: of `bm.analysis.attention_power.compare`.
    """
    (first, one), (second, other) = summary.condition_means().items()
    name = f"{second} − {first}"
    rows = table[table["map"] == name].to_dict("records")
    return {row["band"]: plot_power(other.mean(1) - one.mean(1), difference, summary.layout, name, pd.Series(row))
            for row, difference in zip(rows, power, strict=True)}
