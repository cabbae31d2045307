"""Ridge regression from a network's layer to voxels, with the noise correction of repeated measurements.

The protocol is that of Tuckute, Feather et al. 2023 (PLoS Biology 21: e3002366): ten random halves of the sounds, one
penalty per voxel by leave-one-out, R² divided by the reliabilities of the data and of the predictions. A split's
decomposition serves all voxels and repetitions.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from bm.linear.kernel import Array, Basis, Design, Split, distinct, like, solve, to_backend, to_numpy
from bm.linear.select import CONSTANT, Compat, check_alphas, check_cv, select
from bm.metrics.reliability import correlation_columns, lowest_reliability, pair_median, spearman_brown

#: what the paper chooses from
PAPER_ALPHAS = tuple(10.0 ** np.arange(49, -51, -1))
#: a prediction varies so little against its mean that its correlation is rounding (of scipy.stats.pearsonr)
NEARLY_CONSTANT = 1e-13
#: targets that are multiplied at once: what is made of them stays in a processor's cache
COLUMNS = 512
#: the same on a device, which is slow to begin
DEVICE_COLUMNS = 2 ** 15


def random_splits(n: int = 165, n_train: int = 83, n_splits: int = 10, seed: int = 0) -> list[Split]:
    """(train, test) indices, ascending: for the defaults those of the paper, the same for all voxels and networks.

    Raises:
        ValueError: fewer than two sounds in train or test, or no split.
    """
    if not 2 <= n_train <= n - 2 or n_splits < 1:
        raise ValueError(f"{n_splits} splits of {n} sounds, {n_train} of them to train: expected at least one split, "
                         "and two sounds on each side")
    rng, out = np.random.RandomState(seed), []
    for _ in range(n_splits):
        train = np.sort(rng.choice(n, n_train, replace=False))
        test = np.setdiff1d(np.arange(n), train)
        rng.choice(test, len(test), replace=False)  # the paper draws the test sounds too, all there are
        out.append((train, test))
    return out


def gram(x: Any, max_bytes: int = 2 ** 27) -> np.ndarray:
    """`(n, n)` float64 inner products of samples `(n, p)` about their mean; no copy of x is made.

    Raises:
        ValueError: values that are not finite.
    """
    n, p = np.shape(x)
    out, step = np.zeros((n, n)), max(1, max_bytes // (8 * n))
    for start in range(0, p, step):
        part = np.asarray(x[:, start:start + step], dtype=np.float64)
        if not np.isfinite(part).all():
            bad = start + np.flatnonzero(~np.isfinite(part).all(0))
            raise ValueError(f"features {bad[:5].tolist()}… of {p} have NaN or infinite values: leave them out")
        centred = part - part.mean(0)
        out += centred @ centred.T
    return out


@dataclass(frozen=True)
class Voxelwise:
    """Scores `(voxels, splits)`, of predictions of the mean over repetitions.

    `r_prior_zero`: correlation on test sounds, NaN where the prediction is constant; `r_test`: the same, 0 where it is
    negative or NaN; `r2_test` its square; `r2_test_c` divided by `reliability` (of the data, train sounds) times
    `reliability_hat` (of the predictions, test sounds), not capped, NaN without repetitions; `r2_train`; `alphas`;
    standard deviations of the data and predictions; `constant_test`, `constant_train`: the prediction is (nearly)
    constant; `edge`: 1 the largest penalty was chosen, 2 the smallest.
    `predictions` `(sounds, splits, voxels)` float32, NaN on train sounds; None unless asked for.
    """

    r_prior_zero: np.ndarray
    r_test: np.ndarray
    r2_test: np.ndarray
    r2_test_c: np.ndarray
    r2_train: np.ndarray
    reliability: np.ndarray
    reliability_hat: np.ndarray
    alphas: np.ndarray
    y_train_std: np.ndarray
    y_test_std: np.ndarray
    pred_train_std: np.ndarray
    pred_test_std: np.ndarray
    constant_test: np.ndarray
    constant_train: np.ndarray
    edge: np.ndarray
    predictions: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """All of the shape `(voxels, splits)` by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "predictions"}

    @property
    def best_r2(self) -> np.ndarray:
        """What networks are compared by: the corrected R² where there are repetitions, else R²."""
        return self.r2_test if np.isnan(self.r2_test_c).all() else self.r2_test_c


def voxelwise(kernel: np.ndarray, y: Any, splits: Sequence[tuple[Any, Any]] | None = None, alphas: Any = PAPER_ALPHAS,
              *, compat: Compat = None, voxels_at_once: int = 4096, keep_predictions: bool = False,
              device: str | None = None) -> Voxelwise:
    """Fits and scores every voxel on every split.

    Args:
        kernel: `(n, n)` inner products of the samples' features (see `gram`), centred or not.
        y: `(n, voxels)` or `(n, voxels, repetitions)` responses.
        splits: (train, test) indices or masks; None: those of the paper.
        alphas: penalties, in any order.
        compat: "reference": the smallest leave-one-out error, however little smaller, no constant predictions, and
            Spearman–Brown beyond its pole. Where the error is flat in α, rounding decides its choices.
        voxels_at_once: bounds memory, about 5 kB each at 83 training sounds.
        device: where torch computes the leave-one-out errors, which are nearly all of the work; None: in numpy.

    Source: Tuckute, Feather et al. 2023, Methods. The prediction is linear in X − mean(X of train), without scaling.

    Raises:
        ValueError: shapes that do not match, or values that are not finite.
    """
    y = np.asarray(y)
    if y.ndim not in (2, 3) or len(y) != len(kernel) or not y[0].size or kernel.shape != (len(y), len(y)):
        raise ValueError(f"a kernel of {kernel.shape} and responses of {y.shape}: expected (n, n) and (n, voxels) or "
                         "(n, voxels, repetitions)")
    y = y[..., None] if y.ndim == 2 else y
    parts = check_cv(random_splits(len(y)) if splits is None else list(splits), len(y)) or []
    penalties, n_voxels = check_alphas(alphas), y.shape[1]
    design = Design(np.asarray(kernel, dtype=np.float64), precomputed=True)
    out = {field.name: np.zeros((n_voxels, len(parts))) for field in fields(Voxelwise) if field.name != "predictions"}
    kept = np.full((len(y), len(parts), n_voxels), np.nan, np.float32) if keep_predictions else None
    for column, (train, test) in enumerate(parts):
        fit = _Split(design, train, test, penalties, compat, device)
        for start in range(0, n_voxels, voxels_at_once):
            some = slice(start, start + voxels_at_once)
            scores, estimate = fit.score(np.asarray(y[:, some], dtype=np.float64))
            for name, values in scores.items():
                out[name][some, column] = values
            if kept is not None:
                kept[test, column, some] = estimate
    for name in ("constant_test", "constant_train"):
        out[name] = out[name].astype(bool)
    return Voxelwise(**{**out, "edge": out["edge"].astype(np.int8)}, predictions=kept)


class _Split:
    """One split of the sounds: its decomposition, used for all voxels."""

    def __init__(self, design: Design, train: np.ndarray, test: np.ndarray, alphas: np.ndarray, compat: Compat,
                 device: str | None = None) -> None:
        self.train, self.test, self.alphas, self.compat = train, test, alphas, compat
        self.basis = design.basis(train)
        self.projected = design.project(self.basis, test)
        self.used, which = distinct(alphas, self.basis.s)
        self.largest = np.array([alphas[which == group].max() for group in range(len(self.used))])
        weights, rest, self.mix = _left_out(self.basis, self.used)
        self.weights: Array = weights if device is None else to_backend(weights, "torch", device)
        self.rest: Array = None if rest is None else like(self.weights, rest)
        self.columns = COLUMNS if device is None else DEVICE_COLUMNS

    def score(self, y: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The fields of `Voxelwise` of this split for responses `(n, b, repetitions)`, and predictions `(m, b)`."""
        repeats = y.shape[2]
        targets = [y.mean(2)] + [y[..., k] for k in range(repeats) if repeats > 1]
        if not all(np.isfinite(target.sum()) for target in targets):
            bad = int((~np.isfinite(y)).any((0, 2)).sum())
            raise ValueError(f"{bad} voxels have NaN or infinite responses: leave them out")
        fits = [self._fit(target[self.train]) for target in targets]
        (alpha, constant, weights, mean), estimates = fits[0], [self.projected @ fit[2] for fit in fits]
        fitted = self.basis.u @ (self.basis.s[:, None] ** 0.5 * weights)
        train, test = targets[0][self.train], targets[0][self.test]
        out = {"alphas": alpha, "edge": (alpha == self.alphas.max()) + 2.0 * (alpha == self.alphas.min())}
        for side, estimate, truth in [("train", fitted, train), ("test", estimates[0], test)]:
            r, flat = self._correlation(estimate, mean, truth, constant)
            out |= {f"r2_{side}": np.nan_to_num(np.maximum(r, 0)) ** 2, f"constant_{side}": flat,
                    f"y_{side}_std": truth.std(0), f"pred_{side}_std": estimate.std(0)}
            if side == "test":
                out |= {"r_prior_zero": r, "r_test": np.nan_to_num(np.maximum(r, 0))}
        unguarded = self.compat == "reference"
        raw = pair_median([target[self.train] for target in targets[1:]]) if repeats > 1 else np.nan
        same = pair_median([np.where(fit[1], 0.0, estimate) for fit, estimate in
                            zip(fits[1:], estimates[1:], strict=True)]) if repeats > 1 else np.nan
        for name, median, n in [("reliability", raw, len(self.train)), ("reliability_hat", same, len(self.test))]:
            bound = lowest_reliability(n)
            out[name] = np.fmax(spearman_brown(median, repeats, unguarded), bound) if repeats > 1 else np.nan
        out["r2_test_c"] = out["r2_test"] / (out["reliability"] * out["reliability_hat"])
        return out, estimates[0] + mean

    def _fit(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Penalties, whether predictions are constant, weights on the basis, and means, of responses `(83, b)`."""
        errors = np.empty((len(self.used), y.shape[1]))
        for part, found in self._errors(y):
            errors[:, part] = found
        chosen = select(errors, self.used, (y * y).mean(0), len(y), compat=self.compat)
        alpha = self.largest[chosen]
        constant = alpha > CONSTANT * self.basis.largest if self.compat is None else np.zeros(len(alpha), dtype=bool)
        weights, mean = solve(self.basis, y, np.where(constant, np.inf, alpha))
        return alpha, constant, weights, mean

    def _errors(self, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Mean squared leave-one-out errors `(penalties, b)`, a few voxels at a time."""
        for start in range(0, y.shape[1], self.columns):
            part = slice(start, start + self.columns)
            centred = y[:, part] - y[:, part].mean(0)
            projected = self.basis.u.T @ centred
            rest = None if self.rest is None else like(self.weights, centred - self.basis.u @ projected)
            z, found = like(self.weights, projected), like(self.weights, np.empty((len(self.weights), len(centred.T))))
            for a, weights in enumerate(self.weights):
                error = weights @ z
                if rest is not None:
                    error += self.rest[a][:, None] * rest
                found[a] = _squares(error)
            yield part, self.mix @ to_numpy(found) / len(y)

    def _correlation(self, estimate: np.ndarray, mean: np.ndarray, truth: np.ndarray, constant: np.ndarray
                     ) -> tuple[np.ndarray, np.ndarray]:
        """Correlations, NaN for constant predictions, and where a prediction is (nearly) constant."""
        centred = estimate - estimate.mean(0)
        size = np.sqrt((centred ** 2).sum(0))
        level = np.abs(estimate.mean(0) + mean)
        # in the reference a prediction is added to its mean, and what is smaller than its rounding is lost
        lost = constant if self.compat is None else (estimate + mean).std(0) == 0
        r = correlation_columns(np.where(lost, 0.0, centred), truth)
        return r, lost | (size < NEARLY_CONSTANT * level)


def _left_out(basis: Basis, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Matrices `(P, n, r)` that turn uᵀy into leave-one-out errors, one per point in α; what they lack where u does
    not span all, `(P, n)`; and `(A, P)`, which makes the squared errors of the penalties of those of the points.

    Residual / (1 − leverage), with I − H = (I − 11ᵀ/n − U Uᵀ) + U f Uᵀ, f = α / (s + α), as in the kernel. Beyond
    1e8 · λmax the squared error is linear in 1/α, and below λmin / 1e8 in α, up to 1e-16: two points do for all there.
    """
    u, s, n = basis.u, basis.s, len(basis.u)
    if not len(s):
        return np.zeros((1, n, 0)), np.full((1, n), n / (n - 1)), np.ones((len(alphas), 1))
    low, high = s[0] * 1e-8, s[-1] * 1e8
    below, above = alphas < low, alphas > high
    inside = ~below & ~above
    points: list[float] = [*alphas[inside], *([low] if below.any() else []), *([high, np.inf] if above.any() else [])]
    shrunk = [1 / (s / alpha + 1) for alpha in points] + [s[0] / s] * int(below.any())  # the last: α → 0, times s₀ / α
    free = 1 - 1 / n - (u * u).sum(1)
    free = np.where(free < 1e-10, 0.0, free)
    weights, rest = np.empty((len(shrunk), n, len(s))), np.empty((len(shrunk), n))
    for p, f in enumerate(shrunk):
        last = p == len(points)
        divisor = np.where(free > 0, np.inf if last else free + (u * u) @ f, (u * u) @ f)
        weights[p], rest[p] = u * f / divisor[:, None], (free > 0) / np.where(free > 0, free if last else divisor, 1)
    mix = np.zeros((len(alphas), len(shrunk)))
    mix[inside, :inside.sum()] = np.eye(inside.sum())
    for chosen, near, end, share in [(above, high, -1 - below.any(), high / alphas), (below, low, -1, alphas / low)]:
        if chosen.any():
            mix[chosen, points.index(near)], mix[chosen, end] = share[chosen], 1 - share[chosen]
    return weights, rest if free.any() else None, mix


def _squares(error: Array) -> Array:
    """Sums of squares of the columns, in their own library."""
    return (torch.einsum if isinstance(error, torch.Tensor) else np.einsum)("ij,ij->j", error, error)
