import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from bm.metrics.rdm import (
    bootstrap_interval,
    compare,
    effective_dimensionality,
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


def test_comparisons():
    a, b = rdm(patterns(seed=1)[..., 0]), rdm(patterns(seed=1)[..., 1])
    expected = spearmanr(upper(a), upper(b)).statistic
    assert compare(a, b) == pytest.approx(expected)
    assert compare(a, b, "pearson") == pytest.approx(np.corrcoef(upper(a), upper(b))[0, 1])
    many = compare(np.stack([a, b]), np.stack([b, a, a]))
    assert many.shape == (2, 3) and many[0, 1] == pytest.approx(1) and many[0, 0] == pytest.approx(expected)


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
    from scipy.stats import rankdata
    ranks = rankdata(one, axis=1)
    assert low[2] == pytest.approx(np.corrcoef(ranks[2], np.delete(ranks, 2, 0).mean(0))[0, 1])
    assert high[2] == pytest.approx(np.corrcoef(ranks[2], ranks.mean(0))[0, 1])


def test_chance():
    x = patterns(14, 60, 2, 0.5)
    found, p = permutation_p(rdm(x[..., 0]), rdm(x[..., 1]), 200)
    assert found > 0.4 and p == pytest.approx(1 / 201)
    rng = np.random.default_rng(0)
    ps = [permutation_p(rdm(rng.standard_normal((9, 20))), rdm(rng.standard_normal((9, 20))), 60, seed)[1]
          for seed in range(200)]
    assert abs(np.mean(np.array(ps) <= 0.1) - 0.1) < 0.06
    low, high = bootstrap_interval(np.arange(20.0))
    assert low < 9.5 < high and high - low == pytest.approx(2 * 1.96 * np.arange(20).std() / 20 ** 0.5, rel=0.1)


def test_effective_dimensionality():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 200)) * np.exp(rng.standard_normal((30, 1)))
    eigenvalues = np.linalg.eigvalsh(np.cov(x))
    assert effective_dimensionality(x) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues ** 2).sum())
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
