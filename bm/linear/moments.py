"""Ridge regression from sums over samples: recordings too long to hold their lagged features in memory."""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from bm.linear.kernel import EPS, Array, distinct, eigh, like, to_numpy


@dataclass(frozen=True)
class Moments:
    """Number of samples, means and centred products of features and targets; of two parts added, those of both.

    Parts are combined about their own means (Chan, Golub & LeVeque 1983), so that nothing is lost to an offset. A part
    can be taken out again (`whole - part`) and count several times (`3 * part`).

    Shape: n samples (their total weight); x `(p,)`, y `(T,)` means; xx `(p, p)`, xy `(p, T)`, yy `(T,)` sums of
    centred products.

    >>> import numpy as np
    >>> a = np.arange(12.0).reshape(6, 2)
    >>> whole, sum_ = Moments.of(a, a), Moments.of(a[:4], a[:4]) + Moments.of(a[4:], a[4:])
    >>> bool(np.allclose(whole.xx, sum_.xx))
    True
    """

    n: float
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def of(cls, x: Array, y: Array, weight: Array | None = None) -> "Moments":
        """Of samples `(n, p)` and targets `(n, T)`, float64 of one library (`kernel.to_backend`), and how often each
        sample counts `(n,)` (once).

        Raises:
            ValueError: other shapes, or values that are not finite.
        """
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise ValueError(f"expected (n, features) and (n, targets), got {tuple(x.shape)} and {tuple(y.shape)}")
        n = len(x) if weight is None else float(weight.sum())
        w = 1.0 if weight is None else weight[:, None]
        mean, level = (w * x).sum(0) / n, (w * y).sum(0) / n
        x, y = x - mean, y - level
        out = cls(n, mean, level, (w * x).T @ x, (w * x).T @ y, (w * y * y).sum(0))
        if not np.isfinite(float(out.xx.sum() + out.xy.sum() + out.yy.sum())):
            raise ValueError("features or targets have NaN or infinite values: leave out or fill those samples")
        return out

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        dx, dy, weight = other.x - self.x, other.y - self.y, self.n * other.n / n
        return Moments(n, self.x + dx * (other.n / n), self.y + dy * (other.n / n),
                       self.xx + other.xx + weight * dx[:, None] * dx[None],
                       self.xy + other.xy + weight * dx[:, None] * dy[None], self.yy + other.yy + weight * dy * dy)

    def __sub__(self, part: "Moments") -> "Moments":
        """What is left without a part; NaN means and sums if that is nothing."""
        n = self.n - part.n
        x, y = (self.n * self.x - part.n * part.x) / n, (self.n * self.y - part.n * part.y) / n
        dx, dy, weight = part.x - x, part.y - y, n * part.n / self.n
        return Moments(n, x, y, self.xx - part.xx - weight * dx[:, None] * dx[None],
                       self.xy - part.xy - weight * dx[:, None] * dy[None], self.yy - part.yy - weight * dy * dy)

    def __rmul__(self, times: float) -> "Moments":
        return Moments(times * self.n, self.x, self.y, times * self.xx, times * self.xy, times * self.yy)

    def turned(self, axes: Array) -> "Moments":
        """Those of the features' coordinates on `axes` `(p, r)`."""
        return Moments(self.n, self.x @ axes, self.y, axes.T @ self.xx @ axes, axes.T @ self.xy, self.yy)

    def targets(self, columns: slice) -> "Moments":
        """Those of some targets."""
        return Moments(self.n, self.x, self.y[columns], self.xx, self.xy[:, columns], self.yy[columns])

    def compare(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Sum of squared errors and Pearson correlation `(T,)` of these samples with predictions from `coef` `(p, T)`
        and `intercept` `(T,)`; a correlation with what does not vary is 0."""
        shared, power = (coef * self.xy).sum(0), (coef * (self.xx @ coef)).sum(0)
        error = self.yy - 2 * shared + power + self.n * (self.y - self.x @ coef - intercept) ** 2
        varies = (power > 0) & (self.yy > self.n * (1e-12 * self.y) ** 2)
        spread = power * self.yy
        return error.clip(0), shared * varies / (spread * varies + ~varies) ** 0.5


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
        axes = Axes.of(train.xx)
        z, turned = axes.b.T @ train.xy, out.turned(axes.b)
        used, which = distinct(alphas, axes.s)
        errors = []
        for alpha in used:
            w = z / (axes.s + float(alpha))[:, None]
            errors.append(to_numpy(turned.compare(w, train.y - train.x @ axes.b @ w)[0]))
        total += np.stack(errors)[which]
    return total / sum(part.n for part in parts)


def moment_solve(moments: Moments, alphas: np.ndarray) -> tuple[Array, Array]:
    """Weights `(p, T)` and intercepts `(T,)` for a penalty per target `(T,)`; infinity gives weights of 0."""
    axes = Axes.of(moments.xx)
    coef = axes.b @ axes.solve(moments.xy, alphas)
    return coef, moments.y - moments.x @ coef


@dataclass(frozen=True)
class Axes:
    """Directions in which products of features and penalty are both diagonal: bᵀ xx b = diag s, bᵀ P b = diag d.

    Directions that neither see are left out. Shape: b `(p, r)`, s and d `(r,)`.
    """

    b: Array
    s: Array
    d: Array

    @classmethod
    def of(cls, xx: Array, penalty: Array | None = None, gain: Array | None = None) -> "Axes":
        """Of products `(p, p)` and a penalty `(p, p)`, positive semidefinite (the identity: ridge).

        With a `gain` `(p,)` features are multiplied with it first; weights are those of features as they are.
        """
        if gain is not None:
            turned = cls.of(gain[:, None] * xx * gain, penalty)
            return cls(gain[:, None] * turned.b, turned.s, turned.d)
        if penalty is None:
            s, v = eigh(xx)
            keep = s > EPS * len(s) * float(s[-1])
            return cls(v[:, keep], s[keep], like(s, np.ones(int(keep.sum()))))
        # of the same size, so that neither drowns
        share = float(xx.diagonal().max()) / max(float(abs(penalty).max()), EPS) or 1.0
        both, v = eigh(xx + share * penalty)
        keep = both > EPS * len(both) * float(both[-1])
        v = v[:, keep] / both[keep] ** 0.5
        s, u = eigh(v.T @ xx @ v)
        s = s.clip(0, 1)
        return cls(v @ u, s, (1 - s) / share)

    def solve(self, xy: Array, alphas: np.ndarray) -> Array:
        """Weights `(r, T)` on these axes of targets whose products with the features are `(p, T)`, with a penalty for
        each target."""
        return (self.b.T @ xy) / (self.s[:, None] + self.d[:, None] * like(self.s, alphas)[None])
