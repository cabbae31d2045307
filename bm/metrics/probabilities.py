"""The probability of every candidate for every estimate, written block by block where it need not fit in memory."""
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import device as Device

from bm.losses import ClipLoss
from bm.metrics.retrieval import ROWS, Array, Estimates, Retrieval, locate, rank_values, score_blocks, unique_candidates


class OnDisk:
    """An array in a .npy file of which rows are read when they are asked for.

    Unlike with a memory map nothing that was read stays with the process, whatever counts its memory.

    Args:
        path: of a file in C order, as `np.save` and `OnDisk.write` make it.
    """

    def __init__(self, path: Path) -> None:
        header = np.load(path, mmap_mode="r")
        self.path, self.shape, self.dtype, self.offset = path, header.shape, header.dtype, header.offset

    @classmethod
    def write(cls, path: Path, length: int, blocks: Iterable[np.ndarray]) -> "OnDisk":
        """Writes blocks of rows, one after the other. Errors: ValueError if there are more or fewer than `length`."""
        written = 0
        with open(path, "wb") as file:
            for block in blocks:
                if not written:
                    np.lib.format.write_array_header_1_0(file, {
                        "descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False,
                        "shape": (length, *block.shape[1:])})
                np.ascontiguousarray(block).tofile(file)
                written += len(block)
        if written != length or not length:
            raise ValueError(f"{path.name}: {written} rows were written, expected {length}, and at least one")
        return cls(path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        width = int(np.prod(self.shape[1:]))
        values = np.fromfile(self.path, self.dtype, (stop - start) * width,
                             offset=self.offset + start * width * self.dtype.itemsize)
        return values.reshape(stop - start, *self.shape[1:])


def write_probabilities(out: np.ndarray, estimates: Estimates, candidates: Array | OnDisk, candidate_ids: Array,
                        true_ids: Array, *, segment: Array | None = None, ks: Sequence[int] = (1, 5, 10),
                        loss: ClipLoss | None = None, rows: int | None = None, max_bytes: int = 2 ** 30,
                        device: Device | str | None = None, advance: Callable[[int], object] | None = None,
                        description: str = "") -> Retrieval:
    """Fills `out` with the softmax of the scores of each estimate, and ranks its own segment as `retrieval` does.

    Args:
        out: `(N, V)` float32, e.g. an `np.lib.format.open_memmap`. An estimate that is not finite has a row of NaN.
        estimates: `(N, F, T)`, or an iterable of batches: they are read once and never held together.
        candidates: `(V, F, T)`, in memory or not; candidate_ids: `(V,)` distinct ints, the columns of `out`.
        true_ids: `(N,)`, the id of each estimate's own segment. segment: `(N,)` distinct ids of the estimates.
        rows: estimates that are compared at once, rounded to a multiple of `ROWS`; None: as many as `max_bytes` allow.
        advance: called with the number of rows after each block, e.g. `tqdm.update`.
        ks, loss, device, description: as in `retrieval`.

    Returns:
        `rank`, `reciprocal`, `top{k}` and `failed` of each estimate, and `probability`, that of its own segment (0 if
        failed).

    Errors: ValueError if shapes do not match, an id is there twice or a candidate is not finite; KeyError if an own
    segment is no candidate.
    """
    ids, true = np.asarray(candidate_ids), np.asarray(true_ids)
    if len(unique_candidates(ids)[0]) != len(ids) or len(ids) != len(candidates):
        raise ValueError(f"expected distinct ids for {len(candidates)} candidates, got {len(ids)} with "
                         f"{len(np.unique(ids))} different ones")
    if out.shape != (len(true), len(ids)):
        raise ValueError(f"out has shape {out.shape}, expected {(len(true), len(ids))}: estimates × candidates")
    if rows is not None:
        item = candidates.dtype.itemsize * int(np.prod(candidates.shape[1:]))
        max_bytes = 2 * max(rows // ROWS, 1) * ROWS * (item + 40 * len(ids))  # see score_blocks
    column, place = locate(true, ids), np.argsort(np.argsort(ids))
    greater, tied, own, failed, best = [], [], [], [], []
    done = 0
    for scores, tie in score_blocks(estimates, cast(Any, candidates), loss=loss, max_bytes=max_bytes, device=device):
        mine = column[done:done + len(scores)]
        if done + len(scores) > len(true):
            raise ValueError(f"{len(true)} own segments were given for more estimates")
        probability = scores.softmax(dim=1).cpu().numpy()
        out[done:done + len(scores)] = probability
        score = scores[np.arange(len(mine)), mine][:, None]
        failed.append(~scores.isfinite().all(dim=1).cpu().numpy())
        greater.append((scores > score + tie).sum(dim=1).cpu().numpy())
        tied.append((scores >= score - tie).sum(dim=1).cpu().numpy() - greater[-1])
        own.append(probability[np.arange(len(mine)), mine].astype(float))
        best.append(place[scores.topk(min(max(ks), len(ids)), dim=1).indices.cpu().numpy()])
        done += len(scores)
        if advance is not None:
            advance(len(scores))
    if done != len(true):
        raise ValueError(f"{len(true)} own segments were given for {done} estimates")
    bad = np.concatenate(failed)
    values = rank_values(np.concatenate(greater), np.concatenate(tied), bad, len(ids), ks)
    values["probability"] = np.where(bad, 0.0, np.concatenate(own))
    return Retrieval(np.arange(done) if segment is None else np.asarray(segment), values, place[column],
                     np.where(bad[:, None], -1, np.concatenate(best)), len(ids), description, tuple(ks))


def frequency_prior(true_ids: Array, k: int) -> float:
    """Top-k accuracy of always guessing the k segments that are asked for most often, whatever the brain.

    The frequencies are those of the very segments that are tested: no guess that ignores the brain can do better.

    >>> frequency_prior(np.array([7, 7, 7, 8, 9]), k=1)
    0.6
    """
    count = np.unique(np.asarray(true_ids), return_counts=True)[1]
    return float(np.sort(count)[::-1][:k].sum() / count.sum())
