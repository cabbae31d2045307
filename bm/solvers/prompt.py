"""Encoding with a prompt: the brain from the sound and its own first moments (in the code of Défossez et al. 2023)."""
import logging

import julius
import numpy as np
import torch
from torch import Tensor

from bm import distrib
from bm.batch import Batch
from bm.metrics.correlation import Correlation
from bm.solvers.base import Metrics
from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)


class PromptSolver(DecodeSolver):
    """Predicts each segment's brain from its features and its first `task.meg_init` seconds of brain.

    Model (`simpleconv` or `convrnn` with a branch for each) and loss are those of a decoder with the roles exchanged;
    the prompt itself is not scored, nor are channels that a recording lacks. Tested by `corr_meg`: the correlation over
    a recording's segments of each channel and time from the trigger on, averaged over channels, times and recordings;
    one of less than two segments has none. `corr_meg_prompt` is what the same model reaches when it hears nothing: the
    part of it that is the brain continuing itself.
    """

    @property
    def prompt(self) -> int:
        """Samples of the brain that the model is given."""
        return int(self.cfg.task.meg_init * self.data.spec.sample_rate)

    def process(self, raw: Batch) -> tuple[Tensor, Tensor, Tensor, Batch]:
        """`(estimate, target, mask)`, all `(B, C, T − prompt)`, and the batch, of the segments that are kept."""
        batch = self.kept(self.finish(raw.to(self.device)))
        mask = batch.channel_mask[:, :, None] & (batch.masks["word"][:, None] | (not self.cfg.task.mask_loss))
        n0 = self.prompt
        return self.estimate(batch)[..., n0:], self.target(batch)[..., n0:], mask[..., n0:], batch

    def kept(self, batch: Batch) -> Batch:
        """The segments whose brain is not out of range."""
        assert batch.brain is not None
        keep = batch.brain.abs().amax((1, 2)) <= self.cfg.norm.max_scale
        if self.cfg.norm.exclude_empty_features:
            keep &= batch.masks["word"].any(1)
        return batch if bool(keep.all()) else batch[keep]

    def estimate(self, batch: Batch) -> Tensor:
        """The brain `(B, C, T)` as the model continues the prompt."""
        assert batch.brain is not None
        brain = torch.zeros_like(batch.brain)
        # filtered by itself: in the paper's code a filter brings a little of what follows into it
        brain[..., :self.prompt] = self._lowpass(batch.brain[..., :self.prompt])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.optim.amp):
            return self.forward(batch.replace(brain=brain)).float()

    def target(self, batch: Batch) -> Tensor:
        """The brain `(B, C, T)`, filtered as the input in training (`task.lowpass_gt`) or also in tests."""
        assert batch.brain is not None
        task = self.cfg.task
        filtered = task.lowpass_gt_test or (task.lowpass_gt and self.modules.training)
        return self._lowpass(batch.brain) if filtered else batch.brain

    def _lowpass(self, brain: Tensor) -> Tensor:
        cutoff = self.cfg.task.lowpass / self.data.spec.sample_rate
        return julius.lowpass_filter(brain, cutoff, zeros=5) if cutoff and brain.shape[-1] else brain

    def test(self) -> Metrics:
        heard, silent = (self.correlations(hears) for hears in (True, False))
        return {"corr_meg": heard[0], "corr_meg_prompt": silent[0], "n_recordings": heard[1],
                "n": len(self.test_ids())}

    def correlations(self, hears: bool) -> tuple[float, int]:
        """Mean correlation over channels, times and recordings, and the number of these; `hears`: the features are
        theirs, not 0."""
        self.modules.eval()
        found: dict[int, Correlation] = {}
        skip = max(0, int((-self.cfg.dset.tmin - self.cfg.task.meg_init) * self.data.spec.sample_rate))
        own = self.test_ids()[distrib.rank()::distrib.world_size()]
        with torch.no_grad():
            for raw in self.test_batches(own):
                batch = self.kept(self.finish(raw.to(self.device)))
                if not hears:
                    batch = batch.replace(features={name: torch.zeros_like(x) for name, x in batch.features.items()})
                first = self.prompt + skip
                estimate, target = self.estimate(batch)[..., first:], self.target(batch)[..., first:]
                for recording in batch.recording.unique().tolist():
                    some = batch.recording == recording
                    found.setdefault(recording, Correlation(over=(0,))).update(estimate[some], target[some])
        merged: dict[int, Correlation] = {}
        for part in distrib.gather_objects(found):
            for recording, correlation in part.items():
                if recording in merged:
                    merged[recording].merge(correlation)
                else:
                    merged[recording] = correlation
        valid = self.data.montages.valid
        r = [correlation.pearson().cpu().numpy()[valid[recording]].mean() for recording, correlation
             in sorted(merged.items()) if correlation.count.max() > 1]
        if len(r) < len(merged):
            logger.warning("%d of %d recordings have a single test segment: left out", len(merged) - len(r),
                           len(merged))
        return float(np.mean(r)) if r else float("nan"), len(r)
