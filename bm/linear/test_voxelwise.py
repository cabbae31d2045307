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


def left_out_errors(x, y, alphas):
    """Mean squared error of each penalty, refitted without each sample in turn."""
    errors = np.zeros(len(alphas))
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        mean, level = x[rest].mean(0), y[rest].mean()
        u, s, vt = np.linalg.svd(x[rest] - mean, full_matrices=False)
        keep = s > 1e-10 * s[0]
        z, out = u.T[keep] @ (y[rest] - level), vt[keep] @ (x[i] - mean)
        estimate = level + (out * s[keep] / (s[keep] ** 2 + alphas[:, None])) @ z
        errors += (y[i] - estimate) ** 2
    return errors / len(x)


def one_fit(x, y, train, test, alphas=ALPHAS, plateau=1e-9):
    """Penalty, and predictions of train and test sounds, of one voxel; `plateau` is the rule's tolerance, 0 in the
    reference, which predicts responses about their mean in train."""
    errors = left_out_errors(x[train], y[train], alphas)
    alpha = alphas[errors <= errors.min() * (1 + plateau)].max()
    y = y if plateau else y - y[train].mean()
    mean, level = x[train].mean(0), y[train].mean()
    u, s, vt = np.linalg.svd(x[train] - mean, full_matrices=False)
    s, u, vt = s[:len(train) - 1], u[:, :len(train) - 1], vt[:len(train) - 1]
    if plateau and alpha > 1e12 * s[0] ** 2:
        return alpha, np.full(len(train), level), np.full(len(test), level)
    w = vt.T @ (s / (s ** 2 + alpha) * (u.T @ (y[train] - level)))
    return alpha, level + (x[train] - mean) @ w, level + (x[test] - mean) @ w


def pearson(a, b):
    return np.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else np.corrcoef(a, b)[0, 1]


def median_reliability(columns, floor, compat=None):
    pairs = [pearson(columns[i], columns[j]) for i, j in [(0, 1), (1, 2), (0, 2)]]
    if not np.isfinite(pairs).any():
        return floor
    m = np.nanmedian(pairs)
    return max(3 * m / (1 + 2 * m), floor) if m > 0 or compat else floor


def nearly_constant(estimate):
    """Without variation, or with less than 1e-13 of its mean (where `scipy.stats.pearsonr` warns)."""
    return np.ptp(estimate) == 0 or np.linalg.norm(estimate - estimate.mean()) < 1e-13 * abs(estimate.mean())


def one_voxel(x, y, train, test, floors, alphas=ALPHAS, compat=None):
    options = {"alphas": alphas, "plateau": 0 if compat else 1e-9}
    alpha, fitted, estimate = one_fit(x, y.mean(1), train, test, **options)
    r_train, r = pearson(fitted, y[train].mean(1)), pearson(estimate, y[test].mean(1))
    zeroed = [0.0 if np.isnan(value) else max(value, 0) for value in (r_train, r)]
    rv = median_reliability([y[train, k] for k in range(3)], floors[0], compat)
    rv_hat = median_reliability([one_fit(x, y[:, k], train, test, **options)[2] for k in range(3)], floors[1], compat)
    return {"alphas": alpha, "r_prior_zero": r, "r_test": zeroed[1], "r2_test": zeroed[1] ** 2,
            "r2_test_c": zeroed[1] ** 2 / (rv * rv_hat), "r2_train": zeroed[0] ** 2, "reliability": rv,
            "reliability_hat": rv_hat, "pred_train_std": fitted.std(), "pred_test_std": estimate.std(),
            "y_train_std": y[train].mean(1).std(), "y_test_std": y[test].mean(1).std(),
            "constant_test": nearly_constant(estimate), "constant_train": nearly_constant(fitted),
            "edge": 1 if alpha == alphas.max() else 2 if alpha == alphas.min() else 0}


def assert_obvious(x, y, splits, alphas=ALPHAS, compat=None):
    """Every field of every voxel and split; gives what was found."""
    found = voxelwise(gram(x), y, splits, alphas, compat=compat)
    for s, (train, test) in enumerate(splits):
        floors = (lowest_reliability(len(train)), lowest_reliability(len(test)))
        for v in range(y.shape[1]):
            expected = one_voxel(x, y[:, v], train, test, floors, alphas, compat)
            assert set(expected) == set(found.arrays())
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(found, name)[v, s], value, atol=1e-8, rtol=1e-8,
                                           err_msg=f"{name}, voxel {v}, split {s}")
    return found


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
    found = assert_obvious(x, y, random_splits(n, n // 2 + 1, 2))
    assert 0 < found.constant_test.mean() < 0.8  # both sides of the rule were met
    assert (found.edge[found.constant_test] == 1).all() and len(np.unique(found.alphas)) > 3


@pytest.mark.parametrize("compat", [None, "reference"])
def test_few_penalties_and_unreliable_voxels(compat):
    """Both ends of the penalties are chosen. Repetitions of three voxels contradict each other: beyond the pole of
    Spearman–Brown the reference's reliability is above 1, ours the lowest one."""
    x, y = voxels(count=12)
    rng = np.random.default_rng(1)
    y[:, :3] = (rng.standard_normal((40, 3, 1)) * [1, -1, 1] + 0.1 * rng.standard_normal((40, 3, 3)))
    found = assert_obvious(x, y, random_splits(40, 21, 2), 10.0 ** np.arange(-1, 7)[::-1], compat)
    assert set(found.edge.ravel()) == {0, 1, 2} and not found.constant_test.any()
    assert (found.reliability[:3] > 2).all() if compat else (found.reliability[:3] == lowest_reliability(21)).all()
    assert (found.reliability_hat[:3].max() > 1) == (compat == "reference")


def test_predictions_that_hardly_vary():
    """Against the voxel's mean; what is a rounding of it is marked, and its correlation kept."""
    x, y = voxels(count=3)
    y[:, 1] += 1e7
    found = voxelwise(gram(x), y, random_splits(40, 21, 2), [1e11])
    assert found.constant_test.tolist() == found.constant_train.tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert np.isfinite(found.r_prior_zero).all() and (np.abs(found.r_prior_zero) > 1e-3).all()


@pytest.mark.parametrize("alpha, flagged, kept", [(1e22, False, True), (7e32, True, True), (1e45, True, False)])
def test_predictions_that_the_reference_loses(alpha, flagged, kept):
    """It predicts responses about their mean, whose own mean is their rounding: against that a prediction vanishes,
    of the mean over repetitions as of each of them. Ours are constant from 1e12 times the largest eigenvalue on."""
    x, y = voxels(count=5, seed=1)  # where no rounding is 0 by chance
    (train, test), = splits = random_splits(40, 21, 1)
    found = voxelwise(gram(x), y, splits, [alpha], compat="reference")
    expected, flags, correction = [], [], []
    for v in range(5):
        kernel = (x[test] - x[train].mean(0)) @ (x[train] - x[train].mean(0)).T / alpha
        repetitions = [y[:, v].mean(1), *y[:, v].T]
        centred = [values[train] - values[train].mean() for values in repetitions]
        estimates = [kernel @ own + own.mean() for own in centred]
        assert all(1e-16 < abs(own.mean()) < 1e-14 for own in centred)
        expected.append(pearson(kernel @ centred[0], y[test, v].mean(1)) if np.ptp(estimates[0]) else np.nan)
        flags.append(nearly_constant(estimates[0]))
        correction.append(median_reliability([kernel @ own if kept else np.zeros(len(test)) for own in centred[1:]],
                                             lowest_reliability(19), "reference"))
    assert flags == [flagged] * 5 and np.isfinite(expected).all() == kept
    np.testing.assert_allclose(found.r_prior_zero[:, 0], expected, rtol=1e-9)
    np.testing.assert_array_equal(found.r_test[:, 0], np.nan_to_num(np.maximum(found.r_prior_zero[:, 0], 0)))
    assert found.constant_test[:, 0].tolist() == flags
    np.testing.assert_allclose(found.reliability_hat[:, 0], correction, rtol=1e-9)
    ours = voxelwise(gram(x), y, splits, [alpha])
    assert ours.constant_test.all() and np.isnan(ours.r_prior_zero).all() and (ours.r_test == 0).all()
    assert (ours.reliability_hat == lowest_reliability(19)).all()


def test_where_predictions_become_constant():
    """From 1e12 times the largest eigenvalue of the train sounds on; the reference has no such rule."""
    x, y = voxels(count=4)
    (train, _), = splits = random_splits(40, 21, 1)
    largest = np.linalg.norm(x[train] - x[train].mean(0), 2) ** 2
    for factor, constant in ((0.9, False), (1.1, True)):
        ours, theirs = (voxelwise(gram(x), y, splits, [factor * 1e12 * largest], compat=compat)
                        for compat in (None, "reference"))
        assert (ours.constant_test == constant).all() and np.isfinite(theirs.r_prior_zero).all()


def test_errors_that_are_the_same_but_for_the_tenth_digit():
    """Ours takes the larger of two penalties that nearly agree, the reference the better: of signals the smaller."""
    x, y = voxels()
    (train, _), = splits = random_splits(40, 21, 1)
    alphas = 10 * np.array([1, 1 + 1e-10])
    slope = np.array([np.diff(left_out_errors(x[train], y[train, v].mean(1), np.array([10, 10.1])))[0]
                      for v in range(y.shape[1])])
    assert (slope > 0).any() and (slope < 0).any()
    ours, theirs = (voxelwise(gram(x), y, splits, alphas, compat=compat).alphas[:, 0] for compat in (None, "reference"))
    np.testing.assert_array_equal(ours, alphas[1])
    np.testing.assert_array_equal(theirs, alphas[(slope < 0).astype(int)])


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
