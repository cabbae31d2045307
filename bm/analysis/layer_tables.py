"""Tables about networks side by side, and about their fits (`bm.analysis.layers`)."""
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.layers import BASELINE, PRIMARY, WEIGHTS, LayersXP, groups
from bm.metrics.compare import signed_rank
from bm.metrics.layers import bootstrap_below, permutation_below, within_subject_sem
from bm.metrics.reliability import correlation_columns


def _about(one: LayersXP) -> dict[str, Any]:
    return {"responses": one.responses, "task": one.task, "network": one.network, "weights": one.weights}


def network_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """A row per XP: score (mean over people), within-subject standard error (over the group's XPs), the layer with the
    largest median over targets, the one that most targets choose, and the median over targets of the relative position
    of each one's own. These three need not be the same layer; all are empty where no layer predicts anything."""
    rows = []
    for own in groups(xps).values():
        values = np.stack([one.per_subject for one in own], 1)  # subjects, XPs
        sems = within_subject_sem(values) if len(own) > 1 else np.full(1, np.nan)
        for k, one in enumerate(own):
            position = one.position[one.predicted]
            rows.append({**_about(one), "metric": one.metric, "score": values[:, k].mean(), "sem": sems[k],
                         "best_by_median": one.best_name, "most_chosen": one.most_chosen,
                         "median_position": float(np.median(position)) if position.size else np.nan, **_joined(one),
                         "n_layers": len(one.layers), "n_subjects": len(one.subjects), "sig": one.sig})
    return pd.DataFrame(rows)


def _joined(one: LayersXP) -> dict[str, float]:
    """Similarity of all layers side by side, where it was asked for."""
    return {"all_layers": one.test["concatenated"]} if "concatenated" in one.test else {}


def pair_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Pairs of trained networks (and the baseline), and each network against its own controls, the better one first.

    `p`, two-sided, is Wilcoxon's signed-rank test over people, who are the same in both: exact for few of them, and at
    least 2 / 2ⁿ for n. `p_one_sided` is the paper's: people of the worse one are resampled (bootstrap), unpaired, and
    the better one is taken to be known beforehand; it is no valid p. Of one "person" (a group's components or
    electrodes) the ten iterations (RSA: splits) are permuted, which says how sure the choice of splits leaves the
    difference, nothing of other people; there `p` is twice `p_one_sided`.
    """
    rows = []
    for own in groups(xps).values():
        for one, other in combinations(own, 2):
            # two networks, or one network's kinds of weights: its controls are of any `weights_seed`
            if (one.weights == other.weights if one.model == other.model else
                    {one.weights, other.weights} != {"trained"}):
                continue
            better, worse = sorted((one, other), key=lambda x: -x.per_subject.mean())
            people = len(one.subjects) > 1
            if people:
                p_one_sided = bootstrap_below(better.per_subject, worse.per_subject)
                p = signed_rank(better.per_subject, worse.per_subject).p
            else:
                p_one_sided = permutation_below(better.repeats[:, 0], worse.repeats[:, 0])
                p = min(1.0, 2 * p_one_sided)
            rows.append({"responses": one.responses, "task": one.task,
                         "better": f"{better.network} {better.weights}", "worse": f"{worse.network} {worse.weights}",
                         "difference": better.per_subject.mean() - worse.per_subject.mean(),
                         "p": p, "p_one_sided": p_one_sided,
                         "over": "people" if people else "iterations" if one.task == "ridge" else "splits"})
    return pd.DataFrame(rows)


def region_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Relative position of the best layer in each region (see `LayersXP.positions`): means over people, and the
    within-subject standard error over regions (of people who have them all)."""
    rows = []
    for one in xps:
        names = one.regions
        wide = pd.DataFrame({name: one.positions([name]) for name in names})
        whole = wide.dropna().to_numpy()
        sems = within_subject_sem(whole) if len(whole) > 1 and len(names) > 1 else np.full(len(names), np.nan)
        for k, name in enumerate(names):
            rows.append({**_about(one), "region": name, "position": wide[name].mean(), "sem": sems[k],
                         "n_subjects": int(wide[name].count()), "n_voxels": _count(one, name)})
    return pd.DataFrame(rows)


def _count(one: LayersXP, region: str) -> int:
    """Voxels in a region, of all people."""
    if one.task == "rsa":
        rows = one.region_rows
        return int(rows.loc[rows["region"] == region].drop_duplicates("subject")["n_voxels"].sum())
    return len(one.targets.loc[one.targets["region"] == region, ["subject", "voxel"]].drop_duplicates())


def primary_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Position of the best layer of each network in primary regions and in all others, mean over people."""
    rows = []
    for one in xps:
        others = [name for name in one.regions if name != PRIMARY]
        if PRIMARY in one.regions and others and len(one.layers) > 1:
            rows.append({**_about(one), "primary": one.positions([PRIMARY]).mean(),
                         "non_primary": one.positions(others).mean()})
    return pd.DataFrame(rows)


def primary_test(table: pd.DataFrame) -> pd.DataFrame:
    """Wilcoxon's signed-rank test over networks of `primary_table`: are best layers deeper outside primary regions?"""
    rows = []
    for names, own in table.groupby(["responses", "task", "weights"], sort=False) if len(table) else []:
        test = signed_rank(own["non_primary"], own["primary"])
        rows.append({**dict(zip(("responses", "task", "weights"), names, strict=True)), "n_networks": len(own),
                     "difference": (own["non_primary"] - own["primary"]).mean(), "effect": test.effect, "p": test.p})
    return pd.DataFrame(rows)


def curve_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """A row per XP and layer: score, its within-subject standard error over layers, effective dimensionality, and of
    ridge `r`, the median over voxels of the median over splits of the correlation."""
    rows = []
    for one in xps:
        values = one.layer_scores()
        sems = within_subject_sem(values) if values.shape[1] > 1 else np.full(values.shape[1], np.nan)
        known, r = one.test.get("dimensionality", {}), one.test.get("layers_r", {})
        for k, name in enumerate(one.layers):
            rows.append({**_about(one), "layer": name, "index": k, "position": k / max(len(one.layers) - 1, 1),
                         "score": values[:, k].mean(), "sem": sems[k], "dimensionality": known.get(name, np.nan)}
                        | ({"r": r[name]} if name in r else {}))
    return pd.DataFrame(rows)


def _pearson(a: pd.Series, b: pd.Series) -> dict[str, float]:
    from scipy.stats import pearsonr
    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2:
        return {"n": len(a), "r2": np.nan, "p": np.nan}
    found = pearsonr(a, b)
    return {"n": len(a), "r2": float(found.statistic) ** 2, "p": float(found.pvalue)}


def dimensionality_test(curves: pd.DataFrame) -> pd.DataFrame:
    """Correlation of effective dimensionality with the score, over layers of all networks (without the baseline)."""
    rows = []
    for names, own in curves[curves["network"] != BASELINE].groupby(["responses", "task"], sort=False):
        parts = {"all": own, **{kind: own[own["weights"] == kind] for kind in WEIGHTS if kind in set(own["weights"])}}
        for kind, part in parts.items():
            rows.append({**dict(zip(("responses", "task"), names, strict=True)), "weights": kind,
                         **_pearson(part["dimensionality"], part["score"])})
    return pd.DataFrame(rows)


def consistency_table(networks: pd.DataFrame) -> pd.DataFrame:
    """Scores of the same networks in two groups (two studies, or ridge and RSA): a row per pair of groups and network,
    with the pair's correlation over networks of the same kind of weights (trained ones and controls together would
    correlate for being trained or not)."""
    parts = {" ".join(names): own.set_index(["network", "weights"])["score"]
             for names, own in networks.groupby(["responses", "task"], sort=False)}
    tables = []
    for one, other in combinations(parts, 2):
        both = pd.concat([parts[one], parts[other]], axis=1, keys=["x", "y"], join="inner").reset_index()
        tables += [own.assign(one=one, other=other, **_pearson(own["x"], own["y"]))
                   for _, own in both.groupby("weights", sort=False)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def seed_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Scores of the same networks with two seeds (figure 2): a row per network, weights and pair of seeds, with the
    pair's correlation over networks of these weights.

    Networks differ by the seed of their training, which their names end in (…Seed2), or controls by their
    `weights_seed`; never by both.

    Raises:
        ValueError: two XPs of the same network, weights and seeds.
    """
    rows = []
    for own in groups(xps).values():
        found: dict[tuple[str, str, str], dict[int, LayersXP]] = {}
        for one in own:
            base, trained, weights_seed = one.family
            control = f" weights seed {weights_seed}" if weights_seed else ""
            for name, kind, seed in ([(base + control, "seed", trained)] if one.weights == "trained" else
                                     [(base + control, "seed", trained), (one.model, "weights seed", weights_seed)]):
                other = found.setdefault((name, one.weights, kind), {}).setdefault(seed, one)
                if other is not one:
                    raise ValueError(f"XPs {other.sig} and {one.sig} are both {base} {one.weights}, {kind} {seed}: "
                                     "give one of them at a time")
        rows += [{"responses": own[0].responses, "task": own[0].task, "network": name, "weights": weights,
                  "one": f"{kind} {first}", "other": f"{kind} {second}", "x": float(seeds[first].per_subject.mean()),
                  "y": float(seeds[second].per_subject.mean())}
                 for (name, weights, kind), seeds in found.items() for first, second in combinations(sorted(seeds), 2)]
    keys = ["responses", "task", "weights", "one", "other"]
    return pd.concat([part.assign(**_pearson(part["x"], part["y"])) for _, part in
                      pd.DataFrame(rows).groupby(keys, sort=False)], ignore_index=True) if rows else pd.DataFrame()


def component_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """A row per XP whose targets are components and component (figures 5 and 9): mean over iterations of the score of
    the layer chosen on other splits, and its standard error over them."""
    rows = []
    for one in xps:
        if one.task == "ridge" and one.components:
            values = one.best.score  # iterations, components
            sems = values.std(0, ddof=1) / np.sqrt(len(values))
            for k, name in enumerate(one.targets["voxel"]):
                rows.append({**_about(one), "component": name, "metric": one.metric, "score": values[:, k].mean(),
                             "sem": sems[k]})
    return pd.DataFrame(rows)


def diagnostics_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """A row per XP of ridge and layer: medians over voxels and splits of the standard deviations of measured and
    predicted test responses and of both reliabilities; fits at the largest and the smallest penalty, constant
    predictions and corrected R² above 1 (counts of `n_fits`); and Spearman's correlation over voxels of the data's
    reliability with the penalty, medians over splits."""
    rows = []
    for one in xps:
        if one.task != "ridge":
            continue
        medians = ("y_test_std", "pred_test_std", "reliability", "reliability_hat")
        for k, name in enumerate(one.layers):
            own = fit_arrays(one, k)
            rows.append({**_about(one), "layer": name, "n_fits": own["edge"].size,
                         **{column: float(np.median(own[column])) for column in medians},
                         "largest_alpha": int((own["edge"] == 1).sum()),
                         "smallest_alpha": int((own["edge"] == 2).sum()), "constant": int(own["constant_test"].sum()),
                         "above_one": int((own["r2_test_c"] > 1).sum()),
                         "rho": _rho(np.median(own["reliability"], 1), np.median(own["alphas"], 1))})
    return pd.DataFrame(rows)


def fit_arrays(one: LayersXP, layer: int) -> dict[str, np.ndarray]:
    """What is stored of a layer's fits (`bm.linear.voxelwise.Voxelwise`), `(targets, splits)` each."""
    return {name: one.arrays(name)[layer] for name in ("y_test_std", "pred_test_std", "reliability", "reliability_hat",
                                                       "alphas", "edge", "constant_test", "r2_test_c")}


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return float("nan")
    return float(spearmanr(a[known], b[known]).statistic)


def response_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Effective dimensionality of the responses of each group and region, mean, smallest and largest over people (and
    latencies); `n_units`: voxels of a person, mean. Nothing of XPs that did not write it."""
    tables = []
    for own in groups(xps).values():
        path = own[0].xp.folder / "dimensionality.csv"
        if path.exists():
            rows = pd.read_csv(path, dtype={"subject": str})
            grouped = rows[rows["source"] == "responses"].groupby("region", sort=False)
            table = grouped.agg(n_subjects=("subject", "nunique"), n_units=("n_units", "mean"),
                                dimensionality=("dimensionality", "mean"), smallest=("dimensionality", "min"),
                                largest=("dimensionality", "max")).reset_index()
            table.insert(0, "responses", own[0].responses)
            table.insert(1, "task", own[0].task)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def held_out(one: LayersXP) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the best layer the mean of a sound's predictions while it was held out, NaN where it never was, and what was
    measured: `(sounds, targets)` both. None without `encoding.predictions`."""
    folder = one.xp.folder
    if not (folder / "predictions.safetensors").exists() or not (folder / "responses.safetensors").exists():
        return None
    from safetensors.numpy import load_file
    estimates = load_file(folder / "predictions.safetensors")[one.layers[one.test["best_layer"]]]
    held = np.isfinite(estimates).sum(1)  # sounds, targets
    mean = np.where(held > 0, np.nansum(estimates, 1) / np.maximum(held, 1), np.nan)
    return mean, load_file(folder / "responses.safetensors")["responses"]


def category_table(predicted: np.ndarray, actual: np.ndarray, names: Sequence[str], categories: Sequence[str]
                   ) -> pd.DataFrame:
    """Correlation of predicted and measured responses `(sounds, targets)` within each category of sounds (figures 4 and
    9): columns `target`, `category`, `n`, `r`, which is NaN below three sounds."""
    rows, which = [], np.asarray(categories)
    for k, name in enumerate(names):
        for category in dict.fromkeys(categories):
            own = (which == category) & np.isfinite(predicted[:, k])
            r = correlation_columns(predicted[own, k, None], actual[own, k, None])[0] if own.sum() > 2 else np.nan
            rows.append({"target": name, "category": category, "n": int(own.sum()), "r": r})
    return pd.DataFrame(rows)


def all_tables(xps: Sequence[LayersXP]) -> dict[str, pd.DataFrame]:
    """Every table by name; empty ones where XPs have nothing to say."""
    networks, curves, primary = network_table(xps), curve_table(xps), primary_table(xps)
    return {"networks": networks, "pairs": pair_table(xps), "curves": curves, "regions": region_table(xps),
            "primary": primary, "primary_test": primary_test(primary), "dimensionality": dimensionality_test(curves),
            "responses": response_table(xps), "components": component_table(xps), "seeds": seed_table(xps),
            "consistency": consistency_table(networks), "diagnostics": diagnostics_table(xps)}
