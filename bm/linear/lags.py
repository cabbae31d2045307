"""Features at several lags: the design matrix of temporal response functions, and its moments without making it."""
import math
from typing import Any

import numpy as np
import torch

from bm.linear.kernel import Array, like
from bm.linear.moments import Moments


def lag_samples(tmin: float, tmax: float, rate: float, outward: bool = False) -> np.ndarray:
    """Lags in samples, ascending, from `tmin` to `tmax` seconds, both included.

    Args:
        outward: the first is rounded down and the last up, as mTRF does; else both to the nearest.

    Raises:
        ValueError: tmin ≥ tmax, or a rate that is not positive.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate={rate}: expected samples per second, positive")
    if not tmin < tmax:
        raise ValueError(f"tmin={tmin} s must be below tmax={tmax} s")
    # so that 0.4 s × 100 Hz = 40.00000000000001 is 40
    low, high = round(tmin * rate, 9), round(tmax * rate, 9)
    first, last = (math.floor(low), math.ceil(high)) if outward else (round(low), round(high))
    return np.arange(first, last + 1)


def padded(x: Array, lags: np.ndarray, before: Any = None, after: Any = None) -> Array:
    """`x` `(T, D)` with as much around it as lags reach: `(T + lags[-1] - lags[0], D)`, from sample `-lags[-1]` on.

    Args:
        before, after: `(H, D)` and `(A, D)`, what came just before and after; where that ends (None: at once), zeros.
    """
    low, high = -int(lags[-1]), len(x) - int(lags[0])
    parts, start = [x], 0
    if before is not None and len(before):
        parts, start = [like(x, before), x], -len(before)
    if after is not None and len(after):
        parts.append(like(x, after))
    whole = _joined(parts, 0)
    stop = start + len(whole)
    out = like(x, np.zeros((high - low, x.shape[1])))
    first, last = max(low, start), min(high, stop)
    if first < last:
        out[first - low:last - low] = whole[first - start:last - start]
    return out


def lagged(x: Array, lags: np.ndarray) -> Array:
    """Rows `(T, lags × D)` of the design matrix, all features at the first lag, then at the next, from `padded`.

    >>> lagged(padded(np.arange(1.0, 4.0)[:, None], np.array([0, 1])), np.array([0, 1]))
    array([[1., 0.],
           [2., 1.],
           [3., 2.]])
    """
    n = len(x) - len(lags) + 1
    return _joined([x[start:start + n] for start in range(len(lags))][::-1], 1)


def lagged_moments(x: Array, n_lags: int, y: Array) -> Moments:
    """`Moments.of(lagged(x, lags), y)`, at the cost of one lag's products instead of all pairs'.

    Products at lags (i + 1, j + 1) are those at (i, j) but for one sample at either end, so that only pairs with the
    first lag are summed over samples.

    Args:
        x: `(T + n_lags - 1, D)`, `padded`. y: `(T, N)`.
    """
    n, d = len(y), x.shape[1]
    shift = x.mean(0)  # of all lags alike, since the padding takes part
    x, level = x - shift, y.mean(0)
    first = x[n_lags - 1:]
    right = _joined([y - level, first, like(x, np.ones((n, 1)))], 1)
    sums = _joined([(x[start:start + n].T @ right)[None] for start in range(n_lags - 1, -1, -1)], 0)
    xx = like(x, np.empty((n_lags, d, n_lags, d)))
    row = sums[:, :, -d - 1:-1]
    xx[:, :, 0] = row
    xx[0] = row.reshape(n_lags * d, d).T.reshape(d, n_lags, d)
    ends = [_reversed(x[:n_lags - 1]), _reversed(x[n:])]
    for i in range(n_lags - 1):
        enters, leaves = (end[i, :, None, None] * end[None] for end in ends)
        xx[i + 1, :, 1:] = xx[i, :, :-1] + (enters - leaves)
    total = sums[:, :, -1].reshape(-1)
    xx = xx.reshape(n_lags * d, n_lags * d) - total[:, None] * (total / n)[None]
    mean = total / n + _joined([shift] * n_lags, 0)
    return Moments(n, mean, level, xx, sums[:, :, :-d - 1].reshape(n_lags * d, -1), ((y - level) ** 2).sum(0))


def _reversed(x: Array) -> Array:
    return x.flip(0) if isinstance(x, torch.Tensor) else x[::-1]


def _joined(parts: list[Array], axis: int) -> Array:
    return torch.cat(parts, axis) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts, axis)
