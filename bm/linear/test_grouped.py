"""Penalties by folds of groups, against the obvious way; primal and dual designs."""
import numpy as np
import pytest

from bm.linear.kernel import Design
from bm.linear.select import folds
from bm.linear.voxelwise import gram, voxelwise

ALPHAS = 10.0 ** np.arange(-12, 13)


def data(n=120, p=20, count=30, repetitions=2, seed=0):
    """Neighbours share noise; features of sizes over three decades."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-2, 1, p)
    groups = np.arange(n) // 6
    noise = rng.standard_normal((groups.max() + 1, count, 1))[groups] + rng.standard_normal((n, count, repetitions))
    signal = (x / x.std(0)) @ rng.standard_normal((p, count)) / p ** 0.5
    return x, signal[..., None] + noise * np.linspace(0.1, 4, count)[:, None] + 3, groups


def obviously(x, y, groups, train, test):
    """Penalty and predictions of one target: a fit for each fold and penalty."""
    errors = np.zeros(len(ALPHAS))

    def fit(rows, at, alpha):
        mean, level = x[rows].mean(0), y[rows].mean()
        u, s, vt = np.linalg.svd(x[rows] - mean, full_matrices=False)
        keep = s > 1e-10 * s[0]
        w = vt[keep].T @ (s[keep] / (s[keep] ** 2 + alpha) * (u[:, keep].T @ (y[rows] - level)))
        return level + (x[at] - mean) @ w
    for sub, out in folds(len(train), 5, groups[train]):
        for k, alpha in enumerate(ALPHAS):
            errors[k] += ((y[train[out]] - fit(train[sub], train[out], alpha)) ** 2).sum()
    return errors, fit(train, test, ALPHAS[errors.argmin()])


@pytest.mark.parametrize("p", [20, 200])
def test_as_the_obvious_way(p):
    x, y, groups = data(p=p)
    train = np.flatnonzero(np.isin(groups, np.random.default_rng(1).permutation(20)[:10]))
    test = np.setdiff1d(np.arange(len(x)), train)
    found = voxelwise(Design(x), y, [(train, test)], ALPHAS, groups=groups, keep_predictions=True)
    for target in range(0, 30, 5 if p == 20 else 15):
        mean = y[:, target].mean(1)
        errors, estimate = obviously(x, mean, groups, train, test)
        chosen = errors[np.flatnonzero(found.alphas[target, 0] == ALPHAS)[0]]
        assert chosen <= errors.min() * (1 + 1e-5)
        if errors.argmin() == np.abs(np.log(ALPHAS / found.alphas[target, 0])).argmin():
            np.testing.assert_allclose(found.predictions[test, 0, target], estimate, rtol=1e-4)
            r = np.corrcoef(estimate, mean[test])[0, 1]
            np.testing.assert_allclose(found.r_prior_zero[target, 0], r, atol=1e-4)
    assert np.isfinite(found.r2_test_c).all()
    if p == 20:
        assert found.r_test[:5].min() > 0.6 > found.r_test[-5:].mean()
    again = voxelwise(Design(x), y, [(train, test)], ALPHAS, groups=groups, device="cpu", voxels_at_once=7)
    np.testing.assert_allclose(again.r_test, found.r_test, atol=1e-5)
    kernel = voxelwise(gram(x), y, [(train, test)], ALPHAS, groups=groups)
    same = found.alphas == kernel.alphas  # primal and dual, but for what rounding decides
    assert same.mean() > 0.8
    np.testing.assert_allclose(found.r_test[same], kernel.r_test[same], atol=1e-5)


def test_nothing_to_learn_from():
    """Constant features give a constant prediction; two groups are two folds."""
    _, y, groups = data()
    train, test = np.flatnonzero(groups % 2 == 0), np.flatnonzero(groups % 2)
    flat = voxelwise(Design(np.ones((120, 3))), y, [(train, test)], ALPHAS, groups=groups)
    assert flat.constant_test.all() and (flat.r_test == 0).all()
    with pytest.raises(ValueError, match=r"groups are \(119,\): expected a label for each of the 120 samples"):
        voxelwise(Design(data()[0]), y, [(train, test)], ALPHAS, groups=groups[1:])
    with pytest.raises(ValueError, match=r"splits \[1\] train on samples of one group"):
        voxelwise(Design(data()[0]), y, [(train, test), (train[:6], test)], ALPHAS, groups=groups)
    two = voxelwise(Design(data()[0]), y, [(np.flatnonzero(groups < 2), test[6:])], ALPHAS, groups=groups)
    assert np.isfinite(two.r2_test).all() and two.r_test.mean() < 0.5


def test_the_smallest_penalties_are_one():
    """Without noise the smallest is the best; what stands for all that are as small is at the edge too."""
    x, _, groups = data(p=5)
    y = x @ np.random.default_rng(0).standard_normal((5, 3))
    train, test = np.flatnonzero(groups % 2 == 0), np.flatnonzero(groups % 2)
    found = voxelwise(Design(x), y, [(train, test)], 10.0 ** np.arange(-16, 4), groups=groups)
    assert (found.edge == 2).all() and (found.alphas > 1e-16).all() and found.r_test.min() > 0.999
