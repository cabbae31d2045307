"""Decoding: from a window of brain activity to the features of what was heard, scored by retrieval."""
import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bm.batch import Batch
from bm.data.assemble import Data, assemble
from bm.data.loader import EpochSampler, Finish, SegmentDataset, fit_scalers, make_loader
from bm.data.resident import ResidentDataset
from bm.losses import ClipLoss, build_loss
from bm.metrics.retrieval import Retrieval, retrieval
from bm.metrics.stats import bootstrap_interval
from bm.models import BrainModel, build_model
from bm.solvers.base import Metrics, Progress, Solver

logger = logging.getLogger(__name__)


class DecodeSolver(Solver):
    """Contrastive (CLIP) or regression decoding of stimulus features from the brain."""

    data: Data
    _resident: ResidentDataset | None = None

    def prepare(self) -> None:
        assemble(self.cfg, self.root)

    def build(self) -> None:
        cfg = self.cfg
        self.data = data = assemble(cfg, self.root)
        self._write_audit()
        self.build_model()
        if cfg.show:
            return
        dset = data.dataset("train")
        rate = round(data.spec.sample_rate)
        baseline = 1 - round(cfg.dset.tmin * rate) if cfg.dset.apply_baseline else 0
        scaler = cfg.norm.scaler
        # a resumed run overwrites these with the checkpoint's
        scalers = fit_scalers(dset, data.ids("train"), baseline, cfg.dset.event_mask, scaler.per_channel,
                              scaler.n_samples_per_recording, scaler.n_samples_features, cfg.seed)
        offset = int(cfg.task.offset_meg_ms / 1000 * rate)
        self.finish = Finish(scalers, baseline, cfg.norm.max_scale if cfg.norm.clip else None, offset).to(self.device)
        pin = self.device.type == "cuda"
        seeds = {"train": cfg.seed, "valid": cfg.seed if cfg.optim.max_batches else None}
        self.samplers = {split: EpochSampler(data.ids(split), cfg.optim.batch_size, seed, cfg.optim.max_batches)
                         for split, seed in seeds.items()}
        workers = 0 if cfg.resident else cfg.num_workers  # there is nothing to read
        self.loaders = {split: make_loader(self.dataset(split), sampler, workers, pin and not cfg.resident)
                        for split, sampler in self.samplers.items()}

    def dataset(self, split: str) -> SegmentDataset:
        """What gathers the segments of a split, on the device itself if `resident=true`."""
        dataset = self.data.dataset(split)
        if not self.cfg.resident:
            return dataset
        if self._resident is None:
            self._resident = ResidentDataset(dataset, self.device)
        return self._resident.with_samples(dataset.samples)

    def build_model(self) -> None:
        """Model, feature model, loss and optimiser; weights depend on `seed` alone."""
        cfg, spec = self.cfg, self.data.spec
        out_channels = sum(feature.out_dim for feature in spec.features)
        feature_params = dict(cfg.feature_model_params)
        if cfg.feature_model_name:
            out_channels = feature_params.pop("n_out_channels")
        torch.manual_seed(cfg.seed)
        model = build_model(cfg.model_name, spec, out_channels, n_subjects=cfg.override_n_subjects_model,
                            **getattr(cfg, cfg.model_name)).to(self.device)
        if not isinstance(model, BrainModel):
            raise ValueError(f"model_name={cfg.model_name} is no model of the brain but of features: use it as "
                             "feature_model")
        self.model = model
        self.feature_model: nn.Module | None = None
        if cfg.feature_model_name:
            self.feature_model = build_model(cfg.feature_model_name, spec, out_channels,
                                             **feature_params).to(self.device)
        # candidates are scored the same way whatever the model was trained with
        self.scorer = ClipLoss(dim=out_channels, sample_rate=spec.sample_rate, segment_tmin=spec.tmin,
                               **cfg.clip.model_dump()).to(self.device)
        self.loss: nn.Module = self.scorer
        if cfg.optim.loss != "clip":
            self.loss = build_loss(cfg.optim.loss, spec).to(self.device)
        self.modules = nn.ModuleDict({"model": self.model, "loss": self.loss})
        if self.feature_model is not None:
            self.modules["feature_model"] = self.feature_model
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=cfg.optim.lr, betas=(0.9, cfg.optim.beta2))
        self.best_state: dict[str, Tensor] | None = None
        n = sum(p.numel() for p in self.modules.parameters())
        logger.info("%s: %s parameters, %.1f MB, on %s", cfg.model_name, f"{n:,}", 4 * n / 2 ** 20, self.device)
        logger.log(logging.INFO if cfg.show else logging.DEBUG, "%s", self.modules)

    def _write_audit(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data.audit.table.to_csv(self.folder / "audit.csv", index=False)

    def process(self, raw: Batch) -> tuple[Tensor, Tensor, Tensor, Batch]:
        """`(estimate (B, F, T), target (B, F', T), mask (B, 1, T), batch)` of the segments that are kept."""
        batch = self.finish(raw.to(self.device))
        if batch.brain is None:
            raise ValueError("this task decodes the brain, but the batch has none")
        keep = batch.brain.abs().amax((1, 2)) <= self.cfg.norm.max_scale
        if self.cfg.norm.exclude_empty_features:
            keep &= batch.masks["word"].any(1)
        if not bool(keep.all()):
            batch = batch[keep]
        mask = batch.masks["word"][:, None]
        if not self.cfg.task.mask_loss:
            mask = torch.ones_like(mask)
        return self.model(batch), self.target(batch), mask, batch

    def target(self, batch: Batch) -> Tensor:
        """What the model should give, `(B, F', T)`: the features, through the feature model if there is one."""
        features = torch.cat([batch.features[feature.name] for feature in self.data.spec.features], dim=1)
        return features if self.feature_model is None else self.feature_model(features)

    def _epoch(self, split: str, epoch: int, train: bool) -> Metrics:
        self.modules.train(train)
        sampler, loader = self.samplers[split], self.loaders[split]
        sampler.epoch = epoch
        total, batches, kept, seen = torch.zeros((), device=self.device), 0, 0, 0
        progress: Progress[Batch] = Progress(split, loader, len(sampler), self.cfg.num_prints,
                                             f"epoch {epoch}/{self.cfg.optim.epochs}")
        for raw in progress:
            seen += len(raw)
            with torch.set_grad_enabled(train):
                estimate, target, mask, batch = self.process(raw)
                kept += len(batch)
                if len(batch) == 0 or (train and len(batch) < 2):  # batch norm cannot learn from one
                    continue
                loss = self.loss(estimate, target, mask)
            if train:
                penalty = self.model.take_penalty()
                self.optimizer.zero_grad()
                (loss if penalty is None else loss + penalty).backward()
                self.optimizer.step()
            total += loss.detach()
            batches += 1
            if batches % progress.every == 0:
                progress.metrics = {"loss": float(total / batches)}
        if batches == 0:
            raise ValueError(f"every segment of split {split!r} was rejected: raise norm.max_scale, or set "
                             "norm.clip=true")
        if kept < seen:
            logger.warning("epoch %d, %s: %d of %d segments rejected (max_scale or empty features)", epoch, split,
                           seen - kept, seen)
        return {"loss": float(total / batches)}

    def train_epoch(self, epoch: int) -> Metrics:
        return self._epoch("train", epoch, train=True)

    def valid_epoch(self, epoch: int) -> Metrics:
        return self._epoch("valid", epoch, train=False)

    def test_ids(self) -> np.ndarray:
        """Ids of the test segments of the in-training test: those of the first `test.wer_recordings` recordings."""
        ids, limit = self.data.ids("test"), self.cfg.test.wer_recordings
        recording = self.data.segments["recording"].to_numpy()[ids]
        return ids if limit is None else ids[np.isin(recording, np.unique(recording)[:limit])]

    def estimates(self, ids: np.ndarray) -> Iterator[Tensor]:
        """Estimates `(B, F, T)` of the test segments `ids`, in order; none is rejected."""
        self.modules.eval()
        noise = torch.Generator().manual_seed(self.cfg.seed)
        loader = make_loader(self.dataset("test"), EpochSampler(ids, self.cfg.optim.batch_size),
                             0 if self.cfg.resident else self.cfg.num_workers,
                             self.device.type == "cuda" and not self.cfg.resident)
        with torch.no_grad():
            for raw in loader:
                estimate = self.model(self.finish(raw.to(self.device)))
                if self.cfg.test.wer_random:
                    estimate = torch.randn(estimate.shape, generator=noise).to(self.device)
                yield estimate

    def targets(self, ids: np.ndarray) -> Tensor:
        """Targets `(V, F, T)` of the test segments `ids`, on the CPU."""
        self.modules.eval()
        dataset, size = self.dataset("test"), self.cfg.optim.batch_size
        with torch.no_grad():
            return torch.cat([self.target(self.finish(dataset.__getitems__(ids[i:i + size]).to(self.device))).cpu()
                              for i in range(0, len(ids), size)])

    def retrieval(self) -> tuple[Retrieval, pd.DataFrame]:
        """Retrieval of every test segment among all different ones, and the segments' rows of the table."""
        ids = self.test_ids()
        table = self.data.segments.iloc[ids]
        candidates = table.drop_duplicates("candidate")
        self.scorer.eval()
        word, _ = pd.factorize(candidates["word"].str.lower())
        result = retrieval(
            self.estimates(ids), self.targets(candidates.index.to_numpy()), candidates["candidate"].to_numpy(),
            table["candidate"].to_numpy(), segment=ids, ks=self.cfg.test.topk, loss=self.scorer,
            candidate_words=word, word_k=self.cfg.test.wer_topx, negatives=self.cfg.test.wer_negatives,
            seed=self.cfg.seed, description="different segments of the test split")
        return result, table

    def test(self) -> Metrics:
        result, table = self.retrieval()
        metrics: Metrics = result.summary()
        subject = np.asarray(self.data.subjects)[table["recording"]]
        for k in self.cfg.test.topk:
            interval = bootstrap_interval(result.values[f"top{k}"], subject, table["block"],
                                          n_boot=self.cfg.test.n_boot, seed=self.cfg.seed)
            metrics |= {f"top{k}_low": interval.low, f"top{k}_high": interval.high}
        table.assign(segment=result.segment, subject=subject, **result.values).to_parquet(
            self.folder / "test_segments.parquet")
        return metrics

    def keep_best(self) -> None:
        self.best_state = {name: value.detach().cpu().clone() for name, value in self.modules.state_dict().items()}

    @contextmanager
    def use_best(self) -> Iterator[None]:
        current = copy.deepcopy(self.modules.state_dict())
        if self.best_state is None:
            raise RuntimeError("no epoch is done yet, so there is no best state")
        self.modules.load_state_dict(self.best_state)
        try:
            yield
        finally:
            self.modules.load_state_dict(current)

    def state_dict(self) -> dict[str, Any]:
        return {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict(),
                "best": self.best_state, "scalers": self.finish.scalers.to("cpu").state_dict(),
                "spec": self.data.spec.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        from bm.data.scaling import Scalers
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best"]
        self.finish.scalers = Scalers.from_state(state["scalers"]).to(self.device)
