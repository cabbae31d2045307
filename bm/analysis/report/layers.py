"""Layers against the brain: of one XP for its report, and of many for the page of `scripts/layers.py`."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.layer_tables import (
    category_table,
    curve_table,
    diagnostics_table,
    fit_arrays,
    held_out,
    region_table,
    response_table,
)
from bm.analysis.layers import BASELINE, TASKS, LayersXP, groups, open_layers
from bm.analysis.plots import layer_details as details
from bm.analysis.plots import layers as plots
from bm.analysis.report.parts import Part, note, table
from bm.analysis.report.places import places, places_together
from bm.analysis.xp import StoredXP
from bm.solvers.regions import COUNTED

#: panels of a figure of components or of matrices
MOST = 6


def layers(xp: StoredXP) -> list[Part]:
    """What an XP of `task.type=ridge` or `rsa` found."""
    if xp.get("task.type") not in TASKS or xp.result is None:
        return []
    one = open_layers(xp)
    over = "voxels and splits" if one.task == "ridge" else "splits, mean over people"
    best = one.best_name or "none, as no layer is above 0"
    caption = (f"{one.metric} of each layer of {one.network} ({one.weights}), median over {over}. Best: {best}. With "
               f"the layer chosen on other data: {one.per_subject.mean():.3f}.")
    parts = [Part("Layers", plots.plot_curves(curve_table([one]), one.metric), caption)]
    if "latency" in one.targets:
        parts += _latencies(one)
    regions = region_table([one])
    if len(regions):
        over = "median over voxels" if one.task == "ridge" else "on all sounds"
        parts += [Part("Regions", plots.plot_regions(regions), f"Position of the best layer: {over}, mean over "
                       "people."), table("Best layer by region", regions.drop(columns=list(_ABOUT)).round(3))]
    return parts + _matrices(one) + _components(one) + places(one) + _dimensions([one]) + _fits(one)


_ABOUT = ("responses", "task", "network", "weights")


def _dimensions(xps: Sequence[LayersXP]) -> list[Part]:
    """Effective dimensionality of what was measured."""
    rows = response_table(xps)
    return [table("Dimensionality of responses", _plain(rows), "Effective dimensionality of each person's responses to "
                  "the sounds (mean, smallest and largest over people), as that of layers.")] if len(rows) else []


def _fits(one: LayersXP) -> list[Part]:
    """Penalties, standard deviations and reliabilities of ridge."""
    if one.task != "ridge":
        return []
    rows = diagnostics_table([one])
    best = one.test["best_layer"]
    return [table("Fits", rows.drop(columns=list(_ABOUT)).round(3), "Counts of fits (targets × splits) at the largest "
                  "and smallest penalty, with constant predictions, and with corrected R² above 1; medians of standard "
                  "deviations and reliabilities; rho: reliability of responses and penalty, over targets."),
            Part("Diagnostics", details.plot_diagnostics(fit_arrays(one, best)), f"Fits of {one.layers[best]}.")]


def _latencies(one: LayersXP) -> list[Part]:
    latencies, values, best = one.latency_map()
    label = "correlation" if one.task == "ridge" else "similarity"
    parts = [Part("Layers and latencies", plots.plot_latencies(values, latencies, one.layers, label, one.items),
                  f"Median over {len(best)} {'channels' if one.task == 'ridge' else 'people'} of the median over "
                  "splits.")]
    if len(best) > 1:
        parts.append(Part("Best layer of each channel", plots.plot_channel_latencies(best, latencies, one.layers,
                                                                                             one.items)))
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
    pairs = found[COUNTED] > 0 if COUNTED in found else None
    shown = {name: found[name] for name in list(dict.fromkeys(names))[:MOST]}
    regions = {name.removeprefix("region "): values for name, values in found.items() if name.startswith("region ")}
    between = []
    if len(regions) > 1:
        picture = details.plot_region_similarity(regions, one.xp.get("encoding.comparison"), pairs, one.items)
        caption = ("Dissimilarities of each region, mean over people (and latencies), compared with those of each "
                   "other. Noise that regions share in the same trials raises this too.")
        near = "" if pairs is None else f" Pairs of {one.items}s that are near each other do not count."
        between = [Part("Regions among themselves", picture, caption + near)]
    return [*between, Part(f"Dissimilarity of {one.items}s", plots.plot_rdms(shown, _categories(one)),
                 f"{_measure(one)}; {one.items}s ordered by category, where there is one. Each matrix from its "
                 "smallest (white) to its largest value. First people, then the best layer.")]


def _measure(one: LayersXP) -> str:
    """What dissimilarities are."""
    kind, noise = one.xp.get("encoding.rdm"), one.xp.get("encoding.noise")
    if kind != "crossnobis":
        return "1 − Spearman's correlation" if kind == "spearman" else "1 − Pearson's correlation"
    return (f"People: crossnobis distance ({f'noise: {noise}' if noise else 'not divided by noise'}); layers: 1 − "
            "Pearson's correlation")


def _components(one: LayersXP) -> list[Part]:
    """The best-predicted targets, mean of all predictions of a sound while it was held out."""
    found = held_out(one)
    if found is None:
        return []
    mean, actual = found
    layer, categories = one.test["best_layer"], _categories(one)
    chosen = np.sort(np.argsort(-np.median(one.arrays("r_test")[layer], 1), kind="stable")[:MOST])
    names = [" ".join(str(value) for value in row if value != "") for row in
             one.targets.iloc[chosen].drop(columns="region").to_numpy()]
    mean, actual, total = mean[:, chosen], actual[:, chosen], mean.shape[1]
    parts = [Part("Predicted and measured", plots.plot_components(mean, actual, names, categories),
                  f"The {len(chosen)} best of {total}, from layer {one.layers[layer]}; each sound while it was held "
                  "out, mean over splits.")]
    if categories is not None:
        rows = category_table(mean, actual, names, categories).pivot(index="category", columns="target", values="r")
        parts.append(table("Within categories", rows[names].round(2).reset_index(), "Correlation of predicted and "
                           "measured responses over the sounds of a category."))
    return parts


def comparison(xps: Sequence[LayersXP], tables: Mapping[str, pd.DataFrame]) -> dict[str, list[Part]]:
    """Sections of the page about many XPs and their parts.

    Args:
        tables: of `bm.analysis.layer_tables.all_tables`.
    """
    out: dict[str, list[Part]] = {}
    for (responses, task), own in groups(xps).items():
        def of(name: str, key: tuple[str, str] = (responses, task)) -> pd.DataFrame:
            rows = tables[name]
            return rows if rows.empty else rows[(rows["responses"] == key[0]) & (rows["task"] == key[1])]
        label, curves = own[0].metric, of("curves")
        parts = [table("Networks", _plain(of("networks")), "Layer chosen and score read on different data; sem: within-"
                       "person standard error. best_by_median: the layer with the largest median over voxels; "
                       "most_chosen: the best of most voxels; median_position: of each voxel's own best layer, 0 the "
                       "first, 1 the last. Empty where no layer predicts anything."),
                 Part("Bars", plots.plot_networks(of("networks"))), Part("Layers", plots.plot_curves(curves, label))]
        if len(of("pairs")):
            parts.append(table("Differences", _plain(of("pairs")), "p: two-sided; over people by the signed-rank test, "
                               "else over iterations (RSA: splits) by permutation, which says nothing of other people. "
                               "p_one_sided: as in the paper (bootstrap of the worse one), in the direction that was "
                               "found."))
        known = curves[(curves["network"] != BASELINE) & curves["dimensionality"].notna()]
        if len(known) > 1:
            parts += [Part("Dimensionality", plots.plot_dimensionality(known, label)),
                      table("Dimensionality and score", _plain(of("dimensionality")), "Pearson, over layers.")]
        if len(of("regions")):
            parts += [Part("Regions", plots.plot_regions(of("regions"))), table("By region", _plain(of("regions")))]
        if len(of("primary")):
            parts += [Part("Primary and other regions: networks", details.plot_primary(of("primary"))),
                      table("Primary and other regions", _plain(of("primary"))),
                      table("Over networks", _plain(of("primary_test")), "Wilcoxon's signed-rank test, two-sided.")]
        if len(of("components")):
            parts.append(Part("Components", details.plot_component_bars(of("components"))))
        if len(of("seeds")):
            parts += [Part(f"{names[0]} and {names[1]}", plots.plot_consistency(rows), "The same networks, trained (or "
                           "their weights shuffled) with other random numbers.")
                      for names, rows in of("seeds").groupby(["one", "other"], sort=False)]
        for one in own:
            if "latency" in one.targets:
                parts += [Part(f"{one.network} {one.weights}: {part.title}", part.content, part.caption)
                          for part in _latencies(one)]
        if len(of("diagnostics")):
            parts.append(table("Fits", _plain(of("diagnostics")), "Of ridge; see the reports of the XPs."))
        out[f"{responses}, {task}"] = parts + places_together(own) + _dimensions(own)
    consistency = tables["consistency"]
    if len(consistency):
        out["Consistency"] = [Part(f"{names[0]} and {names[1]}", plots.plot_consistency(rows)) for names, rows in
                              consistency.groupby(["one", "other"], sort=False) if len(rows) > 1]
    if not any(one.network == BASELINE or one.items != "sound" for one in xps):
        out["Baseline"] = [note("No baseline", "No XP of the spectrotemporal baseline is among these: dora run "
                                "preset=layers.")]
    return out


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    def short(value: Any) -> Any:
        return f"{value:.3g}" if isinstance(value, float) and value == value else value
    return rows.drop(columns=["responses", "task"]).map(short)
