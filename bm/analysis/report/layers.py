"""Layers against the brain: of one XP for its report, and of many for the page of `scripts/layers.py`."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.layers import BASELINE, TASKS, LayersXP, curve_table, groups, open_layers, region_table
from bm.analysis.plots import layers as plots
from bm.analysis.report.parts import Part, note, table
from bm.analysis.xp import StoredXP

#: panels of a figure of components or of matrices
MOST = 6


def layers(xp: StoredXP) -> list[Part]:
    """What an XP of `task.type=ridge` or `rsa` found."""
    if xp.get("task.type") not in TASKS or xp.result is None:
        return []
    one = open_layers(xp)
    best = one.test["best_name"]
    caption = (f"{one.metric} of each layer of {one.network} ({one.weights}), median over voxels and splits. Best: "
               f"{best}. With the layer chosen on other data: {one.per_subject.mean():.3f}.")
    parts = [Part("Layers", plots.plot_curves(curve_table([one]), one.metric), caption)]
    if "latency" in one.targets:
        parts += _latencies(one)
    regions = region_table([one])
    if len(regions):
        parts += [Part("Regions", plots.plot_regions(regions), "Position of the best layer; median over voxels, mean "
                       "over people."), table("Best layer by region", regions.drop(columns=list(_ABOUT)).round(3))]
    return parts + _matrices(one) + _components(one) + _map(one)


_ABOUT = ("responses", "task", "network", "weights")


def _latencies(one: LayersXP) -> list[Part]:
    latencies, values, best = one.latency_map()
    label = "correlation" if one.task == "ridge" else "similarity"
    parts = [Part("Layers and latencies", plots.plot_latencies(values, latencies, one.layers, label),
                  f"Median over {len(best)} {'channels' if one.task == 'ridge' else 'people'} of the median over "
                  "splits.")]
    if len(best) > 1:
        parts.append(Part("Best layer of each channel", plots.plot_channel_latencies(best, latencies, one.layers)))
    return parts


def _categories(one: LayersXP) -> list[str] | None:
    path = one.xp.folder / "stimuli.csv"
    if not path.exists():
        return None
    stimuli = pd.read_csv(path, dtype=str, keep_default_na=False)
    return stimuli["category"].tolist() if "category" in stimuli else None


def _matrices(one: LayersXP) -> list[Part]:
    path = one.xp.folder / "rdms.safetensors"
    if not path.exists():
        return []
    from safetensors.numpy import load_file
    found = load_file(path)
    names = ["mean over subjects", one.test["best_name"], *one.layers]
    shown = {name: found[name] for name in list(dict.fromkeys(names))[:MOST]}
    return [Part("Dissimilarity of sounds", plots.plot_rdms(shown, _categories(one)),
                 "1 − correlation, sounds ordered by category; each matrix from its smallest (white) to its largest "
                 "value. First people, then the best layer.")]


def _components(one: LayersXP) -> list[Part]:
    """The best-predicted targets, mean of all predictions of a sound while it was held out."""
    folder = one.xp.folder
    if not (folder / "predictions.safetensors").exists() or not (folder / "responses.safetensors").exists():
        return []
    from safetensors.numpy import load_file
    layer = one.test["best_layer"]
    estimates = load_file(folder / "predictions.safetensors")[one.layers[layer]]  # sounds, splits, targets
    held = np.isfinite(estimates).sum(1)
    mean = np.where(held > 0, np.nansum(estimates, 1) / np.maximum(held, 1), np.nan)
    chosen = np.sort(np.argsort(-np.median(one.arrays("r_test")[layer], 1), kind="stable")[:MOST])
    names = [" ".join(str(value) for value in row if value != "") for row in
             one.targets.iloc[chosen].drop(columns="region").to_numpy()]
    actual = load_file(folder / "responses.safetensors")["responses"]
    return [Part("Predicted and measured", plots.plot_components(mean[:, chosen], actual[:, chosen], names,
                                                                 _categories(one)),
                 f"The {len(chosen)} best of {mean.shape[1]}, from layer {one.layers[layer]}; each sound while it was "
                 "held out, mean over splits.")]


def _map(one: LayersXP) -> list[Part]:
    path = one.xp.folder / "channels.csv"
    if one.task != "ridge" or not path.exists():
        return []
    channels = pd.read_csv(path)
    for names in (("layout_x", "layout_y"), ("x_ras", "y_ras"), ("x", "y")):
        if set(names) <= set(channels):
            there = channels[list(names)].notna().all(axis=1).to_numpy()
            position = one.position.reshape(len(channels), -1).mean(1)
            return [Part("Where", plots.plot_positions(channels.loc[there, list(names)].to_numpy(), position[there],
                                                       "best layer (0: first, 1: last)", names),
                         "Flat places of voxels or sensors, all people (and hemispheres) together.")]
    return []


def comparison(xps: Sequence[LayersXP], tables: Mapping[str, pd.DataFrame]) -> dict[str, list[Part]]:
    """Sections of the page about many XPs and their parts.

    Args:
        tables: of `bm.analysis.layers.all_tables`.
    """
    out: dict[str, list[Part]] = {}
    for (responses, task), own in groups(xps).items():
        def of(name: str, key: tuple[str, str] = (responses, task)) -> pd.DataFrame:
            rows = tables[name]
            return rows if rows.empty else rows[(rows["responses"] == key[0]) & (rows["task"] == key[1])]
        label, curves = own[0].metric, of("curves")
        parts = [table("Networks", _plain(of("networks")), "Layer chosen and score read on different data; sem: within-"
                       "person standard error. Position: of the best layer, 0 the first, 1 the last."),
                 Part("Bars", plots.plot_networks(of("networks"))), Part("Layers", plots.plot_curves(curves, label))]
        if len(of("pairs")):
            parts.append(table("Differences", _plain(of("pairs")), "p: one-sided; over people by bootstrap, else over "
                               "iterations (RSA: splits) by permutation, which says nothing of other people."))
        known = curves[(curves["network"] != BASELINE) & curves["dimensionality"].notna()]
        if len(known) > 1:
            parts += [Part("Dimensionality", plots.plot_dimensionality(known, label)),
                      table("Dimensionality and score", _plain(of("dimensionality")), "Pearson, over layers.")]
        if len(of("regions")):
            parts += [Part("Regions", plots.plot_regions(of("regions"))), table("By region", _plain(of("regions")))]
        if len(of("primary")):
            parts += [table("Primary and other regions", _plain(of("primary"))),
                      table("Over networks", _plain(of("primary_test")), "Wilcoxon's signed-rank test, two-sided.")]
        for one in own:
            if "latency" in one.targets:
                parts += [Part(f"{one.network} {one.weights}: {part.title}", part.content, part.caption)
                          for part in _latencies(one)]
        out[f"{responses}, {task}"] = parts
    consistency = tables["consistency"]
    if len(consistency):
        out["Consistency"] = [Part(f"{names[0]} and {names[1]}", plots.plot_consistency(rows)) for names, rows in
                              consistency.groupby(["one", "other"], sort=False) if len(rows) > 1]
    if not any(one.network == BASELINE for one in xps):
        out["Baseline"] = [note("No baseline", "No XP of the spectrotemporal baseline is among these: dora run "
                                "preset=layers.")]
    return out


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    def short(value: Any) -> Any:
        return f"{value:.3g}" if isinstance(value, float) and value == value else value
    return rows.drop(columns=["responses", "task"]).map(short)
