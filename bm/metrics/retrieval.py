"""Retrieval: at which rank does each estimate find its own segment among the candidates?

The unit of every result is the sample: `Retrieval.values` has one number per estimate, by segment id, so that results
of several processes are merged and means, intervals and tests are computed once, on all samples.
"""
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import digamma, gammaln
from torch import Tensor

from bm.losses import ClipLoss, candidate_gain

Array = np.ndarray | Tensor
Estimates = Array | Iterable[Array]

# Scores are computed on blocks of a multiple of this number of rows, the last one filled with zeros: in practice a
# matrix product then rounds a row the same way whatever its neighbours, which it does not for odd shapes.
ROWS = 128

# Scores closer than this, in units of the estimate's norm times the precision of its type, are tied. The scores of
# equal candidates in different blocks were seen to differ by 0.8 of these units (120 × 343 values, float32).
TIE = 8.0


@dataclass
class Retrieval:
    """Results per estimate, and the candidates they were compared with.

    Args:
        segment: `(N,)` ids of the estimates.
        values: name → `(N,)` float64. `rank` (1 is best; expected under random order of ties), `reciprocal` (expected
            1/rank), `top{k}` (probability to be among the k best), `failed` (1 where the estimate had NaN or infinite
            values: it then has the last rank and no credit); with words, `word_top{k}` (probability that a candidate
            with the right word is among the k best), `vocab_top{k}` (same for words ranked by the sum of their
            candidates' probabilities) and `word_probability` (that sum).
        own, best: `(N,)` the candidate of each estimate and `(N, K)` its K = max(ks) best ones, best first, as places
            among the sorted ids; −1 throughout `best` where failed. All that chance levels need (`stats.py`).
        n_candidates: number of distinct candidates V.
        description: what the candidates are, for a report.
    """

    segment: np.ndarray
    values: dict[str, np.ndarray]
    own: np.ndarray
    best: np.ndarray
    n_candidates: int
    description: str = ""
    ks: tuple[int, ...] = field(default=(1, 5, 10))

    @classmethod
    def merge(cls, parts: Sequence["Retrieval"]) -> "Retrieval":
        """All parts as one, sorted by segment id; a segment that several parts have counts once.

        Errors: ValueError if the parts have other candidates.
        """
        if not parts:
            raise ValueError("no results to merge")
        if len({(part.n_candidates, part.description, part.ks, tuple(part.values)) for part in parts}) > 1:
            raise ValueError("these results are about different candidates: "
                             + "; ".join(f"{part.n_candidates} {part.description}" for part in parts))
        segment, first = np.unique(np.concatenate([part.segment for part in parts]), return_index=True)
        values = {name: np.concatenate([part.values[name] for part in parts])[first] for name in parts[0].values}
        own, best = (np.concatenate([getattr(part, name) for part in parts])[first] for name in ("own", "best"))
        return cls(segment, values, own, best, parts[0].n_candidates, parts[0].description, parts[0].ks)

    def chance(self, k: int) -> float:
        """Top-k accuracy of a guess: k / V."""
        return min(k / self.n_candidates, 1.0)

    def summary(self) -> dict[str, Any]:
        """Means over estimates, with N, V and chance. `wer` and `wer_vocab` are 1 minus the word accuracies."""
        out: dict[str, Any] = {"n": len(self.segment), "n_candidates": self.n_candidates,
                               "n_nan": int(self.values["failed"].sum()), "description": self.description}
        for name, values in self.values.items():
            if name.startswith("top"):
                out[name] = float(values.mean())
                out[f"{name}_chance"] = self.chance(int(name[3:]))
            elif name.startswith(("word_top", "vocab_top")):
                out["wer" if name.startswith("word") else "wer_vocab"] = 1 - float(values.mean())
        out["mrr"] = float(self.values["reciprocal"].mean())
        out["median_rank"] = float(np.median(self.values["rank"]))
        if "word_probability" in self.values:
            out["soft_wer"] = 1 - float(self.values["word_probability"].mean())
        return out


def top_credit(greater: np.ndarray, ties: np.ndarray, k: int, members: np.ndarray | int = 1) -> np.ndarray:
    """Probability to be among the k best when `greater` others are better and ties are in random order.

    Args:
        greater: number of strictly better candidates.
        ties: number of candidates at the same score, itself included.
        members: how many of the tied are right; one of them is enough.

    Shape: all `(N,)`. With one right candidate this is clip((k − greater) / ties, 0, 1).

    >>> top_credit(np.array([0, 4, 10]), np.array([1, 4, 1]), k=5)
    array([1.  , 0.25, 0.  ])
    """
    greater, ties, members = np.broadcast_arrays(greater, ties, members)
    places = np.clip(k - greater, 0, ties).astype(float)
    wrong = (ties - members).astype(float)
    # Hypergeometric: the places left are filled without a right one in C(wrong, places) / C(ties, places) cases.
    possible = places <= wrong
    left = np.where(possible, wrong - places, 0.0)
    log_miss = gammaln(wrong + 1) - gammaln(left + 1) - gammaln(ties + 1.0) + gammaln(ties - places + 1)
    credit = np.where(possible, 1 - np.exp(log_miss), 1.0)
    return np.where(members == 1, places / ties, credit)


def unique_candidates(ids: Array) -> tuple[np.ndarray, np.ndarray]:
    """Distinct ids in order of first appearance `(V,)`, and where each appears first `(V,)`."""
    unique, first = np.unique(np.asarray(ids), return_index=True)
    order = np.argsort(first)
    return unique[order], first[order]


def locate(true_ids: Array, candidate_ids: np.ndarray) -> np.ndarray:
    """Index `(N,)` of each id among distinct candidates. Errors: KeyError for ids that are no candidate."""
    true = np.asarray(true_ids)
    order = np.argsort(candidate_ids)
    position = order[np.searchsorted(candidate_ids, true, sorter=order).clip(max=len(order) - 1)]
    missing = candidate_ids[position] != true
    if missing.any():
        raise KeyError(f"{missing.sum()} of {len(true)} estimates have their own segment not among the candidates, "
                       f"e.g. id {true[missing][0]}")
    return position


def _tensor(x: Array, device: torch.device | str) -> Tensor:
    if not isinstance(x, Tensor):
        # torch warns about read-only memory, which a memmap often is.
        x = torch.from_numpy(x if x.flags.writeable else x.copy())
    return x.detach().to(device, torch.promote_types(x.dtype, torch.float32))


def _batches(estimates: Estimates, rows: int) -> Iterable[Array]:
    if isinstance(estimates, (np.ndarray, Tensor)):
        return (estimates[i:i + rows] for i in range(0, len(estimates), rows))
    return estimates


def _row_blocks(estimates: Estimates, rows: int, loss: ClipLoss, device: torch.device | str
                ) -> Iterator[tuple[Tensor, int]]:
    """Estimates as blocks `(rows', K)` with their number of true rows; rows' is a multiple of ROWS up to `rows`."""
    pending: list[Tensor] = []
    count = 0
    for batch in _batches(estimates, rows):
        embedded = loss.embed_estimates(_tensor(batch, device))
        while len(embedded):
            pending.append(embedded[:rows - count])
            count += len(pending[-1])
            embedded = embedded[len(pending[-1]):]
            if count == rows:
                yield _join(pending), rows
                pending, count = [], 0
    if count:
        last = _join(pending)
        whole = count // ROWS * ROWS
        if whole:
            yield last[:whole], whole
        if count - whole:  # only the odd rows are copied
            fill = last.new_zeros(whole + ROWS - count, last.shape[1])
            yield torch.cat([last[whole:], fill]), count - whole


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def score_blocks(estimates: Estimates, candidates: Array, index: np.ndarray | None = None, *,
                 loss: ClipLoss | None = None, max_bytes: int = 2 ** 30, device: torch.device | str | None = None
                 ) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the scores `(n, V)` of successive blocks of estimates, in about `max_bytes` of memory.

    With them comes the difference `(n, 1)` under which two scores of an estimate are tied (see `TIE`).

    Args:
        estimates: `(N, F, T)`, or an iterable of batches `(b, F, T)`; memory-mapped arrays are read block by block.
        candidates: `(M, F, T)`, also possibly memory-mapped.
        index: the V rows of candidates to use, all if not given.
        loss: gives the scores (its projection, window, pooling); a plain `ClipLoss` if not given.
        max_bytes: of blocks of estimates, candidates and scores. At least `ROWS` of each are held.
        device: where to compute, by default that of the candidates.

    Errors: ValueError if a candidate has NaN or infinite values, or if the loss is in training mode.
    """
    loss = ClipLoss().eval() if loss is None else loss
    if loss.training:
        raise ValueError("the loss is in training mode: call loss.eval() before computing metrics")
    if device is None:
        device = candidates.device if isinstance(candidates, Tensor) else "cpu"
    index = np.arange(len(candidates)) if index is None else index
    if not len(index):
        raise ValueError("there are no candidates")
    in_order = bool((np.diff(index) == 1).all())  # a plain slice: nothing to copy
    item = candidates.dtype.itemsize * int(np.prod(candidates.shape[1:]))
    columns = _round(max_bytes // 2 // item, len(index))
    rows = _round(max_bytes // 2 // (item + 40 * len(index)), 2 ** 20)  # 40 bytes a score, for what is made of them
    # The odd columns at the end are a block of their own, filled up to 64: see ROWS.
    whole = len(index) // 64 * 64
    spans = [(start, min(start + columns, whole)) for start in range(0, whole, columns)]
    spans += [(whole, len(index))] if whole < len(index) else []

    def block(start: int, stop: int) -> Tensor:
        chosen = index[start:stop]
        part = candidates[chosen[0]:chosen[-1] + 1] if in_order else candidates[chosen]
        embedded = loss.embed_candidates(_tensor(part, device))
        if len(chosen) % 64:
            embedded = torch.cat([embedded, embedded.new_zeros(-len(chosen) % 64, embedded.shape[1])])
        return embedded

    with torch.no_grad():
        held = [block(*span) for span in spans] if item * len(index) <= max_bytes // 2 else None
        gains: dict[int, Tensor] = {}
        for x, count in _row_blocks(estimates, rows, loss, device):
            parts = []
            for number, span in enumerate(spans):
                y = held[number] if held else block(*span)
                if number not in gains:
                    gains[number] = _checked_gain(y, span)
                gain = gains[number]
                parts.append((x.to(y.dtype) @ y.t())[:count, :len(gain)] * gain)
            norm = torch.linalg.vector_norm(x[:count], dim=1, keepdim=True)
            scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            yield scores, norm.to(scores.dtype) * (TIE * torch.finfo(x.dtype).eps)


def _checked_gain(rows: Tensor, span: tuple[int, int]) -> Tensor:
    gain = candidate_gain(rows[:span[1] - span[0]])
    if not (gain.isfinite() & (gain > 0)).all():
        raise ValueError(f"some of candidates {span[0]} to {span[1] - 1} have NaN or infinite values")
    return gain


def _round(number: int, limit: int) -> int:
    """A multiple of ROWS near `number`, at least one of them and not much over `limit`."""
    return max(min(number // ROWS, -(-limit // ROWS)), 1) * ROWS


def retrieval(estimates: Estimates, candidates: Array, candidate_ids: Array, true_ids: Array, *,
              segment: Array | None = None, ks: Sequence[int] = (1, 5, 10), loss: ClipLoss | None = None,
              candidate_words: Array | None = None, word_k: int = 10, negatives: int | None = None, seed: int = 0,
              max_bytes: int = 2 ** 30, device: torch.device | str | None = None, description: str = "") -> Retrieval:
    """Ranks the own segment of each estimate among all distinct candidates.

    Two scores are tied when they are equal to within rounding (`TIE`). An estimate tied with others gets the expected
    value of each metric under random order of the tied. An estimate with NaN or infinite values counts as a failure at
    the last rank. The result does not depend on the batches in which estimates come, nor on their order: it is sorted
    by segment.

    Args:
        estimates: `(N, F, T)` array, memmap or tensor, or an iterable of batches.
        candidates: `(M, F, T)`, e.g. the target of each estimate: ids that appear several times are one candidate,
            the first one.
        candidate_ids: `(M,)` ints. true_ids: `(N,)`, the id of each estimate's own segment.
        segment: `(N,)` distinct ids of the estimates, by default their index.
        ks: numbers of best candidates in which to be found.
        candidate_words: `(M,)` ints, the word of each candidate; adds the word metrics at `word_k`, among at most
            `negatives` candidates drawn with `seed`, the same for all estimates; an estimate whose own segment was not
            drawn has it in place of the last one.
        loss, max_bytes, device: see `score_blocks`.
        description: what the candidates are.

    Errors: ValueError if numbers do not match or a candidate is not finite; KeyError if an own segment is missing.
    """
    ids, index = unique_candidates(candidate_ids)
    true = locate(true_ids, ids)
    if len(np.asarray(candidate_ids)) != len(candidates):
        raise ValueError(f"{len(candidates)} candidates have {len(np.asarray(candidate_ids))} ids")
    if any(k < 1 for k in (*ks, word_k)):
        raise ValueError(f"numbers of best candidates must be positive, got ks={tuple(ks)}, word_k={word_k}")
    words = None
    if candidate_words is not None:
        words = _Words(np.asarray(candidate_words)[index], ids, word_k, negatives, seed)
    place = np.argsort(np.argsort(ids))
    parts: list[dict[str, np.ndarray]] = []
    best: list[np.ndarray] = []
    done = 0
    blocks = score_blocks(estimates, candidates, index, loss=loss, max_bytes=max_bytes, device=device)
    for scores, tie in blocks:
        own = torch.as_tensor(true[done:done + len(scores)], device=scores.device)
        done += len(scores)
        if done > len(true):
            break
        failed = ~scores.isfinite().all(dim=1)
        score = scores.gather(1, own[:, None])
        greater, not_less = (scores > score + tie).sum(dim=1), (scores >= score - tie).sum(dim=1)
        values = rank_values(greater.cpu().numpy(), (not_less - greater).cpu().numpy(), failed.cpu().numpy(), len(ids),
                             ks)
        top = scores.topk(min(max(ks), len(ids)), dim=1).indices.cpu().numpy()
        best.append(np.where(failed.cpu().numpy()[:, None], -1, place[top]))
        if words is not None:
            values |= words.values(scores, tie, own, failed)
        parts.append(values)
    if done != len(true):
        raise ValueError(f"{len(true)} own segments were given for {'more' if done > len(true) else done} estimates")
    if not parts:
        raise ValueError("there are no estimates")
    names = np.arange(done) if segment is None else np.asarray(segment)
    if len(np.unique(names)) != done:
        raise ValueError(f"segment must be {done} distinct ids, got {len(np.unique(names))} out of {len(names)}")
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Retrieval.merge([Retrieval(names, merged, place[true], np.concatenate(best), len(ids), description,
                                      tuple(ks))])


def rank_values(greater: np.ndarray, ties: np.ndarray, failed: np.ndarray, total: int, ks: Sequence[int]
                ) -> dict[str, np.ndarray]:
    """`failed`, `rank`, `reciprocal` and `top{k}` of each estimate (see `Retrieval`).

    Args:
        greater, ties: number of better candidates, and of those at the same score, itself included.
        failed: where it is true the estimate has the last rank and no credit.
        total: number of candidates.

    Shape: `(N,)`.
    """
    g = np.where(failed, total - 1, greater).astype(float)
    t = np.where(failed, 1, ties).astype(float)
    out = {"failed": failed.astype(float), "rank": g + (t + 1) / 2,
           # The mean of 1/r for r from g + 1 to g + t, a difference of harmonic numbers.
           "reciprocal": (digamma(g + t + 1) - digamma(g + 1)) / t}
    return out | {f"top{k}": np.where(failed, 0.0, top_credit(g, t, k)) for k in ks}


class _Words:
    """Word-level metrics of blocks of scores."""

    def __init__(self, words: np.ndarray, ids: np.ndarray, k: int, negatives: int | None, seed: int):
        if len(words) != len(ids):
            raise ValueError("candidate_words must have one word per candidate")
        self.vocabulary, self.word = np.unique(words, return_inverse=True)
        self.k = k
        self.drawn: np.ndarray | None = None
        if negatives is not None and negatives < 1:
            raise ValueError(f"negatives must be positive, or null for all candidates: got {negatives}")
        if negatives is not None and negatives < len(ids):
            # Drawn among sorted ids, so that the draw does not depend on the order of the candidates.
            order = np.random.default_rng(seed).permutation(len(ids))[:negatives]
            self.drawn = np.argsort(ids)[order]

    def values(self, scores: Tensor, tie: Tensor, own: Tensor, failed: Tensor) -> dict[str, np.ndarray]:
        word = torch.as_tensor(self.word, device=scores.device)
        # NaN would spread over all that is computed of a failed row; it has no credit whatever its scores.
        scores, tie = (x.masked_fill(failed[:, None], 0.0).double() for x in (scores, tie))
        if self.drawn is not None:
            scores = scores.masked_fill(~self._allowed(own, scores.shape[1]), float("-inf"))
        mine = word[own]
        same = word[None] == mine[:, None]
        best = scores.masked_fill(~same, float("-inf")).amax(dim=1, keepdim=True)
        better, tied = scores > best + tie, (scores - best).abs() <= tie
        by_segment = top_credit(better.sum(dim=1).cpu().numpy(), tied.sum(dim=1).cpu().numpy(), self.k,
                                (tied & same).sum(dim=1).cpu().numpy())
        p = scores.new_zeros(len(scores), len(self.vocabulary)).index_add_(1, word, scores.softmax(dim=1))
        right = p.gather(1, mine[:, None])
        # A score rounded by `tie` moves a probability by that fraction.
        close = (p - right).abs() <= right * tie.clamp(min=1e-12)
        better = (p > right) & ~close
        by_word = top_credit(better.sum(dim=1).cpu().numpy(), close.sum(dim=1).cpu().numpy(), self.k)
        bad = failed.cpu().numpy()
        return {f"word_top{self.k}": np.where(bad, 0.0, by_segment), f"vocab_top{self.k}": np.where(bad, 0.0, by_word),
                "word_probability": np.where(bad, 0.0, right[:, 0].cpu().numpy())}

    def _allowed(self, own: Tensor, total: int) -> Tensor:
        drawn = torch.as_tensor(self.drawn, device=own.device)
        base = torch.zeros(total, dtype=torch.bool, device=own.device)
        base[drawn] = True
        rows = base.expand(len(own), total).clone()
        rows[~base[own], drawn[-1]] = False
        return rows.scatter_(1, own[:, None], True)
