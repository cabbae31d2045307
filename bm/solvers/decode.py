"""Decoding: from a window of brain activity to the features of what was heard, scored by retrieval."""
import logging
from collections.abc import Iterator
from typing import Any, cast

import julius
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bm import distrib
from bm.batch import Batch
from bm.data.assemble import Data, assemble
from bm.data.loader import EpochSampler, Finish, SegmentDataset, class_counts, fit_scalers, make_loader
from bm.data.resident import ResidentDataset
from bm.features.model_files import find_model
from bm.losses import ClipLoss, NegativesPool, RegressionClassificationLoss, build_loss, class_weights
from bm.metrics.regression import FeatureScores
from bm.metrics.retrieval import Retrieval, retrieval
from bm.metrics.stats import bootstrap_interval, permutation_chance
from bm.models import BrainModel
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers
from bm.models.penalties import spectral_penalty
from bm.models.personal import personal_weights, replace_weights
from bm.networks import build_networks
from bm.solvers.base import BestWeights, Metrics, Progress, Solver

logger = logging.getLogger(__name__)

#: the pools' own random stream
POOL_STREAM = 3


class DecodeSolver(BestWeights, Solver):
    """Contrastive (CLIP) or regression decoding of stimulus features from the brain."""

    data: Data
    modules: nn.ModuleDict
    _resident: ResidentDataset | None = None

    def prepare(self) -> None:
        assemble(self.cfg, self.root)

    def build(self) -> None:
        cfg = self.cfg
        self.data = data = assemble(cfg, self.root)
        self._write_audit()
        # what each segment is one of, by its id
        self.heard = torch.tensor(data.segments["candidate"].to_numpy(np.int64)[data.heard])
        self.build_model()
        if cfg.show:
            return
        self.finish = self.make_finish()
        pin = self.device.type == "cuda"
        seeds = {"train": cfg.seed, "valid": cfg.seed if cfg.optim.max_batches else None}
        self.samplers = {split: EpochSampler(data.ids(split), cfg.optim.batch_size, seed, cfg.optim.max_batches,
                                             distrib.rank(), distrib.world_size())
                         for split, seed in seeds.items()}
        workers = 0 if cfg.resident else cfg.num_workers  # there is nothing to read
        self.loaders = {split: make_loader(self.dataset(split), sampler, workers, pin and not cfg.resident)
                        for split, sampler in self.samplers.items()}
        if cfg.optim.use_weighting and isinstance(self.loss, RegressionClassificationLoss):
            counts = class_counts(data.dataset("train"), data.ids("train"), cfg.dset.event_mask,
                                  cfg.norm.scaler.n_samples_features, cfg.seed)
            self.loss.set_class_weights({name: class_weights(n) for name, n in counts.items()})

    def make_finish(self) -> Finish:
        """Scaling and the rest of what makes a batch ready; a resumed run takes the checkpoint's scalers instead."""
        cfg, rate = self.cfg, round(self.data.spec.sample_rate)
        baseline = 1 - round(cfg.dset.tmin * rate) if cfg.dset.apply_baseline else 0
        scaler = cfg.norm.scaler
        scalers = fit_scalers(self.data.dataset("train"), self.data.ids("train"), baseline, cfg.dset.event_mask,
                              scaler.per_channel, scaler.n_samples_per_recording, scaler.n_samples_features, cfg.seed)
        return Finish(scalers, baseline, cfg.norm.max_scale if cfg.norm.clip else None,
                      int(cfg.task.offset_meg_ms / 1000 * rate)).to(self.device)

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
        torch.manual_seed(cfg.seed)
        networks = build_networks(cfg, spec, lambda name: find_model(name, self.root / cfg.features_models)).to(
            self.device)
        self.model = cast(BrainModel, networks["model"])
        self.feature_model: nn.Module | None = networks["feature_model"] if cfg.feature_model_name else None
        # candidates are scored the same way whatever the model was trained with
        self.scorer = cast(ClipLoss, networks["loss"])
        self.loss: nn.Module = self.scorer
        if cfg.optim.loss != "clip":
            self.loss = build_loss(cfg.optim.loss, spec).to(self.device)
        if distrib.world_size() > 1:
            for module in (self.model, self.feature_model):
                if module is not None:
                    distrib.synchronise_batch_norm(module)
            # the same weights everywhere, other dropout
            torch.manual_seed(cfg.seed + distrib.rank())
        # the compiled function has the model's own parameters
        self.forward = torch.compile(self.model) if cfg.optim.compile else self.model
        self.modules = nn.ModuleDict({"model": self.model, "loss": self.loss})
        if self.feature_model is not None:
            self.modules["feature_model"] = self.feature_model
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=cfg.optim.lr, betas=(0.9, cfg.optim.beta2))
        self.best_state = None
        n = sum(p.numel() for p in self.modules.parameters())
        logger.info("%s: %s parameters, %.1f MB, on %s", cfg.model_name, f"{n:,}", 4 * n / 2 ** 20, self.device)
        logger.log(logging.INFO if cfg.show else logging.DEBUG, "%s", self.modules)

    def _write_audit(self) -> None:
        if not distrib.is_master():
            return
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
        return self.estimate(batch), self.target(batch), mask, batch

    def estimate(self, batch: Batch) -> Tensor:
        """What the model makes of a finished batch, `(B, F', T)` float32."""
        if self.cfg.task.lowpass and batch.brain is not None:
            batch = batch.replace(brain=julius.lowpass_filter(
                batch.brain, self.cfg.task.lowpass / self.data.spec.sample_rate, zeros=5))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.optim.amp):
            return self.forward(batch).float()

    def target(self, batch: Batch) -> Tensor:
        """What the model should give, `(B, F', T)`: the features, through the feature model if there is one."""
        features = torch.cat([batch.features[feature.name] for feature in self.data.spec.features], dim=1)
        if self.feature_model is None:
            return features
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.optim.amp):
            return self.feature_model(features).float()

    def compare(self, estimate: Tensor, target: Tensor, mask: Tensor, batch: Batch, pool: NegativesPool | None
                ) -> Tensor:
        """The loss of a batch, against negatives of the pool as well if there is one."""
        ids = self.heard[batch.segment.cpu()].to(target.device)
        if self.cfg.clip.gather or not isinstance(self.loss, ClipLoss):
            estimate, target, mask, ids = (distrib.gather(x) for x in (estimate, target, mask, ids))
        if not isinstance(self.loss, ClipLoss):
            return self.loss(estimate, target, mask)
        if pool is not None:
            target, extended = pool.extend(target, ids)
            ids = ids if extended is None else extended
        return self.loss(estimate, target, mask, candidate_ids=ids)

    def make_pool(self, split: str, epoch: int) -> NegativesPool | None:
        """The pool of negatives of one stage of one epoch.

        It starts empty at every epoch, so that a resumed run needs none of the targets of before. In the paper's code
        it lives on, so that the first `optim.negatives` segments of an epoch have fewer negatives here than there.
        """
        optim = self.cfg.optim
        if optim.negatives is None:
            return None
        seed = int(np.random.default_rng([self.cfg.seed, POOL_STREAM, epoch, split == "train"]).integers(2 ** 62))
        return NegativesPool(optim.negatives, optim.negative_pool_size, seed)

    def step(self, loss: Tensor) -> None:
        """One step of the optimiser, penalties added and the gradient clipped as configured."""
        optim, penalty = self.cfg.optim, self.model.take_penalty()
        if penalty is not None:
            loss = loss + penalty
        if optim.svd:
            loss = loss + optim.svd * spectral_penalty(self.model)
        self.optimizer.zero_grad()
        loss.backward()
        distrib.average_gradients(self.modules.parameters())
        if optim.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.modules.parameters(), optim.clip_grad)
        self.optimizer.step()

    def _epoch(self, split: str, epoch: int, train: bool) -> Metrics:
        self.modules.train(train)
        sampler, loader = self.samplers[split], self.loaders[split]
        sampler.epoch = epoch
        pool = self.make_pool(split, epoch)
        total, batches, kept, seen = torch.zeros((), device=self.device), 0, 0, 0
        progress: Progress[Batch] = Progress(split, loader, len(sampler), self.cfg.num_prints,
                                             f"epoch {epoch}/{self.cfg.optim.epochs}")
        for raw in progress:
            seen += len(raw)
            with torch.set_grad_enabled(train):
                estimate, target, mask, batch = self.process(raw)
                kept += len(batch)
                size = int(distrib.total(torch.tensor(len(batch), device=self.device)))
                if size == 0 or (train and size < 2):  # batch norm cannot learn from one
                    continue
                loss = self.compare(estimate, target, mask, batch, pool)
            if train:
                self.step(loss)
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
        if not self.cfg.clip.gather:  # each process has the loss of its own part
            total = distrib.total(total) / distrib.world_size()
        return {"loss": float(total / batches)}

    def train_epoch(self, epoch: int) -> Metrics:
        metrics = self._epoch("train", epoch, train=True)
        self._average_unseen()
        return metrics

    def _average_unseen(self) -> None:
        """Subjects who are only validated or tested on get the mean of the personal weights of the trained ones: else
        both would be done with weights as they were drawn, and the best epoch be the one with the smallest weights.
        With `continue_sig` they keep those of that XP, which may have trained them."""
        names = personal_weights(self.modules) if self.cfg.continue_sig is None else []
        trained = self.data.trained_subjects().tolist() if names else []
        unseen = set(range(len(self.data.spec.subjects))).difference(trained) if trained else set()
        replace_weights(dict(self.modules.named_parameters()), names, dict.fromkeys(sorted(unseen), trained))

    def valid_epoch(self, epoch: int) -> Metrics:
        return self._epoch("valid", epoch, train=False)

    def test_ids(self) -> np.ndarray:
        """Ids of the test segments of the in-training test: those of the first `test.wer_recordings` recordings, of
        `test.wer_study` if that is set."""
        ids, limit = self.data.ids("test"), self.cfg.test.wer_recordings
        recording = self.data.segments["recording"].to_numpy()[ids]
        if self.cfg.test.wer_study is not None:
            studies = np.array([r.study for r in self.data.recordings])
            own = studies[recording] == self.cfg.test.wer_study
            if not own.any():
                raise ValueError(f"test.wer_study={self.cfg.test.wer_study}: no test segment is of that study, only "
                                 f"of {', '.join(np.unique(studies[recording]))}")
            ids, recording = ids[own], recording[own]
        return ids if limit is None else ids[np.isin(recording, np.unique(recording)[:limit])]

    def test_batches(self, ids: np.ndarray) -> DataLoader:
        """Raw batches of test segments, in order."""
        workers = 0 if self.cfg.resident else self.cfg.num_workers
        return make_loader(self.dataset("test"), EpochSampler(ids, self.cfg.optim.batch_size), workers,
                           self.device.type == "cuda" and not self.cfg.resident)

    def estimates(self, ids: np.ndarray) -> Iterator[Tensor]:
        """Estimates `(B, F, T)` of the test segments `ids`, in order; none is rejected."""
        self.modules.eval()
        noise = torch.Generator().manual_seed(self.cfg.seed + distrib.rank())
        with torch.no_grad():
            for raw in self.test_batches(ids):
                estimate = self.estimate(self.finish(raw.to(self.device)))
                if self.cfg.test.wer_random:
                    estimate = torch.randn(estimate.shape, generator=noise).to(self.device)
                yield estimate

    def targets(self, ids: np.ndarray) -> Tensor:
        """Targets `(V, F, T)` of the test segments `ids`, on the CPU."""
        return torch.cat(list(self.target_batches(ids, self.dataset("test"))))

    def target_batches(self, ids: np.ndarray, dataset: SegmentDataset) -> Iterator[Tensor]:
        """Those of segments of `dataset`, batch by batch, which may be more than memory holds."""
        self.modules.eval()
        size = self.cfg.optim.batch_size
        for start in range(0, len(ids), size):
            with torch.no_grad():
                yield self.target(self.finish(dataset.__getitems__(ids[start:start + size]).to(self.device))).cpu()

    def retrieval(self) -> tuple[Retrieval, pd.DataFrame]:
        """Retrieval of every test segment among all different ones, and the segments' rows of the table."""
        ids = self.test_ids()
        table = self.data.segments.iloc[ids]
        candidates = table.drop_duplicates("candidate")
        self.scorer.eval()
        # of stimuli without words there is no word metric
        word = pd.factorize(candidates["word"].str.lower())[0] if candidates["word"].any() else None
        own = slice(distrib.rank(), None, distrib.world_size())
        part = retrieval(
            self.estimates(ids[own]), self.targets(candidates.index.to_numpy()), candidates["candidate"].to_numpy(),
            table["candidate"].to_numpy()[own], segment=ids[own], ks=self.cfg.test.topk, loss=self.scorer,
            candidate_words=word, word_k=self.cfg.test.wer_topx, negatives=self.cfg.test.wer_negatives,
            seed=self.cfg.seed, description="different segments of the test split")
        return Retrieval.merge(distrib.gather_objects(part)), table

    def test(self) -> Metrics:
        metrics: Metrics = {}
        if not any(feature.n_classes for feature in self.data.spec.features):  # classes are not compared by product
            metrics |= self.retrieval_metrics()
        if self.cfg.optim.loss != "clip":
            metrics |= self.regression_metrics()
        return metrics

    def regression_metrics(self) -> Metrics:
        """Correlation, R², error and accuracy of the estimated features on the test segments."""
        self.modules.eval()
        scores = FeatureScores(self.data.spec.features)
        with torch.no_grad():
            for raw in self.test_batches(self.test_ids()):
                estimate, target, mask, batch = self.process(raw)
                scores.update(estimate, target, mask, batch.recording)
        return dict(scores.summary())

    def retrieval_metrics(self) -> Metrics:
        """Accuracy with chance and interval; one row per segment goes to `test_segments.parquet`."""
        result, table = self.retrieval()
        metrics: Metrics = result.summary()
        subject = np.asarray(self.data.subjects)[table["recording"]]
        for k in self.cfg.test.topk:
            interval = bootstrap_interval(result.values[f"top{k}"], subject, table["block"],
                                          n_boot=self.cfg.test.n_boot, seed=self.cfg.seed)
            metrics |= {f"top{k}_low": interval.low, f"top{k}_high": interval.high}
        if self.cfg.test.n_permutations:
            null = permutation_chance(result, table["recording"], table["block"], table["time"],
                                      n_permutations=self.cfg.test.n_permutations, seed=self.cfg.seed)
            for k in self.cfg.test.topk:
                low, high = null.interval(k)
                metrics |= {f"top{k}_chance_low": low, f"top{k}_chance_high": high, f"top{k}_p": null.p_value(k)}
        if distrib.is_master():
            table.assign(segment=result.segment, subject=subject, **result.values).to_parquet(
                self.folder / "test_segments.parquet")
        return metrics

    def start_from(self, state: dict[str, Any]) -> None:
        """Takes over the weights of brain and feature model: the best ones, or with `continue_best=false` the last."""
        weights = state["best"] if self.cfg.continue_best else state["modules"]
        subjects = tuple(state["spec"]["subjects"])
        personal = any(isinstance(module, SubjectLayers | SubjectEmbedding) for module in self.model.modules())
        if personal and subjects != self.data.spec.subjects:
            raise ValueError(f"continue_sig={self.cfg.continue_sig}: that XP has weights for each of its "
                             f"{len(subjects)} subjects, who are not the {len(self.data.spec.subjects)} of this one in "
                             "the same order; use the same selections, or a model without subject layers")
        for name in ("model", "feature_model"):
            own = {key[len(name) + 1:]: value for key, value in weights.items() if key.startswith(f"{name}.")}
            if name in self.modules:
                self._take(name, own)

    def _take(self, name: str, weights: dict[str, Tensor]) -> None:
        module = self.modules[name]
        here = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        there = {key: tuple(value.shape) for key, value in weights.items()}
        if here != there:
            key = next(key for key in [*here, *there] if here.get(key) != there.get(key))
            raise ValueError(f"continue_sig={self.cfg.continue_sig}: its {name} is another network: {key} has shape "
                             f"{there.get(key, '(absent)')} there and {here.get(key, '(absent)')} here")
        module.load_state_dict(weights)

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
