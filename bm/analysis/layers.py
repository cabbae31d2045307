"""Networks side by side: which of their layers are like the brain, from folders of ridge and RSA XPs alone.

XPs with the same responses and task (`group`) are compared with each other. A network's score is that of the layer
that is best for each voxel, chosen and read on different splits (RSA: for each person, on different sounds); medians
over a person's voxels (and latencies), means over people. Source: Tuckute, Feather et al. 2023, Methods.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.grids import xp_folders
from bm.analysis.xp import StoredXP
from bm.metrics.layers import BestLayer, best_layer, by_subject

BASELINE = "spectrotemporal"
WEIGHTS = ("trained", "permuted", "untrained")
PRIMARY = "Primary"
TASKS = ("ridge", "rsa")
#: in tables of RSA: all of a person's voxels, and all layers side by side (`bm.solvers.rsa`)
WHOLE, CONCATENATED = "all", "all layers"
#: the end of a network's name that says with which random numbers it was trained, as in Kell2018wordSeed2
SEED = re.compile(r"[_\W]?seed[_\W]?(\d+)$", re.IGNORECASE)


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
        """Its name, without the folder or organisation; of controls with another seed than 0 with that."""
        name = Path(self.xp.get("encoding.model") or self.xp.get("encoding.activations")).name
        seed = self.xp.get("encoding.weights_seed", 0)
        return f"{name} seed{seed}" if seed and self.weights != "trained" else name

    @property
    def family(self) -> tuple[str, int]:
        """The network's name without its seed, and the seed: 0 where the name has none."""
        found = SEED.search(self.network)
        return (self.network[:found.start()], int(found[1])) if found else (self.network, 0)

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
        """What was measured: selections, the space where a study has several, items, whether there are latencies."""
        names = []
        for name in self.xp.get("dset.selections"):
            space = self.xp.get(f"selections.{name}.space")
            names.append(f"{name} {space}" if space else name)
        items = "" if self.items == "sound" else f" {self.items}s"
        return "+".join(names) + items + (" by latency" if self.xp.get("encoding.latencies") else "")

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
    def position(self) -> np.ndarray:
        """Of each target the relative position of its best layer: 0 the first, 1 the last."""
        return self.best.position(len(self.layers))

    def positions(self, regions: Sequence[str]) -> pd.Series:
        """By person who has some of the regions: relative position of the best layer there.

        Of ridge the median over all targets in these regions; of RSA, as published, the best layer on all sounds (over
        latencies) of each region, mean over these regions.
        """
        if self.task == "ridge":
            chosen = self.targets["region"].isin(regions).to_numpy()
            names, values = by_subject(self.position[chosen], self.targets["subject"].to_numpy()[chosen])
            return pd.Series(values, names)
        rows = self.region_rows
        rows = rows[rows["region"].isin(regions) & (rows["sounds"] == "all") & (rows["layer"] != CONCATENATED)]
        wide = rows.pivot_table("similarity", ["subject", "region"], "layer", sort=False)[self.layers]
        depth = pd.Series(wide.to_numpy().argmax(1) / max(len(self.layers) - 1, 1), wide.index)
        return depth.groupby("subject").mean()

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
