"""Representational similarity of every layer of a network with each person's brain (`task.type=rsa`)."""
import logging
from typing import Any

import numpy as np
import pandas as pd
import torch

from bm.linear.voxelwise import random_splits
from bm.metrics.layers import within_subject_sem
from bm.metrics.rdm import (
    Comparison,
    bootstrap_interval,
    compare,
    effective_dimensionality,
    noise_ceiling,
    permutation_p,
    rdm,
)
from bm.solvers.base import Metrics
from bm.solvers.layers import LayerSolver

logger = logging.getLogger(__name__)


class RSASolver(LayerSolver):
    """Matrices of dissimilarity between sounds, of layers and of people, on train and on test sounds.

    In each split the layer whose train matrix is most like the person's is chosen, and its test matrix compared; a
    person's score is the median over splits. Units and voxels are z-scored by the train sounds. With
    `encoding.rdm=crossnobis` the brain's distances are between repetitions; a network's are 1 − correlation.

    The ceiling compares a person with the mean of the others (lower) and of all (upper), as layers are compared;
    the published one takes Pearson's correlation for it and Spearman's for layers.

    Written to the XP's folder: `rsa.parquet`, a row per subject, layer and split; `rdms.safetensors`, of all sounds;
    `channels.csv` and `stimuli.csv`. With `encoding.latencies` there is a matrix, and a row, for each latency too.

    Source: Tuckute, Feather et al. 2023, Methods.
    """

    def compare(self) -> Metrics:
        cfg, data = self.cfg.encoding, self.data
        splits = random_splits(len(data.sounds), self.n_train, cfg.n_splits)
        subjects = list(dict.fromkeys(data.voxels["subject"]))
        person = data.voxels["subject"].to_numpy()
        times: list[float | None] = [*self.latencies] or [None]
        groups = [(subject, latency) for latency in times for subject in subjects]
        own = [(person == subject) & (True if latency is None else (data.voxels["latency"] == latency).to_numpy())
               for subject, latency in groups]
        everything = np.arange(len(data.sounds))
        sides = [side for split in splits for side in (split[0], split[1])] + [everything]
        fitted = [split[0] for split in splits for _ in range(2)] + [everything]
        brains = [[self.brain(data.values[:, mask], train, rows) for mask in own]
                  for train, rows in zip(fitted, sides, strict=True)]
        features = {name: self.features(name) for name in self.layers}
        nets = [[self.matrix(x, train, rows) for x in features.values()]
                for train, rows in zip(fitted, sides, strict=True)]
        scores = np.stack([compare(np.stack(brain), np.stack(net), cfg.comparison)
                           for brain, net in zip(brains, nets, strict=True)])  # sides, subjects, layers
        n_people = len(subjects)
        ceilings = [_ceiling(brain, n_people, cfg.comparison) for brain in brains[1:-1:2]] if n_people > 1 else []
        mean_brain = np.mean(brains[-1], 0)
        best = int(scores[-1].mean(0).argmax())
        _, p = permutation_p(nets[-1][best], mean_brain, how=cfg.comparison)
        matrices = dict(zip(self.layers, nets[-1], strict=True))
        people = {f"mean over subjects, {latency:g} s": np.mean(brains[-1][k * n_people:(k + 1) * n_people], 0)
                  for k, latency in enumerate(self.latencies)}
        self._write(groups, scores, matrices | people | {"mean over subjects": mean_brain})
        train, test = scores[:-1:2], scores[1:-1:2]
        chosen = np.take_along_axis(test, train.argmax(2)[..., None], 2)[..., 0]  # splits, subjects (at each latency)
        self.result = {
            "loss": 1 - float(np.median(chosen, 0).mean()), "chosen": torch.from_numpy(np.median(chosen, 0)),
            "test": torch.from_numpy(np.median(test, 0)), "all": torch.from_numpy(scores[-1]), "p": p,
            "ceiling": [float(np.median([c[i] for c in ceilings], 0).mean()) for i in range(2) if ceilings],
            "dimensionality": [effective_dimensionality(_scaled(x, everything)) for x in features.values()]}
        return {"loss": self.result["loss"]}

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
            spread = mean.std(0)
            y = (y - mean.mean(0)[None, :, None]) / np.where(spread > 0, spread, 1)[None, :, None]
        return rdm(y[rows], "crossnobis")

    def _write(self, groups: list[tuple[str, float | None]], scores: np.ndarray, matrices: dict[str, np.ndarray]
               ) -> None:
        from safetensors.numpy import save_file
        sides = [(split, side) for split in range(len(scores) // 2) for side in ("train", "test")] + [(-1, "all")]
        table = pd.DataFrame([(*side, *group, layer) for side in sides for group in groups for layer in self.layers],
                             columns=["split", "sounds", "subject", "latency", "layer"])
        table = table if self.latencies else table.drop(columns="latency")
        table.assign(similarity=scores.ravel()).to_parquet(self.folder / "rsa.parquet")
        save_file({name: np.ascontiguousarray(matrix) for name, matrix in matrices.items()},
                  self.folder / "rdms.safetensors")

    def test(self) -> Metrics:
        result: dict[str, Any] = self.result
        n = max(len(self.latencies), 1)
        each_chosen, each_test, each_whole = (result[key].numpy().reshape(n, -1, *result[key].shape[1:])
                                              for key in ("chosen", "test", "all"))  # latencies, subjects(, layers)
        chosen, test, whole = each_chosen.mean(0), each_test.mean(0), each_whole.mean(0)
        layers, best = dict(zip(self.layers, test.mean(0).tolist(), strict=True)), int(whole.mean(0).argmax())
        out: Metrics = {
            "similarity": float(chosen.mean()), "best_layer": best, "best_name": self.layers[best], "p": result["p"],
            "position": float((whole.argmax(1) / max(len(self.layers) - 1, 1)).mean()), "n_subjects": len(chosen),
            "n_layers": len(self.layers), "layers": layers,
            "dimensionality": dict(zip(self.layers, result["dimensionality"], strict=True))}
        if result["ceiling"]:
            low, high = bootstrap_interval(chosen)
            out |= {"ceiling_low": result["ceiling"][0], "ceiling_high": result["ceiling"][1], "low": low, "high": high,
                    "layers_sem": dict(zip(self.layers, within_subject_sem(test).tolist(), strict=True))}
        if self.latencies:
            out["latencies"] = {f"{latency:g}": {
                "best_name": self.layers[int(t.mean(0).argmax())], "similarity": float(t.mean(0).max()),
                "independent": float(c.mean())}
                for latency, t, c in zip(self.latencies, each_test, each_chosen, strict=True)}
        logger.info("similarity %.4f with the layer chosen on other sounds; ceiling %s; on all sounds %s is the best, "
                    "p %.4f", out["similarity"], " to ".join(f"{c:.4f}" for c in result["ceiling"]) or "unknown",
                    out["best_name"], result["p"])
        return out


def _ceiling(brain: list[np.ndarray], n_subjects: int, how: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Bounds `(groups,)` of matrices of subjects, one latency after the other; people are compared at the same one."""
    found = [noise_ceiling(np.stack(brain[start:start + n_subjects]), how)
             for start in range(0, len(brain), n_subjects)]
    low, high = zip(*found, strict=True)
    return np.concatenate(low), np.concatenate(high)


def _scaled(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """z-scores by the train sounds; units that do not vary there are 0."""
    x = np.asarray(x, dtype=np.float64)
    mean, spread = x[train].mean(0), x[train].std(0)
    return (x - mean) / np.where(spread > 1e-7 * np.abs(mean), spread, np.inf)
