"""Dissimilarities beside those of rsatoolbox 0.3, on random numbers."""
import numpy as np
import pytest

from bm.metrics.rdm import compare, noise_ceiling, rank_rows, rdm, upper

rsatoolbox = pytest.importorskip("rsatoolbox", reason="rsatoolbox comes with the extra `dev`")
STIMULI, UNITS, FOLDS = 14, 60, 4


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((STIMULI, UNITS, 1)) + rng.standard_normal((STIMULI, UNITS, FOLDS))


@pytest.fixture(scope="module")
def subjects() -> np.ndarray:
    rng = np.random.default_rng(1)
    common = rng.standard_normal((STIMULI, UNITS))
    return np.stack([rdm(common + rng.standard_normal((STIMULI, UNITS))) for _ in range(7)])


def theirs(patterns: np.ndarray, method: str, **options) -> np.ndarray:
    return rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(patterns), method, **options).dissimilarities[0]


def test_correlation_distances(x):
    np.testing.assert_allclose(upper(rdm(x[..., 0])), theirs(x[..., 0], "correlation"), atol=1e-8)
    # rsatoolbox has no distance of ranks: theirs is taken of patterns that are ranked before
    np.testing.assert_allclose(upper(rdm(x[..., 0], "spearman")), theirs(rank_rows(x[..., 0]), "correlation"),
                               atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_crossnobis(x, weighted):
    """Theirs tests each fold against the mean of the others, which is the mean over ordered pairs; it takes the inverse
    of the noise's covariance, where ours takes variances."""
    variance = np.linspace(0.5, 2, UNITS) if weighted else None
    patterns = x.transpose(2, 0, 1).reshape(-1, UNITS)
    data = rsatoolbox.data.Dataset(patterns, obs_descriptors={  # real numbers: it fills copies of them with NaN
        "stimulus": np.tile(np.arange(STIMULI), FOLDS) + 0.0, "fold": np.repeat(np.arange(FOLDS), STIMULI) + 0.0})
    found = rsatoolbox.rdm.calc_rdm(data, "crossnobis", descriptor="stimulus", cv_descriptor="fold",
                                    noise=None if variance is None else np.diag(1 / variance))
    np.testing.assert_allclose(upper(rdm(x, "crossnobis", variance)), found.dissimilarities[0], atol=1e-8)


@pytest.mark.parametrize("how,method", [("pearson", "corr"), ("spearman", "spearman")])
def test_comparisons(subjects, how, method):
    one, other = subjects[:3], subjects[3:]
    expected = rsatoolbox.rdm.compare(rsatoolbox.rdm.RDMs(upper(one)), rsatoolbox.rdm.RDMs(upper(other)), method)
    np.testing.assert_allclose(compare(one, other, how), expected, atol=1e-8)


def test_ceilings(subjects):
    def ceiling(vectors: np.ndarray, method: str) -> tuple[float, float]:
        return rsatoolbox.inference.noise_ceiling.boot_noise_ceiling(rsatoolbox.rdm.RDMs(vectors), method)

    def ours(how: str) -> list[float]:
        return [bound.mean() for bound in noise_ceiling(subjects, how)]

    np.testing.assert_allclose(ours("pearson"), ceiling(upper(subjects), "corr"), atol=1e-8)
    # Spearman's: both average ranks, but theirs ranks that mean once more before it is compared. Ours is not ranked
    # again (as in Nili et al. 2014, whose upper bound it then is): of ranks it is the ceiling of Pearson's
    ranks = rank_rows(upper(subjects))
    np.testing.assert_allclose(ours("spearman"), ceiling(ranks, "corr"), atol=1e-8)
    again = ceiling(upper(subjects), "spearman")
    assert 1e-8 < np.abs(np.array(ours("spearman")) - again).max() < 0.02
