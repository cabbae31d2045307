"""Ridge regression between brain and features, both ways, scored by retrieval."""
import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bm.batch import Batch
from bm.data.assemble import assemble
from bm.data.loader import EpochSampler, Finish, SegmentDataset, make_loader
from bm.data.scaling import BrainScaler, Scalers
from bm.linear import RidgeCV, folds
from bm.losses import ClipLoss
from bm.metrics.correlation import Correlation
from bm.solvers.base import Metrics
from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)


class LinearSolver(DecodeSolver):
    """`linear_decode`: features of a segment from its brain window; `linear_encode`: the brain from the features.

    A brain window is flattened (channels × samples or bins of `linear.brain_bins`), features likewise
    (`linear.bins`). Features are z-scored per entry, the brain centred, both on train; with `linear.global_scale` the
    brain is not scaled per channel but by one number per recording. The penalty is chosen on train. Training is one
    "epoch" whose loss is the cross-validated mean squared error of the chosen penalties; without valid segments it is
    the valid loss too.

    All recordings are pooled: there is one set of weights, and what is particular to a recording is its scaling alone.
    Channels are taken by their position in the recording, so that pooling several makes sense only where they share
    a montage.

    Decoded features are compared with the true ones of each candidate; to encode, the response predicted from each
    candidate with the measured one, both about their train mean.
    """

    def build(self) -> None:
        cfg = self.cfg
        self.data = data = assemble(cfg, self.root)
        self._write_audit()
        for feature in data.spec.features:
            if feature.n_classes:
                raise ValueError(f"task.type={cfg.task.type}: feature {feature.name} is a class, which ridge "
                                 "regression cannot predict nor use: choose features that are vectors")
        self.encode = cfg.task.type == "linear_encode"
        metric = cfg.linear.metric or ("correlation" if self.encode else "cosine")
        self.scorer = ClipLoss(center=metric == "correlation").to(self.device)
        rate = round(data.spec.sample_rate)
        offset = int(cfg.task.offset_meg_ms / 1000 * rate)
        windows = {split: (window.tmin, window.tmax) for split, window in data.windows.items()}
        self.parts = {(split, what): cfg.linear.part(what, window, rate, offset)
                      for split, window in windows.items() for what in ("brain", "feature")}
        low, high, n = cfg.linear.alphas.low, cfg.linear.alphas.high, cfg.linear.alphas.n
        self.ridge = RidgeCV(np.logspace(low, high, n), alpha_per_target=cfg.linear.alpha_per_target, backend="torch",
                             device=str(self.device))
        sizes = {"brain": data.spec.channels * self.parts["train", "brain"][2],
                 "features": sum(f.dim for f in data.spec.features) * self.parts["train", "feature"][2]}
        logger.info("%s: %d values of brain, %d of features, %d penalties, on %s", cfg.task.type, *sizes.values(), n,
                    self.device)
        if not cfg.show:
            self.finish = self.make_finish()

    def make_finish(self) -> Finish:
        finish = super().make_finish()
        if self.cfg.linear.global_scale:  # scaled by `_fit_scales`
            brain = finish.scalers.brain
            finish.scalers.brain = BrainScaler(torch.zeros_like(brain.center), torch.ones_like(brain.scale))
            finish.max_scale = None
        return finish

    def rows(self, raw: Batch, split: str, reject: bool = False) -> tuple[Tensor, Tensor, Batch]:
        """Brain `(B, C, bins)` and features `(B, D, bins)` of a batch, not yet centred; and the finished batch."""
        batch = self.finish(raw.to(self.device))
        if batch.brain is None:
            raise ValueError("this task needs the brain, but the batch has none")
        if reject:
            keep = torch.ones(len(batch), dtype=torch.bool, device=self.device)
            if not self.cfg.linear.global_scale:
                keep = batch.brain.abs().amax((1, 2)) <= self.cfg.norm.max_scale
            if self.cfg.norm.exclude_empty_features:
                keep &= batch.masks["word"].any(1)
            batch = batch[keep]
        features = torch.cat([batch.features[feature.name] for feature in self.data.spec.features], dim=1)
        assert batch.brain is not None
        return self._bins(batch.brain, split, "brain"), self._bins(features, split, "feature"), batch

    def _bins(self, x: Tensor, split: str, what: str) -> Tensor:
        first, stop, bins = self.parts[split, what]
        return x[..., first:stop].reshape(*x.shape[:2], bins, -1).mean(-1)

    def collect(self, split: str) -> tuple[Tensor, Tensor, np.ndarray]:
        """All kept segments of a split: brain `(n, C, bins)`, features `(n, D, bins)`, float32, and their ids."""
        cfg = self.cfg
        limit = cfg.optim.max_batches
        sampler = EpochSampler(self.data.ids(split), cfg.optim.batch_size, cfg.seed if limit else None, limit)
        loader = make_loader(self.dataset(split), sampler, 0 if cfg.resident else cfg.num_workers,
                             self.device.type == "cuda" and not cfg.resident)
        found = []
        for raw in loader:
            *pair, batch = self.rows(raw, split, reject=True)
            found.append((*pair, batch.segment))  # not the batch: only what is used is kept in memory
        brain, features, segment = (torch.cat(parts) for parts in zip(*found, strict=True))
        ids = segment.cpu().numpy()
        seen = min(len(self.data.ids(split)), (limit or len(found)) * cfg.optim.batch_size)
        if len(ids) < max(seen, 2):
            if len(ids) < 2:
                raise ValueError(f"{len(ids)} of {seen} segments of split {split!r} are left (norm.max_scale, empty "
                                 "features): raise norm.max_scale, set norm.clip=true, or use more data")
            logger.warning("%s: %d of %d segments rejected (max_scale or empty features)", split, seen - len(ids), seen)
        return brain, features, ids

    def _fit_scales(self, brain: Tensor, features: Tensor, ids: np.ndarray) -> None:
        """Means and scales on train, in float64."""
        x, recording = brain.flatten(1).double(), self._recordings(ids)
        y = features.double()
        self.scales = {"feature_mean": y.mean(0), "feature_scale": _scale(y.std(0), y.mean(0))}
        if not self.cfg.linear.global_scale:
            self.scales |= {"brain_mean": x.mean(0)[None], "brain_scale": x.new_ones(1)}
            return
        n = len(self.data.recordings)
        missing = sorted(set(range(n)) - set(recording.tolist()))
        if missing:
            raise ValueError(f"linear.global_scale: {len(missing)} recordings have no train segment to scale them by, "
                             f"e.g. {self.data.recordings[missing[0]].name}: use global_scale=false")
        mean = torch.stack([x[recording == r].mean(0) for r in range(n)])
        spread = torch.stack([(x[recording == r] - mean[r]).square().mean().sqrt() for r in range(n)])
        self.scales |= {"brain_mean": mean, "brain_scale": _scale(spread, mean.abs().amax(1))}

    def _recordings(self, ids: np.ndarray) -> Tensor:
        """The row of the brain's scales of each segment."""
        recording = self.data.segments["recording"].to_numpy()[ids]
        return torch.as_tensor(recording if self.cfg.linear.global_scale else np.zeros_like(recording)).to(self.device)

    def scaled(self, brain: Tensor, features: Tensor, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Brain and features about their train means and scaled, float64, of the shapes they came in."""
        at, scales = self._recordings(ids), self.scales
        x = (brain.flatten(1) - scales["brain_mean"][at]) / scales["brain_scale"][at, None]
        return x.reshape(brain.shape), (features - scales["feature_mean"]) / scales["feature_scale"]

    def _sides(self, brain: Tensor, features: Tensor, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is predicted from, `(n, p)`, and what is predicted, `(n, …)`."""
        x, y = self.scaled(brain, features, ids)
        return (y.flatten(1), x) if self.encode else (x.flatten(1), y)

    def train_epoch(self, epoch: int) -> Metrics:
        brain, features, ids = self.collect("train")
        self._fit_scales(brain, features, ids)
        x, y = self._sides(brain, features, ids)
        self.ridge.cv = self._splits(ids)
        self.ridge.fit(x, y)
        alphas = self.ridge.alphas_
        logger.info("%d segments; penalties 10^%.1f to 10^%.1f, %d of %d targets constant", len(x),
                    np.log10(alphas.min()), np.log10(alphas.max()), self.ridge.constant_.sum(), alphas.size)
        return {"loss": float(self.ridge.cv_errors_.mean()), "log10_alpha": float(np.log10(alphas).mean()),
                "constant": float(self.ridge.constant_.mean())}

    def _splits(self, ids: np.ndarray) -> Any:
        """Folds of whole blocks of stimulus, the same for all who hear them: segments within one may overlap."""
        cv, block = self.cfg.linear.cv, self.data.segments["block"].to_numpy()[ids]
        n = len(np.unique(block))
        if cv == "loo":
            if n < len(block):
                logger.warning("linear.cv=loo: %d train segments lie in %d blocks of stimulus, so what is left out is "
                               "partly seen; a number of folds keeps blocks whole", len(block), n)
            return "loo"
        if n < int(cv):
            raise ValueError(f"linear.cv={cv} folds, but train has {n} blocks of stimulus: use fewer folds or "
                             "linear.cv=loo")
        return folds(len(ids), int(cv), block)

    def valid_epoch(self, epoch: int) -> Metrics:
        if len(self.data.ids("valid")) == 0:
            return {"loss": float(self.ridge.cv_errors_.mean())}
        x, y = self._sides(*self.collect("valid"))
        return {"loss": float((self.ridge.predict(x) - y).square().mean())}

    def finished(self, epoch: int) -> bool:
        return epoch >= 1

    def _test_pairs(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Estimates and truth, `(B, rows, bins)`, of batches of test segments."""
        with torch.no_grad():
            for raw in batches:
                brain, features, batch = self.rows(raw, "test")
                x, y = self._sides(brain, features, batch.segment.cpu().numpy())
                yield self.ridge.predict(x).float(), y.float()

    def estimates(self, ids: np.ndarray) -> Iterator[Tensor]:
        """Decoded features, or measured responses, of the test segments `ids`, in order."""
        noise = torch.Generator().manual_seed(self.cfg.seed)
        for estimate, truth in self._test_pairs(self.test_batches(ids)):
            query = truth if self.encode else estimate
            if self.cfg.test.wer_random:
                query = torch.randn(query.shape, generator=noise, dtype=query.dtype).to(self.device)
            yield query

    def target_batches(self, ids: np.ndarray, dataset: SegmentDataset) -> Iterator[Tensor]:
        """True features, or responses predicted from them, of test segments, on the CPU."""
        size = self.cfg.optim.batch_size
        raw = (dataset.__getitems__(ids[start:start + size]) for start in range(0, len(ids), size))
        for estimate, truth in self._test_pairs(raw):
            yield (estimate if self.encode else truth).cpu()

    def test(self) -> Metrics:
        correlation = Correlation(over=(0,))
        for estimate, truth in self._test_pairs(self.test_batches(self.test_ids())):
            correlation.update(estimate, truth)
        r = correlation.pearson()
        return self.retrieval_metrics() | {"correlation": float(r.mean()), "correlation_median": float(r.median()),
                                           "n_targets": r.numel()}

    def keep_best(self) -> None:
        """There is one state."""

    def use_best(self) -> Any:
        return nullcontext()

    def start_from(self, state: dict[str, Any]) -> None:
        raise ValueError(f"continue_sig: task.type={self.cfg.task.type} cannot start from another XP")

    def state_dict(self) -> dict[str, Any]:
        return {"ridge": self.ridge.state_dict(), "scales": {name: x.cpu() for name, x in self.scales.items()},
                "scalers": self.finish.scalers.to("cpu").state_dict(), "spec": self.data.spec.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_state = {}
        self.ridge.load_state_dict(state["ridge"])
        self.scales = {name: x.to(self.device) for name, x in state["scales"].items()}
        self.finish.scalers = Scalers.from_state(state["scalers"]).to(self.device)


def _scale(spread: Tensor, level: Tensor) -> Tensor:
    """What to divide by: 1 where float32 values around `level` do not vary."""
    return torch.where(spread > 1e-7 * level.abs(), spread, torch.ones_like(spread))
