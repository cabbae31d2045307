"""Intervals: do they cover what they should?"""
import logging

import numpy as np
import pytest
from scipy.stats import binom

from bm.metrics.stats import binomial_interval, bootstrap_interval, permutation_chance
from bm.metrics.test_retrieval import data


def simulate(generator, subjects, blocks, per_cell=4, block_effect=0.5):
    subject, block = (i.ravel() for i in np.meshgrid(np.arange(subjects), np.arange(blocks), indexing="ij"))
    subject, block = np.repeat(subject, per_cell), np.repeat(block, per_cell)
    values = generator.standard_normal(subjects)[subject] * 0.5
    values += generator.standard_normal(blocks)[block] * block_effect
    return values + generator.standard_normal(len(subject)), subject, block


def test_subjects_are_resampled():
    """Same draws as a loop that puts samples of drawn subjects together."""
    values, subject, _ = simulate(np.random.default_rng(0), 12, 5)
    values, subject = values[:-7], subject[:-7]
    got = bootstrap_interval(values, [f"s{i:02}" for i in subject], n_boot=200, seed=3)
    counts = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=200)
    means = [np.concatenate([values[subject == s] for s in range(12) for _ in range(c[s])]).mean() for c in counts]
    assert got.mean == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert got == bootstrap_interval(values, subject, n_boot=200, seed=3)


def test_few_subjects_cross_blocks(caplog):
    values, subject, block = simulate(np.random.default_rng(0), 4, 6)
    with caplog.at_level(logging.WARNING):
        got = bootstrap_interval(values, subject, block, n_boot=300, seed=5)
    assert "from 4 subjects" in caplog.text
    generator = np.random.default_rng(5)
    drawn = [generator.multinomial(n, np.full(n, 1 / n), size=300) for n in (4, 6)]
    means = [np.average(values, weights=a[subject] * b[block]) for a, b in zip(*drawn, strict=True)]
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    one = bootstrap_interval(values, np.zeros(len(values)), block)
    assert one.low < one.mean < one.high


@pytest.mark.parametrize("subjects, blocks, low, high", [(20, 1, 0.86, 0.99), (8, 30, 0.85, 1.0)])
def test_coverage(subjects, blocks, low, high):
    """Of the true mean, over other subjects (many subjects) or other subjects and stimuli (few)."""
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        values, subject, block = simulate(generator, subjects, blocks, block_effect=0.5 * (blocks > 1))
        interval = bootstrap_interval(values, subject, block, n_boot=300, seed=seed)
        hits += interval.low <= 0 <= interval.high
    assert low <= hits / 200 <= high


def test_bootstrap_errors():
    x, labels = np.ones(6), np.arange(6)
    with pytest.raises(ValueError, match="1 NaN"):
        bootstrap_interval([1.0, np.nan], [0, 1])
    with pytest.raises(ValueError, match="finite number per sample"):
        bootstrap_interval([], [])
    with pytest.raises(ValueError, match="one label per value"):
        bootstrap_interval(x, labels[:5])
    with pytest.raises(ValueError, match="give the block"):
        bootstrap_interval(x, labels)
    with pytest.raises(ValueError, match="nothing to draw"):
        bootstrap_interval(x, labels, np.zeros(6))
    with pytest.raises(ValueError, match="hardly cross"):
        bootstrap_interval(x[:3], labels[:3], labels[:3])


def test_binomial_interval():
    low, high = binomial_interval(0.1, 200)
    assert binom.cdf(high * 200, 200, 0.1) - binom.cdf(low * 200 - 1, 200, 0.1) >= 0.95
    assert binomial_interval(0.0, 10) == (0, 0) and binomial_interval(1.0, 10) == (1, 1)
    with pytest.raises(ValueError, match="0 ≤ p ≤ 1"):
        binomial_interval(3, 10)


def test_permutation_chance():
    estimates, candidates, true = data(200, 40, signal=0.6)
    blocks = np.arange(200) % 5
    got = permutation_chance(estimates, candidates, np.arange(40), true, blocks=blocks, n_permutations=300)
    scores = np.einsum("nft,vft->nv", estimates, candidates / np.linalg.norm(candidates, axis=(1, 2), keepdims=True))
    rank = (scores > scores[np.arange(200), true][:, None]).sum(1) + 1
    for k in (1, 5, 10):
        assert got.observed[k] == pytest.approx((rank <= k).mean(), abs=0.006)
        assert got.null[k].shape == (300,) and abs(got.null[k].mean() - k / 40) < 0.02
        assert got.p_value(k) == pytest.approx(1 / 301)
    parts = permutation_chance(estimates, candidates, np.arange(40), true, blocks=blocks, n_permutations=300,
                               max_bytes=1)
    assert all(np.allclose(got.null[k], parts.null[k]) for k in (1, 5, 10))


def test_permutations_stay_in_their_block():
    """With one segment per block there is nothing to exchange."""
    estimates, candidates, _ = data(30, 6)
    true = np.arange(30) % 6
    got = permutation_chance(estimates, candidates, np.arange(6), true, blocks=true, n_permutations=5)
    assert all(np.allclose(got.null[k], got.observed[k]) for k in got.null) and got.p_value(1) == 1
    zeros = permutation_chance(np.zeros_like(estimates), candidates, np.arange(6), true, n_permutations=5)
    assert np.allclose(zeros.null[1], 1 / 6)
