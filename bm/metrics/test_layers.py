import numpy as np
import pytest

from bm.metrics.layers import best_layer, bootstrap_below, by_subject, permutation_below, within_subject_sem


def test_the_best_layer_is_found_and_read_elsewhere():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    scores = 0.1 * rng.standard_normal((4, 200, 10)) + 0.5 * (np.arange(4)[:, None, None] == truth[:, None])
    found = best_layer(scores)
    assert found.layer.shape == found.score.shape == (10, 200)
    assert (found.layer == truth).mean() > 0.99 and abs(found.score.mean() - 0.5) < 0.02
    np.testing.assert_allclose(found.position(4), truth / 3, atol=0.35)


@pytest.mark.parametrize("compat", [None, "reference"])
def test_reading_out_is_unbiased_by_the_choice(compat):
    """Layers that do not differ: the largest is above 0, what is read on other splits is 0."""
    scores = np.random.default_rng(1).standard_normal((12, 3000, 10))
    found = best_layer(scores, cap=None, compat=compat)
    assert np.median(scores, -1).max(0).mean() > 0.4 and abs(found.score.mean()) < 0.02
    assert np.bincount(found.layer.ravel(), minlength=12).min() > 0.8 * found.layer.size / 12


def test_ties_are_broken_evenly_and_medians_capped():
    found = best_layer(np.full((3, 5000, 4), 7.0))
    assert (found.score == 1).all() and np.bincount(found.layer[0], minlength=3).min() > 1500
    assert (best_layer(np.full((3, 5, 4), 7.0), cap=None).score == 7).all()
    above = np.stack([np.full((5000, 4), 2.0), np.full((5000, 4), 3.0)])  # both above 1 are as good
    assert abs(best_layer(above).layer.mean() - 0.5) < 0.05 and (best_layer(above, cap=None).layer == 1).all()
    with pytest.raises(ValueError, match=r"shape \(3, 5, 1\)"):
        best_layer(np.ones((3, 5, 1)))


@pytest.mark.parametrize("compat", [None, "reference"])
def test_medians_are_over_half_of_the_splits(compat):
    """Three of six: one outlier moves no median, two do where they are together. The first layer's are never above."""
    found = best_layer(np.array([[[0.1] * 5 + [100.0]], [[0.2] * 5 + [-100.0]]]), cap=None, compat=compat)
    assert (found.layer == 1).all() and (found.score == 0.2).all()
    scores = np.array([[[0.0] * 4 + [9.0] * 2], [[-1.0] * 6]])
    found = best_layer(scores, 200, cap=5.0, compat=compat)
    assert set(found.score.ravel()) == {0.0, 5.0} and (found.layer == 0).all()
    assert abs((found.score == 5).mean() - 0.2) < 0.08  # both of two in a given half of six: 3/6 · 2/5
    assert (best_layer(np.array([[[0.0, 2.0, 2.0, 2.0]]]), cap=1.0).score == 1).all()  # capped after the median


def test_over_subjects():
    names, medians = by_subject(np.array([[1.0, 2, 9, 4]]), np.array(["b", "a", "b", "a"]))
    assert names.tolist() == ["a", "b"] and medians.tolist() == [[3.0, 5.0]]
    values = np.array([[1.0, 2.0], [11.0, 12.0], [21.0, 22.0]])
    np.testing.assert_allclose(within_subject_sem(values), 0, atol=1e-12)
    values[0, 0] = 1.3
    centred = values - values.mean(1, keepdims=True)
    np.testing.assert_allclose(within_subject_sem(values), centred.std(0) / np.sqrt(2))
    assert np.isnan(within_subject_sem(values[:1])).all()


def test_models_that_differ_and_that_do_not():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 10))
    assert bootstrap_below(one + 5, other) == pytest.approx(1 / 10_001)
    assert bootstrap_below(one, one) == pytest.approx(0.5, abs=0.05)
    assert permutation_below(one + 5, other) == pytest.approx(1 / 10_001)
    p = [permutation_below(*rng.standard_normal((2, 8)), n=200, seed=i) for i in range(400)]
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 0.03
