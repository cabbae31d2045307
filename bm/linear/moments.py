"""Ridge regression from sums over samples: recordings too long to hold their lagged features in memory."""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from bm.linear.kernel import EPS, Array, distinct, eigh, like, to_numpy


@dataclass(frozen=True)
class Moments:
    """Number of samples, means and centred products of features and targets; of two parts added, those of both.

    Parts are combined about their own means (Chan, Golub & LeVeque 1983), so that nothing is lost to an offset.

    Shape: n samples; x `(p,)`, y `(T,)` means; xx `(p, p)`, xy `(p, T)`, yy `(T,)` sums of centred products.

    >>> import numpy as np
    >>> a = np.arange(12.0).reshape(6, 2)
    >>> whole, sum_ = Moments.of(a, a), Moments.of(a[:4], a[:4]) + Moments.of(a[4:], a[4:])
    >>> bool(np.allclose(whole.xx, sum_.xx))
    True
    """

    n: int
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> "Moments":
        """Of samples `(n, p)` and targets `(n, T)`, float64 of one library (`kernel.to_backend`).

        Raises:
            ValueError: other shapes, or values that are not finite.
        """
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise ValueError(f"expected (n, features) and (n, targets), got {tuple(x.shape)} and {tuple(y.shape)}")
        mean, level = x.mean(0), y.mean(0)
        x, y = x - mean, y - level
        out = cls(len(x), mean, level, x.T @ x, x.T @ y, (y * y).sum(0))
        if not np.isfinite(float(out.xx.sum() + out.xy.sum() + out.yy.sum())):
            raise ValueError("features or targets have NaN or infinite values: leave out or fill those samples")
        return out

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        dx, dy, weight = other.x - self.x, other.y - self.y, self.n * other.n / n
        return Moments(n, self.x + dx * (other.n / n), self.y + dy * (other.n / n),
                       self.xx + other.xx + weight * dx[:, None] * dx[None],
                       self.xy + other.xy + weight * dx[:, None] * dy[None], self.yy + other.yy + weight * dy * dy)


def moment_errors(parts: Sequence[Moments], alphas: np.ndarray) -> np.ndarray:
    """Mean squared errors `(A, T)` when each part is held out in turn; see `kernel.cv_errors`.

    An error is the difference of sums of squares, so that below about 1e-14 of the targets' variance it is rounding.
    One eigendecomposition per part, whatever the number of penalties and targets.

    Raises:
        ValueError: fewer than two parts.
    """
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} part: nothing is left to train on when it is held out")
    total = np.zeros((len(alphas), len(parts[0].y)))
    for i, out in enumerate(parts):
        train = reduce(Moments.__add__, [part for j, part in enumerate(parts) if j != i])
        s, v = _axes(train)
        z, xx, xy = v.T @ train.xy, v.T @ out.xx @ v, v.T @ out.xy
        gap, level = v.T @ (out.x - train.x), out.y - train.y
        used, which = distinct(alphas, s)
        errors = []
        for alpha in used:
            w = z / (s + float(alpha))[:, None]
            error = out.yy - 2 * (w * xy).sum(0) + (w * (xx @ w)).sum(0) + out.n * (level - gap @ w) ** 2
            errors.append(to_numpy(error).clip(0))
        total += np.stack(errors)[which]
    return total / sum(part.n for part in parts)


def moment_solve(moments: Moments, alphas: np.ndarray) -> tuple[Array, Array]:
    """Weights `(p, T)` and intercepts `(T,)` for a penalty per target `(T,)`; infinity gives weights of 0."""
    s, v = _axes(moments)
    coef = v @ ((v.T @ moments.xy) / (s[:, None] + like(s, alphas)[None]))
    return coef, moments.y - moments.x @ coef


def _axes(moments: Moments) -> tuple[Array, Array]:
    s, v = eigh(moments.xx)
    keep = s > EPS * len(s) * float(s[-1])
    return s[keep], v[:, keep]
