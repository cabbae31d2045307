"""Against the obvious way: one voxel at a time, a decomposition for every left-out sound."""
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.linear.kernel import Design, cv_errors
from bm.linear.voxelwise import PAPER_ALPHAS, Voxelwise, _Split, gram, random_splits, voxelwise
from bm.metrics.reliability import lowest_reliability

ALPHAS = np.array(PAPER_ALPHAS)


def voxels(n=40, p=60, count=16, repetitions=3, seed=0):
    """Responses from pure signal to pure noise; features of a layer have units of very different sizes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * np.exp(rng.standard_normal(p))
    signal = x @ rng.standard_normal((p, count)) / p ** 0.5
    noise = rng.standard_normal((n, count, repetitions)) * np.linspace(0.05, 8, count)[:, None]
    signal[:, -3:] = 0
    return x, signal[..., None] + noise + 5


def left_out_errors(x, y):
    """Mean squared error of each penalty, refitted without each sample in turn."""
    errors = np.zeros(len(ALPHAS))
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        mean, level = x[rest].mean(0), y[rest].mean()
        u, s, vt = np.linalg.svd(x[rest] - mean, full_matrices=False)
        keep = s > 1e-10 * s[0]
        z, out = u.T[keep] @ (y[rest] - level), vt[keep] @ (x[i] - mean)
        estimate = level + (out * s[keep] / (s[keep] ** 2 + ALPHAS[:, None])) @ z
        errors += (y[i] - estimate) ** 2
    return errors / len(x)


def one_fit(x, y, train, test, plateau=1e-9):
    """Penalty, and predictions of train and test sounds, of one voxel; `plateau` is the rule's tolerance."""
    errors = left_out_errors(x[train], y[train])
    alpha = ALPHAS[errors <= errors.min() * (1 + plateau)].max()
    mean, level = x[train].mean(0), y[train].mean()
    u, s, vt = np.linalg.svd(x[train] - mean, full_matrices=False)
    s, u, vt = s[:len(train) - 1], u[:, :len(train) - 1], vt[:len(train) - 1]
    if plateau and alpha > 1e12 * s[0] ** 2:
        return alpha, np.full(len(train), level), np.full(len(test), level)
    w = vt.T @ (s / (s ** 2 + alpha) * (u.T @ (y[train] - level)))
    return alpha, level + (x[train] - mean) @ w, level + (x[test] - mean) @ w


def pearson(a, b):
    return np.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else np.corrcoef(a, b)[0, 1]


def median_reliability(columns, floor):
    pairs = [pearson(columns[i], columns[j]) for i, j in [(0, 1), (1, 2), (0, 2)]]
    if not np.isfinite(pairs).any():
        return floor
    m = np.nanmedian(pairs)
    return max(3 * m / (1 + 2 * m), floor) if m > 0 else floor


def one_voxel(x, y, train, test, floors):
    alpha, fitted, estimate = one_fit(x, y.mean(1), train, test)
    r_train, r = pearson(fitted, y[train].mean(1)), pearson(estimate, y[test].mean(1))
    zeroed = [0.0 if np.isnan(value) else max(value, 0) for value in (r_train, r)]
    rv = median_reliability([y[train, k] for k in range(3)], floors[0])
    rv_hat = median_reliability([one_fit(x, y[:, k], train, test)[2] for k in range(3)], floors[1])
    return {"alphas": alpha, "r_prior_zero": r, "r_test": zeroed[1], "r2_test": zeroed[1] ** 2,
            "r2_test_c": zeroed[1] ** 2 / (rv * rv_hat), "r2_train": zeroed[0] ** 2, "reliability": rv,
            "reliability_hat": rv_hat, "pred_test_std": estimate.std(), "y_train_std": y[train].mean(1).std()}


def test_the_splits_are_the_papers():
    found = []
    for train, test in random_splits():
        mask = np.zeros(165, bool)
        mask[train] = True
        assert len(test) == 82 and not mask[test].any()
        found.append(hashlib.sha1(mask.tobytes()).hexdigest()[:12])
    assert found == ["c973fb47e1fd", "3d69e048db57", "9ce67cacd9ae", "66fbd476871b", "c5dfa13f66b2", "f4d0c0c7156b",
                     "e271b66db44f", "9c2e1a1c8ae7", "caf1ac15ef22", "500fc9738045"]


@pytest.mark.parametrize("n,p", [(40, 60), (40, 9)])
def test_it_is_the_obvious_way(n, p):
    x, y = voxels(n, p)
    splits = random_splits(n, n // 2 + 1, 2)
    found = voxelwise(gram(x), y, splits)
    floors = (lowest_reliability(n // 2 + 1), lowest_reliability(n - n // 2 - 1))
    for s, (train, test) in enumerate(splits):
        for v in range(y.shape[1]):
            expected = one_voxel(x, y[:, v], train, test, floors)
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(found, name)[v, s], value, atol=1e-8, rtol=1e-8,
                                           err_msg=f"{name}, voxel {v}, split {s}")
    assert 0 < found.constant_test.mean() < 0.8  # both sides of the rule were met
    assert (found.edge[found.constant_test] == 1).all() and len(np.unique(found.alphas)) > 3


def test_the_reference_takes_the_plain_minimum():
    """Where one penalty is clearly the best both agree; on plateaus the reference has whatever rounding leaves."""
    x, y = voxels()
    splits = random_splits(40, 21, 2)
    ours, theirs = (voxelwise(gram(x), y, splits, compat=compat) for compat in (None, "reference"))
    largest = np.linalg.norm(x - x.mean(0), 2) ** 2
    inside = (theirs.alphas < 1e7 * largest) & (theirs.alphas > 1e-3)
    np.testing.assert_array_equal(ours.alphas[inside], theirs.alphas[inside])
    np.testing.assert_allclose(ours.r_prior_zero[inside], theirs.r_prior_zero[inside], rtol=1e-9)
    assert 0 < inside.mean() < 1
    for v, s in zip(*np.nonzero(inside), strict=True):
        assert one_fit(x, y[:, v].mean(1), *splits[s], plateau=0)[0] == theirs.alphas[v, s]


def assert_same(one: Voxelwise, other: Voxelwise):
    np.testing.assert_array_equal(one.alphas, other.alphas)
    np.testing.assert_array_equal(one.constant_test, other.constant_test)
    for name, values in one.arrays().items():
        np.testing.assert_allclose(getattr(other, name), values, rtol=1e-7, atol=1e-9, err_msg=name)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10 ** 6), p=st.sampled_from([7, 90]))
def test_neither_order_nor_batches_nor_a_turn_change_anything(seed, p):
    x, y = voxels(30, p, 9, seed=seed)
    splits = random_splits(30, 16, 2)
    one = voxelwise(gram(x), y, splits)
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(30), np.linalg.qr(rng.standard_normal((p, p)))[0]
    place = np.argsort(order)
    moved = [(place[train], place[test]) for train, test in splits]
    assert_same(one, voxelwise(gram(x[order] @ turn + 3, 500), y[order], moved))
    assert_same(one, voxelwise(gram(x), y, splits, voxels_at_once=2))
    scaled = voxelwise(gram(x), y * 1e-6, splits)
    np.testing.assert_array_equal(one.alphas, scaled.alphas)
    np.testing.assert_allclose(one.r2_test_c, scaled.r2_test_c, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [6, 39, 500])
def test_the_ends_of_the_penalties_are_those_of_the_kernel(p):
    x, y = voxels(30, p)
    train, test = random_splits(30, 17, 1)[0]
    kernel = gram(x)
    fit = _Split(Design(kernel, precomputed=True), train, test, ALPHAS, None)
    assert len(fit.weights) < len(fit.used) < 45
    found = np.concatenate([errors for _, errors in fit._errors(y[train, :, 0])], 1)
    expected = cv_errors(Design(kernel[np.ix_(train, train)], precomputed=True), y[train, :, 0], fit.used)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_predictions_are_kept_where_asked():
    x, y = voxels(count=4)
    splits = random_splits(40, 21, 2)
    found = voxelwise(gram(x), y, splits, keep_predictions=True)
    assert found.predictions.shape == (40, 2, 4)
    for s, (train, test) in enumerate(splits):
        assert np.isnan(found.predictions[train, s]).all()
        r = [pearson(found.predictions[test, s, v], y[test, v].mean(1)) for v in range(4)]
        np.testing.assert_allclose(r, found.r_prior_zero[:, s], atol=1e-5)


def test_without_repetitions_nothing_is_corrected():
    x, y = voxels()
    single, mean = (voxelwise(gram(x), values, random_splits(40, 21, 2)) for values in (y.mean(2), y))
    np.testing.assert_array_equal(single.r2_test, mean.r2_test)
    assert np.isnan(single.r2_test_c).all() and single.best_r2 is single.r2_test
    assert mean.best_r2 is mean.r2_test_c


def test_constant_voxels_and_features():
    x, y = voxels(count=3)
    y[:, 0] = 2.0
    found = voxelwise(gram(x), y, random_splits(40, 21, 2))
    assert found.constant_test[0].all() and (found.r2_test_c[0] == 0).all() and np.isfinite(found.r2_test_c).all()
    flat = voxelwise(gram(np.ones((40, 3))), y, random_splits(40, 21, 2))
    assert flat.constant_test.all() and (flat.r2_test == 0).all()


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_the_correction_is_unbiased(noise):
    """Responses that a layer predicts in full: the corrected R² says 1 at any noise, the plain one 1 / (1 + noise²/3).

    Of many sounds, as the reliability of few is itself uncertain, and its inverse then too large on average.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1200, 40))
    signal = x @ rng.standard_normal((40, 400))
    y = (signal / signal.std(0))[..., None] + noise * rng.standard_normal((1200, 400, 3))
    found = voxelwise(gram(x), y, random_splits(1200, 600, 3), 10.0 ** np.arange(-2, 4))
    assert abs(found.r2_test_c.mean() - 1) < 0.02 and abs(np.median(found.r2_test_c) - 1) < 0.01
    assert found.r2_test.mean() < 1 / (1 + noise ** 2 / 3) + 0.01


@pytest.mark.parametrize("change,message", [
    ({"y": np.ones(4)}, r"responses of \(4,\)"), ({"y": np.ones((5, 2))}, r"responses of \(5, 2\)"),
    ({"y": np.full((40, 2), np.nan)}, "2 voxels have NaN"), ({"alphas": [0]}, "alphas must be positive"),
    ({"splits": [(np.arange(30), np.arange(20, 40))]}, "sample 20 is on both sides"),
    ({"kernel": np.ones((40, 3))}, r"kernel of \(40, 3\)"),
])
def test_errors_say_what_to_do(change, message):
    arguments = {"kernel": np.eye(40), "y": np.random.default_rng(0).random((40, 2)),
                 "splits": random_splits(40, 21, 1), **change}
    with pytest.raises(ValueError, match=message):
        voxelwise(**arguments)
    with pytest.raises(ValueError, match="10 splits of 5 sounds, 4 of them"):
        random_splits(5, 4)
    with pytest.raises(ValueError, match="features .*have NaN"):
        gram(np.full((3, 3), np.inf))


@pytest.mark.parametrize("p", [6, 60])
def test_torch_is_numpy(p):
    """The same code on a device: here torch's own processor."""
    x, y = voxels(p=p)
    splits = random_splits(40, 21, 2)
    assert_same(voxelwise(gram(x), y, splits), voxelwise(gram(x), y, splits, device="cpu"))
