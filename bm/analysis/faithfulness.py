"""Is what a model attends to what it uses? Deleting the most attended tokens must hurt more than random ones.

As in Samek et al. 2017 (doi:10.1109/TNNLS.2016.2599820) and Abnar & Zuidema 2020: tokens are taken away in the order of
their attention, and accuracy and the probability of the true class are followed.
"""
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bm.batch import Batch
from bm.metrics.stats import bootstrap_interval

logger = logging.getLogger(__name__)

MOST, RANDOM, LEAST = "most attended first", "random", "least attended first"
ORDERS = (MOST, RANDOM, LEAST)
SHARES = tuple(np.linspace(0, 1, 11).round(3).tolist())


@dataclass(frozen=True)
class Deletion:
    """Order → `(P, N)`: the probability of the true class, and whether it is the likeliest, of N segments with each of
    P shares of their tokens deleted (random: means over draws)."""

    shares: np.ndarray
    probability: dict[str, np.ndarray]
    correct: dict[str, np.ndarray]

    def area(self, metric: str, order: str = MOST) -> np.ndarray:
        """`(N,)` area between the curves of random deletion and of `order`; positive: `order` hurts more."""
        values = getattr(self, metric)
        return np.trapezoid(values[RANDOM] - values[order], self.shares, axis=0)


def delete(brain: Tensor, gone: Tensor, mean: Tensor, length: int) -> Tensor:
    """Segments with some tokens replaced by their mean over segments.

    Shape: brain `(B, C, T)`, gone `(B, C, K)` bool, mean `(C, T)` → `(B, C, T)`; a token is `length` samples, and what
    comes after the last one stays.
    """
    covered = gone.repeat_interleave(length, 2)
    spare = brain.shape[2] - covered.shape[2]
    return torch.where(torch.nn.functional.pad(covered, (0, spare)), mean, brain)


def ranks(attention: Tensor, order: str, generator: torch.Generator) -> Tensor:
    """The place of each token in the order of deletion, 0 first; ignored ones (NaN) come last.

    Shape: `(B, C, K)` → the same, int64.
    """
    flat = attention.flatten(1)
    key = {MOST: -flat, LEAST: flat, RANDOM: torch.rand(flat.shape, generator=generator)}[order]
    key = torch.where(flat.isnan(), torch.inf, key)
    return key.argsort(dim=1, stable=True).argsort(1).view(attention.shape)


def deletion_curves(predict: Callable[[Batch], Tensor], make_batches: Callable[[], Iterator[Batch]], attention: Tensor,
                    length: int, shares: Sequence[float] = SHARES, draws: int = 3, seed: int = 0) -> Deletion:
    """Curves of deletion; two passes over the batches.

    Args:
        predict: batch → logits `(B, classes)`; the model must be in evaluation mode.
        make_batches: gives finished batches with `target`, the same ones at each call.
        attention: of each token, of all segments in the order of the batches; NaN: ignored by the model.
        length: samples of a token.
        draws: random orders, averaged.

    Shape: attention `(N, C, K)`.
    Errors: ValueError for no batch, another number of segments, or shares that do not rise from 0 to 1.
    """
    if list(shares) != sorted(set(shares)) or shares[0] != 0 or shares[-1] != 1:
        raise ValueError(f"shares={list(shares)}: expected numbers that rise from 0 to 1")
    n_seen, total = 0, None
    for batch in make_batches():
        assert batch.brain is not None
        n_seen, total = n_seen + len(batch), batch.brain.double().sum(0) + (0 if total is None else total)
    if total is None or n_seen != len(attention):
        raise ValueError(f"{n_seen} segments in the batches, attention of {len(attention)}")
    mean = (total / n_seen).float()
    generator = torch.Generator().manual_seed(seed)
    out = {name: {order: np.zeros((len(shares), n_seen)) for order in ORDERS} for name in ("probability", "correct")}
    first = 0
    with torch.no_grad():
        for batch in make_batches():
            own = slice(first, first + len(batch))
            first += len(batch)
            for order in ORDERS:
                repeats = draws if order == RANDOM else 1
                for _ in range(repeats):
                    place = ranks(attention[own], order, generator)
                    tokens = int((~attention[own][0].isnan()).sum())
                    for i, share in enumerate(shares):
                        p, hit = _score(predict, batch, place < round(share * tokens), mean, length)
                        out["probability"][order][i, own] += p / repeats
                        out["correct"][order][i, own] += hit / repeats
    return Deletion(np.array(shares), out["probability"], out["correct"])


def _score(predict: Callable[[Batch], Tensor], batch: Batch, gone: Tensor, mean: Tensor, length: int
           ) -> tuple[np.ndarray, np.ndarray]:
    assert batch.brain is not None and batch.target is not None
    logits = predict(batch.replace(brain=delete(batch.brain, gone.to(batch.brain.device), mean, length)))
    p = logits.softmax(1).gather(1, batch.target[:, None])[:, 0]
    return p.double().cpu().numpy(), (logits.argmax(1) == batch.target).double().cpu().numpy()


def pool_deletions(parts: Sequence[Deletion]) -> Deletion:
    """Those of several sets of segments, one after the other. Errors: ValueError for other shares."""
    if any(not np.array_equal(part.shares, parts[0].shares) for part in parts):
        raise ValueError("curves of deletion with other shares cannot be pooled")
    joined = [{order: np.concatenate([getattr(part, name)[order] for part in parts], 1) for order in ORDERS}
              for name in ("probability", "correct")]
    return Deletion(parts[0].shares, *joined)


@dataclass(frozen=True)
class Verdict:
    """The mean area between random and most-attended-first, with its 95 % interval (NaN: nothing to draw from)."""

    area: float
    low: float
    high: float
    n: int
    n_subjects: int

    def __str__(self) -> str:
        numbers = f"area {self.area:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {self.n} segments of " \
                  f"{self.n_subjects} subject{'s' if self.n_subjects > 1 else ''}"
        if self.low > 0:
            return f"Deleting the most attended tokens hurts more than deleting random ones ({numbers})"
        if self.high < 0:
            return f"Deleting the most attended tokens hurts LESS than deleting random ones ({numbers})"
        return f"NOT shown that deleting the most attended tokens hurts more than random ones ({numbers})"


def verdict(deletion: Deletion, subject: Sequence[str], block: Sequence[str], metric: str = "probability",
            n_boot: int = 2000, seed: int = 0) -> Verdict:
    """Whether attention is faithful: bootstrap over subjects, or of few subjects over subjects and blocks both."""
    area = deletion.area(metric)
    n_subjects, low, high = len(set(subject)), float("nan"), float("nan")
    if len(set(block)) > 1:
        interval = bootstrap_interval(area, list(subject), list(block), n_boot=n_boot, seed=seed)
        low, high = interval.low, interval.high
    else:
        logger.warning("one block alone: no interval of the area between the curves of deletion")
    return Verdict(float(area.mean()), low, high, len(area), n_subjects)


def curve_table(deletion: Deletion) -> pd.DataFrame:
    """A row per order and share: `accuracy` and `probability`, means over segments."""
    return pd.concat([pd.DataFrame({"order": order, "share": deletion.shares,
                                    "accuracy": deletion.correct[order].mean(1),
                                    "probability": deletion.probability[order].mean(1)}) for order in ORDERS],
                     ignore_index=True)


def save_deletion(deletion: Deletion, found: Verdict, folder: Path) -> None:
    """Writes deletion.csv (`curve_table`) and deletion.json (the verdict) into a folder."""
    curve_table(deletion).to_csv(folder / "deletion.csv", index=False)
    (folder / "deletion.json").write_text(json.dumps({**asdict(found), "verdict": str(found)}, indent=1))


def load_deletion(folder: Path) -> tuple[Deletion, Verdict]:
    """What `save_deletion` wrote: the curves are means over segments, as of a single one (N = 1)."""
    table = pd.read_csv(folder / "deletion.csv").groupby("order")
    curves = [{order: table.get_group(order)[name].to_numpy()[:, None] for order in ORDERS}
              for name in ("probability", "accuracy")]
    known = json.loads((folder / "deletion.json").read_text())
    known.pop("verdict")
    return Deletion(table.get_group(MOST)["share"].to_numpy(), *curves), Verdict(**known)
