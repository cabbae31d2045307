import numpy as np
import pytest
from scipy.stats import pearsonr

from bm.metrics.reliability import correlation_columns, lowest_reliability, pair_median, spearman_brown


def test_correlations_of_columns():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 20, 5)) + 100
    np.testing.assert_allclose(correlation_columns(a, b), [pearsonr(a[:, i], b[:, i])[0] for i in range(5)])
    a[:, 0], b[:, 1] = 0.1, 0.0
    found = correlation_columns(a, b)
    assert np.isnan(found[:2]).all() and np.isfinite(found[2:]).all()


def test_pairs_with_a_constant_repetition_do_not_count():
    rng = np.random.default_rng(0)
    one, two, flat = rng.standard_normal((2, 30, 4)).tolist() + [np.ones((30, 4)).tolist()]
    one, two, flat = (np.array(x) for x in (one, two, flat))
    np.testing.assert_allclose(pair_median([one, two, flat]), correlation_columns(one, two))
    assert np.isnan(pair_median([one, flat])).all()


def test_spearman_brown_is_guarded_beyond_zero():
    np.testing.assert_allclose(spearman_brown([1.0, 0.5], 3), [1.0, 0.75])
    assert np.isnan(spearman_brown([-0.6, 0.0, np.nan], 3)).all()
    assert spearman_brown(-0.6, 3, unguarded=True) == pytest.approx(9.0)
    assert np.isnan(spearman_brown(-0.5, 3, unguarded=True))


def test_the_mean_is_as_reliable_as_it_says():
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((20_000, 1))
    first, second = (signal + rng.standard_normal((3, 20_000, 1)) for _ in range(2))
    r = pair_median(list(first))
    assert abs(spearman_brown(r, 3) - correlation_columns(first.mean(0), second.mean(0))) < 0.02


def test_the_papers_floors():
    assert (lowest_reliability(83), lowest_reliability(82)) == (0.182, 0.183)
    with pytest.raises(ValueError, match="2 pairs"):
        lowest_reliability(2)
