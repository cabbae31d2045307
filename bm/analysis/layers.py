"""Networks side by side: which of their layers are like the brain, from folders of ridge and RSA XPs alone.

XPs with the same responses, task and settings (`group`) are compared with each other. A network's score is that of the
layer that is best for each voxel, chosen and read on different splits (RSA: for each person, on different sounds);
medians over a person's voxels (and latencies), means over people. Source: Tuckute, Feather et al. 2023, Methods.
"""
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.grids import xp_folders
from bm.analysis.xp import StoredXP
from bm.metrics.layers import BestLayer, best_layer, by_subject
from bm.solvers.regions import CONCATENATED, WHOLE

BASELINE = "spectrotemporal"
WEIGHTS = ("trained", "permuted", "untrained")
PRIMARY = "Primary"
TASKS = ("ridge", "rsa")
#: keys of `encoding` that must be the same where scores are compared, and those that RSA alone has
SETTINGS = ("compat", "n_train", "n_splits", "tmin", "tmax", "latencies", "items")
RSA_SETTINGS = ("rdm", "comparison", "noise", "standardise")
#: keys of `dset` that say nothing of responses to words
NO_MATTER = ("features", "features_params", "selections")
#: the end of a network's name that says with which random numbers it was trained, as in Kell2018wordSeed2
SEED = re.compile(r"[_\W]?seed[_\W]?(\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class LayersXP:
    """A finished XP of `task.type=ridge` or `rsa`."""

    xp: StoredXP
    variant: str = ""  # what its settings are where another XP of the same responses has others (`find_layers`)

    @property
    def sig(self) -> str:
        return self.xp.sig

    @property
    def task(self) -> str:
        return self.xp.get("task.type")

    @property
    def network(self) -> str:
        """`model`; of controls with another `weights_seed` than 0 with that."""
        return f"{self.model} weights seed {self.weights_seed}" if self.weights_seed else self.model

    @property
    def model(self) -> str:
        """The network's name, without the folder or organisation."""
        return Path(self.xp.get("encoding.model") or self.xp.get("encoding.activations")).name

    @property
    def weights_seed(self) -> int:
        """Of controls; 0 of trained networks."""
        return 0 if self.weights == "trained" else self.xp.get("encoding.weights_seed", 0)

    @property
    def family(self) -> tuple[str, int, int]:
        """The network's name without the seed of its training, this seed (0 where the name has none), and the
        `weights_seed`."""
        found = SEED.search(self.model)
        name, seed = (self.model[:found.start()], int(found[1])) if found else (self.model, 0)
        return name, seed, self.weights_seed

    @property
    def weights(self) -> str:
        return "permuted" if self.xp.get("encoding.permuted") else "untrained" if self.xp.get(
            "encoding.random") else "trained"

    @property
    def items(self) -> str:
        """What activations and responses are of: sound, word or phoneme."""
        return self.xp.get("encoding.items", "sound")

    @property
    def responses(self) -> str:
        """What was measured: selections, the space where a study has several, items, whether there are latencies; and
        how it was compared, where XPs differ in that."""
        names = []
        for name in self.xp.get("dset.selections"):
            space = self.xp.get(f"selections.{name}.space")
            names.append(f"{name} {space}" if space else name)
        items = "" if self.items == "sound" else f" {self.items}s"
        latencies = " by latency" if self.xp.get("encoding.latencies") else ""
        return "+".join(names) + items + latencies + (f" ({self.variant})" if self.variant else "")

    @property
    def settings(self) -> dict[str, Any]:
        """What scores must have in common to be compared, but for the network: by key of the config."""
        keys = [f"encoding.{name}" for name in (*SETTINGS, *(RSA_SETTINGS if self.task == "rsa" else ()))]
        out = {key: self.xp.get(key) for key in keys}
        sections = [f"selections.{name}" for name in self.xp.get("dset.selections")]
        if self.items != "sound":  # responses to words are prepared as this says
            sections.append("dset")
        return out | {f"{section}.{name}": value for section in sections
                      for name, value in (self.xp.get(section) or {}).items() if name not in NO_MATTER}

    @property
    def group(self) -> tuple[str, str]:
        return self.responses, self.task

    @property
    def test(self) -> dict[str, Any]:
        assert self.xp.result is not None
        return self.xp.result["test"]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row per layer, target and split (ridge), or per split, side, person (and latency) and layer (RSA, of all
        voxels)."""
        if self.task == "ridge":
            return pd.read_parquet(self.xp.folder / "voxels.parquet")
        table = self.region_rows
        return table[(table["region"] == WHOLE) & (table["layer"] != CONCATENATED)].drop(columns="region")

    @cached_property
    def region_rows(self) -> pd.DataFrame:
        """Of RSA: `rows` of each region, and of all layers side by side where these were compared."""
        table = pd.read_parquet(self.xp.folder / "rsa.parquet")
        return table if "region" in table else table.assign(region=WHOLE, n_voxels=0)

    @property
    def components(self) -> bool:
        """Whether targets are components, not places."""
        return all(self.xp.get(f"selections.{name}.space") == "components" for name in self.xp.get("dset.selections"))

    @property
    def regions(self) -> list[str]:
        """Names of those that are known."""
        if self.task == "rsa":
            return sorted(set(self.region_rows["region"]) - {WHOLE})
        return sorted(set(self.targets["region"]) - {""}) if "region" in self.targets else []

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
    def predicted(self) -> np.ndarray:
        """`(targets,)`: whether any layer has a score above 0, median over splits; else no layer is the best."""
        return np.median(self.scores, 2).max(0) > 0

    @property
    def best_name(self) -> str | None:
        """The layer with the largest median over targets; None where none is above 0."""
        known = self.layer_scores().mean(0).max() > 0
        return self.test["best_name"] if known else None

    @property
    def most_chosen(self) -> str | None:
        """The layer that is the best of most targets and iterations, which may be another than `best_name` and than the
        one at the median position; None where no target is predicted."""
        chosen = self.best.layer[:, self.predicted]
        return self.layers[int(np.bincount(chosen.ravel()).argmax())] if chosen.size else None

    @cached_property
    def position(self) -> np.ndarray:
        """Of each target the relative position of its best layer: 0 the first, 1 the last; NaN where no layer
        predicts it."""
        return np.where(self.predicted, self.best.position(len(self.layers)), np.nan)

    def positions(self, regions: Sequence[str]) -> pd.Series:
        """By person who has some of the regions: relative position of the best layer there (see `position`).

        Of ridge the median over all targets in these regions; of RSA, as published, the best layer on all sounds (over
        latencies) of each region, mean over these regions.
        """
        if self.task == "ridge":
            chosen = self.targets["region"].isin(regions).to_numpy() & self.predicted
            if not chosen.any():
                return pd.Series(dtype=float)
            names, values = by_subject(self.position[chosen], self.targets["subject"].to_numpy()[chosen])
            return pd.Series(values, names)
        rows = self.region_rows
        rows = rows[rows["region"].isin(regions) & (rows["sounds"] == "all") & (rows["layer"] != CONCATENATED)]
        wide = rows.pivot_table("similarity", ["subject", "region"], "layer", sort=False)[self.layers]
        depth = pd.Series(wide.to_numpy().argmax(1) / max(len(self.layers) - 1, 1), wide.index)
        return depth.where(wide.max(axis=1) > 0).groupby("subject").mean()

    def layer_scores(self) -> np.ndarray:
        """`(subjects, layers)`: medians over splits (at most 1), then over voxels."""
        medians = np.minimum(np.median(self.scores, 2), 1)
        return by_subject(medians, self.targets["subject"].to_numpy())[1].T

    def latency_map(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latencies (s), median over splits of the correlation (RSA: similarity) `(layers, latencies)`, median over
        channels, and `(channels, latencies)`, the index of each channel's best layer, NaN where none is above 0.

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
        return latencies, np.median(cube, 1), np.where(cube.max(0) > 0, cube.argmax(0), np.nan)


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
    found = _variants([open_layers(StoredXP(folder, Path("."))) for folder in xp_folders(names, outputs).values()])
    seen: dict[tuple, str] = {}
    for one in found:
        key = (*one.group, one.network, one.weights)
        if key in seen:
            raise ValueError(f"XPs {seen[key]} and {one.sig} are both {' '.join(key)}: give one of them at a time")
        seen[key] = one.sig
    order = {name: i for i, name in enumerate(dict.fromkeys(one.network for one in found))}
    return sorted(found, key=lambda one: (*one.group, order[one.network], WEIGHTS.index(one.weights)))


def _variants(xps: Sequence[LayersXP]) -> list[LayersXP]:
    """The XPs; where those of the same responses and task have other settings, each says its own: another group."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in xps:
        alike.setdefault(one.group, []).append(one.settings)
    out = []
    for one in xps:
        own, others = one.settings, alike[one.group]
        keys = [key for key in dict.fromkeys(name for other in others for name in other)
                if any(other.get(key) != own.get(key) for other in others)]
        out.append(replace(one, variant=", ".join(f"{key.split('.', 1)[1]}={_value(own.get(key))}" for key in keys)))
    return out


def _value(value: Any) -> str:
    return json.dumps(value).replace('"', "")


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
