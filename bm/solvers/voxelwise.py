"""Ridge regression from every layer of a network to voxels, electrodes or components (`task.type=ridge`)."""
import logging
from typing import Any

import numpy as np
import pandas as pd
import torch

from bm.linear.voxelwise import Voxelwise, gram, random_splits, voxelwise
from bm.metrics.layers import best_layer, by_subject
from bm.metrics.rdm import effective_dimensionality
from bm.solvers.base import Metrics
from bm.solvers.layers import LayerSolver

logger = logging.getLogger(__name__)


class VoxelwiseSolver(LayerSolver):
    """Scores every layer in every voxel on random splits of the sounds (see `bm/linear/voxelwise.py`).

    Written to the XP's folder: `voxels.parquet`, a row per layer, voxel and split; `scores.nc`, the same as arrays
    (NetCDF, dimensions layer, voxel, split); `regions.csv`, the best layer of each region, chosen on one half of the
    splits and read on the other; with `encoding.predictions` also `predictions.safetensors`.
    """

    def compare(self) -> Metrics:
        cfg, data = self.cfg.encoding, self.data
        splits = random_splits(len(data.sounds), self.n_train, cfg.n_splits)
        alphas = np.logspace(cfg.alphas.high, cfg.alphas.low, cfg.alphas.n)
        found: dict[str, Voxelwise] = {}
        dimensionality = []
        for name in self.layers:
            x = self.features(name)
            score = voxelwise(gram(x), data.values, splits, alphas, compat=cfg.compat, keep_predictions=cfg.predictions)
            found[name] = score
            dimensionality.append(effective_dimensionality(x - x.mean(0)))
            shares = [100 * what.mean() for what in (score.constant_test, score.edge == 1, score.edge == 2)]
            median = [np.median(_medians(values)) for values in (score.r_test, score.best_r2)]
            logger.info("%s: %d units of effective dimensionality %.1f; median r %.4f, R² %.4f; %.1f %% of predictions "
                        "constant, %.1f %% of penalties at the largest, %.1f %% at the smallest", name, x.shape[1],
                        dimensionality[-1], *median, *shares)
        self._write(found)
        r, r2 = (np.stack([getattr(score, key) for score in found.values()]) for key in ("r_test", "best_r2"))
        loss = 1 - float(np.median(_medians(r2), -1).max())
        self.result = {"loss": loss, "r": torch.from_numpy(r), "r2": torch.from_numpy(r2),
                       "dimensionality": dimensionality,
                       "constant": float(np.mean([score.constant_test.mean() for score in found.values()]))}
        return {"loss": loss, "constant": self.result["constant"]}

    def _write(self, found: dict[str, Voxelwise]) -> None:
        table = pd.concat([_table(name, score, self.data.voxels) for name, score in found.items()], ignore_index=True)
        table.to_parquet(self.folder / "voxels.parquet")
        _write_netcdf(self.folder / "scores.nc", found, self.data.voxels)
        if self.cfg.encoding.predictions:
            from safetensors.numpy import save_file
            save_file({name: score.predictions for name, score in found.items() if score.predictions is not None},
                      self.folder / "predictions.safetensors")

    def test(self) -> Metrics:
        """Scores of the best layer of each voxel, over subjects, and of each layer."""
        r, r2 = (self.result[key].numpy() for key in ("r", "r2"))
        voxels, compat = self.data.voxels, self.cfg.encoding.compat
        best, best_r = best_layer(r2, compat=compat), best_layer(r, compat=compat)
        subjects = voxels["subject"].to_numpy()
        names, per_subject = by_subject(best.score, subjects)
        regions = self.regions(best.layer, best.score)
        regions.to_csv(self.folder / "regions.csv", index=False)
        overall = int(np.median(_medians(r), -1).argmax())
        position = best.position(len(r))
        logger.info("best layer %s; over voxels, each with its own: median r %.4f\n%s", self.layers[overall],
                    np.median(best_r.score.mean(0)), regions.to_string(index=False))
        return {
            "r": float(np.median(_medians(r[overall]))), "r2": float(np.median(_medians(r2[overall]))),
            "best_layer": overall, "best_name": self.layers[overall],
            "independent_r": float(np.median(best_r.score.mean(0))), "independent_r2": float(per_subject.mean()),
            "position": float(np.median(position)), "n_voxels": r.shape[1], "n_layers": len(r),
            "n_subjects": len(names),
            "layers_r": dict(zip(self.layers, np.median(_medians(r), -1).tolist(), strict=True)),
            "layers_r2": dict(zip(self.layers, np.median(_medians(r2), -1).tolist(), strict=True)),
            "dimensionality": dict(zip(self.layers, self.result["dimensionality"], strict=True)),
            "regions": {row["region"]: {"position": row["position"], "score": row["score"]}
                        for row in regions.to_dict("records")}}

    def regions(self, layer: np.ndarray, score: np.ndarray) -> pd.DataFrame:
        """Of each region: the layer most of its voxels choose, the relative position (0 first, 1 last) and the score.

        Medians over voxels of a subject, means over subjects and iterations.
        """
        voxels, rows = self.data.voxels, []
        for region in ["", *sorted(set(voxels["region"]) - {""})]:
            own = np.ones(len(voxels), bool) if region == "" else (voxels["region"] == region).to_numpy()
            subjects = voxels["subject"].to_numpy()[own]
            position = layer[:, own] / max(len(self.layers) - 1, 1)
            names, positions = by_subject(position, subjects)
            values = by_subject(score[:, own], subjects)[1].mean(0)
            sem = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            rows.append({"region": region or "all", "n_voxels": int(own.sum()), "n_subjects": len(names),
                         "layer": self.layers[int(np.bincount(layer[:, own].ravel()).argmax())],
                         "position": float(positions.mean()), "score": float(values.mean()), "sem": float(sem)})
        return pd.DataFrame(rows)


def _medians(scores: np.ndarray) -> np.ndarray:
    """Over splits, the last axis."""
    return np.median(scores, -1)


def _table(layer: str, score: Voxelwise, voxels: pd.DataFrame) -> pd.DataFrame:
    arrays = score.arrays()
    n_voxels, n_splits = score.r_test.shape
    rows = voxels.loc[np.repeat(np.arange(n_voxels), n_splits)].reset_index(drop=True)
    for name in rows:
        rows[name] = rows[name].astype("category")
    rows.insert(0, "layer", pd.Categorical([layer] * len(rows)).astype(str))
    rows["split"] = np.tile(np.arange(n_splits), n_voxels)
    return rows.assign(**{name: values.ravel() for name, values in arrays.items()})


def _write_netcdf(path: Any, found: dict[str, Voxelwise], voxels: pd.DataFrame) -> None:
    """NetCDF 3, which xarray and all else reads; names are in attributes."""
    import json

    from scipy.io import netcdf_file
    first = next(iter(found.values()))
    with netcdf_file(path, "w", version=2) as out:
        for name, size in zip(("layer", "voxel", "split"), (len(found), *first.r_test.shape), strict=True):
            out.createDimension(name, size)
        for name in first.arrays():
            values = np.stack([score.arrays()[name] for score in found.values()])
            kind = "d" if name == "alphas" else "b" if values.dtype.kind in "bi" else "f"
            out.createVariable(name, kind, ("layer", "voxel", "split"))[:] = values.astype(
                {"d": np.float64, "b": np.int8, "f": np.float32}[kind])
        out.layers = json.dumps(list(found)).encode()
        for column in voxels:
            setattr(out, f"voxel_{column}", json.dumps(voxels[column].tolist()).encode())
