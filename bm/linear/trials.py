"""Trials of features and targets in time, and the folds they are held out in: numerics of `TRF`."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bm.linear.kernel import Array, distinct, like, target_batches, to_backend, to_numpy
from bm.linear.lags import lagged, lagged_moments, padded
from bm.linear.moments import Axes, Moments
from bm.metrics.correlation import Correlation


@dataclass(frozen=True)
class Trial:
    """One stretch: features with what lags need around them, targets, and how often each of their samples counts.

    Shape: x `(T + lags - 1, D)` (see `lags.padded`); y `(T, N)`, 0 where it does not count; weight `(T, N)`.
    """

    x: Array
    y: Array
    weight: np.ndarray


def make_trials(xs: Sequence[Any], ys: Sequence[Any], lags: np.ndarray, weights: Sequence[Any] | None = None,
                before: Sequence[Any] | None = None, after: Sequence[Any] | None = None, backend: str = "numpy",
                device: str = "cpu") -> list[Trial]:
    """Checked trials; `weights` are `(T,)` or `(T, N)` and 0 wherever y is NaN.

    Raises:
        ValueError: numbers, lengths or widths that do not fit, or values that are not finite.
    """
    for name, values in [("responses", ys), ("weights", weights), ("before", before), ("after", after)]:
        if values is not None and len(values) != len(xs):
            raise ValueError(f"{len(xs)} trials of predictors, but {len(values)} of {name}")
    if not len(xs):
        raise ValueError("there are no trials")
    out: list[Trial] = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        x, y = to_backend(x, backend, device), to_numpy(y)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
            raise ValueError(f"trial {i}: expected predictors (T, D) and targets (T, N), got {tuple(x.shape)} and "
                             f"{y.shape}")
        context = [x[:0] if around is None else to_backend(around[i], backend, device) for around in (before, after)]
        widths = {part.shape[1] for part in (x, *context)} | ({out[0].x.shape[1]} if out else set())
        if len(widths) > 1 or (out and out[0].y.shape[1] != y.shape[1]):
            raise ValueError(f"trial {i} has {x.shape[1]} predictors and {y.shape[1]} targets, others (or what is "
                             f"around it) have {sorted(widths)} and {out[0].y.shape[1] if out else y.shape[1]}")
        for part in (x, *context):
            if not np.isfinite(float(part.sum())):
                raise ValueError(f"trial {i}: predictors have NaN or infinite values: fill them or cut the trial")
        if np.isinf(y).any():
            raise ValueError(f"trial {i}: targets have infinite values (NaN: not measured)")
        weight = np.ones(y.shape) if weights is None else np.array(to_numpy(weights[i]))
        weight = np.repeat(weight[:, None], y.shape[1], 1) if weight.ndim == 1 else weight
        if weight.shape != y.shape or not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(f"trial {i}: weights must be finite and not negative, ({len(y)},) or {y.shape}; got shape "
                             f"{weight.shape}")
        weight[np.isnan(y)] = 0
        out.append(Trial(padded(x, lags, *context), like(x, np.where(weight > 0, y, 0)), weight))
    return out


def alike(trials: Sequence[Trial]) -> list[np.ndarray]:
    """Targets whose samples have the same weights, so that they share all sums over features."""
    found: dict[bytes, list[int]] = {}
    plain = all((trial.weight == trial.weight[:, :1]).all() for trial in trials)
    if plain:
        return [np.arange(trials[0].y.shape[1])]
    for n in range(trials[0].y.shape[1]):
        found.setdefault(b"".join(trial.weight[:, n].tobytes() for trial in trials), []).append(n)
    return [np.array(columns) for columns in found.values()]


class Part:
    """A trial as targets of equal weights see it.

    Its moments are kept if they are smaller than the rows of its design matrix.
    """

    def __init__(self, trial: Trial, columns: np.ndarray, lags: np.ndarray):
        self.x, self.y, self.lags = trial.x, trial.y[:, columns], lags
        self.weight = trial.weight[:, columns[0]]
        self.even = bool((self.weight == self.weight[0]).all())
        self.n, self.rows_kept = float(self.weight.sum()), self.weight > 0
        self._moments: Moments | None = None

    def moments(self) -> Moments:
        """Of features at all lags and targets."""
        if self._moments is not None:
            return self._moments
        if self.even:
            once = lagged_moments(self.x, len(self.lags), self.y)
            out = once if self.weight[0] == 1 else float(self.weight[0]) * once
        else:
            kept = self.rows_kept
            out = Moments.of(self._rows(), self.y[kept], like(self.y, self.weight[kept]))
        if len(self.y) > len(self.lags) * self.x.shape[1]:
            self._moments = out
        return out

    def _rows(self) -> Array:
        rows = lagged(self.x, self.lags)
        return rows if self.even else rows[self.rows_kept]

    def compare(self, coefs: Sequence[Array], intercepts: Sequence[Array], targets: slice = slice(None)
                ) -> tuple[np.ndarray, np.ndarray]:
        """Sum of squared errors, weighted, and Pearson correlation, `(len(coefs), targets)`."""
        if self.even and self._moments is not None:
            own = self._moments.targets(targets)
            pairs = [own.compare(*pair) for pair in zip(coefs, intercepts, strict=True)]
        else:
            rows, y = self._rows(), self.y[self.rows_kept][:, targets]
            weight = like(y, self.weight[self.rows_kept])[:, None]
            pairs = []
            for coef, intercept in zip(coefs, intercepts, strict=True):
                estimate = rows @ coef + intercept
                pairs.append(((weight * (y - estimate) ** 2).sum(0), pearson(estimate, y)))
        error, r = (np.stack([to_numpy(values) for values in side]) for side in zip(*pairs, strict=True))
        return error, r


def pearson(estimate: Array, y: Array, mask: Any = None) -> np.ndarray:
    """Correlation over samples `(T, N)` of each target; 0 where either does not vary."""
    correlation = Correlation(over=(0,))
    correlation.update(torch.as_tensor(estimate), torch.as_tensor(y), None if mask is None else torch.as_tensor(mask))
    return correlation.pearson().cpu().numpy()


@dataclass(frozen=True)
class Candidates:
    """What is chosen from: penalties, and scalings of the features.

    Shape: alphas `(A,)`; gains, S arrays `(p,)` that features are multiplied with, or None; penalty `(p, p)` between
    weights, None: the identity; per_trial: penalties are multiplied with this and the number of trials that train.
    """

    alphas: np.ndarray
    gains: Sequence[np.ndarray | None]
    penalty: np.ndarray | None
    per_trial: float | None
    max_bytes: int

    def axes(self, moments: Moments, scaling: int) -> Axes:
        """The decomposition for one of the scalings."""
        gain, penalty = self.gains[scaling], self.penalty
        return Axes.of(moments.xx, None if penalty is None else like(moments.xx, penalty),
                       None if gain is None else like(moments.xx, gain))

    def scaled(self, alphas: np.ndarray, n_trials: int) -> np.ndarray:
        """Penalties of sums over samples."""
        return alphas if self.per_trial is None else alphas * self.per_trial * n_trials

    def solve(self, moments: Moments, n_trials: int, which: np.ndarray, alphas: np.ndarray) -> tuple[Array, Array]:
        """Weights `(p, N)` and intercepts `(N,)` with the scaling (its index) and penalty of each target `(N,)`."""
        coef = like(moments.xx, np.zeros(tuple(moments.xy.shape)))
        for scaling in np.unique(which):
            own = np.flatnonzero(which == scaling)
            axes = self.axes(moments, int(scaling))
            coef[:, own] = axes.b @ axes.solve(moments.xy[:, own], self.scaled(alphas[own], n_trials))
        return coef, moments.y - moments.x @ coef


class Folds:
    """Folds of trials for targets of equal weights: their sums, and errors of what was fitted without them.

    Args:
        splits: indices of the trials of each fold. Trials without any sample of these targets are left out.

    Raises:
        ValueError: fewer than two folds have samples.
    """

    def __init__(self, trials: Sequence[Trial], columns: np.ndarray, splits: Sequence[np.ndarray], lags: np.ndarray):
        self.columns = columns
        self.parts: list[dict[int, Part]] = []
        for split in splits:
            parts = {int(i): Part(trials[i], columns, lags) for i in split}
            self.parts.append({i: part for i, part in parts.items() if part.n > 0})
        self.present = [i for i, parts in enumerate(self.parts) if parts]
        if not self.present or (len(self.present) < 2 and len(splits) > 1):
            raise ValueError(f"targets {columns[:5].tolist()}{'…' if len(columns) > 5 else ''} are measured in "
                             f"{len(self.present)} of {len(splits)} folds of trials: at least two are needed; leave "
                             "these targets out")
        self.sums = {i: _sum([part.moments() for part in self.parts[i].values()]) for i in self.present}
        self.total = _sum(list(self.sums.values()))

    def train(self, without: Sequence[int] = ()) -> tuple[Moments, int]:
        """Sums over all folds but some, and the number of their trials."""
        out = self.total
        for i in without:
            out = out - self.sums[i]
        return out, sum(len(self.parts[i]) for i in self.present if i not in without)

    def errors(self, without: Sequence[int], held: Sequence[int], candidates: Candidates) -> np.ndarray:
        """Sums over held-out samples of squared errors, and over trials of correlations: `(held, 2, S, A, N)`."""
        train, n_trials = self.train(without)
        alphas = candidates.scaled(candidates.alphas, n_trials)
        out = np.zeros((len(held), 2, len(candidates.gains), len(alphas), len(self.columns)))
        rows = max(train.xx.shape[0], 1) * len(alphas)
        for scaling in range(len(candidates.gains)):
            axes = candidates.axes(train, scaling)
            used, which = distinct(alphas, axes.s) if candidates.penalty is None else (alphas, np.arange(len(alphas)))
            for batch in target_batches(len(self.columns), rows, candidates.max_bytes):
                own = train.targets(batch)
                z = axes.b.T @ own.xy
                coefs = [axes.b @ (z / (axes.s + axes.d * float(alpha))[:, None]) for alpha in used]
                intercepts = [own.y - own.x @ coef for coef in coefs]
                for place, i in enumerate(held):
                    for part in self.parts[i].values():
                        found = part.compare(coefs, intercepts, batch)
                        for kind, values in enumerate(found):
                            out[place, kind, scaling, :, batch] += values[which]
        return out


def _sum(parts: Sequence[Moments]) -> Moments:
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out
