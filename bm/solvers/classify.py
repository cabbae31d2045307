"""Classification: which condition a window of brain activity is of."""
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bm import distrib
from bm.batch import Batch
from bm.data.assemble import Data, assemble
from bm.data.labels import classes_of, label_segments
from bm.data.loader import EpochSampler, Finish, make_loader
from bm.data.scaling import BrainScaler, Scalers
from bm.metrics.classification import Predictions, by_subject, summary
from bm.models import BrainModel, build_model
from bm.solvers.base import Metrics, Progress
from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)


class ClassifySolver(DecodeSolver):
    """Classes of segments, from the events (section `classify` of the config), with a network.

    Batches need no features. A model that gives one vector per sample is averaged over time. The lowest validation
    loss is the best state; without a valid split it is the lowest training loss.
    """

    classes: list[str]

    def build(self) -> None:
        cfg = self.cfg
        self.data = self.labelled(assemble(cfg, self.root))
        self._write_audit()
        self.build_model()
        if cfg.show:
            return
        self.finish = self.make_finish()
        seeds = {"train": cfg.seed, "valid": None}
        self.samplers = {split: EpochSampler(self.data.ids(split), cfg.optim.batch_size, seed, cfg.optim.max_batches,
                                             distrib.rank(), distrib.world_size()) for split, seed in seeds.items()}
        workers, pin = 0 if cfg.resident else cfg.num_workers, self.device.type == "cuda" and not cfg.resident
        self.loaders = {split: make_loader(self.dataset(split), sampler, workers, pin)
                        for split, sampler in self.samplers.items()}

    def labelled(self, data: Data) -> Data:
        """The data with the segments that are of a class alone; `labels` are their classes.

        Raises:
            ValueError: train or test lack a class.
        """
        cfg = self.cfg
        kind = cfg.classify.kind or str(cfg.dset.condition)
        labels = label_segments(data.segments, data.events, kind, cfg.classify.label,
                                cfg.dset.condition != kind, data.spec.sample_rate)
        self.classes, label = classes_of(labels, cfg.classify.classes)
        keep = label >= 0
        segments = data.segments[keep].assign(label=labels[keep]).reset_index(drop=True)
        self.labels = torch.from_numpy(label[keep])
        counts = pd.crosstab(segments["split"], segments["label"])
        logger.info("classes (%d segments of none are left out):\n%s", (~keep).sum(), counts.to_string())
        missing = [name for name in self.classes if counts.get(name, {}).get("train", 0) == 0]
        if missing:
            raise ValueError(f"train has no segment of the classes {missing}: use more data, other splits, or name the "
                             "classes to tell apart with classify.classes")
        return replace(data, segments=segments)

    def build_model(self) -> None:
        """Model, loss and optimiser; weights depend on `seed` alone."""
        cfg, optim, spec = self.cfg, self.cfg.optim, self.data.spec
        torch.manual_seed(cfg.seed)
        model = build_model(cfg.model_name, spec, len(self.classes), n_subjects=cfg.override_n_subjects_model,
                            **getattr(cfg, cfg.model_name)).to(self.device)
        assert isinstance(model, BrainModel)
        self.model, self.feature_model = model, None
        counts = np.bincount(self.labels[self.data.ids("train")], minlength=len(self.classes))
        weights = counts.mean() / counts if cfg.classify.weighted else np.ones(len(counts))
        self.class_weights = torch.from_numpy(weights).float().to(self.device)
        self.loss: nn.Module = nn.CrossEntropyLoss(self.class_weights, reduction="sum")
        if distrib.world_size() > 1:
            distrib.synchronise_batch_norm(model)
            torch.manual_seed(cfg.seed + distrib.rank())  # the same weights everywhere, other dropout
        self.forward = torch.compile(model) if optim.compile else model
        self.modules = nn.ModuleDict({"model": model})
        common: dict[str, Any] = {"lr": optim.lr, "betas": (0.9, optim.beta2), "weight_decay": optim.weight_decay}
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
        self.optimizer = kind(model.parameters(), **common)
        self.best_state: dict[str, Tensor] | None = None
        n = sum(p.numel() for p in model.parameters())
        logger.info("%s: %s parameters, %.1f MB, on %s", cfg.model_name, f"{n:,}", 4 * n / 2 ** 20, self.device)
        logger.log(logging.INFO if cfg.show else logging.DEBUG, "%s", self.modules)

    def make_finish(self) -> Finish:
        """Scales as `classify.scale` says; all but "recording" are of train segments alone, the same for everybody."""
        finish = super().make_finish()
        how = self.cfg.classify.scale
        if how == "recording":
            return finish
        mean, deviation = self._moments(finish.baseline)
        if how == "global":
            valid = deviation > 0
            total = np.sqrt((deviation[valid] ** 2 + (mean[valid] - mean[valid].mean()) ** 2).mean())
            mean, deviation = np.full_like(mean, mean[valid].mean()), np.full_like(deviation, total)
        n = len(self.data.recordings)
        brain = BrainScaler(*(torch.from_numpy(np.tile(x, (n, 1)).astype(np.float32))
                              for x in (mean, np.where(deviation > 0, deviation, 1))))
        return Finish(Scalers(brain, {}), finish.baseline, finish.max_scale, finish.offset).to(self.device)

    def _moments(self, baseline: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over all train segments, float64; a channel that is bad or
        missing in a recording is not counted there."""
        dataset, ids = self.data.dataset("train"), self.data.ids("train")
        channels = dataset.montages.valid.shape[1]
        total, squares, n = np.zeros(channels), np.zeros(channels), np.zeros(channels)
        # about a value near the mean, as squares of volts beside a large offset would lose digits
        shift = dataset.gather_brain(ids[:1]).mean((0, 1), dtype=np.float64)
        for first in range(0, len(ids), 64):
            chosen = ids[first:first + 64]
            x = dataset.gather_brain(chosen).astype(np.float64)
            x -= x[:, :baseline].mean(1, keepdims=True) if baseline else shift
            valid = dataset.montages.valid[dataset.recording[chosen]]
            total += (x.sum(1) * valid).sum(0)
            squares += ((x ** 2).sum(1) * valid).sum(0)
            n += x.shape[1] * valid.sum(0)
        mean = np.divide(total, n, out=np.zeros(channels), where=n > 0)
        variance = np.divide(squares, n, out=np.zeros(channels), where=n > 0) - mean ** 2
        return mean + (0 if baseline else shift), np.sqrt(np.maximum(variance, 0))

    def logits(self, raw: Batch) -> tuple[Tensor, Tensor]:
        """Logits `(B, K)` and classes `(B,)` of a raw batch."""
        batch = self.finish(raw.to(self.device))
        batch = batch.replace(target=self.labels[batch.segment.cpu()].to(self.device))
        out = self.estimate(batch)
        assert batch.target is not None
        return out if out.ndim == 2 else out.mean(2), batch.target

    def set_rate(self, epoch: int, batch: int) -> None:
        """The learning rate of a batch (from 0) of an epoch (from 1): it grows over the first `warmup_steps` steps and
        falls by `lr_decay` at each epoch after the one in which that ended. A function of the step, so that a resumed
        run goes on as if nothing had happened."""
        optim, per_epoch = self.cfg.optim, len(self.samplers["train"])
        step = (epoch - 1) * per_epoch + batch
        warm = optim.warmup_steps
        if step < warm:
            rate = optim.lr * (step + 1) / warm
        else:
            rate = optim.lr * optim.lr_decay ** (epoch - 1 - warm // per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _epoch(self, split: str, epoch: int, train: bool) -> Metrics:
        self.modules.train(train)
        sampler, loader = self.samplers[split], self.loaders[split]
        sampler.epoch = epoch
        sums = torch.zeros(3, device=self.device)  # weighted loss, weights, hits
        seen = 0
        progress: Progress[Batch] = Progress(split, loader, len(sampler), self.cfg.num_prints,
                                             f"epoch {epoch}/{self.cfg.optim.epochs}")
        for number, raw in enumerate(progress):
            with torch.set_grad_enabled(train):
                logits, target = self.logits(raw)
                loss = self.loss(logits, target)
            total = self.class_weights[target].sum()
            if train:
                self.set_rate(epoch, number)
                self.step(loss / total)
            sums += torch.stack([loss.detach(), total, (logits.argmax(1) == target).sum()])
            seen += len(target)
            if (number + 1) % progress.every == 0:
                progress.metrics = {"loss": float(sums[0] / sums[1])}
        sums = distrib.total(sums)
        n = float(distrib.total(torch.tensor(float(seen), device=self.device)))
        return {"loss": float(sums[0] / sums[1]), "accuracy": float(sums[2] / n)}

    def train_epoch(self, epoch: int) -> Metrics:
        metrics = super().train_epoch(epoch)
        self._last_loss = metrics["loss"]
        return metrics | {"lr": self.optimizer.param_groups[0]["lr"]}

    def valid_epoch(self, epoch: int) -> Metrics:
        if len(self.data.ids("valid")) == 0:
            return {"loss": self._last_loss}
        return super().valid_epoch(epoch)

    def test_ids(self) -> np.ndarray:
        return self.data.ids("test")

    def probabilities(self, ids: np.ndarray) -> Iterator[Tensor]:
        """Probabilities `(B, K)` of segments, in order."""
        self.modules.eval()
        with torch.no_grad():
            for raw in self.test_batches(ids):
                yield self.logits(raw)[0].softmax(1).cpu()

    def test(self) -> Metrics:
        """All metrics; probabilities go to `test_segments.parquet`, results of each subject to `test_subjects.csv`, the
        confusion matrix (rows: truth) to `test_confusion.csv`."""
        ids = self.test_ids()
        own = ids[distrib.rank()::distrib.world_size()]
        parts = distrib.gather_objects((own, torch.cat(list(self.probabilities(own))).double().numpy()))
        order = np.argsort(np.concatenate([part[0] for part in parts]))
        probability = np.concatenate([part[1] for part in parts])[order]
        table = self.data.segments.iloc[ids]
        subject = np.asarray(self.data.spec.subjects)[np.asarray(self.data.subjects)[table["recording"]]]
        predictions = Predictions(self.labels[ids].numpy(), probability, subject, table["block"].to_numpy(object))
        if distrib.is_master():
            self.write_test(predictions, table)
        return summary(predictions, n_boot=self.cfg.test.n_boot, n_permutations=self.cfg.test.n_permutations,
                       seed=self.cfg.seed)

    def write_test(self, predictions: Predictions, table: pd.DataFrame) -> None:
        """The three files of the test stage."""
        scores = {f"p_{name}": predictions.probability[:, i] for i, name in enumerate(self.classes)}
        names = np.array(self.classes, dtype=object)
        table.assign(segment=table.index, subject=predictions.subject, predicted=names[predictions.predicted],
                     **scores).to_parquet(self.folder / "test_segments.parquet")
        by_subject(predictions).to_csv(self.folder / "test_subjects.csv", index=False)
        pd.DataFrame(predictions.confusion(), names, names).to_csv(self.folder / "test_confusion.csv")

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["classes"] != self.classes:
            raise ValueError(f"the checkpoint has the classes {state['classes']}, the data {self.classes}: were "
                             "recordings added? Start anew with --clear")
        super().load_state_dict(state)
