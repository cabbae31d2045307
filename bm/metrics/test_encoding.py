"""Scores of encoding models against obvious loops, and against planted models."""
import numpy as np
import pytest

from bm.metrics.ceilings import half_splits, noise_ceilings
from bm.metrics.encoding import (
    bootstrap_ccnorm,
    bootstrap_r,
    ccnorm,
    ccnorm_hsu,
    correlation,
    encoding_scores,
    few_stimuli,
    mean_response,
    median_ccnorm_interval,
    median_r_interval,
    pooled_ccnorm,
    stimulus_moments,
)
from bm.metrics.test_ceilings import slow_powers, slow_split_half

CEILINGS = ["ccnorm", "ccnorm_hsu", "ccmax", "signal_power", "noise_power", "snr", "reliability"]


def planted(noise: float, seed: int, n_units: int = 6, n_repeats: int = 10, lengths: tuple[int, ...] = (400,) * 8,
            offset: float = 0.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The true rates, smooth and of power 1 in each stimulus, and noisy responses to them; `offset` differs between
    stimuli."""
    rng = np.random.default_rng(seed)
    rates, responses = [], []
    for number, length in enumerate(lengths):
        time = np.arange(length)[:, None] / length
        wave = sum(np.sin(2 * np.pi * (k * time + rng.random(n_units))) / k for k in range(1, 9))
        rates.append((wave - wave.mean(0)) / wave.std(0) + offset * number)
        responses.append(rates[-1] + np.sqrt(noise) * rng.standard_normal((n_repeats, length, n_units)))
    return rates, responses


def test_equal_to_obvious_loops():
    rates, responses = planted(3.0, 0, lengths=(60, 45, 80, 30), offset=0.5)
    rng = np.random.default_rng(1)
    predictions = [0.7 * rate + 0.5 * rng.standard_normal(rate.shape) + 2 for rate in rates]
    for one in responses:  # partly measured, the same bins in all repeats
        one[:, :5, 2] = np.nan
    found = encoding_scores(predictions, responses)
    lengths = [len(rate) for rate in rates]
    for unit in range(6):
        skip = 5 if unit == 2 else 0
        x = [one[skip:, unit] for one in predictions]
        trials = [one[:, skip:, unit] for one in responses]
        y = [one.mean(0) for one in trials]
        weight = np.array(lengths) - skip
        flat_x, flat_y = np.concatenate(x), np.concatenate(y)
        within = [np.cov(a, b, ddof=0) for a, b in zip(x, y, strict=True)]
        (xx, xy), (_, yy) = np.average(within, axis=0, weights=weight)
        signal, noise = np.average([slow_powers(one) for one in trials], axis=0, weights=weight)
        half = np.array([slow_split_half(one, half_splits(10)) for one in trials])
        ccmax = np.average(np.sqrt(2 * half / (1 + half)), weights=weight)
        expected = {
            "r": np.corrcoef(flat_x, flat_y)[0, 1], "n_samples": weight.sum(), "n_stimuli": 4, "n_repeats": 10,
            "r2": 1 - ((flat_y - flat_x)**2).sum() / ((flat_y - flat_y.mean())**2).sum(), "ccmax": ccmax,
            "ccnorm": xy / np.sqrt(xx * signal), "ccnorm_hsu": xy / np.sqrt(xx * yy) / ccmax,
            "signal_power": signal, "noise_power": noise, "snr": signal / noise}
        assert found.loc[unit, list(expected)].to_dict() == pytest.approx(expected, abs=1e-8)
        moments, ceilings = stimulus_moments(predictions, responses), noise_ceilings(responses)
        whole = np.cov(flat_x, flat_y, ddof=0)
        assert ccnorm(moments, ceilings, centre="all")[unit] == pytest.approx(
            whole[0, 1] / np.sqrt(whole[0, 0] * signal), abs=1e-8)
        assert ccnorm_hsu(moments, ceilings, centre="all")[unit] == pytest.approx(
            np.corrcoef(flat_x, flat_y)[0, 1] / ccmax, abs=1e-8)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0, 40.0])
def test_the_true_model_reaches_one_at_any_noise(noise):
    """And a model of half the variance √½, whatever the noise."""
    true, half, plain = [], [], []
    for seed in range(8):
        rates, responses = planted(noise, seed, offset=1.0)
        other = planted(0.0, seed + 100)[0]
        scores = encoding_scores(rates, responses, n_boot=1)
        true.append(scores[["ccnorm", "ccnorm_hsu"]])
        plain.append(scores["r"])
        mixed = [(a - a.mean(0) + b) / np.sqrt(2) for a, b in zip(rates, other, strict=True)]
        half.append(encoding_scores(mixed, responses, n_boot=1)["ccnorm"])
    for name in ("ccnorm", "ccnorm_hsu"):
        values = np.concatenate([one[name] for one in true])
        error = values.std() / np.sqrt(len(values))
        assert values.mean() >= 0.98 and abs(values.mean() - 1) < max(0.01, 4 * error), name
    # the waves of the other model are orthogonal to the true ones only on average
    values = np.concatenate(half)
    assert abs(values.mean() - np.sqrt(0.5)) < max(0.02, 4 * values.std() / np.sqrt(len(values)))
    assert noise < 5 or np.mean(plain) < 0.95  # the correlation itself falls


def test_the_mean_response_is_over_what_was_measured():
    responses = np.array([[[1.0, 5.0], [2.0, np.nan]], [[np.nan, 7.0], [4.0, np.nan]], [[np.nan, 9.0], [9.0, np.nan]]])
    np.testing.assert_array_equal(mean_response(responses), [[1.0, 7.0], [5.0, np.nan]])


def test_what_is_said_of_few_stimuli():
    assert few_stimuli(10) == "" and few_stimuli(9).startswith("9 test stimuli are few")


def test_differences_between_stimuli_do_not_make_a_model_better_than_true():
    rates, responses = planted(1.0, 0, offset=3.0)
    moments, ceilings = stimulus_moments(rates, responses), noise_ceilings(responses)
    assert ccnorm(moments, ceilings) == pytest.approx(1, abs=0.05)
    assert (ccnorm(moments, ceilings, centre="all") > 2).all()


def test_bootstrap_is_that_of_drawn_stimuli():
    rates, responses = planted(5.0, 0, lengths=(40, 60, 30, 50, 20))
    moments = stimulus_moments(rates, responses)
    drawn = bootstrap_r(moments, n_boot=50, seed=3)
    draws = np.random.default_rng(3).multinomial(5, np.full(5, 0.2), 50)
    means = [mean_response(one) for one in responses]
    for counts, values in zip(draws, drawn, strict=True):
        chosen = np.repeat(np.arange(5), counts)
        x, y = (np.concatenate([part[i] for i in chosen]) for part in (rates, means))
        assert values == pytest.approx([np.corrcoef(x[:, u], y[:, u])[0, 1] for u in range(6)], abs=1e-10)
    scores = encoding_scores(rates, responses)
    assert (scores["r_low"] < scores["r"]).all() and (scores["r"] < scores["r_high"]).all()
    low, high = median_r_interval(moments)
    assert low < np.median(correlation(moments)) < high and high - low < (scores["r_high"] - scores["r_low"]).max()
    assert median_r_interval(moments, seed=5) != (low, high) == median_r_interval(moments)


def test_ccnorm_of_drawn_stimuli_is_that_of_their_responses():
    """Of stimuli drawn twice as of two stimuli: prediction, response and signal power."""
    rates, responses = planted(5.0, 0, n_units=3, lengths=(40, 60, 30, 50, 20, 45))
    rng = np.random.default_rng(1)
    predictions = [0.7 * rate + 0.5 * rng.standard_normal(rate.shape) + 2 for rate in rates]
    responses[1][:, :5, 2], responses[2], responses[3][4:, :, 1] = np.nan, responses[2][:1], np.nan
    moments, ceilings = stimulus_moments(predictions, responses), noise_ceilings(responses)
    assert pooled_ccnorm(moments, ceilings.powers) == pytest.approx(ccnorm(moments, ceilings), abs=1e-12)
    drawn = bootstrap_ccnorm(moments, ceilings.powers, n_boot=30, seed=3)
    assert np.isfinite(drawn).all()
    draws = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), 30)  # those of r
    for counts, values in zip(draws, drawn, strict=True):
        chosen = np.repeat(np.arange(6), counts)
        own = [responses[i] for i in chosen]
        expected = ccnorm(stimulus_moments([predictions[i] for i in chosen], own), noise_ceilings(own))
        assert values == pytest.approx(expected, abs=1e-10)
    scores = encoding_scores(predictions, responses)
    assert (scores["ccnorm_low"] < scores["ccnorm"]).all() and (scores["ccnorm"] < scores["ccnorm_high"]).all()
    low, high = median_ccnorm_interval(moments, ceilings.powers)
    assert low < scores["ccnorm"].median() < high
    alone = [one if number == 4 else one[:1] for number, one in enumerate(responses)]
    assert np.isnan(median_ccnorm_interval(moments, noise_ceilings(alone).powers)).all()
    single = encoding_scores(predictions, alone)
    assert single[["ccnorm_low", "ccnorm_high"]].isna().all(axis=None) and single["ccnorm"].notna().all()


def partly_predicted(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predictions of `n` stimuli, some better than others, and six noisy responses to each."""
    gain, size = rng.uniform(0.2, 1, (n, 1, 1)), rng.uniform(0.5, 1.5, (n, 1, 1))
    x, other = rng.standard_normal((2, n, 60, 1))
    rate = size * (gain * x + np.sqrt(1 - gain**2) * other)
    return list(x), list(rate[:, None] + rng.standard_normal((n, 6, 60, 1)))


@pytest.mark.slow
def test_intervals_of_ccnorm_hold_the_truth():
    """In 95 % of cases; of four stimuli in fewer, which is said."""
    truth, rng = 0.6 / np.sqrt((1.5**3 - 0.5**3) / 3), np.random.default_rng(0)  # E[size · gain] / √E[size²]
    held = {}
    for n in (4, 20):
        cases = [encoding_scores(*partly_predicted(rng, n), n_boot=400).iloc[0] for _ in range(200)]
        held[n] = np.mean([one["ccnorm_low"] <= truth <= one["ccnorm_high"] for one in cases])
    assert 0.9 < held[20] < 0.99 and 0.6 < held[4] < 0.87
    assert "4 test stimuli are few" in few_stimuli(4) and few_stimuli(10) == ""


def test_intervals_hold_the_truth():
    """95 % of intervals over stimuli hold the correlation over very many stimuli, less for few stimuli."""
    rng, n, held = np.random.default_rng(0), 300, 0
    gain = rng.uniform(0, 1, (n, 30))  # how well each stimulus is predicted
    for gains in gain:
        x = rng.standard_normal((30, 20, 1))
        y = gains[:, None, None] * x + rng.standard_normal(x.shape)
        scores = encoding_scores(list(x), list(y[:, None]), n_boot=200)
        held += scores["r_low"][0] <= 0.5 / np.sqrt(1 / 3 + 1) <= scores["r_high"][0]
    assert 0.88 < held / n < 0.98


def test_units_of_two_subjects_side_by_side():
    """A unit that did not hear a stimulus is scored on the others."""
    rates, responses = planted(2.0, 0, n_units=3)
    holes = [one.copy() for one in responses]
    holes[0][..., 1] = np.nan
    some, rest = encoding_scores(rates, holes), encoding_scores(rates[1:], responses[1:])
    columns = ["r", "r2", "n_stimuli", "n_repeats", *CEILINGS]
    assert some.loc[1, columns].to_dict() == pytest.approx(rest.loc[1, columns].to_dict(), abs=1e-10)
    together = np.concatenate([stimulus_moments(rates, responses), stimulus_moments(rates, holes)], axis=-1)
    assert together.shape == (8, 7, 6) and len(correlation(together)) == 6
    assert all(np.isfinite(median_r_interval(together, n_boot=20)))


def test_without_repeats_and_with_one_stimulus():
    rates, responses = planted(1.0, 0)
    single = encoding_scores(rates, [one[:1] for one in responses])
    assert single[CEILINGS].isna().all(axis=None) and np.isfinite(single[["r", "r_low", "r_high", "r2"]]).all(axis=None)
    assert (single["n_repeats"] == 1).all()
    one = encoding_scores(rates[:1], responses[:1])
    assert one[["r_low", "r_high"]].isna().all(axis=None) and np.isfinite(one[["r", "ccnorm"]]).all(axis=None)
    assert np.isnan(median_r_interval(stimulus_moments(rates[:1], responses[:1]))).all()


def test_ceilings_are_of_repeated_stimuli_alone():
    rates, responses = planted(1.0, 0)
    mixed = encoding_scores(rates, [one[:1] if number < 5 else one for number, one in enumerate(responses)])
    repeated = encoding_scores(rates[5:], responses[5:])
    columns = ["ccnorm", "ccnorm_hsu", "ccmax", "signal_power", "noise_power", "reliability"]
    assert np.allclose(mixed[columns], repeated[columns], atol=1e-10)


def test_what_is_constant():
    rates, responses = planted(1.0, 0)
    flat = [np.where(np.arange(6) == 0, 0.1, rate) for rate in rates]
    silent = [np.where(np.arange(6) == 1, 0.1, one) for one in responses]
    scores = encoding_scores(flat, silent, n_boot=20)
    assert scores.loc[0, ["r", "r_low", "r_high", "ccnorm", "ccnorm_hsu"]].tolist() == [0, 0, 0, 0, 0]
    assert scores.loc[1, ["r", "r_low", "r_high", "r2", "ccnorm", "ccnorm_hsu"]].isna().all()
    assert np.isfinite(scores.loc[2:, CEILINGS]).all(axis=None)


def test_scale_and_offset_of_a_prediction_do_not_matter_to_correlations():
    rates, responses = planted(1.0, 0)
    shifted = encoding_scores([1e-3 * rate + 1e4 for rate in rates], [one + 1e4 for one in responses])
    plain = encoding_scores(rates, responses)
    columns = ["r", "r_low", "r_high", *CEILINGS]
    assert np.allclose(shifted[columns], plain[columns], atol=1e-6)


def test_bad_input():
    rates, responses = planted(1.0, 0, lengths=(20, 30))
    with pytest.raises(ValueError, match="1 predictions of 2 responses"):
        stimulus_moments(rates[:1], responses)
    with pytest.raises(ValueError, match=r"stimulus 1: prediction \(29, 6\) and mean response \(30, 6\)"):
        stimulus_moments([rates[0], rates[1][1:]], responses)
    with pytest.raises(ValueError, match="stimulus 0: the prediction has NaN"):
        stimulus_moments([rates[0] * np.nan, rates[1]], responses)
    with pytest.raises(ValueError, match="infinite"):
        mean_response(np.full((2, 3, 4), np.inf))
    with pytest.raises(ValueError, match="n_boot"):
        bootstrap_r(stimulus_moments(rates, responses), n_boot=0)
    with pytest.raises(ValueError, match="'stimulus' or 'all'"):
        ccnorm(stimulus_moments(rates, responses), noise_ceilings(responses), centre="song")  # type: ignore[arg-type]
