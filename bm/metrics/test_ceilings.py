"""Ceilings against obvious loops, and against what was planted."""
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.metrics.ceilings import (
    ALL_SPLITS,
    N_SPLITS,
    half_splits,
    noise_ceilings,
    repeat_covariance,
    signal_noise_power,
    split_half,
    trial_correlation,
)


def planted(n_repeats: int, n_bins: int, signal: float, noise: float, seed: int, units: int = 3) -> np.ndarray:
    """Responses `(R, T, N)`: a smooth signal of a given power and independent noise."""
    rng = np.random.default_rng(seed)
    wave = np.cumsum(rng.standard_normal((n_bins, units)), 0)
    wave = (wave - wave.mean(0)) / wave.std(0) * np.sqrt(signal)
    return wave + np.sqrt(noise) * rng.standard_normal((n_repeats, n_bins, units))


def slow_powers(trials: np.ndarray) -> tuple[float, float]:
    """Sahani & Linden's formula for one unit with all its repeats, `(R, T)`."""
    n = len(trials)
    total = np.mean([np.var(trial) for trial in trials])
    signal = (n * np.var(trials.mean(0)) - total) / (n - 1)
    return signal, total - signal


def slow_split_half(trials: np.ndarray, splits: np.ndarray) -> float:
    found = []
    for split in splits:
        a, b = trials[split].mean(0), trials[~split].mean(0)
        if a.std() > 0 and b.std() > 0:
            found.append(np.corrcoef(a, b)[0, 1])
    return float(np.mean(found))


@pytest.mark.parametrize("missing", [0, 5])
def test_a_response_that_is_constant_but_for_rounding_says_nothing(missing):
    constant, other = np.full((4, 50, 1), 0.1), planted(4, 50, 1.0, 1.0, 0, units=1)
    for array in (constant, other):
        array[0, :missing] = np.nan
    assert not repeat_covariance(constant)[0].any()
    alone, beside = noise_ceilings([other]), noise_ceilings([other, constant])
    assert beside.ccmax == pytest.approx(alone.ccmax) and beside.reliability == pytest.approx(alone.reliability)
    assert np.isnan(noise_ceilings([constant]).ccmax) and noise_ceilings([constant]).signal_power == 0


@pytest.mark.parametrize("n_repeats", [2, 3, 7, 10, 20])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_equal_to_obvious_loops(n_repeats, offset):
    responses = [planted(n_repeats, n_bins, 1.0, 2.0, seed) + offset for seed, n_bins in enumerate((50, 80, 33))]
    found = noise_ceilings(responses)
    splits = half_splits(n_repeats)
    weight = np.array([50, 80, 33])
    for unit in range(3):
        trials = [one[..., unit] for one in responses]
        powers = np.array([slow_powers(one) for one in trials])
        half = np.array([slow_split_half(one, splits) for one in trials])
        pair = [np.mean([np.corrcoef(a, b)[0, 1] for a, b in combinations(one, 2)]) for one in trials]
        good = half > 0
        assert found.signal_power[unit] == pytest.approx(np.average(powers[:, 0], weights=weight), abs=1e-8)
        assert found.noise_power[unit] == pytest.approx(np.average(powers[:, 1], weights=weight), abs=1e-8)
        assert found.ccmax[unit] == pytest.approx(
            np.average(np.sqrt(2 * half[good] / (1 + half[good])), weights=weight[good]), abs=1e-8)
        rho = np.average(half, weights=weight)
        assert found.reliability[unit] == pytest.approx(2 * rho / (1 + rho), abs=1e-8)
        assert found.trial_correlation[unit] == pytest.approx(np.average(pair, weights=weight), abs=1e-8)
    assert np.array_equal(found.repeats, [n_repeats] * 3) and found.repeated.all()


def test_stimuli_of_which_nothing_is_known():
    """Halves that contradict each other do not count for CCmax, but for the reliability, which is then 0 or nothing;
    the number of repeats is the median over stimuli that were heard."""
    wave = np.sin(np.arange(60) / 3)[:, None]
    good = wave + 0.3 * np.random.default_rng(0).standard_normal((2, 60, 1))
    contrary = np.stack([wave, 0.2 * np.cos(np.arange(60) / 5)[:, None] - wave])
    unheard, more = np.full((2, 60, 1), np.nan), planted(9, 30, 1.0, 0.5, 1, units=1)
    rho = [np.corrcoef(*one[..., 0])[0, 1] for one in (good, contrary)]
    assert rho[0] > 0.7 and rho[1] < -0.9
    found = noise_ceilings([good, contrary])
    assert found.ccmax[0] == pytest.approx(np.sqrt(2 * rho[0] / (1 + rho[0])))
    assert found.trial_correlation[0] == pytest.approx(np.mean(rho)) and found.signal[1, 0] < 0
    assert np.isnan(found.reliability[0]) and np.isnan(noise_ceilings([contrary]).ccmax[0])
    assert noise_ceilings([good, good, more, unheard]).repeats.tolist() == [2]


def test_half_splits_are_all_of_them_or_drawn():
    for n_repeats, number in {2: 1, 3: 3, 4: 3, 5: 10, 9: 126, 10: 126}.items():
        splits = half_splits(n_repeats)
        assert splits.shape == (number, n_repeats) and (splits.sum(1) == n_repeats // 2).all()
        both = np.concatenate([splits, ~splits]) if n_repeats % 2 == 0 else splits
        assert len(np.unique(both, axis=0)) == len(both)
    many = half_splits(ALL_SPLITS + 2)
    assert many.shape == (N_SPLITS, 12) and (many.sum(1) == 6).all()
    assert np.array_equal(many, half_splits(12)) and not np.array_equal(many, half_splits(12, seed=1))


def test_signal_power_is_unbiased():
    for noise in (0.5, 5.0, 50.0):
        powers = np.array([[signal_noise_power(*repeat_covariance(planted(4, 200, 1.0, noise, seed, units=20)))]
                           for seed in range(30)])[:, 0].transpose(1, 0, 2).reshape(2, -1)
        error = powers.std(1) / np.sqrt(powers.shape[1])
        assert abs(powers[0].mean() - 1) < 4 * error[0]
        # the variance of T bins around their mean lacks 1 / T
        assert abs(powers[1].mean() - noise * (1 - 1 / 200)) < 4 * error[1]


def test_the_ceiling_is_what_the_truth_reaches():
    """CCmax is the correlation of the signal with the mean of the repeats; the reliability its square."""
    responses = [planted(10, 4000, 1.0, 8.0, seed) for seed in range(4)]
    found = noise_ceilings(responses)
    assert found.ccmax == pytest.approx(np.sqrt(1 / 1.8), abs=0.01)
    assert found.reliability == pytest.approx(1 / 1.8, abs=0.015)
    assert found.trial_correlation == pytest.approx(1 / 9, abs=0.01)
    assert found.snr == pytest.approx(1 / 8, abs=0.01)


def test_no_signal_and_no_repeats():
    noise = noise_ceilings([planted(6, 4000, 0.0, 1.0, 0)])
    assert np.abs(noise.signal_power).max() < 0.02 and noise.noise_power == pytest.approx(1, abs=0.05)
    single = noise_ceilings([planted(1, 50, 1.0, 1.0, 0), planted(1, 40, 1.0, 1.0, 1)])
    assert not single.repeated.any() and np.array_equal(single.repeats, [1, 1, 1])
    for name in ("signal_power", "noise_power", "snr", "ccmax", "reliability", "trial_correlation"):
        assert np.isnan(getattr(single, name)).all()


def test_silent_repeats_do_not_count_for_correlations():
    responses = planted(4, 300, 1.0, 1.0, 0)
    responses[2] = 0
    covariance, bins = repeat_covariance(responses)
    spoken = [(0, 1), (0, 3), (1, 3)]
    expected = np.mean([[np.corrcoef(responses[i, :, unit], responses[j, :, unit])[0, 1] for i, j in spoken]
                        for unit in range(3)], axis=1)
    assert trial_correlation(covariance) == pytest.approx(expected, abs=1e-10)
    silent = noise_ceilings([np.zeros((4, 30, 2))])
    assert np.array_equal(silent.signal_power, [0, 0]) and np.isnan(silent.ccmax).all() and np.isnan(silent.snr).all()


def test_whole_repeats_may_be_missing_for_some_units():
    """As if the unit had fewer repeats; a stimulus with fewer repeats is the same."""
    first, second = planted(6, 90, 1.0, 2.0, 0), planted(4, 70, 1.0, 2.0, 1)
    holes = first.copy()
    holes[[1, 4], :, 1] = np.nan
    holes[:, :, 2] = np.nan
    found = noise_ceilings([holes, second])
    kept = noise_ceilings([first[[0, 2, 3, 5]][..., [1]], second[..., [1]]])
    alone, whole = noise_ceilings([second[..., [2]]]), noise_ceilings([first[..., [0]], second[..., [0]]])
    for name in ("signal_power", "noise_power", "ccmax", "reliability", "trial_correlation", "repeats"):
        expected = [getattr(one, name)[0] for one in (whole, kept, alone)]
        assert getattr(found, name) == pytest.approx(expected, abs=1e-12), name
    assert np.array_equal(found.repeated, [[True, True, False], [True, True, True]])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(3, 25), st.floats(0, 0.7))
def test_any_pattern_of_missing_bins(seed, n_repeats, n_bins, missing):
    """Each pair of repeats counts with the bins that both have."""
    rng = np.random.default_rng(seed)
    responses = planted(n_repeats, n_bins, 1.0, 1.0, seed, units=2)
    responses[rng.random(responses.shape) < missing] = np.nan
    covariance, bins = repeat_covariance(responses)
    signal, noise = signal_noise_power(covariance, bins)
    for unit in range(2):
        pairs, own = [], []
        for i in range(n_repeats):
            for j in range(i, n_repeats):
                both = np.isfinite(responses[[i, j], :, unit]).all(0)
                assert bins[unit, i, j] == both.sum()
                if both.sum() < 2:
                    assert np.isnan(covariance[unit, i, j])
                    continue
                a, b = responses[i, both, unit], responses[j, both, unit]
                value = np.mean((a - a.mean()) * (b - b.mean()))
                assert covariance[unit, i, j] == pytest.approx(value, abs=1e-10)
                (own if i == j else pairs).append((value, both.sum()))
        if not pairs:
            assert np.isnan(signal[unit])
            continue
        expected = np.average(np.transpose(pairs)[0], weights=np.transpose(pairs)[1])
        assert signal[unit] == pytest.approx(expected, abs=1e-10)
        total = np.average(np.transpose(own)[0], weights=np.transpose(own)[1])
        assert noise[unit] == pytest.approx(total - expected, abs=1e-10)
    assert ((np.abs(split_half(covariance)) <= 1) | np.isnan(split_half(covariance))).all()


def test_order_of_units_and_precision_of_the_input_do_not_matter():
    responses = planted(5, 60, 1.0, 1.0, 0, units=40)
    whole = noise_ceilings([responses])
    turned = noise_ceilings([responses[..., ::-1]])
    assert np.allclose(whole.ccmax, turned.ccmax[::-1], atol=1e-12)
    counts = np.random.default_rng(0).poisson(2.0, (5, 60, 4))
    single = counts.astype(np.float32)
    assert np.array_equal(noise_ceilings([counts]).signal_power, noise_ceilings([single]).signal_power)


def test_bad_input():
    with pytest.raises(ValueError, match="no stimulus"):
        noise_ceilings([])
    with pytest.raises(ValueError, match=r"stimulus 1 has shape \(3, 4\), expected \(repeats, time, units\)"):
        noise_ceilings([np.zeros((2, 3, 4)), np.zeros((3, 4))])
    with pytest.raises(ValueError, match=r"\[2, 4\] units"):
        noise_ceilings([np.zeros((2, 3, 4)), np.zeros((2, 3, 2))])
    with pytest.raises(ValueError, match="infinite"):
        noise_ceilings([np.full((2, 3, 1), np.inf)])
    with pytest.raises(ValueError, match="real numbers"):
        noise_ceilings([np.full((2, 3, 1), 1j)])
