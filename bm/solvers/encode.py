"""Encoding: from what was heard to the responses of all channels or neurons, with a network."""
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bm import distrib
from bm.data.assemble import find_sources
from bm.data.loader import LOADER_STREAM
from bm.data.responses import Responses, Trial, build_responses, column_frequencies, count_columns
from bm.metrics.encoding import correlation
from bm.models.encoders import AudioEncoder, build_encoder
from bm.models.encoders.losses import mse, poisson
from bm.solvers.base import BestWeights, Metrics, Progress, Solver
from bm.solvers.encoding_report import all_moments, report

logger = logging.getLogger(__name__)


LOSSES = {"mse": mse, "poisson": poisson}


class EncodeSolver(BestWeights, Solver):
    """Predicts the responses of all units of all subjects from the stimulus (sections `encode`, `encoder`).

    Trained on stretches of `encode.window_s` at random places, as many as cover each trial once, against the mean over
    repeats. The frames that the model looks back on (`AudioEncoder.history`; of a recurrent one `encode.warmup_s`)
    stand in front, and their outputs are dropped. A model has one output per unit, and each trial is compared with
    those of its subject; frames that were not measured count for nothing.

    The best state has the highest mean correlation over units on the valid trials, not the lowest loss: it is what is
    reported, and units that are mostly noise, whose error hardly depends on the model, do not decide.
    """

    responses: Responses
    model: AudioEncoder

    def prepare(self) -> None:
        find_sources(self.cfg, self.root)

    def build(self) -> None:
        cfg = self.cfg
        columns, rate = count_columns(cfg, self.root), cfg.dset.sample_rate
        section, bands_hz = cfg.encoder.model_dump(), None
        if cfg.encoder.prefilter is not None:
            bands_hz = column_frequencies(cfg, self.root)
        # of any number of units
        looks_back = build_encoder(section, n_bands=columns, rate=rate, n_out=1, bands_hz=bands_hz).history
        self.history = round(cfg.encode.warmup_s * rate) if looks_back is None else looks_back
        self.responses = data = build_responses(cfg, self.root, self.history)
        if distrib.is_master():
            self.folder.mkdir(parents=True, exist_ok=True)
            data.audit.table.to_csv(self.folder / "audit.csv", index=False)
        self.width = max(1, round(cfg.encode.window_s * rate))
        self.splits = {split: data.of(split) for split in ("train", "valid", "test")}
        torch.manual_seed(cfg.seed)
        self.model = build_encoder(section, n_bands=columns, rate=rate, n_out=len(data.units),
                                   bands_hz=bands_hz).to(self.device)
        if self.model.hop != data.hop:
            raise ValueError(f"encoder {cfg.encoder.name!r} takes {self.model.hop} rows of features per frame, "
                             f"{', '.join(data.feature_names)} gives {data.hop}: an encoder.wav2spec needs "
                             "dset.features=[Waveform] at the rate of encoder.wav2spec_params.sample_rate, others a "
                             "spectrogram")
        if distrib.world_size() > 1:
            distrib.synchronise_batch_norm(self.model)
            torch.manual_seed(cfg.seed + distrib.rank())  # the same weights everywhere, other dropout
        self.forward = torch.compile(self.model) if cfg.optim.compile else self.model
        make = torch.optim.AdamW if cfg.optim.name == "adamw" else torch.optim.Adam
        self.optimizer = make(self.model.parameters(), lr=cfg.optim.lr, betas=(0.9, cfg.optim.beta2),
                              weight_decay=cfg.optim.weight_decay)
        self.modules, self.best_state = self.model, None
        n = sum(p.numel() for p in self.model.parameters())
        logger.info("%s: %s parameters, %d columns to %d units, %d frames of history, on %s", cfg.encoder.name,
                    f"{n:,}", columns, len(data.units), self.history, self.device)
        logger.log(logging.INFO if cfg.show else logging.DEBUG, "%s", self.model)

    def stimulus(self, trial: Trial, first: int, stop: int) -> np.ndarray:
        """Rows of features `(frames · hop, D)` of frames first … stop of a trial with the history before them; zeros
        after its end."""
        hop, history = self.responses.hop, self.history
        before, rows = trial.before[first * hop:], trial.features[max(first - history, 0) * hop:stop * hop]
        return np.pad(np.concatenate([before, rows]),
                      ((0, (stop - first + history) * hop - len(before) - len(rows)), (0, 0)))

    def windows(self, trials: list[Trial], chosen: list[tuple[int, int, int]]) -> Tensor:
        """The stimuli of (trial, first frame, stop) of equal length: `(B, 1, D, frames)`, or `(B, 1, samples)`."""
        rows = np.stack([self.stimulus(trials[i], first, stop) for i, first, stop in chosen])
        x = torch.from_numpy(rows).to(self.device).transpose(1, 2)
        return x if self.responses.hop > 1 else x[:, None]

    def targets(self, trials: list[Trial], chosen: list[tuple[int, int, int]]) -> Tensor:
        """Mean responses `(B, C, 1, W)` of windows of one subject; NaN where not measured and after a trial's end."""
        y = [(trials[i].mean()[first:stop], stop - first) for i, first, stop in chosen]
        y_padded = [np.pad(part, ((0, n - len(part)), (0, 0)), constant_values=np.nan) for part, n in y]
        return torch.from_numpy(np.stack(y_padded)).to(self.device).transpose(1, 2)[:, :, None]

    def outputs(self, stimulus: Tensor) -> Tensor:
        """Responses `(B, N, frames)` without those of the history, float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.optim.amp):
            return self.forward(stimulus).float()[:, :, 0, self.history:]

    def draw(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """The batches of a training epoch: (trial, first frame, stop). The order depends on seed and epoch alone."""
        cfg, width = self.cfg, self.width
        rng = np.random.default_rng([cfg.seed, LOADER_STREAM, epoch])
        chosen = []
        for i, trial in enumerate(self.splits["train"]):
            frames = trial.responses.shape[1]
            for _ in range(max(1, round(frames / width))):
                first = int(rng.integers(max(frames - width, 0) + 1))
                chosen.append((i, first, first + width))
        order, size = rng.permutation(len(chosen)), cfg.optim.batch_size
        batches = [[chosen[i] for i in order[at:at + size]] for at in range(0, len(order), size)]
        # what is left at the end may be too few for all processes
        return [batch for batch in batches if len(batch) >= distrib.world_size()][:cfg.optim.max_batches]

    def train_epoch(self, epoch: int) -> Metrics:
        self.model.train()
        trials, batches = self.splits["train"], self.draw(epoch)
        total, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        progress = Progress("train", batches, len(batches), self.cfg.num_prints,
                            f"epoch {epoch}/{self.cfg.optim.epochs}")
        for number, chosen in enumerate(progress):
            own = chosen[distrib.rank()::distrib.world_size()]
            sums, frames = self._batch_loss(trials, own)
            everybody = distrib.total(frames)  # means are over all processes, however frames are dealt out
            loss, n = (sums / everybody.clamp(min=1)).sum(), (everybody > 0).sum()
            if n > 0:
                self._step(loss * distrib.world_size() / n)
            total += distrib.total(loss.detach())
            count += n
            if (number + 1) % progress.every == 0:
                progress.metrics = {"loss": float(total / count)}
        if count == 0:
            raise ValueError("no frame of the train windows was measured: use longer encode.window_s")
        self._last_loss = float(total / count)
        return {"loss": self._last_loss}

    def _batch_loss(self, trials: list[Trial], chosen: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        """Of each unit `(N,)` the loss summed over measured frames, and their number; subject by subject, as each has
        its own outputs."""
        out, loss = self.outputs(self.windows(trials, chosen)), LOSSES[self.cfg.encode.loss]
        sums, frames = out.sum() * 0 + torch.zeros(out.shape[1], device=self.device), torch.zeros_like(out[0, :, 0])
        subjects = [trials[i].subject for i, _, _ in chosen]
        for subject in sorted(set(subjects)):
            rows = [row for row, s in enumerate(subjects) if s == subject]
            response = self.targets(trials, [chosen[row] for row in rows])
            measured = torch.isfinite(response).sum((0, 2, 3))
            if measured.any():
                some = out if len(rows) == len(subjects) else out[torch.tensor(rows, device=self.device)]
                units = self.responses.units_of(subject)
                mean = loss(some[:, units], response, "none").masked_fill(measured == 0, 0)
                sums[units], frames[units] = mean * measured, measured.to(frames.dtype)
        return sums, frames

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        distrib.average_gradients(self.model.parameters())
        if self.cfg.optim.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.optim.clip_grad)
        self.optimizer.step()

    def predict(self, trials: list[Trial]) -> list[np.ndarray]:
        """Predictions `(T, C)` of whole trials, in order; trials of like length are done together, in batches no
        larger than those of training."""
        self.model.eval()
        found: list[np.ndarray] = [np.empty(0)] * len(trials)
        order = sorted(range(len(trials)), key=lambda i: trials[i].responses.shape[1])
        limit, at = self.cfg.optim.batch_size * (self.width + self.history), 0
        with torch.no_grad():
            while at < len(order):
                stop = at + 1
                while stop < len(order) and (stop + 1 - at) * (
                        trials[order[stop]].responses.shape[1] + self.history) <= limit:
                    stop += 1
                some = order[at:stop]
                frames = trials[some[-1]].responses.shape[1]
                out = self.outputs(self.windows(trials, [(i, 0, frames) for i in some]))
                for i, rows in zip(some, out, strict=True):
                    own = rows[self.responses.units_of(trials[i].subject), :trials[i].responses.shape[1]]
                    found[i] = own.T.cpu().numpy()
                at = stop
        return found

    def valid_epoch(self, epoch: int) -> Metrics:
        """1 − mean r over units (0 where a prediction does not vary) as the loss; the training loss without trials."""
        trials = self.splits["valid"]
        if not trials:
            return {"loss": self._last_loss}
        predictions = self.predict(trials)
        if not all(np.isfinite(prediction).all() for prediction in predictions):
            return {"loss": float("nan")}
        moments = all_moments(self.responses, trials, predictions)
        r, measured = correlation(moments), moments[:, 0].sum(0)
        known = np.isfinite(r)
        if not known.any():
            raise ValueError("no unit was measured on the valid trials, or all are constant there: use other ratios or "
                             "another dset.split_assign_seed")
        score = float(r[known].mean())
        return {"loss": 1 - score, "r": score, "mse": float((moments[:, 6].sum(0)[known] / measured[known]).mean())}

    def test(self) -> Metrics:
        trials = self.splits["test"]
        if not trials:
            return {}
        predictions = self.predict(trials)
        if not distrib.is_master():
            return {}
        return report(self.responses, trials, predictions, self.folder, n_boot=self.cfg.test.n_boot,
                      seed=self.cfg.seed, save_predictions=self.cfg.encode.predictions)

    def _units(self) -> list[str]:
        """What each output is, for a checkpoint."""
        units = self.responses.units
        return [f"{self.responses.subjects[s]}/{name}" for s, name in zip(units["subject"], units["name"], strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best_state,
                "units": self._units()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["units"] != self._units():
            raise ValueError(f"the checkpoint has {len(state['units'])} units, the data {len(self._units())}, or "
                             "others: were recordings added? Start anew with --clear")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best"]
