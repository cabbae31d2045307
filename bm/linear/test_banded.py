"""Banded ridge against penalties written out per feature."""
import numpy as np
import pytest

from bm.linear import BandedRidgeCV, RidgeCV, dirichlet, folds, product_grid

ALPHAS = 10.0 ** np.arange(-1, 4)
GROUPS = np.array(["mel"] * 3 + ["word"] * 4)


def data(n=24, wide=1, targets=6):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((n, 7 * wide)) + 1
    groups = np.repeat(GROUPS, wide)
    keep = (groups == "mel")[:, None] ^ (np.arange(targets) % 2).astype(bool)
    return x, x @ (rng.standard_normal((7 * wide, targets)) * keep) + 2 * rng.standard_normal((n, targets)), groups


def brute(x, y, penalties, splits):
    """Held-out error of one target with a penalty per feature (0 scaling: left out)."""
    keep = np.isfinite(penalties)
    total = 0.0
    for train, out in splits:
        mean, level = x[train][:, keep].mean(0), y[train].mean()
        xc = x[train][:, keep] - mean
        w = np.linalg.solve(xc.T @ xc + np.diag(penalties[keep]), xc.T @ (y[train] - level))
        total += ((y[out] - level - (x[out][:, keep] - mean) @ w) ** 2).sum()
    return total / sum(len(out) for _, out in splits)


@pytest.mark.parametrize("wide", [1, 6])
def test_it_is_himalaya(wide):
    """At fixed penalties of the bands: a kernel for each, weighted."""
    from himalaya.kernel_ridge import WeightedKernelRidge
    x, y, groups = data(wide=wide)
    new, gamma = np.random.default_rng(4).standard_normal((9, 7 * wide)), np.array([0.3, 2.0])
    ours = BandedRidgeCV(groups, gamma[None], [5.0], cv=4).fit(x, y)

    def kernels(rows):
        parts = [groups == band for band in ("mel", "word")]
        return np.stack([(rows - x.mean(0))[:, own] @ (x - x.mean(0))[:, own].T for own in parts])

    theirs = WeightedKernelRidge(5.0, np.tile(np.log(gamma)[:, None], y.shape[1]), "precomputed",
                                 solver_params={"max_iter": 2000, "tol": 1e-12}).fit(kernels(x), y - y.mean(0))
    np.testing.assert_allclose(ours.predict(new), theirs.predict(kernels(new)) + y.mean(0), atol=1e-9)


@pytest.mark.parametrize("wide", [1, 6])
@pytest.mark.parametrize("cv", ["loo", 4])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_it_is_the_brute_force_search(wide, cv, backend):
    x, y, groups = data(wide=wide)
    scalings = np.vstack([product_grid([0.1, 1.0], 2), [[0.0, 1.0], [1.0, 0.0]]])
    splits = folds(24, 24 if cv == "loo" else cv)
    model = BandedRidgeCV(groups, scalings, ALPHAS, cv=cv, backend=backend, max_bytes=4000).fit(x, y)
    with np.errstate(divide="ignore"):
        penalties = ALPHAS[:, None, None] / scalings[None][:, :, (groups == "word").astype(int)]
    for t in range(y.shape[1]):
        errors = np.array([[brute(x, y[:, t], row, splits) for row in rows] for rows in penalties])
        best = errors.min()
        assert model.cv_errors_[t] == pytest.approx(best, rel=1e-8)
        a = np.flatnonzero(model.alphas_[t] == ALPHAS)[0]
        s = np.flatnonzero((scalings == model.scalings_[t]).all(1))[0]
        assert errors[a, s] == pytest.approx(best, rel=1e-8)
        keep = np.isfinite(penalties[a, s])
        xc = (x - x.mean(0))[:, keep]
        w = np.zeros(x.shape[1])
        w[keep] = np.linalg.solve(xc.T @ xc + np.diag(penalties[a, s][keep]), xc.T @ (y[:, t] - y[:, t].mean()))
        np.testing.assert_allclose(np.asarray(model.coef_)[:, t], w, atol=1e-8)
        np.testing.assert_allclose(np.asarray(model.predict(x + 1))[:, t], (x + 1 - x.mean(0)) @ w + y[:, t].mean())
    assert len(np.unique(model.scalings_, axis=0)) > 1


def test_one_band_is_ridge():
    x, y, groups = data()
    for shared in (True, False):
        banded = BandedRidgeCV(np.zeros(7), [[1.0]], ALPHAS, alpha_per_target=shared).fit(x, y)
        plain = RidgeCV(ALPHAS, alpha_per_target=shared).fit(x, y)
        np.testing.assert_array_equal(banded.alphas_, plain.alphas_)
        np.testing.assert_allclose(banded.predict(x), plain.predict(x))
        np.testing.assert_allclose(banded.score(x, y), plain.score(x, y))


def test_one_scaling_for_all():
    x, y, groups = data()
    model = BandedRidgeCV(groups, product_grid([0.01, 1.0, 10.0], 2), ALPHAS, alpha_per_target=False).fit(x, y)
    assert len(np.unique(model.alphas_)) == 1 and len(np.unique(model.scalings_, axis=0)) == 1


def test_noise_is_constant_and_takes_the_first_scaling():
    x, _, groups = data()
    model = BandedRidgeCV(groups, dirichlet(5, 2), 10.0 ** np.arange(-5, 40)).fit(x, np.full((24, 2), 0.1))
    assert model.constant_.all()
    np.testing.assert_allclose(model.predict(x), 0.1, rtol=1e-15)
    np.testing.assert_array_equal(model.scalings_, 0.5)


def test_candidates():
    np.testing.assert_array_equal(product_grid([1, 2], 2), [[1, 1], [1, 2], [2, 1], [2, 2]])
    draws = dirichlet(50, 3, seed=1)
    np.testing.assert_allclose(draws.sum(1), 1)
    np.testing.assert_array_equal(draws, dirichlet(50, 3, seed=1))
    assert (draws[0] == 1 / 3).all() and (draws >= 0).all()


def test_errors_say_what_to_do():
    x, y, groups = data()
    with pytest.raises(ValueError, match=r"\(candidates, 2 bands\)"):
        BandedRidgeCV(groups, [[1.0]])
    with pytest.raises(ValueError, match="not all 0"):
        BandedRidgeCV(groups, [[0.0, 0.0]])
    with pytest.raises(ValueError, match="X has 6 features, but groups names the band of 7"):
        BandedRidgeCV(groups, [[1.0, 1.0]]).fit(x[:, :6], y)
