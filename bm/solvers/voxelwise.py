"""Ridge regression from every layer of a network to voxels, electrodes or components (`task.type=ridge`)."""
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from bm.linear.kernel import Design
from bm.linear.voxelwise import Voxelwise, gram, voxelwise
from bm.metrics.layers import BestLayer, best_layer, by_subject
from bm.metrics.rdm import effective_dimensionality
from bm.solvers.base import Metrics
from bm.solvers.layers import LayerSolver

logger = logging.getLogger(__name__)

#: targets that are fitted at once where items are words: 80 MB for 10,000 of them
ITEM_TARGETS = 1024
#: bytes of the predictions of all layers that are kept
MAX_PREDICTIONS = 8e9
#: what is counted of fits, as a share of them: predictions that are constant, penalties at either end of those allowed,
#: corrected R² above 1
DIAGNOSTICS: dict[str, Callable[[Voxelwise], np.ndarray]] = {
    "constant": lambda score: score.constant_test, "largest_alpha": lambda score: score.edge == 1,
    "smallest_alpha": lambda score: score.edge == 2, "above_one": lambda score: score.r2_test_c > 1}


class VoxelwiseSolver(LayerSolver):
    """Scores every layer in every voxel on random splits of the sounds (see `bm/linear/voxelwise.py`).

    Written to the XP's folder: `voxels.parquet`, a row per layer, voxel and split; `scores.nc`, the same as arrays
    (NetCDF, dimensions layer, voxel, split); `regions.csv`, the best layer of each region, chosen on one half of the
    splits and read on the other; `channels.csv` and `stimuli.csv`, what is known of voxels and sounds; with
    `encoding.predictions` also `predictions.safetensors` and, beside it, what they are compared with
    (`responses.safetensors`). With `encoding.latencies` each voxel has a target per latency, and the first two files
    have a column and a dimension of that name.
    """

    def compare(self) -> Metrics:
        cfg, data = self.cfg.encoding, self.data
        splits, items = self.splits, data.items
        size = 4 * len(data.sounds) * len(splits) * data.values.shape[1] * len(self.layers)
        if items is not None and cfg.predictions and size > MAX_PREDICTIONS:
            raise ValueError(f"encoding.predictions=true would keep {size / 1e9:.1f} GB, at most "
                             f"{MAX_PREDICTIONS / 1e9:g} GB are held: take fewer recordings, latencies or splits")
        alphas = np.logspace(cfg.alphas.high, cfg.alphas.low, cfg.alphas.n)
        found: dict[str, Voxelwise] = {}
        dimensionality = []
        for name in self.layers:
            x = self.features(name)
            score = voxelwise(gram(x) if items is None else Design(x.astype(np.float64)), data.values, splits, alphas,
                              compat=cfg.compat, keep_predictions=cfg.predictions,
                              voxels_at_once=4096 if items is None else ITEM_TARGETS,
                              device=None if self.device.type == "cpu" else str(self.device),
                              groups=None if items is None else items.table["group"].to_numpy())
            found[name] = score
            dimensionality.append(effective_dimensionality(x - x.mean(0)))
            shares = [100 * of(score).mean() for of in DIAGNOSTICS.values()]
            median = [np.median(_medians(values)) for values in (score.r_test, score.best_r2)]
            logger.info("%s: %d units of effective dimensionality %.1f; median r %.4f, R² %.4f; %.1f %% of predictions "
                        "constant, %.1f %% of penalties at the largest, %.1f %% at the smallest; %.1f %% of corrected "
                        "R² above 1", name, x.shape[1], dimensionality[-1], *median, *shares)
        self._write(found)
        r, r2 = (np.stack([getattr(score, key) for score in found.values()]) for key in ("r_test", "best_r2"))
        loss = 1 - float(np.median(_medians(r2), -1).max())
        counted = {name: float(np.mean([of(score).mean() for score in found.values()]))
                   for name, of in DIAGNOSTICS.items()}
        self.result = {"loss": loss, "r": torch.from_numpy(r), "r2": torch.from_numpy(r2), "shares": counted,
                       **self.dimensionality(dimensionality, standardise=False)}
        return {"loss": loss, **counted}

    def _write(self, found: dict[str, Voxelwise]) -> None:
        table = pd.concat([_table(name, score, self.data.voxels) for name, score in found.items()], ignore_index=True)
        table.to_parquet(self.folder / "voxels.parquet")
        _write_netcdf(self.folder / "scores.nc", found, self.data.voxels, self.latencies)
        if self.cfg.encoding.predictions:
            from safetensors.numpy import save_file
            save_file({name: score.predictions for name, score in found.items() if score.predictions is not None},
                      self.folder / "predictions.safetensors")
            save_file({"responses": np.ascontiguousarray(self.data.values.mean(2), np.float32)},
                      self.folder / "responses.safetensors")

    def test(self) -> Metrics:
        """Scores of the best layer of each voxel, over subjects, and of each layer."""
        r, r2 = (self.result[key].numpy() for key in ("r", "r2"))
        voxels, compat = self.data.voxels, self.cfg.encoding.compat
        best, best_r = best_layer(r2, compat=compat), best_layer(r, compat=compat)
        subjects = voxels["subject"].to_numpy()
        names, per_subject = by_subject(best.score, subjects)
        known = _medians(r2).max(0) > 0  # else no layer predicts the voxel, and none is its best
        regions = self.regions(best.layer, best.score, known)
        regions.to_csv(self.folder / "regions.csv", index=False)
        overall = int(np.median(_medians(r), -1).argmax())
        position = best.position(len(r))[known]
        named = {"layer": "most chosen", "position": "median position", "score": self.score_name}
        logger.info("best layer by median r: %s; over voxels, each with its own: median r %.4f\n%s",
                    self.layers[overall] if np.median(_medians(r[overall])) > 0 else "none is above 0",
                    np.median(best_r.score.mean(0)), regions.rename(columns=named).to_string(index=False, na_rep="–"))
        return {
            "r": float(np.median(_medians(r[overall]))), "r2": float(np.median(_medians(r2[overall]))),
            "best_layer": overall, "best_name": self.layers[overall],
            "independent_r": float(np.median(best_r.score.mean(0))), "independent_r2": float(per_subject.mean()),
            "position": float(np.median(position)) if known.any() else float("nan"),
            "n_voxels": r.shape[1] // max(len(self.latencies), 1),
            "n_layers": len(r),
            "n_subjects": len(names), **self.item_counts(),
            "layers_r": dict(zip(self.layers, np.median(_medians(r), -1).tolist(), strict=True)),
            "layers_r2": dict(zip(self.layers, np.median(_medians(r2), -1).tolist(), strict=True)),
            "dimensionality": dict(zip(self.layers, self.result["dimensionality"], strict=True)),
            "responses_dimensionality": self.result["responses_dimensionality"], **self.result["shares"],
            "regions": {row["region"]: {"position": row["position"], "score": row["score"]}
                        for row in regions.to_dict("records")}} | self._by_latency(r, best_r)

    def _by_latency(self, r: np.ndarray, best: BestLayer) -> Metrics:
        """Of each latency: the layer with the largest median over voxels, its score, and that of each voxel's own."""
        if not self.latencies:
            return {}
        layered = np.median(_medians(r).reshape(len(r), -1, len(self.latencies)), 1)
        own = np.median(best.score.mean(0).reshape(-1, len(self.latencies)), 0)
        names = [self.layers[values.argmax()] if values.max() > 0 else "–" for values in layered.T]
        table = pd.DataFrame({"latency": self.latencies, "best_name": names, "r": layered.max(0), "independent_r": own})
        logger.info("by latency (s)\n%s", table.round(4).to_string(index=False))
        return {"latencies": {f"{row['latency']:g}": {name: row[name] for name in ("best_name", "r", "independent_r")}
                              for row in table.to_dict("records")}}

    @property
    def score_name(self) -> str:
        """What layers are chosen by (`Voxelwise.best_r2`)."""
        return "R²" if self.data.values.shape[2] == 1 else "corrected R²"

    def regions(self, layer: np.ndarray, score: np.ndarray, known: np.ndarray) -> pd.DataFrame:
        """Of each region: the layer most of its voxels choose, the relative position (0 first, 1 last) and the score.

        Medians over voxels of a subject, means over subjects and iterations; layer and position of those voxels that
        any layer predicts (`known`), empty where there are none.
        """
        voxels, rows, n_latencies = self.data.voxels, [], max(len(self.latencies), 1)
        for region in ["", *sorted(set(voxels["region"]) - {""})]:
            own = np.ones(len(voxels), bool) if region == "" else (voxels["region"] == region).to_numpy()
            subjects = voxels["subject"].to_numpy()[own]
            names, there = np.unique(subjects), own & known
            position = layer[:, there] / max(len(self.layers) - 1, 1)
            mean = by_subject(position, voxels["subject"].to_numpy()[there])[1].mean() if there.any() else np.nan
            most = self.layers[int(np.bincount(layer[:, there].ravel(), minlength=1).argmax())]
            values = by_subject(score[:, own], subjects)[1].mean(0)
            sem = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            rows.append({"region": region or "all", "n_voxels": int(own.sum()) // n_latencies, "n_subjects": len(names),
                         "layer": most if there.any() else "",
                         "position": float(mean), "score": float(values.mean()), "sem": float(sem)})
        return pd.DataFrame(rows)


def _medians(scores: np.ndarray) -> np.ndarray:
    """Over splits, the last axis."""
    return np.median(scores, -1)


def _table(layer: str, score: Voxelwise, voxels: pd.DataFrame) -> pd.DataFrame:
    arrays = score.arrays()
    n_voxels, n_splits = score.r_test.shape
    rows = voxels.loc[np.repeat(np.arange(n_voxels), n_splits)].reset_index(drop=True)
    for name in rows.columns.drop("latency", errors="ignore"):
        rows[name] = rows[name].astype("category")
    rows.insert(0, "layer", pd.Categorical([layer] * len(rows)).astype(str))
    rows["split"] = np.tile(np.arange(n_splits), n_voxels)
    return rows.assign(**{name: values.ravel() for name, values in arrays.items()})


def _write_netcdf(path: Any, found: dict[str, Voxelwise], voxels: pd.DataFrame, latencies: list[float]) -> None:
    """NetCDF 3, which xarray and all else reads; names are in attributes."""
    import json

    from scipy.io import netcdf_file
    first = next(iter(found.values()))
    with netcdf_file(path, "w", version=2) as out:
        n_targets, n_splits = first.r_test.shape
        sizes = {"layer": len(found), "voxel": n_targets // max(len(latencies), 1),
                 **({"latency": len(latencies)} if latencies else {}), "split": n_splits}
        for name, size in sizes.items():
            out.createDimension(name, size)
        if latencies:
            out.createVariable("latency", "d", ("latency",))[:] = latencies
            voxels = voxels.iloc[::len(latencies)].drop(columns="latency")
        for name in first.arrays():
            values = np.stack([score.arrays()[name] for score in found.values()])
            kind = "d" if name == "alphas" else "b" if values.dtype.kind in "bi" else "f"
            out.createVariable(name, kind, tuple(sizes))[:] = values.reshape(*sizes.values()).astype(
                {"d": np.float64, "b": np.int8, "f": np.float32}[kind])
        out.layers = json.dumps(list(found)).encode()
        for column in voxels:
            setattr(out, f"voxel_{column}", json.dumps(voxels[column].tolist()).encode())
