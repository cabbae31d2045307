import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, rankdata, spearmanr

from bm.metrics.rdm import (
    bootstrap_interval,
    compare,
    effective_dimensionality,
    estimate_noise,
    noise_ceiling,
    permutation_p,
    rdm,
    upper,
)


def patterns(n=12, units=40, repetitions=3, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, units, 1)) + noise * rng.standard_normal((n, units, repetitions))


def test_correlation_distances():
    x = patterns()[..., 0]
    np.testing.assert_allclose(rdm(x), squareform(pdist(x, "correlation")), atol=1e-12)
    np.testing.assert_allclose(upper(rdm(x, "spearman")), upper(1 - spearmanr(x, axis=1).statistic), atol=1e-12)


def test_crossnobis_is_the_mean_over_pairs_of_repetitions():
    x = patterns()
    variance = np.linspace(0.5, 2, 40)
    found, weighted = rdm(x, "crossnobis"), rdm(x, "crossnobis", variance)
    for i, j in [(0, 1), (3, 7)]:
        d = x[i] - x[j]
        pairs = [(k, m) for k in range(3) for m in range(3) if k != m]
        np.testing.assert_allclose(found[i, j], np.mean([d[:, k] @ d[:, m] / 40 for k, m in pairs]))
        np.testing.assert_allclose(weighted[i, j], np.mean([(d[:, k] / variance) @ d[:, m] / 40 for k, m in pairs]))


def test_crossnobis_is_unbiased():
    """Of patterns that do not differ it is 0 on average, where the squared distance is twice the noise."""
    x = np.random.default_rng(0).standard_normal((40, 500, 4))
    assert abs(upper(rdm(x, "crossnobis")).mean()) < 0.005
    assert abs(upper(rdm(patterns(30, 3000, 2, 3.0), "crossnobis")).mean() - 2) < 0.1


def test_noise_is_what_repetitions_differ_by():
    rng = np.random.default_rng(0)
    root = np.eye(6) + 0.4 * rng.standard_normal((6, 6))
    truth = root @ root.T
    x = 3 * rng.standard_normal((4000, 6, 1)) + np.einsum("ij,njr->nir", root, rng.standard_normal((4000, 6, 3)))
    np.testing.assert_allclose(estimate_noise(x), np.diag(truth), rtol=0.06)
    np.testing.assert_allclose(estimate_noise(x, "shrinkage"), truth, atol=0.06 * truth.max())
    few = patterns(5, 40)  # ten samples of 40 units
    shrunk = estimate_noise(few, "shrinkage")
    assert np.linalg.eigvalsh(shrunk).min() > 0.1 and np.trace(shrunk) == pytest.approx(estimate_noise(few).sum())
    found, d = rdm(few, "crossnobis", shrunk), few[1] - few[3]
    pairs = [(k, m) for k in range(3) for m in range(3) if k != m]
    assert found[1, 3] == pytest.approx(np.mean([d[:, k] @ np.linalg.inv(shrunk) @ d[:, m] / 40 for k, m in pairs]))
    few[:, 7] = 2.0  # the same in all repetitions: nothing is known of its noise, so it counts nothing
    assert np.isinf(estimate_noise(few)[7])
    expected = rdm(np.delete(few, 7, 1), "crossnobis", np.delete(estimate_noise(few), 7)) * 39 / 40
    np.testing.assert_allclose(rdm(few, "crossnobis", estimate_noise(few)), expected)
    with pytest.raises(ValueError, match=r"shape \(5, 40, 1\): noise"):
        estimate_noise(few[..., :1])
    with pytest.raises(ValueError, match="noise='full'"):
        estimate_noise(few, "full")


def test_comparisons():
    a, b = rdm(patterns(seed=1)[..., 0]), rdm(patterns(seed=1)[..., 1])
    expected = spearmanr(upper(a), upper(b)).statistic
    assert compare(a, b) == pytest.approx(expected)
    assert compare(a, b, "pearson") == pytest.approx(np.corrcoef(upper(a), upper(b))[0, 1])
    many = compare(np.stack([a, b]), np.stack([b, a, a]))
    assert many.shape == (2, 3) and many[0, 1] == pytest.approx(1) and many[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("how", ["spearman", "pearson"])
def test_pairs_that_do_not_count(how):
    """They may hold anything; ties share a rank."""
    rng = np.random.default_rng(0)
    pairs = np.triu(rng.random((12, 12)) < 0.6)
    matrices = np.stack([np.round(rdm(patterns(noise=0.3, seed=1)[..., k]) * 8) for k in range(3)])
    assert len(np.unique(matrices)) < 25
    kept = [matrix[np.triu(pairs, 1)] for matrix in matrices]
    matrices[:, ~pairs] = np.arange((~pairs).sum()) * 9.0
    r = spearmanr if how == "spearman" else pearsonr
    assert compare(matrices[0], matrices[1], how, pairs | pairs.T) == pytest.approx(r(kept[0], kept[1]).statistic)
    own = [rankdata(one) if how == "spearman" else one for one in kept]
    own = [(one - one.mean()) / one.std() for one in own]  # which ranks differ in where there are ties
    low, high = noise_ceiling(matrices, how, pairs)
    assert low[0] == pytest.approx(np.corrcoef(own[0], own[1] + own[2])[0, 1])
    assert high[0] == pytest.approx(np.corrcoef(own[0], np.sum(own, 0))[0, 1])
    low, high = noise_ceiling(matrices, how, pairs, compat="reference")
    assert low[0] == pytest.approx(np.corrcoef(kept[0], kept[1] + kept[2])[0, 1])
    assert high[0] == pytest.approx(np.corrcoef(kept[0], np.sum(kept, 0))[0, 1])


def test_the_ceiling_holds_the_truth():
    """The true matrix does better than any subject's neighbours, and not better than the upper bound on average."""
    rng = np.random.default_rng(0)
    truth = rdm(rng.standard_normal((20, 6)))
    subjects = []
    for _ in range(8):
        noise = 0.4 * np.triu(rng.standard_normal((20, 20)), 1)
        subjects.append(truth + noise + noise.T)
    low, high = noise_ceiling(np.stack(subjects))
    model = compare(np.stack(subjects), truth)
    assert low.mean() < model.mean() < high.mean() and (low < high).all()
    one = np.stack([upper(s) for s in subjects])
    ranks = rankdata(one, axis=1)
    assert low[2] == pytest.approx(np.corrcoef(ranks[2], np.delete(ranks, 2, 0).mean(0))[0, 1])
    assert high[2] == pytest.approx(np.corrcoef(ranks[2], ranks.mean(0))[0, 1])
    subjects[0] = 5 * subjects[0]  # as published nothing is scaled before matrices are averaged
    low, high = noise_ceiling(np.stack(subjects), compat="reference")
    one = np.stack([upper(s) for s in subjects])
    assert low[2] == pytest.approx(np.corrcoef(one[2], np.delete(one, 2, 0).mean(0))[0, 1])
    assert high[2] == pytest.approx(np.corrcoef(one[2], one.mean(0))[0, 1])


def test_chance():
    x = patterns(14, 60, 2, 0.5)
    found, p = permutation_p(rdm(x[..., 0]), rdm(x[..., 1]), 200)
    assert found > 0.4 and p == pytest.approx(1 / 201)
    rng = np.random.default_rng(0)
    ps = [permutation_p(rdm(rng.standard_normal((9, 20))), rdm(rng.standard_normal((9, 20))), 60, seed)[1]
          for seed in range(200)]
    assert abs(np.mean(np.array(ps) <= 0.1) - 0.1) < 0.06
    # the best of many models is compared with the best of them under relabelling, people's correlations averaged
    many = [permutation_p(*(np.stack([rdm(rng.standard_normal((9, 20))) for _ in range(n)]) for n in (8, 3)), 60, seed)
            for seed in range(150)]
    p = np.array([p for _, p in many])
    assert abs(np.mean(p <= 0.1) - 0.1) < 0.07 and abs(p.mean() - 0.5) < 0.08
    models, brains = (np.stack([rdm(rng.standard_normal((9, 20))) for _ in range(n)]) for n in (4, 3))
    assert permutation_p(models, brains, 2)[0] == pytest.approx(compare(models, brains).mean(1).max())
    low, high = bootstrap_interval(np.arange(20.0))
    assert low < 9.5 < high and high - low == pytest.approx(2 * 1.96 * np.arange(20).std() / 20 ** 0.5, rel=0.1)


def test_effective_dimensionality():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 200)) * np.exp(rng.standard_normal((30, 1)))
    eigenvalues = np.linalg.eigvalsh(np.cov(x))
    assert effective_dimensionality(x) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues ** 2).sum())
    many = rng.standard_normal((1200, 9)) + np.arange(9) * rng.standard_normal((1200, 1)) + 3 * rng.standard_normal(9)
    covariance = np.cov(many)  # of more than a thousand sounds another product is taken
    assert effective_dimensionality(many) == pytest.approx(np.trace(covariance) ** 2 / (covariance ** 2).sum())
    one = np.outer(rng.standard_normal(30), rng.standard_normal(200))
    assert effective_dimensionality(one) == pytest.approx(1) and effective_dimensionality(np.ones((3, 5))) == 0
    q = np.linalg.qr(rng.standard_normal((400, 8)) - 0)[0].T
    q -= q.mean(1, keepdims=True)
    assert effective_dimensionality(np.linalg.svd(q, full_matrices=False)[2]) == pytest.approx(8, abs=1e-6)


@pytest.mark.parametrize("x,kind,message", [
    (np.ones((3, 4, 2)), "pearson", r"shape \(3, 4, 2\)"), (np.ones((3, 4)), "crossnobis", r"shape \(3, 4\)"),
    (np.full((3, 4), np.nan), "pearson", "NaN"), (np.ones((3, 4)), "cosine", "kind='cosine'"),
    (np.ones((3, 4, 1)), "crossnobis", "two repetitions"),
])
def test_errors_say_what_to_do(x, kind, message):
    with pytest.raises(ValueError, match=message):
        rdm(x, kind)
    with pytest.raises(ValueError, match="a pattern is constant"):
        compare(rdm(np.ones((4, 5))), rdm(np.eye(4)))
    with pytest.raises(ValueError, match="comparison='cosine'"):
        compare(np.eye(4), np.eye(4), "cosine")
    with pytest.raises(ValueError, match="two subjects"):
        noise_ceiling(np.eye(4)[None])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1234.567])
def test_a_constant_unit_does_not_count(constant):
    """Its variance is what rounding makes, which must not be divided by."""
    x = np.random.default_rng(0).standard_normal((20, 5, 3))
    x[:, 2] = constant
    noise = estimate_noise(x)
    assert np.isinf(noise).tolist() == [False, False, True, False, False]
    rest = np.delete(x, 2, 1)
    np.testing.assert_allclose(rdm(x, "crossnobis", noise) * 5, rdm(rest, "crossnobis", estimate_noise(rest)) * 4)
    small = estimate_noise(1e-9 * np.random.default_rng(0).standard_normal((20, 5, 3)))
    assert np.isfinite(small).all()
