"""A restored decoder that is asked again about a sample of its test, with something of the brain taken away."""
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bm.analysis.xp import NotRestorable
from bm.batch import Batch
from bm.losses import ClipLoss
from bm.metrics.retrieval import Retrieval, retrieval

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

#: what is done to the finished brain `(B, C, T)` of a batch
Change = Callable[[Batch], Batch]


class Rerun:
    """Test segments of the best state, ready for the network: read, scaled and held once, asked as often as needed.

    Args:
        solver: restored; its weights become those of the best state.
        n_segments: at most so many, drawn with the XP's seed; None: all. They take 4 · C · T bytes each.

    Attributes: `rows`, the segments' rows of the table with `subject_uid`; `brain (N, C, T)`.
    """

    def __init__(self, solver: "DecodeSolver", n_segments: int | None = 1000) -> None:
        if solver.best_state is None:
            raise ValueError("no epoch is done yet, so there is no best state")
        if any(feature.n_classes for feature in solver.data.spec.features):
            raise NotRestorable("it estimates classes, which are not compared with candidates")
        solver.modules.load_state_dict(solver.best_state)
        solver.modules.eval()
        data, ids = solver.data, solver.data.ids("test")
        candidates = data.segments.iloc[ids].drop_duplicates("candidate")
        if n_segments is not None and n_segments < len(ids):
            ids = np.sort(np.random.default_rng(solver.cfg.seed).choice(ids, n_segments, replace=False))
        names = np.asarray(data.spec.subjects)[np.asarray(data.subjects)[data.segments["recording"].iloc[ids]]]
        self.solver, self.rows = solver, data.segments.iloc[ids].assign(subject_uid=names)
        self.candidates = candidates["candidate"].to_numpy()
        self.targets = solver.targets(candidates.index.to_numpy())
        with torch.no_grad():
            self.batches = [solver.finish(raw.to(solver.device)).replace(features={})
                            for raw in solver.test_batches(ids)]
        self.brain = torch.cat([batch.brain for batch in self.batches if batch.brain is not None])

    def ask(self, change: Change | None = None, window: tuple[float, float] | None = None) -> Retrieval:
        """Retrieval of the segments among all candidates of the test.

        Args:
            change: of the finished brain. Called with batches whose `segment` is the place in `rows`.
            window: s from the trigger; estimates and candidates are compared there only.
        """
        scorer = copy.copy(self.solver.scorer).eval()
        if window is not None:
            assert isinstance(scorer, ClipLoss)
            scorer.window, scorer.segment_tmin = window, self.solver.cfg.dset.test_window[0]
        own = self.rows["candidate"].to_numpy()
        return retrieval(self._estimates(change), self.targets, self.candidates, own, segment=np.arange(len(own)),
                         ks=self.solver.cfg.test.topk, loss=scorer, device=self.solver.device)

    def _estimates(self, change: Change | None) -> Iterator[Tensor]:
        done = 0
        with torch.no_grad():
            for batch in self.batches:
                batch = batch.replace(segment=torch.arange(done, done + len(batch)))
                done += len(batch)
                yield self.solver.estimate(change(batch) if change else batch)

    def accuracy(self, found: Retrieval, k: int) -> pd.Series:
        """Top-k credit of each segment, by the index of `rows`."""
        return pd.Series(found.values[f"top{k}"], self.rows.index)
