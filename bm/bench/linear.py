"""Ridge regression: 83 training sounds, 100 penalties from 1e49 to 1e-50, one penalty per target."""
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from bm.bench import Comparison, interleaved
from bm.linear import RidgeCV

SOUNDS, TARGETS, ONE_BY_ONE = 83, 4096, 16
ALPHAS = 10.0 ** np.arange(49, -51, -1)


def make_data(n: int, features: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets that are a linear map of features, and noise from none to much."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 30)) @ rng.standard_normal((30, features)) + rng.standard_normal((n, features))
    y = x @ rng.standard_normal((features, targets)) / features ** 0.5
    return x, y + rng.uniform(0, 20, targets) * rng.standard_normal((n, targets))


def one_target(x: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> float:
    """The obvious leave-one-out of one target: a decomposition of its own, and a loop over all penalties."""
    xc, yc = x - x.mean(0), y - y.mean()
    s, q = np.linalg.eigh(xc @ xc.T + 1)
    z, squared = q.T @ yc, q ** 2
    ones = np.abs(q.sum(0)).argmax()
    best, chosen = np.inf, alphas[0]
    for alpha in alphas:
        w = 1 / (s + alpha)
        w[ones] = 0
        error = np.mean((q @ (w * z) / (squared @ w)) ** 2)
        if error < best:
            best, chosen = error, alpha
    return float(chosen)


def one_by_one(x: np.ndarray, y: np.ndarray) -> list[float]:
    """The first few targets."""
    return [one_target(x, y[:, target], ALPHAS) for target in range(ONE_BY_ONE)]


def run() -> Iterator[Comparison]:
    """Yields the comparisons of this file, in seconds of all processors together."""
    for features in (512, 4096):
        x, y = make_data(SOUNDS, features, TARGETS)
        ours, obvious = interleaved(partial(RidgeCV(ALPHAS).fit, x, y), partial(one_by_one, x, y), repeats=3,
                                    clock=time.process_time)
        yield Comparison(f"ridge D={features}", f"leave-one-out, {TARGETS} targets at once / one after the other",
                         ours, obvious / ONE_BY_ONE * TARGETS, 50)
    x, y = make_data(2000, 200, 64)
    alphas = ALPHAS[40:50]
    ours, obvious = interleaved(lambda: RidgeCV(alphas, cv=5).fit(x, y), lambda: refit(x, y, alphas), repeats=3,
                                clock=time.process_time)
    yield Comparison("ridge K-fold", "5 folds, 10 penalties, 64 targets / a solve per fold and penalty", ours, obvious)


def refit(x: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Errors by solving the normal equations for each fold and penalty, all targets at once."""
    parts = np.array_split(np.arange(len(x)), 5)
    errors = np.zeros((len(alphas), y.shape[1]))
    for out in parts:
        train = np.setdiff1d(np.arange(len(x)), out)
        mean, level = x[train].mean(0), y[train].mean(0)
        xc, yc = x[train] - mean, y[train] - level
        for a, alpha in enumerate(alphas):
            w = np.linalg.solve(xc.T @ xc + alpha * np.eye(x.shape[1]), xc.T @ yc)
            errors[a] += ((y[out] - level - (x[out] - mean) @ w) ** 2).sum(0)
    return errors / len(x)
