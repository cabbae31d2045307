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
from bm.linear.select import CONSTANT, Compat, check_alphas, check_cv, folds, select
from bm.metrics.reliability import correlation_columns, lowest_reliability, pair_median, spearman_brown

#: what the paper chooses from
PAPER_ALPHAS = tuple(10.0 ** np.arange(49, -51, -1))
#: a prediction varies so little against its mean that its correlation is rounding (of scipy.stats.pearsonr)
NEARLY_CONSTANT = 1e-13
#: targets that are multiplied at once: what is made of them stays in a processor's cache
COLUMNS = 512
#: the same on a device, which is slow to begin
DEVICE_COLUMNS = 2 ** 15
#: folds of groups by which penalties are chosen
GROUP_FOLDS = 5


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


def voxelwise(kernel: np.ndarray | Design, y: Any, splits: Sequence[tuple[Any, Any]] | None = None,
              alphas: Any = PAPER_ALPHAS, *, compat: Compat = None, voxels_at_once: int = 4096,
              keep_predictions: bool = False, device: str | None = None, groups: np.ndarray | None = None) -> Voxelwise:
    """Fits and scores every voxel on every split.

    Args:
        kernel: `(n, n)` inner products of the samples' features (see `gram`), centred or not; or their `Design`, which
            is the faster of the two where there are more samples than features.
        y: `(n, voxels)` or `(n, voxels, repetitions)` responses.
        splits: (train, test) indices or masks; None: those of the paper.
        alphas: penalties, in any order.
        compat: "reference": the smallest leave-one-out error, however little smaller, no constant predictions, and
            Spearman–Brown beyond its pole. Where the error is flat in α, rounding decides its choices.
        voxels_at_once: bounds memory, about 5 kB each at 83 training sounds.
        device: where torch computes the errors of penalties, which are nearly all of the work; None: in numpy.
        groups: `(n,)` labels of samples that are not independent (neighbours in time): penalties are then chosen by
            five folds of whole groups of train instead of leaving one out, with the errors in float32.

    Source: Tuckute, Feather et al. 2023, Methods. The prediction is linear in X − mean(X of train), without scaling.

    Raises:
        ValueError: shapes that do not match, values that are not finite, or a split with train samples of one group.
    """
    y = np.asarray(y)
    shape = (kernel.n, kernel.n) if isinstance(kernel, Design) else kernel.shape
    if y.ndim not in (2, 3) or len(y) != shape[0] or not y[0].size or shape != (len(y), len(y)):
        raise ValueError(f"a kernel of {shape} and responses of {y.shape}: expected (n, n) and (n, voxels) or "
                         "(n, voxels, repetitions)")
    y = y[..., None] if y.ndim == 2 else y
    parts = check_cv(random_splits(len(y)) if splits is None else list(splits), len(y)) or []
    groups = None if groups is None else np.asarray(groups)
    if groups is not None and groups.shape != (len(y),):
        raise ValueError(f"groups are {groups.shape}: expected a label for each of the {len(y)} samples")
    if groups is not None and (one := [i for i, (train, _) in enumerate(parts) if len(np.unique(groups[train])) < 2]):
        raise ValueError(f"splits {one[:5]} train on samples of one group: expected at least two, by which penalties "
                         "are chosen")
    penalties, n_voxels = check_alphas(alphas), y.shape[1]
    design = kernel if isinstance(kernel, Design) else Design(np.asarray(kernel, dtype=np.float64), precomputed=True)
    out = {field.name: np.zeros((n_voxels, len(parts))) for field in fields(Voxelwise) if field.name != "predictions"}
    kept = np.full((len(y), len(parts), n_voxels), np.nan, np.float32) if keep_predictions else None
    for column, (train, test) in enumerate(parts):
        fit = (_Split(design, train, test, penalties, compat, device) if groups is None else
               _GroupedSplit(design, train, test, penalties, compat, device, groups))
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
        self._prepare(design, device)

    def _prepare(self, design: Design, device: str | None) -> None:
        """What the errors of penalties are made of: `used` are those that differ, `largest` what they stand for;
        `smallest` is the penalty at the lower end."""
        self.smallest = self.alphas.min()
        self.used, which = distinct(self.alphas, self.basis.s)
        self.largest = np.array([self.alphas[which == group].max() for group in range(len(self.used))])
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
        # what predictions are added to: the reference's are of responses about their mean, whose mean is rounding
        levels = [fit[3] if self.compat is None else (target[self.train] - fit[3]).mean(0)
                  for fit, target in zip(fits, targets, strict=True)]
        fitted = self.basis.u @ (self.basis.s[:, None] ** 0.5 * weights)
        train, test = targets[0][self.train], targets[0][self.test]
        out = {"alphas": alpha, "edge": (alpha == self.alphas.max()) + 2.0 * (alpha == self.smallest)}
        for side, estimate, truth in [("train", fitted, train), ("test", estimates[0], test)]:
            r, flat = self._correlation(estimate, levels[0], truth, constant)
            out |= {f"r2_{side}": np.nan_to_num(np.maximum(r, 0)) ** 2, f"constant_{side}": flat,
                    f"y_{side}_std": truth.std(0), f"pred_{side}_std": estimate.std(0)}
            if side == "test":
                out |= {"r_prior_zero": r, "r_test": np.nan_to_num(np.maximum(r, 0))}
        unguarded = self.compat == "reference"
        raw = pair_median([target[self.train] for target in targets[1:]]) if repeats > 1 else np.nan
        same = pair_median([np.where(self._lost(estimate, level, fit[1]), 0.0, estimate) for fit, estimate, level in
                            zip(fits[1:], estimates[1:], levels[1:], strict=True)]) if repeats > 1 else np.nan
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

    def _lost(self, estimate: np.ndarray, level: np.ndarray, constant: np.ndarray) -> np.ndarray:
        """Where a prediction is constant; in the reference where it is smaller than the rounding of its level."""
        return constant if self.compat is None else np.ptp(estimate + level, 0) == 0

    def _correlation(self, estimate: np.ndarray, level: np.ndarray, truth: np.ndarray, constant: np.ndarray
                     ) -> tuple[np.ndarray, np.ndarray]:
        """Correlations, NaN for constant predictions, and where a prediction is (nearly) constant."""
        centred, lost = estimate - estimate.mean(0), self._lost(estimate, level, constant)
        size = np.sqrt((centred ** 2).sum(0))
        r = correlation_columns(np.where(lost, 0.0, centred), truth)
        return r, lost | (size < NEARLY_CONSTANT * np.abs(estimate.mean(0) + level))


class _Fold:
    """One fold of the train samples: what errors on the held-out ones are made of, float32 on a device."""

    def __init__(self, design: Design, train: np.ndarray, out: np.ndarray, alphas: np.ndarray, device: str) -> None:
        basis = design.basis(train)
        projected, self.q = design.project(basis, out), None
        if len(out) > projected.shape[1]:  # no more rows than the features have dimensions
            q, projected = np.linalg.qr(projected)
            self.q = self._tensor(q, device)
        self.projected, self.u = self._tensor(projected, device), self._tensor(basis.u, device)
        root = basis.s ** 0.5
        self.gains = [self._tensor(root / (basis.s + alpha), device) for alpha in alphas]
        self.root, self.s = self._tensor(root, device), basis.s

    @staticmethod
    def _tensor(values: np.ndarray, device: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    def improvements(self, y: torch.Tensor, y_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """By how much squared errors are below those of predicting the mean of `y` `(n, b)`, which is 0: `(A, b)`; and
        of α beyond all of these twice the first and the second moment, 2b and c of 2b/α − c/α²."""
        z = self.u.T @ y
        target = y_out if self.q is None else self.q.T @ y_out

        def moments(gain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            estimate = self.projected @ (gain[:, None] * z)
            return 2 * torch.einsum("ij,ij->j", target, estimate), _squares(estimate)
        found = [first - second for first, second in map(moments, self.gains)]
        return torch.stack(found) if found else y.new_zeros(0, y.shape[1]), *moments(self.root)


class _GroupedSplit(_Split):
    """A split whose penalties are chosen by folds of groups of the train samples.

    Penalties below λmin / 100 are taken as one. Beyond 1000 λmax a prediction is Xᵀy/α to a thousandth, and so the
    error is quadratic in 1/α.
    """

    def __init__(self, design: Design, train: np.ndarray, test: np.ndarray, alphas: np.ndarray, compat: Compat,
                 device: str | None, groups: np.ndarray) -> None:
        self.groups = groups
        super().__init__(design, train, test, alphas, compat, device)

    def _prepare(self, design: Design, device: str | None) -> None:
        groups, s = self.groups[self.train], self.basis.s
        self.parts = folds(len(groups), min(GROUP_FOLDS, len(np.unique(groups))), groups)
        alphas = np.unique(self.alphas)
        low, high = (float(s[0]) / 100, float(s[-1]) * 1000) if len(s) else (0.0, 0.0)
        below, self.beyond = alphas[alphas < low], alphas[alphas > high]
        inside = alphas[(alphas >= low) & (alphas <= high)]
        self.used = self.largest = np.concatenate([below[-1:], inside, self.beyond])
        self.smallest = self.used[0]  # stands for all that are as small
        computed = np.concatenate([np.full(len(below[-1:]), low), inside])
        self.device = device or "cpu"
        self.folds = [_Fold(design, self.train[sub], self.train[out], computed, self.device)
                      for sub, out in self.parts]
        self.columns = COLUMNS * 4 if device is None else DEVICE_COLUMNS

    def _errors(self, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, y.shape[1], self.columns):
            part = slice(start, start + self.columns)
            level, better = np.zeros(y[:, part].shape[1]), np.zeros((len(self.used), y[:, part].shape[1]))
            for fold, (sub, out) in zip(self.folds, self.parts, strict=True):
                mean = y[sub, part].mean(0)
                own, held = y[sub, part] - mean, y[out, part] - mean
                level += (held * held).sum(0)
                inside, first, second = (to_numpy(values) for values in fold.improvements(
                    *(fold._tensor(values, self.device) for values in (own, held))))
                with np.errstate(under="ignore"):
                    far = first / self.beyond[:, None] - second / self.beyond[:, None] / self.beyond[:, None]
                better += np.concatenate([inside, far])
            yield part, (level - better) / len(y)


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
