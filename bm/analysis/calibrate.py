"""What minutes of a new person's data are worth: the weights of that person alone are fitted, and tested again."""
import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bm.analysis.unseen import people, place_subjects
from bm.analysis.xp import NotRestorable, StoredXP
from bm.data.audit import audit
from bm.data.loader import SegmentDataset
from bm.data.segments import segment_table
from bm.losses import ClipLoss
from bm.metrics.retrieval import Retrieval, retrieval
from bm.metrics.stats import bootstrap_interval
from bm.models.personal import personal_weights

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """How weights are fitted.

    Args:
        minutes: amounts of data, in the order in which they were recorded; 0 is the start.
        start: weights before: those of place_subjects, "average" or "nearest".
        epochs: at most; the state with the lowest loss on the last `held_out` share of the data is kept, which may be
            the start, so that more data do no harm but for the noise of that share.
        patience: epochs without a lower loss before it ends.
    """

    minutes: tuple[float, ...] = (0, 1, 2, 5)
    start: str = "average"
    epochs: int = 40
    patience: int = 5
    held_out: float = 0.2

    def __post_init__(self) -> None:
        if not self.minutes or min(self.minutes) < 0 or list(self.minutes) != sorted(set(self.minutes)):
            raise ValueError(f"minutes={list(self.minutes)}: expected numbers from 0 on, each larger than the last")
        if self.start not in ("average", "nearest"):
            raise ValueError(f"start={self.start}: expected average or nearest")


def calibrate(xp: StoredXP, how: Calibration, device: str = "auto") -> pd.DataFrame:
    """The curve of accuracy over minutes of each unseen test subject, and of all of them.

    Only what the model has for each subject (`personal_weights`) is fitted, with everything else as trained, on blocks
    of stimulus that no test segment is of. The test is the XP's own: all candidates, the segments of that subject.

    Returns:
        Rows by `subject` ("all" last, with the interval `low`, `high`), `minutes` asked for and `used` (there may be
        fewer), `segments` and `epochs` fitted, `topk`: `accuracy`, `n`, `n_candidates`, `chance`.

    Errors: NotRestorable; ValueError if nobody is unseen, the model treats all alike, or a subject has no data besides
    the test.
    """
    return curve(xp.restore(device), how)


def curve(solver: "DecodeSolver", how: Calibration) -> pd.DataFrame:
    """The same of a restored solver."""
    if any(feature.n_classes for feature in solver.data.spec.features):
        raise NotRestorable("it estimates classes, which are not compared with candidates")
    place_subjects(solver, how.start)
    assert solver.best_state is not None
    test = solver.data.segments[solver.data.segments["split"] == "test"]
    candidates = test.drop_duplicates("candidate")
    targets = solver.targets(candidates.index.to_numpy())
    rows, results = [], []
    for subject in people(solver.data)[1]:
        own = test[np.asarray(solver.data.subjects)[test["recording"]] == subject]
        data = CalibrationData(solver, int(subject))
        for minutes in how.minutes:
            solver.modules.load_state_dict(solver.best_state)
            fitted = fit(solver, data, minutes, how) if minutes else {"used": 0.0, "segments": 0, "epochs": 0}
            found = _test(solver, own, candidates, targets)
            name = solver.data.spec.subjects[subject]
            logger.info("%s, %g min: top-%d %.3f", name, minutes, found.ks[-1],
                        found.values[f"top{found.ks[-1]}"].mean())
            rows += [{"subject": name, "minutes": minutes, **fitted, "topk": k,
                      "accuracy": found.values[f"top{k}"].mean(), "low": np.nan, "high": np.nan, "n": len(own),
                      "n_candidates": found.n_candidates, "chance": found.chance(k)} for k in found.ks]
            results.append((minutes, found, own.assign(person=subject)))
    return pd.DataFrame(rows + _pooled(rows, results, solver.cfg.test.n_boot, solver.cfg.seed))


def _pooled(rows: list[dict[str, Any]], results: Sequence[tuple[float, Retrieval, pd.DataFrame]], n_boot: int,
            seed: int) -> list[dict[str, Any]]:
    """The rows of all subjects together."""
    out, table = [], pd.DataFrame(rows)
    for (minutes, k), own in table.groupby(["minutes", "topk"], sort=True):
        parts = [(found, who) for asked, found, who in results if asked == minutes]
        values = np.concatenate([found.values[f"top{k}"] for found, _ in parts])
        who = pd.concat([part for _, part in parts])
        row = {"subject": "all", "minutes": minutes, "used": own["used"].mean(), "segments": own["segments"].sum(),
               "epochs": own["epochs"].mean(), "topk": k, "accuracy": values.mean(), "low": np.nan, "high": np.nan,
               "n": len(values), "n_candidates": own["n_candidates"].iloc[0], "chance": own["chance"].iloc[0]}
        if who["block"].nunique() > 1:
            interval = bootstrap_interval(values, who["person"], who["block"], n_boot=n_boot, seed=seed)
            row |= {"low": interval.low, "high": interval.high}
        out.append(row)
    return out


class CalibrationData:
    """All segments of a subject outside of the test's blocks, as in training, by the time at which they end.

    Errors: ValueError if there is none; `LeakError` if it shares a second with the test.
    """

    def __init__(self, solver: "DecodeSolver", subject: int) -> None:
        data, rate = solver.data, round(solver.data.spec.sample_rate)
        mine = [r for r, other in enumerate(data.subjects) if other == subject]
        self.blocks = data.blocks[data.blocks["recording"].isin(mine) & (data.blocks["split"] != "test")].assign(
            split="train").sort_values(["recording", "start"], ignore_index=True)
        self.table = segment_table(data.events, self.blocks, [len(p.array) for p in data.prepared],
                                   {"train": data.windows["train"]}, rate, [r.name for r in data.recordings])
        name = data.spec.subjects[subject]
        if self.table.empty:
            raise ValueError(f"{name} has no segment outside of the test: nothing to calibrate on. A smaller "
                             "dset.test_ratio leaves some")
        both = pd.concat([self.table, data.segments[data.segments["split"] == "test"]], ignore_index=True)
        audit(both, data.subjects, data.events).check()
        length = (self.blocks["stop"] - self.blocks["start"]).to_numpy()
        before = np.cumsum(length) - length
        number = self._block_of()
        #: minutes of recording, test left out, after which each segment is known
        self.known = (before[number] + self.table["stop"].to_numpy() - self.blocks["start"].to_numpy()[number]) / 60
        self.block, self.minutes = number, float(length.sum() / 60)
        self.dataset = SegmentDataset([p.array for p in data.prepared], data.montages, self.table,
                                      data.windows["train"].samples(rate), data.subjects, data.banks, data.words)

    def _block_of(self) -> np.ndarray:
        out = np.zeros(len(self.table), dtype=int)
        for recording, own in self.blocks.groupby("recording"):
            at = (self.table["recording"] == recording).to_numpy()
            middle = (self.table["start"] + self.table["stop"]).to_numpy()[at] / 2
            out[at] = own.index.to_numpy()[np.searchsorted(own["start"].to_numpy(), middle, side="right") - 1]
        return out

    def split(self, minutes: float, held_out: float) -> tuple[np.ndarray, np.ndarray]:
        """Ids to fit on, and those in the last blocks, about `held_out` of all, that tell when to stop.

        Errors: ValueError if they are not in two blocks at least.
        """
        ids = np.flatnonzero(self.known <= minutes)
        blocks = np.unique(self.block[ids])
        if len(blocks) < 2:
            raise ValueError(f"{minutes:g} minutes have {len(ids)} segments in {len(blocks)} blocks: at least two "
                             "blocks are needed, one to learn from and one to know when to stop")
        late = blocks[-max(1, round(held_out * len(blocks))):]
        last = np.isin(self.block[ids], late)
        return ids[~last], ids[last]


def fit(solver: "DecodeSolver", data: CalibrationData, minutes: float, how: Calibration) -> dict[str, Any]:
    """Fits the personal weights in place. Returns `used` minutes, `segments` and `epochs` of the state that is kept."""
    train, valid = data.split(minutes, how.held_out)
    parameters = dict(solver.modules.named_parameters())
    names = personal_weights(solver.modules)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    optimizer = torch.optim.Adam([parameters[name] for name in names], lr=solver.cfg.optim.lr,
                                 betas=(0.9, solver.cfg.optim.beta2))
    solver.modules.eval()  # statistics of batches stay those of training
    best, kept, epoch = _valid_loss(solver, data, valid), 0, 0
    state = copy.deepcopy(solver.modules.state_dict())
    while epoch < min(how.epochs, kept + how.patience):
        epoch += 1
        order = np.random.default_rng([solver.cfg.seed, epoch]).permutation(train)
        for loss, _ in _losses(solver, data, order):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_now = _valid_loss(solver, data, valid)
        if loss_now < best:
            best, kept, state = loss_now, epoch, copy.deepcopy(solver.modules.state_dict())
    solver.modules.load_state_dict(state)
    return {"used": min(minutes, data.minutes), "segments": len(train) + len(valid), "epochs": kept}


def _losses(solver: "DecodeSolver", data: CalibrationData, ids: np.ndarray) -> Iterator[tuple[Tensor, int]]:
    """The XP's loss of successive batches, and their sizes; one of a single segment is left out."""
    heard = torch.tensor(data.table["candidate"].to_numpy(np.int64))
    for start in range(0, len(ids), solver.cfg.optim.batch_size):
        estimate, target, mask, batch = solver.process(
            data.dataset.__getitems__(ids[start:start + solver.cfg.optim.batch_size]))
        if len(batch) < 2:
            continue
        if isinstance(solver.loss, ClipLoss):
            yield solver.loss(estimate, target, candidate_ids=heard[batch.segment.cpu()].to(target.device)), len(batch)
        else:
            yield solver.loss(estimate, target, mask), len(batch)


def _valid_loss(solver: "DecodeSolver", data: CalibrationData, ids: np.ndarray) -> float:
    with torch.no_grad():
        losses = [(float(loss), size) for loss, size in _losses(solver, data, ids)]
    return sum(loss * size for loss, size in losses) / sum(size for _, size in losses) if losses else np.inf


def _test(solver: "DecodeSolver", own: pd.DataFrame, candidates: pd.DataFrame, targets: Tensor) -> Retrieval:
    solver.scorer.eval()
    ids = own.index.to_numpy()
    return retrieval(solver.estimates(ids), targets, candidates["candidate"].to_numpy(), own["candidate"].to_numpy(),
                     segment=ids, ks=solver.cfg.test.topk, loss=solver.scorer, device=solver.device)
