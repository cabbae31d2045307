"""Against the obvious way: one target at a time, refitted for every left-out sample."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.linear_model import RidgeCV as SklearnRidgeCV
from sklearn.model_selection import GridSearchCV, KFold

from bm.linear import RidgeCV, folds
from bm.linear.kernel import Design, cv_errors, distinct
from bm.linear.select import select

ALPHAS = 10.0 ** np.arange(-2, 5)
WIDE = 10.0 ** np.arange(-50, 50)


def data(n=24, p=7, targets=5, noise=1.0, seed=0, offset=3.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) + offset
    return x, x @ rng.standard_normal((p, targets)) + noise * rng.standard_normal((n, targets)) - 2 * offset


def obvious(x, y, alpha):
    """Weights and intercept of one target by the normal equations, or in the dual where there are more features."""
    xc, yc = x - x.mean(0), y - y.mean()
    if x.shape[1] < len(x):
        w = np.linalg.solve(xc.T @ xc + alpha * np.eye(x.shape[1]), xc.T @ yc)
    else:
        w = xc.T @ np.linalg.solve(xc @ xc.T + alpha * np.eye(len(x)), yc)
    return w, y.mean() - x.mean(0) @ w


def obvious_errors(x, y, alphas, splits):
    errors = np.zeros((len(alphas), y.shape[1]))
    for a, alpha in enumerate(alphas):
        for t in range(y.shape[1]):
            held_out = []
            for train, out in splits:
                w, b = obvious(x[train], y[train, t], alpha)
                held_out.append((y[out, t] - x[out] @ w - b) ** 2)
            errors[a, t] = np.concatenate(held_out).mean()
    return errors


@pytest.mark.parametrize("n,p", [(24, 7), (20, 20), (15, 60)])
@pytest.mark.parametrize("cv", ["loo", 4])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_it_is_the_obvious_ridge(n, p, cv, backend):
    x, y = data(n, p, noise=3.0)
    splits = folds(n, n if cv == "loo" else cv)
    expected = obvious_errors(x, y, ALPHAS, splits)
    design = Design(x if backend == "numpy" else torch.from_numpy(x))
    np.testing.assert_allclose(cv_errors(design, y, ALPHAS, None if cv == "loo" else splits), expected, rtol=1e-8)
    model = RidgeCV(ALPHAS, cv=cv, backend=backend).fit(x, y)
    best = expected.argmin(0)
    assert ((best > 0) & (best < len(ALPHAS) - 1)).any()
    np.testing.assert_array_equal(model.alphas_, ALPHAS[best])
    np.testing.assert_allclose(model.cv_errors_, expected.min(0), rtol=1e-8)
    new = data(9, p, seed=1)[0]
    for t, alpha in enumerate(model.alphas_):
        w, b = obvious(x, y[:, t], alpha)
        np.testing.assert_allclose(np.asarray(model.predict(new))[:, t], new @ w + b, rtol=1e-8)
        np.testing.assert_allclose(np.asarray(model.coef_)[:, t], w, rtol=1e-6, atol=1e-9)
        assert float(model.intercept_[t]) == pytest.approx(b)


@pytest.mark.parametrize("n,p", [(30, 6), (18, 40)])
def test_it_is_scikit_learns(n, p):
    x, y = data(n, p, noise=4.0)
    ours = RidgeCV(ALPHAS).fit(x, y)
    theirs = SklearnRidgeCV(ALPHAS, alpha_per_target=True).fit(x, y)
    np.testing.assert_array_equal(ours.alphas_, theirs.alpha_)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-7)
    shared, theirs = RidgeCV(ALPHAS, alpha_per_target=False).fit(x, y), SklearnRidgeCV(ALPHAS).fit(x, y)
    assert set(shared.alphas_) == {theirs.alpha_}
    np.testing.assert_allclose(shared.coef_.T, theirs.coef_, rtol=1e-6, atol=1e-9)
    search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=KFold(3), scoring="neg_mean_squared_error").fit(x, y)
    ours = RidgeCV(ALPHAS, cv=3, alpha_per_target=False).fit(x, y)
    assert set(ours.alphas_) == {search.best_params_["alpha"]}
    assert ours.cv_errors_.mean() == pytest.approx(-search.best_score_)
    assert ours.score(x, y).mean() == pytest.approx(search.best_estimator_.score(x, y))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(4, 16), p=st.integers(1, 20), seed=st.integers(0, 10 ** 6), offset=st.floats(-100, 100),
       alpha=st.floats(1e-3, 1e3))
def test_left_out_samples_are_never_seen(n, p, seed, offset, alpha):
    x, y = data(n, p, 2, seed=seed, offset=offset)
    closed = cv_errors(Design(x), y, np.array([alpha]))
    refitted = cv_errors(Design(x), y, np.array([alpha]), folds(n, n))
    np.testing.assert_allclose(closed, refitted, rtol=1e-6)
    np.testing.assert_allclose(closed, obvious_errors(x, y, [alpha], folds(n, n)), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(5, 20), p=st.integers(2, 30), seed=st.integers(0, 10 ** 6), scale=st.sampled_from([1e-6, 1, 1e6]))
def test_rotation_offset_order_and_unit_change_nothing(n, p, seed, scale):
    x, y = data(n, p, 3, noise=2.0, seed=seed)
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(n), np.linalg.qr(rng.standard_normal((p, p)))[0]
    one = RidgeCV(WIDE).fit(x, y)
    other = RidgeCV(WIDE).fit(x[order] @ turn + 7, (y[order] - 5) * scale)
    np.testing.assert_array_equal(one.alphas_, other.alphas_)
    np.testing.assert_allclose(other.predict(x @ turn + 7) / scale + 5, one.predict(x), atol=1e-6)


def test_primal_is_dual():
    x, y = data(40, 12, noise=3.0)
    primal, dual = Design(x), Design(x @ x.T, precomputed=True)
    assert not primal.dual and dual.dual
    for splits in (None, folds(40, 5), [(np.arange(8), np.arange(8, 40))]):
        np.testing.assert_allclose(cv_errors(primal, y, ALPHAS, splits), cv_errors(dual, y, ALPHAS, splits), rtol=1e-8)
    new = data(6, 12, seed=3)[0]
    kernel = RidgeCV(ALPHAS, kernel="precomputed").fit(x @ x.T, y)
    np.testing.assert_allclose(kernel.predict(new @ x.T), RidgeCV(ALPHAS).fit(x, y).predict(new), rtol=1e-8)


def test_numpy_is_torch():
    x, y = data(15, 60, noise=3.0)
    a, b = (RidgeCV(WIDE, backend=backend).fit(x, y) for backend in ("numpy", "torch"))
    np.testing.assert_array_equal(a.alphas_, b.alphas_)
    np.testing.assert_allclose(a.predict(x), b.predict(torch.from_numpy(x)).numpy(), rtol=1e-10)
    assert isinstance(b.predict(x), torch.Tensor)


def noisy_voxels(n=40, p=100, targets=300):
    """Half of the targets are nothing but noise, as voxels are."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, p)) * np.exp(rng.standard_normal(p))
    signal = x @ rng.standard_normal((p, targets)) * (np.arange(targets) % 2) / 10
    return x, signal + rng.standard_normal((n, targets))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_choices_depend_on_neither_batches_nor_order_nor_library(backend):
    x, y = noisy_voxels()
    one = RidgeCV(WIDE).fit(x, y)
    assert 0 < one.constant_.mean() < 1
    order = np.random.default_rng(0).permutation(len(x))
    columns = np.random.default_rng(1).permutation(y.shape[1])
    for rows, some, max_bytes in [(slice(None), slice(None), 40 * 40 * 7), (order, columns, 2 ** 28)]:
        other = RidgeCV(WIDE, max_bytes=max_bytes, backend=backend).fit(x[rows], y[rows][:, some])
        np.testing.assert_array_equal(other.alphas_, one.alphas_[some])
        np.testing.assert_array_equal(other.constant_, one.constant_[some])
        np.testing.assert_allclose(np.asarray(other.predict(x)), one.predict(x)[:, some], rtol=1e-9, atol=1e-9)


def test_the_plateau():
    """Noise: the largest penalty and a constant prediction; the reference's way is any of the plateau."""
    x, y = noisy_voxels()
    ours, reference = RidgeCV(WIDE).fit(x, y), RidgeCV(WIDE, compat="reference").fit(x, y)
    largest = Design(x).basis().largest
    assert set(ours.alphas_[ours.constant_]) == {1e49}
    prediction = ours.predict(x)[:, ours.constant_]
    assert (prediction == y.mean(0)[ours.constant_]).all()
    np.testing.assert_array_equal(ours.score(x, y)[ours.constant_] < 1e-12, True)
    assert not reference.constant_.any()
    inside = (reference.alphas_ < 1e9 * largest) & (reference.alphas_ > 1e-3)
    np.testing.assert_array_equal(ours.alphas_[inside], reference.alphas_[inside])
    assert inside.sum() > 50 and (reference.alphas_[ours.constant_] > 1e6 * largest).all()


def test_only_penalties_that_differ_are_computed():
    s = np.array([1e-3, 1.0, 1e4])
    used, which = distinct(WIDE, s)
    assert len(used) < 45 and len(which) == 100
    inner = (WIDE > 1e-15) & (WIDE < 1e15)
    np.testing.assert_array_equal(used[which][inner], WIDE[inner])
    x, y = data(15, 60)
    errors = cv_errors(Design(x), y, WIDE)
    alone = np.concatenate([cv_errors(Design(x), y, WIDE[i:i + 1]) for i in range(100)])
    np.testing.assert_allclose(errors, alone, rtol=1e-9)
    assert (errors[0] == errors[20]).all() and (errors[-1] == errors[-15]).all()


def test_ties_go_to_the_largest():
    errors = np.array([[1.0, 1.0, 1.0], [1 - 1e-11, 0.9, 1 - 1e-3], [1.0, 0.95, 1.0]])
    alphas = np.array([100.0, 1.0, 10.0])
    np.testing.assert_array_equal(alphas[select(errors, alphas, np.ones(3), 10)], [100, 1, 1])
    np.testing.assert_array_equal(alphas[select(errors, alphas, np.ones(3), 10, compat="reference")], [1, 1, 1])
    np.testing.assert_array_equal(alphas[select(np.ones((3, 1)), alphas, np.ones(1), 10, compat="reference")], [100])


@pytest.mark.parametrize("cv", ["loo", 3])
def test_constant_targets_and_features(cv):
    x, y = data(20, 4)
    y[:, 0], y[:, 1] = 0.1, 0.0
    model = RidgeCV(WIDE, cv=cv).fit(x, y)
    np.testing.assert_array_equal(model.constant_, [True, True, False, False, False])
    np.testing.assert_allclose(model.predict(x + 5)[:, :2], [[0.1, 0.0]] * 20, rtol=1e-15)
    np.testing.assert_array_equal(model.score(x, y)[1], 0)
    flat = RidgeCV(ALPHAS, cv=cv).fit(np.ones((20, 4)), y)
    assert flat.constant_.all() and np.allclose(flat.predict(x), y.mean(0))


def test_a_sample_the_others_cannot_predict():
    """One-hot features: what only the left-out sample has cannot be learned, its prediction is the mean of the rest."""
    x = np.eye(6)[:, :5]
    y = np.arange(6.0)[:, None]
    for alphas in (np.array([1e-40, 1e-3]), np.array([1e-12])):
        np.testing.assert_allclose(cv_errors(Design(x), y, alphas), cv_errors(Design(x), y, alphas, folds(6, 6)),
                                   rtol=1e-6)
    tall = np.vstack([np.eye(2), np.zeros((5, 2))])[:, :1]
    y = np.array([9.0, 1, 2, 3, 4, 5, 6])[:, None]
    np.testing.assert_allclose(cv_errors(Design(tall), y, np.array([1e-40])),
                               cv_errors(Design(tall), y, np.array([1e-40]), folds(7, 7)), rtol=1e-9)


def test_a_perfect_fit_takes_the_largest_penalty_that_is_perfect():
    x, y = data(30, 4, noise=0)
    one, other = (RidgeCV(WIDE).fit(x[order], y[order]) for order in (np.arange(30), np.arange(30)[::-1]))
    np.testing.assert_array_equal(one.alphas_, other.alphas_)
    assert (one.score(x, y) > 1 - 1e-15).all() and (one.alphas_ > 1e-16).all()


def test_repetitions_are_targets():
    x, y = data(20, 5, targets=6)
    model = RidgeCV(ALPHAS).fit(x, y.reshape(20, 3, 2))
    flat = RidgeCV(ALPHAS).fit(x, y)
    assert model.alphas_.shape == model.score(x, y.reshape(20, 3, 2)).shape == (3, 2)
    np.testing.assert_array_equal(model.predict(x), flat.predict(x).reshape(20, 3, 2))
    single = RidgeCV(ALPHAS).fit(x, y[:, 0])
    assert single.alphas_.shape == () and single.predict(x).shape == (20,)


def test_its_state_is_plain():
    x, y = data()
    for backend in ("numpy", "torch"):
        model = RidgeCV(ALPHAS, backend=backend).fit(x, y)
        again = RidgeCV(ALPHAS, backend=backend)
        again.load_state_dict(model.state_dict())
        np.testing.assert_array_equal(model.predict(x), again.predict(x))


def test_folds():
    assert [list(out) for _, out in folds(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    groups = np.array(["b", "a", "b", "c", "b", "a"])
    parts = folds(6, 2, groups)
    assert sorted(np.concatenate([out for _, out in parts])) == list(range(6))
    assert all(not set(groups[train]) & set(groups[out]) for train, out in parts)
    with pytest.raises(ValueError, match="2 to 3 folds, the number of groups"):
        folds(6, 4, groups)


@pytest.mark.parametrize("change,message", [
    ({"x": np.full((4, 2), np.nan)}, "X has 8 NaN"), ({"y": np.array([1, 2, np.inf, 3])}, "1 of 1 targets"),
    ({"y": np.ones(3)}, r"X has 4 samples, but y has shape \(3,\)"), ({"x": np.ones(4)}, r"\(samples, features\)"),
    ({"alphas": [0.0]}, "alphas must be positive"), ({"alphas": []}, "alphas must be positive"),
    ({"cv": 5}, "cv=5: expected 2 to 4 folds"), ({"cv": "k"}, "cv='k'"), ({"cv": True}, "cv=True"),
    ({"cv": [([0, 1], [1, 2])]}, "sample 1 is on both sides"), ({"cv": [([0], [1])]}, "1 samples to train on"),
    ({"backend": "jax"}, "backend='jax'"), ({"kernel": "rbf"}, "kernel='rbf'"), ({"compat": "old"}, "compat='old'"),
    ({"kernel": "precomputed"}, "is square"), ({"y": np.ones((4, 0))}, "no target"),
])
def test_errors_say_what_to_do(change, message):
    options = {"alphas": ALPHAS, **{k: v for k, v in change.items() if k not in "xy"}}
    rng = np.random.default_rng(0)
    x, y = change.get("x", rng.random((4, 2))), change.get("y", rng.random(4))
    with pytest.raises(ValueError, match=message):
        RidgeCV(**options).fit(x, y)
    with pytest.raises(ValueError, match="X has 3 columns, but the model was fitted with 2"):
        RidgeCV(ALPHAS).fit(rng.random((4, 2)), rng.random(4)).predict(rng.random((1, 3)))
