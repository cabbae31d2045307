"""Representational similarity of every layer of a network with each person's brain (`task.type=rsa`)."""
import logging
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from bm.metrics.layers import within_subject_sem
from bm.metrics.rdm import (
    bootstrap_interval,
    compare,
    effective_dimensionality,
    estimate_noise,
    noise_ceiling,
    permutation_p,
    rdm,
)
from bm.solvers.base import Metrics
from bm.solvers.layers import LayerSolver
from bm.solvers.regions import CONCATENATED, COUNTED, LEAST_VOXELS, WHOLE, Group, groups_of, scale_of

logger = logging.getLogger(__name__)

#: of all matrices of words or phonemes together; what is made of them takes about three times as much
MAX_BYTES = 2e9


class RSASolver(LayerSolver):
    """Matrices of dissimilarity between sounds, of layers and of people, on train and on test sounds.

    In each split the layer whose train matrix is most like the person's is chosen, and its test matrix compared; a
    person's score is the median over splits. Units and voxels are z-scored by the train sounds. With
    `encoding.rdm=crossnobis` the brain's distances are between repetitions, divided by the noise that
    `encoding.noise` estimates from train sounds; a network's are 1 − correlation. The same for each region in which a
    person has `LEAST_VOXELS`; those with fewer are named in the log.

    The ceiling compares a person with the mean of the others (lower) and of all (upper), as layers are compared; with
    `encoding.compat=reference` by Pearson's correlation, as published. `p` is of the best of all layers on all sounds,
    by its mean similarity over people; under every relabelling of the sounds it is compared with what is then the best.

    Written to the XP's folder: `rsa.parquet`, a row per person, region, layer and split; `rdms.safetensors`, of all
    sounds, with the mean over people of each region, and of words and phonemes which pairs count (`COUNTED`);
    `regions.csv`, similarity and best layer of each region; `channels.csv` and `stimuli.csv`. With
    `encoding.latencies` there is a matrix, and a row, for each latency too.

    Of words and phonemes no pair counts whose responses overlap or that are of one group (block of the stimulus): to
    the brain and to the network alike they would be similar because they are near each other. There is no p, since
    relabelling neighbours breaks this.

    Source: Tuckute, Feather et al. 2023, Methods.
    """

    def compare(self) -> Metrics:
        cfg, data = self.cfg.encoding, self.data
        apart = None if data.items is None else data.items.apart()
        everything = np.arange(len(data.sounds))
        sides = [(split[0], rows) for split in self.splits for rows in split] + [(everything, everything)]
        self._check_size(len(data.sounds), len(self.groups))
        features = {name: self.features(name) for name in self.layers}
        arrays = [*features.values()]
        if cfg.concatenated:
            arrays.append(np.concatenate(arrays, 1))
        found, ceilings = [], []
        for k, (train, rows) in enumerate(sides):
            which = None if apart is None else apart[np.ix_(rows, rows)]
            brains = np.stack([self.brain(data.values[:, group.columns], train, rows) for group in self.groups])
            nets = np.stack([self.matrix(x, train, rows) for x in arrays])
            found.append(compare(brains, nets, cfg.comparison, which))
            if k % 2:
                ceilings.append(self._ceilings(brains, which))
        scores = np.stack(found)  # sides, groups, layers (and all layers)
        n, people = len(self.layers), self._rows(WHOLE)
        p = float("nan") if apart is not None else permutation_p(nets[:n], brains[people], how=cfg.comparison)[1]
        self._write(scores, brains, nets, apart)
        train_scores, test_scores = scores[:-1:2, :, :n], scores[1:-1:2]
        chosen = np.take_along_axis(test_scores, train_scores.argmax(2)[..., None], 2)[..., 0]  # splits, groups
        chosen, test_scores = np.median(chosen, 0), np.median(test_scores, 0)
        self.result = {
            "loss": 1 - float(chosen[people].mean()), "chosen": torch.from_numpy(chosen),
            "test": torch.from_numpy(test_scores), "all": torch.from_numpy(scores[-1]), "p": p,
            "ceilings": {region: [float(np.median([bounds[region][i] for bounds in ceilings], 0).mean())
                                  for i in range(2)] for region in ceilings[0]},
            **self.dimensionality([effective_dimensionality(_scaled(x, everything)) for x in features.values()],
                                  standardise=True)}
        return {"loss": self.result["loss"]}

    @cached_property
    def groups(self) -> list[Group]:
        """Each person's voxels, and those in each region, at each latency."""
        groups, small = groups_of(self.data.voxels, LEAST_VOXELS)
        if single := sorted({group.subject for group in groups if len(group.columns) < 2}):
            raise ValueError(f"task.type=rsa compares patterns over voxels (channels): {', '.join(single)} has one; "
                             "leave these recordings out, or use task.type=ridge")
        if small:
            logger.warning("regions of fewer than %d voxels are left out: %s", LEAST_VOXELS, "; ".join(small))
        return groups

    @cached_property
    def regions(self) -> list[str]:
        """All voxels first."""
        return list(dict.fromkeys(group.region for group in self.groups))

    def _rows(self, region: str) -> slice:
        """Of the groups: those of a region, at each latency the same people."""
        own = [k for k, group in enumerate(self.groups) if group.region == region]
        return slice(own[0], own[-1] + 1)

    def _ceilings(self, brains: np.ndarray, pairs: np.ndarray | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Bounds `(groups,)` of each region that two people have; people are compared at the same latency."""
        own, out = self.cfg.encoding, {}
        for region in self.regions:
            matrices = brains[self._rows(region)]
            n_people = len(matrices) // max(len(self.latencies), 1)
            if n_people > 1:
                found = [noise_ceiling(matrices[start:start + n_people], own.comparison, pairs, own.compat)
                         for start in range(0, len(matrices), n_people)]
                low, high = zip(*found, strict=True)
                out[region] = np.concatenate(low), np.concatenate(high)
        return out

    def _check_size(self, n: int, n_groups: int) -> None:
        """Refuses what would not fit: of thousands of words a matrix for each region, person and latency."""
        size = 8 * n ** 2 * (n_groups + len(self.layers))
        if self.data.items is not None and size > MAX_BYTES:
            raise ValueError(f"task.type=rsa has matrices of {n} × {n} {self.data.items.kind}s, {size / 1e9:.1f} GB "
                             f"for {n_groups} latencies, people and regions and {len(self.layers)} layers; at most "
                             f"{MAX_BYTES / 1e9:g} GB are held: take fewer recordings or latencies, or "
                             "task.type=ridge, which has no such matrices")

    def matrix(self, x: np.ndarray, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Dissimilarities of a layer `(sounds, units)`; a network has no repetitions to cross."""
        kind = self.cfg.encoding.rdm
        x = _scaled(x, train) if self.cfg.encoding.standardise else x
        return rdm(x[rows], "pearson" if kind == "crossnobis" else kind)

    def brain(self, y: np.ndarray, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Dissimilarities of one person's voxels `(sounds, voxels, repetitions)`."""
        if self.cfg.encoding.rdm != "crossnobis":
            return self.matrix(y.mean(2), train, rows)
        if self.cfg.encoding.standardise:
            mean = y.mean(2)[train]
            center, scale = scale_of(mean)
            y = (y - center[:, None]) / scale[:, None]
        kind = self.cfg.encoding.noise
        return rdm(y[rows], "crossnobis", None if kind is None else estimate_noise(y[train], kind))

    def _write(self, scores: np.ndarray, brains: np.ndarray, nets: np.ndarray, apart: np.ndarray | None) -> None:
        """Of `scores` `(sides, groups, layers)` a table; of all sounds the matrices, and which pairs count."""
        from safetensors.numpy import save_file
        sides = [(split, side) for split in range(len(scores) // 2) for side in ("train", "test")] + [(-1, "all")]
        names = [*self.layers, CONCATENATED][:len(nets)]
        table = pd.DataFrame([(*side, group.subject, group.region, len(group.columns), group.latency, layer)
                              for side in sides for group in self.groups for layer in names],
                             columns=["split", "sounds", "subject", "region", "n_voxels", "latency", "layer"])
        table = table if self.latencies else table.drop(columns="latency")
        table.assign(similarity=scores.ravel()).to_parquet(self.folder / "rsa.parquet")
        whole = brains[self._rows(WHOLE)].reshape(max(len(self.latencies), 1), -1, *brains.shape[1:])
        matrices = dict(zip(names, nets, strict=True))
        matrices |= {f"mean over subjects, {latency:g} s": own.mean(0)
                     for latency, own in zip(self.latencies, whole, strict=False)}
        matrices |= {f"region {name}": brains[self._rows(name)].mean(0) for name in self.regions[1:]}
        if apart is not None:
            matrices[COUNTED] = apart.astype(np.uint8)
        save_file({name: np.ascontiguousarray(matrix) for name, matrix in matrices.items()}
                  | {"mean over subjects": whole.mean((0, 1))}, self.folder / "rdms.safetensors")

    def _of(self, key: str, region: str = WHOLE) -> np.ndarray:
        """What the result has of a region: `(latencies, people)`, or `(latencies, people, layers)`."""
        values = self.result[key].numpy()[self._rows(region)]
        return values.reshape(max(len(self.latencies), 1), -1, *values.shape[1:])

    def region_table(self) -> pd.DataFrame:
        """Of each region: the layer that is the best of all sounds, its relative position (mean over people), and the
        similarity with the layer chosen on other sounds, between its ceilings."""
        rows = []
        for region in self.regions:
            whole = self._of("all", region).mean(0)[:, :len(self.layers)]  # people, layers
            score, known = self._of("chosen", region).mean(0), whole.max(1) > 0  # else no layer is the best
            low, high = self.result["ceilings"].get(region, (np.nan, np.nan))
            size = sum(len(group.columns) for group in self.groups[self._rows(region)]) // max(len(self.latencies), 1)
            rows.append({"region": region, "n_voxels": size, "n_subjects": len(score),
                         "layer": self.layers[int(whole.mean(0).argmax())] if whole.mean(0).max() > 0 else "",
                         "position": float((whole.argmax(1) / max(len(self.layers) - 1, 1))[known].mean())
                         if known.any() else np.nan,
                         "score": float(score.mean()), "ceiling_low": low, "ceiling_high": high})
        return pd.DataFrame(rows)

    def test(self) -> Metrics:
        result: dict[str, Any] = self.result
        n = len(self.layers)
        each_chosen, each_test, each_whole = (self._of(key) for key in ("chosen", "test", "all"))
        chosen, test, whole = each_chosen.mean(0), each_test.mean(0)[:, :n], each_whole.mean(0)[:, :n]
        layers, best = dict(zip(self.layers, test.mean(0).tolist(), strict=True)), int(whole.mean(0).argmax())
        regions, ceiling = self.region_table(), result["ceilings"].get(WHOLE, [])
        regions.to_csv(self.folder / "regions.csv", index=False)
        out: Metrics = {
            "similarity": float(chosen.mean()), "best_layer": best, "best_name": self.layers[best],
            **({"p": result["p"]} if self.data.items is None else {}),
            "position": regions["position"][0], "n_subjects": len(chosen),
            "n_layers": n, "layers": layers, **self.item_counts(),
            "dimensionality": dict(zip(self.layers, result["dimensionality"], strict=True)),
            "responses_dimensionality": result["responses_dimensionality"],
            "regions": {row["region"]: {"position": row["position"], "score": row["score"]}
                        for row in regions.to_dict("records")}}
        if self.cfg.encoding.concatenated:
            out["concatenated"] = float(each_test[..., n].mean())
        if ceiling:
            low, high = bootstrap_interval(chosen)
            out |= {"ceiling_low": ceiling[0], "ceiling_high": ceiling[1], "low": low, "high": high,
                    "layers_sem": dict(zip(self.layers, within_subject_sem(test).tolist(), strict=True))}
        if self.latencies:
            out["latencies"] = {f"{latency:g}": {
                "best_name": self.layers[int(t.mean(0).argmax())] if t.mean(0).max() > 0 else "–",
                "similarity": float(t.mean(0).max()), "independent": float(c.mean())}
                for latency, t, c in zip(self.latencies, each_test[..., :n], each_chosen, strict=True)}
        logger.info("similarity %.4f with the layer chosen on other sounds; ceiling %s; on all sounds %s is the best, "
                    "p %.4f\n%s", out["similarity"], " to ".join(f"{c:.4f}" for c in ceiling) or "unknown",
                    out["best_name"], result["p"], regions.round(4).to_string(index=False))
        return out


def _scaled(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """z-scores by the train sounds; units that do not vary there are 0."""
    x = np.asarray(x, dtype=np.float64)
    center, scale = scale_of(x[train])
    return (x - center) / scale
