"""A backward response function asked as a decoder is: which of the test segments of decoding was heard?"""
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bm.batch import Batch
from bm.data.assemble import assemble
from bm.data.loader import Finish, SegmentDataset
from bm.linear.reconstruct import centred
from bm.losses import ClipLoss
from bm.solvers.decode import DecodeSolver

if TYPE_CHECKING:
    from bm.solvers.trf import TrfSolver


class TrfSegments(DecodeSolver):
    """The test of `task.type=decode` with the same `dset`, for the functions that a `TrfSolver` has fitted.

    Segments, their ids, candidates, metrics and files are the decoder's, so that both stand in one table. A segment is
    reconstructed from its own window of its own recording (lags reach into zeros at its ends, responses are not
    averaged over repeats). Candidates are ranked by the decoder's score, of columns of features that are each centred
    and of norm 1: the sum of their correlations over the root of how many vary in the candidate (`identify`). A channel
    that is bad in the recording has its train mean. It is not trained by itself.

    Raises:
        ValueError: features that are classes, responses with an offset, or what `data.assemble` raises.
    """

    def __init__(self, solver: "TrfSolver") -> None:
        super().__init__(solver.cfg, solver.folder, solver.root, solver.link)
        self.trf, self.best_state = solver, {}
        # the audit that counts is that of the trials, of which these segments are parts
        self.data = assemble(self.cfg, self.root, tell_audit=False)
        if offset := self.cfg.encode.offset_ms:
            raise ValueError(f"trf.candidates=segments: lags are learned, encode.offset_ms={offset:g} has no use")
        classes = [feature.name for feature in self.data.spec.features if feature.n_classes]
        if classes:
            raise ValueError(f"trf.candidates=segments: {', '.join(classes)} has classes, which are not compared by "
                             "correlation: choose features that are vectors, or trf.candidates=pieces")
        self.scorer = ClipLoss().to(self.device).eval()
        self.places = [self._channels(recording) for recording in range(len(self.data.recordings))]

    @cached_property
    def finish(self) -> Finish:  # type: ignore[override]
        """Asked for the scale of noise alone (`analysis.controls`): responses have that of the trials."""
        return self.make_finish()

    def _subject(self, recording: int) -> int:
        """The number that `Responses` has for a recording's subject, -1 without trials."""
        name = self.data.spec.subjects[self.data.subjects[recording]]
        known = self.trf.responses.subjects
        return known.index(name) if name in known else -1

    def _channels(self, recording: int) -> np.ndarray:
        """The recording's column of each channel of its subject; -1 where it has none, or a bad one."""
        responses, subject = self.trf.responses, self._subject(recording)
        if subject < 0:
            return np.empty(0, int)
        table = self.data.prepared[recording].channels
        place = pd.Index(table["name"]).get_indexer(responses.units["name"].iloc[responses.units_of(subject)])
        return np.where((place >= 0) & ~table["bad"].to_numpy(bool)[place], place, -1)

    @cached_property
    def _levels(self) -> list[np.ndarray]:
        """Mean train response of the used channels of each subject."""
        trials = [[trial.mean() for trial in self.trf.splits["train"] if trial.subject == subject]
                  for subject in range(len(self.trf.used))]
        return [np.asarray(np.nanmean(np.concatenate(own)[:, used], 0, dtype=np.float64))
                for own, used in zip(trials, self.trf.used, strict=True)]

    def _response(self, brain: np.ndarray, recording: int) -> np.ndarray:
        """`(T, channels)` as the subject's function takes it, from a raw window `(C, T)`."""
        subject = self._subject(recording)
        used = self.trf.used[subject]
        place, (center, scale) = self.places[recording][used], self.trf.responses.scales[subject]
        x = (brain.T[:, place] - center[used]) / scale[used]
        return np.where((place >= 0) & np.isfinite(x), x, self._levels[subject])

    def reconstruct(self, raw: Batch) -> np.ndarray:
        """Features `(B, F, T)` of raw segments, standardised by the train stimuli."""
        assert raw.brain is not None
        brain = raw.brain.numpy().astype(np.float64)
        recordings = self.data.segments["recording"].to_numpy()[raw.segment.numpy()]  # whosever brain a control gives
        windows = [self._response(*pair) for pair in zip(brain, recordings, strict=True)]
        subjects = np.array([self._subject(recording) for recording in recordings])
        found = np.empty((len(brain), len(self.trf.columns), brain.shape[2]))
        for subject in np.unique(subjects):
            own = np.flatnonzero(subjects == subject)
            found[own] = np.stack(self.trf.models[""][subject].predict([windows[i] for i in own])).transpose(0, 2, 1)
        return found

    def estimates(self, ids: np.ndarray) -> Iterator[Tensor]:
        """Reconstructions of the test segments `ids`, each column centred and of norm 1, in order."""
        rng = np.random.default_rng(self.cfg.seed)
        for raw in self.test_batches(ids):
            found = self.reconstruct(raw)
            if self.cfg.test.wer_random:
                found = rng.standard_normal(found.shape)
            yield torch.from_numpy(centred(found)).float().to(self.device)

    def target_batches(self, ids: np.ndarray, dataset: SegmentDataset) -> Iterator[Tensor]:
        """The features of test segments in the same form, on the CPU."""
        size = self.cfg.optim.batch_size
        for start in range(0, len(ids), size):
            features = dataset.__getitems__(ids[start:start + size]).features
            rows = np.concatenate([features[feature.name].numpy() for feature in self.data.spec.features], axis=1)
            yield torch.from_numpy(centred(rows.astype(np.float64))).float()

    def use_best(self) -> Any:
        return nullcontext()
