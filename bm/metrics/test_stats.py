"""Intervals: do they cover what they should?"""
import logging
import time

import numpy as np
import pytest
from scipy.stats import binom

from bm.metrics.retrieval import Retrieval, retrieval
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
    """Independent samples: the binomial's mean and spread, and a real effect is far outside."""
    estimates, candidates, true = data(2000, 40, signal=0.6)
    result = retrieval(estimates, candidates, np.arange(40), true)
    about = {"recordings": np.arange(2000) % 5, "blocks": np.zeros(2000), "starts": np.arange(2000)}
    got = permutation_chance(result, **about)
    for k in (1, 5, 10):
        p = result.chance(k)
        assert got.observed[k] == result.values[f"top{k}"].mean()
        assert got.null[k].shape == (1000,) and got.null[k].mean() == pytest.approx(p, abs=0.003)
        assert got.null[k].std() == pytest.approx((p * (1 - p) / 2000) ** 0.5, rel=0.25)
        assert got.p_value(k) == pytest.approx(1 / 1001) and got.interval(k)[1] < got.observed[k]
    again = permutation_chance(result, **about)
    assert all(np.array_equal(got.null[k], again.null[k]) for k in (1, 5, 10))


def test_permutations_are_rotations():
    """Every draw is one of the rotations of its recordings, counted from the scores themselves."""
    estimates, candidates, true = data(40, 12)
    result = retrieval(estimates, candidates, np.arange(12), true)
    recording = np.repeat([0, 1], 20)
    late = np.random.default_rng(0).permutation(40)  # the order is that of time, not of the result
    scores = np.einsum("nft,vft->nv", estimates, candidates / np.linalg.norm(candidates, axis=(1, 2), keepdims=True))
    best = scores.argsort(1)[:, ::-1][:, :5]
    possible = []
    for rows in (np.flatnonzero(recording == r)[np.argsort(late[recording == r])] for r in (0, 1)):
        possible.append([sum(true[rows[(i + s) % 20]] in best[rows[i]] for i in range(20)) for s in range(5, 16)])
    expected = {(a + b) / 40 for a in possible[0] for b in possible[1]}
    # each sample is a run, so that nothing is widened
    got = permutation_chance(result, recording, np.arange(40), late, n_permutations=50)
    assert {round(x, 5) for x in got.null[5]} <= {round(x, 5) for x in expected} and len(set(got.null[5])) > 3


def test_permutations_stay_in_their_recording():
    """With one segment per recording there is nothing to exchange; constant estimates are at chance."""
    estimates, candidates, _ = data(30, 6)
    estimates[3] = np.nan
    true = np.arange(30) % 6
    about = {"recordings": np.arange(30), "blocks": np.arange(30), "starts": np.zeros(30), "n_permutations": 5}
    got = permutation_chance(retrieval(estimates, candidates, np.arange(6), true), **about)
    assert all(np.allclose(got.null[k], got.observed[k]) for k in got.null) and got.p_value(1) == 1
    assert got.observed[10] == pytest.approx(29 / 30)  # not the one that failed
    zeros = retrieval(np.zeros_like(estimates), candidates, np.arange(6), true)
    got = permutation_chance(zeros, **about | {"recordings": np.zeros(30), "starts": np.arange(30)})
    assert np.allclose(got.null[1], 1 / 6) and got.observed[1] == pytest.approx(1 / 6)


def test_runs_cut_by_rotation_are_made_up_for():
    """Hits that come as whole blocks: the spread is that of independent blocks, though rotations cut them."""
    generator = np.random.default_rng(0)
    blocks, per = 400, 6
    block = np.repeat(np.arange(blocks), per)
    kind = generator.integers(4, size=blocks)
    scores = np.eye(4, dtype=np.float32)[generator.integers(4, size=blocks)[block]][:, :, None]
    result = retrieval(scores, np.eye(4, dtype=np.float32)[:, :, None], np.arange(4), kind[block], ks=(1,))
    got = permutation_chance(result, np.zeros(len(block)), block, np.arange(len(block)))
    assert got.null[1].std() == pytest.approx((0.25 * 0.75 / blocks) ** 0.5, rel=0.1)


def test_permutation_errors():
    estimates, candidates, true = data(10, 6)
    result = retrieval(estimates, candidates, np.arange(6), true)
    with pytest.raises(ValueError, match="recordings must have one label per value"):
        permutation_chance(result, np.zeros(9), np.zeros(10), np.arange(10))
    with pytest.raises(ValueError, match="one finite time per estimate"):
        permutation_chance(result, np.zeros(10), np.zeros(10), np.arange(9))
    with pytest.raises(ValueError, match="n_permutations positive"):
        permutation_chance(result, np.zeros(10), np.zeros(10), np.arange(10), n_permutations=0)


def test_ten_thousand_permute_in_seconds():
    """1000 permutations of 10,000 estimates without a score."""
    generator = np.random.default_rng(0)
    n, values = 10_000, {f"top{k}": np.zeros(10_000) for k in (1, 5, 10)}
    result = Retrieval(np.arange(n), values, np.arange(n), generator.integers(n, size=(n, 10)), n)
    begin = time.process_time()
    permutation_chance(result, np.arange(n) // 500, np.arange(n) // 15, np.arange(n) * 0.35)
    assert time.process_time() - begin < 5
