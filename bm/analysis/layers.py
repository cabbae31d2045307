"""Networks side by side: which of their layers are like the brain, from folders of ridge and RSA XPs alone.

XPs with the same responses and task (`group`) are compared with each other. A network's score is that of the layer
that is best for each voxel, chosen and read on different splits (RSA: for each person, on different sounds); medians
over a person's voxels (and latencies), means over people. Source: Tuckute, Feather et al. 2023, Methods.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.grids import xp_folders
from bm.analysis.xp import StoredXP
from bm.metrics.compare import signed_rank
from bm.metrics.layers import (
    BestLayer,
    best_layer,
    bootstrap_below,
    by_subject,
    permutation_below,
    within_subject_sem,
)

BASELINE = "spectrotemporal"
WEIGHTS = ("trained", "permuted", "untrained")
PRIMARY = "Primary"
TASKS = ("ridge", "rsa")


@dataclass(frozen=True)
class LayersXP:
    """A finished XP of `task.type=ridge` or `rsa`."""

    xp: StoredXP

    @property
    def sig(self) -> str:
        return self.xp.sig

    @property
    def task(self) -> str:
        return self.xp.get("task.type")

    @property
    def network(self) -> str:
        """Its name, without the folder or organisation."""
        return Path(self.xp.get("encoding.model") or self.xp.get("encoding.activations")).name

    @property
    def weights(self) -> str:
        return "permuted" if self.xp.get("encoding.permuted") else "untrained" if self.xp.get(
            "encoding.random") else "trained"

    @property
    def responses(self) -> str:
        """What was measured: selections, the space where a study has several, and whether there are latencies."""
        names = []
        for name in self.xp.get("dset.selections"):
            space = self.xp.get(f"selections.{name}.space")
            names.append(f"{name} {space}" if space else name)
        return "+".join(names) + (" by latency" if self.xp.get("encoding.latencies") else "")

    @property
    def group(self) -> tuple[str, str]:
        return self.responses, self.task

    @property
    def test(self) -> dict[str, Any]:
        assert self.xp.result is not None
        return self.xp.result["test"]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row per layer, target and split (ridge), or per split, side, person (and latency) and layer (RSA)."""
        return pd.read_parquet(self.xp.folder / ("voxels.parquet" if self.task == "ridge" else "rsa.parquet"))

    @cached_property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(self.rows["layer"]))

    @cached_property
    def targets(self) -> pd.DataFrame:
        """`subject`, `voxel`, `region` (and `latency`) of each target; of RSA `subject` (and `latency`)."""
        columns = [name for name in ("subject", "voxel", "region", "latency") if name in self.rows]
        table = self.rows.iloc[:len(self.rows) // len(self.layers)] if self.task == "ridge" else self.rows
        kept = table[table["split"] == 0] if self.task == "ridge" else table[columns].drop_duplicates()
        return kept[columns].astype({name: str for name in columns if name != "latency"}).reset_index(drop=True)

    @property
    def metric(self) -> str:
        """What `scores` are."""
        if self.task == "rsa":
            return "similarity"
        return "R²" if self.rows["r2_test_c"].isna().all() else "R² (corrected for noise)"

    def arrays(self, column: str, side: str = "test") -> np.ndarray:
        """A column as `(layers, targets, splits)`; of RSA on the sounds of one `side`."""
        if self.task == "ridge":
            return self.rows[column].to_numpy(dtype=float).reshape(len(self.layers), len(self.targets), -1)
        own = self.rows.loc[self.rows["sounds"] == side, column].to_numpy(dtype=float)
        return own.reshape(-1, len(self.targets), len(self.layers)).transpose(2, 1, 0)

    @cached_property
    def scores(self) -> np.ndarray:
        """`(layers, targets, splits)`, on test sounds."""
        if self.task == "rsa":
            return self.arrays("similarity")
        return self.arrays("r2_test" if self.metric == "R²" else "r2_test_c")

    @cached_property
    def best(self) -> BestLayer:
        """The layer of each target: of ridge chosen on half of the splits, ten times; of RSA on each split's train
        sounds."""
        if self.task == "ridge":
            return best_layer(self.scores, compat=self.xp.get("encoding.compat"))
        chosen = self.arrays("similarity", "train").argmax(0)
        return BestLayer(chosen.T, np.take_along_axis(self.scores, chosen[None], 0)[0].T)

    @cached_property
    def subjects(self) -> list[str]:
        return np.unique(self.targets["subject"]).tolist()

    @cached_property
    def repeats(self) -> np.ndarray:
        """`(iterations or splits, subjects)` scores of the best layer."""
        return by_subject(self.best.score, self.targets["subject"].to_numpy())[1]

    @property
    def per_subject(self) -> np.ndarray:
        """`(subjects,)`: means over iterations, of RSA medians over splits."""
        return self.repeats.mean(0) if self.task == "ridge" else np.median(self.repeats, 0)

    @cached_property
    def position(self) -> np.ndarray:
        """Of each target the relative position of its best layer: 0 the first, 1 the last."""
        return self.best.position(len(self.layers))

    def layer_scores(self) -> np.ndarray:
        """`(subjects, layers)`: medians over splits (at most 1), then over voxels."""
        medians = np.minimum(np.median(self.scores, 2), 1)
        return by_subject(medians, self.targets["subject"].to_numpy())[1].T

    def latency_map(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latencies (s), median over splits of the correlation (RSA: similarity) `(layers, latencies)`, median over
        channels, and `(channels, latencies)`, each channel's best layer.

        Raises:
            ValueError: the XP has no latencies.
        """
        if "latency" not in self.targets:
            raise ValueError(f"XP {self.sig} has no latencies: run it with encoding.latencies={{start: …}}")
        values = np.median(self.arrays("r_test" if self.task == "ridge" else "similarity"), 2)
        latencies = np.unique(self.targets["latency"])
        cube = values.reshape(len(self.layers), -1, len(latencies))
        if self.task == "rsa":  # where people at one latency follow each other, not the latencies of one channel
            cube = values.reshape(len(self.layers), len(latencies), -1).swapaxes(1, 2)
        return latencies, np.median(cube, 1), cube.argmax(0)


def open_layers(xp: StoredXP) -> LayersXP:
    """The XP, for comparisons.

    Raises:
        ValueError: another task; FileNotFoundError: it is not finished.
    """
    if xp.get("task.type") not in TASKS:
        raise ValueError(f"XP {xp.sig} has task.type={xp.get('task.type')}: expected one of {', '.join(TASKS)}")
    if xp.result is None:
        raise FileNotFoundError(f"XP {xp.sig} is not finished: dora run -f {xp.sig}")
    return LayersXP(xp)


def find_layers(names: Sequence[str], outputs: Path | None = None) -> list[LayersXP]:
    """XPs of grids (by name) or signatures.

    Args:
        outputs: the folder of XPs; None: that of `bm.analysis.grids.find_outputs`.

    Raises:
        FileNotFoundError: no such grid or XP, or one that is not finished; ValueError: one of another task, or two of
            the same network, weights, responses and task.
    """
    found = [open_layers(StoredXP(folder, Path("."))) for folder in xp_folders(names, outputs).values()]
    seen: dict[tuple, str] = {}
    for one in found:
        key = (*one.group, one.network, one.weights)
        if key in seen:
            raise ValueError(f"XPs {seen[key]} and {one.sig} are both {' '.join(key)}: give one of them at a time")
        seen[key] = one.sig
    order = {name: i for i, name in enumerate(dict.fromkeys(one.network for one in found))}
    return sorted(found, key=lambda one: (*one.group, order[one.network], WEIGHTS.index(one.weights)))


def groups(xps: Sequence[LayersXP]) -> dict[tuple[str, str], list[LayersXP]]:
    """XPs by responses and task.

    Raises:
        ValueError: XPs of a group have other people.
    """
    out: dict[tuple[str, str], list[LayersXP]] = {}
    for one in xps:
        out.setdefault(one.group, []).append(one)
    for name, own in out.items():
        for one in own[1:]:
            if one.subjects != own[0].subjects:
                raise ValueError(f"{' '.join(name)}: XPs {own[0].sig} and {one.sig} have other people, "
                                 f"{own[0].subjects[:3]}… and {one.subjects[:3]}…")
    return out


def _about(one: LayersXP) -> dict[str, Any]:
    return {"responses": one.responses, "task": one.task, "network": one.network, "weights": one.weights}


def network_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """A row per XP: score (mean over people), within-subject standard error (over the group's XPs), the layer that most
    targets choose, and the relative position of the best one (median)."""
    rows = []
    for own in groups(xps).values():
        values = np.stack([one.per_subject for one in own], 1)  # subjects, XPs
        sems = within_subject_sem(values) if len(own) > 1 else np.full(1, np.nan)
        for k, one in enumerate(own):
            layer = one.layers[int(np.bincount(one.best.layer.ravel()).argmax())]
            rows.append({**_about(one), "metric": one.metric, "score": values[:, k].mean(), "sem": sems[k],
                         "layer": layer, "position": float(np.median(one.position)), "n_layers": len(one.layers),
                         "n_subjects": len(one.subjects), "sig": one.sig})
    return pd.DataFrame(rows)


def pair_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Pairs of trained networks (and the baseline), and each network against its own controls, the better one first.

    `p` is one-sided: over people (bootstrap); of one "person" (a group's components or electrodes) the ten iterations
    (RSA: splits) are permuted, which says how sure the choice of splits leaves the difference, nothing of other people.
    """
    rows = []
    for own in groups(xps).values():
        for one, other in combinations(own, 2):
            if one.network != other.network and {one.weights, other.weights} != {"trained"}:
                continue
            better, worse = sorted((one, other), key=lambda x: -x.per_subject.mean())
            people = len(one.subjects) > 1
            p = bootstrap_below(better.per_subject, worse.per_subject) if people else permutation_below(
                better.repeats[:, 0], worse.repeats[:, 0])
            rows.append({"responses": one.responses, "task": one.task,
                         "better": f"{better.network} {better.weights}", "worse": f"{worse.network} {worse.weights}",
                         "difference": better.per_subject.mean() - worse.per_subject.mean(), "p": p,
                         "over": "people" if people else "iterations" if one.task == "ridge" else "splits"})
    return pd.DataFrame(rows)


def _positions(one: LayersXP, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """People who have some of the targets, and the median position of each's."""
    return by_subject(one.position[chosen], one.targets["subject"].to_numpy()[chosen])


def region_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Relative position of the best layer in each region: medians over a person's voxels, means over people, and the
    within-subject standard error over regions (of people who have them all)."""
    rows = []
    for one in xps:
        names = sorted(set(one.targets["region"]) - {""}) if "region" in one.targets else []
        found = [_positions(one, (one.targets["region"] == name).to_numpy()) for name in names]
        wide = pd.DataFrame({name: pd.Series(values, who) for name, (who, values) in zip(names, found, strict=True)})
        whole = wide.dropna().to_numpy()
        sems = within_subject_sem(whole) if len(whole) > 1 and len(names) > 1 else np.full(len(names), np.nan)
        for k, (name, (who, values)) in enumerate(zip(names, found, strict=True)):
            voxels = one.targets.loc[one.targets["region"] == name, ["subject", "voxel"]].drop_duplicates()
            rows.append({**_about(one), "region": name, "position": values.mean(), "sem": sems[k],
                         "n_subjects": len(who), "n_voxels": len(voxels)})
    return pd.DataFrame(rows)


def primary_table(xps: Sequence[LayersXP]) -> pd.DataFrame:
    """Position of the best layer of each network in primary regions and in all others, mean over people."""
    rows = []
    for one in xps:
        region = one.targets["region"] if "region" in one.targets else pd.Series(dtype=str)
        inside, outside = ((region == PRIMARY).to_numpy(), (~region.isin(["", PRIMARY])).to_numpy())
        if inside.any() and outside.any() and len(one.layers) > 1:
            rows.append({**_about(one), "primary": _positions(one, inside)[1].mean(),
                         "non_primary": _positions(one, outside)[1].mean()})
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
    """A row per XP and layer: score, its within-subject standard error over layers, and effective dimensionality."""
    rows = []
    for one in xps:
        values = one.layer_scores()
        sems = within_subject_sem(values) if values.shape[1] > 1 else np.full(values.shape[1], np.nan)
        known = one.test.get("dimensionality", {})
        for k, name in enumerate(one.layers):
            rows.append({**_about(one), "layer": name, "index": k, "position": k / max(len(one.layers) - 1, 1),
                         "score": values[:, k].mean(), "sem": sems[k], "dimensionality": known.get(name, np.nan)})
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
    with the pair's correlation over networks."""
    parts = {" ".join(names): own.set_index(["network", "weights"])["score"]
             for names, own in networks.groupby(["responses", "task"], sort=False)}
    tables = []
    for one, other in combinations(parts, 2):
        both = pd.concat([parts[one], parts[other]], axis=1, keys=["x", "y"], join="inner").reset_index()
        tables.append(both.assign(one=one, other=other, **_pearson(both["x"], both["y"])))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def all_tables(xps: Sequence[LayersXP]) -> dict[str, pd.DataFrame]:
    """Every table by name; empty ones where XPs have nothing to say."""
    networks, curves, primary = network_table(xps), curve_table(xps), primary_table(xps)
    return {"networks": networks, "pairs": pair_table(xps), "regions": region_table(xps), "primary": primary,
            "primary_test": primary_test(primary), "curves": curves, "dimensionality": dimensionality_test(curves),
            "consistency": consistency_table(networks)}
