"""Temporal response functions against the obvious way, against mTRFpy, and against what was planted."""
import mtrf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mtrf.stats import nested_crossval

from bm.linear import TRF, Moments, dirichlet, product_grid
from bm.linear import trf as trf_module
from bm.linear.lags import lag_samples, lagged, lagged_moments, padded
from bm.linear.reconstruct import identify
from bm.linear.trf_scores import nested, partition

RATE, ALPHAS = 32, 10.0 ** np.arange(-2, 4)


def make(n_trials=4, n=300, d=3, channels=5, noise=1.0, seed=0, delay=4):
    """Stimuli, responses, and the kernel `(d, lags, channels)`: bumps at lags 1 to 8."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((d, 1, channels)) * np.exp(-0.5 * (np.arange(9)[:, None] - delay) ** 2)
    stimuli = [rng.standard_normal((n + 7 * i, d)) for i in range(n_trials)]
    responses = []
    for x in stimuli:
        y = noise * rng.standard_normal((len(x), channels)) + 2
        for lag in range(9):
            y[lag:] += x[:len(x) - lag] @ kernel[:, lag]
        responses.append(y)
    return stimuli, responses, kernel


def obvious(stimuli, responses, lags, alphas):
    """Leave-one-trial-out r `(A, N)` with mTRF's penalties, by solving for each fold and penalty with a column of 1."""
    designs = [np.hstack([np.ones((len(x), 1)), lagged(padded(x, lags), lags)]) for x in stimuli]
    scores = []
    for alpha in alphas:
        rows = []
        for out in range(len(designs)):
            train = [i for i in range(len(designs)) if i != out]
            xx = sum(designs[i].T @ designs[i] for i in train) / len(train)
            xy = sum(designs[i].T @ responses[i] for i in train) / len(train)
            bias_free = np.eye(len(xx))
            bias_free[0, 0] = 0
            estimate = designs[out] @ np.linalg.solve(xx + alpha * RATE * bias_free, xy)
            rows.append([np.corrcoef(estimate[:, n], responses[out][:, n])[0, 1] for n in range(estimate.shape[1])])
        scores.append(np.mean(rows, 0))
    return np.array(scores)


@settings(max_examples=40, deadline=None)
@given(first=st.integers(-6, 6), n_lags=st.integers(1, 7), n=st.integers(2, 30), d=st.integers(1, 3),
       before=st.integers(0, 8), after=st.integers(0, 8), torch_=st.booleans(), seed=st.integers(0, 9))
def test_moments_without_the_design_matrix(first, n_lags, n, d, before, after, torch_, seed):
    rng = np.random.default_rng(seed)
    lags = np.arange(first, first + n_lags)
    whole = rng.standard_normal((before + n + after, d)) + 50
    y = rng.standard_normal((n, 2))
    x = padded(whole[before:before + n], lags, whole[:before], whole[before + n:])
    wide = np.vstack([np.zeros((20, d)), whole, np.zeros((20, d))])
    rows = np.hstack([wide[20 + before - lag:20 + before - lag + n] for lag in lags])
    np.testing.assert_array_equal(lagged(x, lags), rows)
    slow = Moments.of(rows, y)
    if torch_:
        x, y = torch.from_numpy(x), torch.from_numpy(y)
    fast = lagged_moments(x, n_lags, y)
    for name in ("x", "y", "xx", "xy", "yy"):
        np.testing.assert_allclose(np.asarray(getattr(fast, name)), getattr(slow, name), atol=1e-8)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_it_is_the_obvious_way(backend):
    stimuli, responses, _ = make(d=2)
    lags = lag_samples(-0.1, 0.3, RATE, outward=True)
    expected = obvious(stimuli, responses, lags, ALPHAS)
    trf = TRF(-0.1, 0.3, RATE, ALPHAS, compat="mtrf", backend=backend).fit(stimuli, responses)
    np.testing.assert_allclose(trf.cv_r_[0], expected, atol=1e-10)
    np.testing.assert_array_equal(trf.alphas_, ALPHAS[expected.argmax(0)])
    again = TRF(-0.1, 0.3, RATE, ALPHAS, compat="mtrf", backend=backend)
    again.load_state_dict(trf.state_dict())
    np.testing.assert_array_equal(again.predict(stimuli[:1])[0], trf.predict(stimuli[:1])[0])
    np.testing.assert_allclose(trf.score(stimuli, responses), np.mean([[
        np.corrcoef(guess[:, n], y[:, n])[0, 1] for n in range(y.shape[1])] for guess, y in
        zip(trf.predict(stimuli), responses, strict=True)], 0), atol=1e-10)


@pytest.mark.parametrize("what", ["shared", "per channel", "smooth", "smooth one feature", "banded", "backward"])
def test_it_is_mtrf(what):
    stimuli, responses, _ = make(d=1 if what == "smooth one feature" else 3)
    options = {"alpha_per_target": what == "per channel", "compat": "mtrf"}
    theirs, extra, alphas = mtrf.TRF(-1 if what == "backward" else 1), {}, ALPHAS
    if what.startswith("smooth"):
        theirs, options["penalty"] = mtrf.TRF(method="tikhonov"), "smooth"
    if what == "banded":
        theirs, extra, alphas = mtrf.TRF(method="banded"), {"bands": [1, 2]}, ALPHAS[:3]
        options |= {"bands": [0, 1, 1], "scalings": 1 / product_grid(alphas, 2)}
    if what == "backward":
        options["direction"] = "backward"
    scores = theirs.train(list(stimuli), list(responses), RATE, -0.1, 0.3, alphas, verbose=False,
                          reg_per_y_channel=what == "per channel", **extra)
    trf = TRF(-0.1, 0.3, RATE, [1.0] if what == "banded" else alphas, **options).fit(stimuli, responses)
    ours = trf.cv_r_[:, 0] if what == "banded" else trf.cv_r_[0]
    np.testing.assert_allclose(ours if what == "per channel" else ours.mean(1), scores, atol=1e-10)
    np.testing.assert_allclose(trf.kernels, theirs.weights, atol=1e-8 * np.abs(theirs.weights).max())
    np.testing.assert_allclose(trf.lags, theirs.times)
    if what == "backward":
        np.testing.assert_allclose(trf.patterns(responses), theirs.to_forward(list(responses)).weights, atol=1e-8)


def test_nested_is_mtrf():
    stimuli, responses, _ = make()
    scores, alphas = nested_crossval(mtrf.TRF(), list(stimuli), list(responses), RATE, 0, 0.25, ALPHAS, verbose=False)
    ours = nested(TRF(0, 0.25, RATE, ALPHAS, alpha_per_target=False, compat="mtrf"), stimuli, responses)
    np.testing.assert_allclose(ours.r.mean(1), scores, atol=1e-10)
    np.testing.assert_array_equal(ours.alphas[:, 0], alphas)


def test_nested_folds_of_noise_are_pooled_without_bias():
    """Responses that answer nothing, with another level in each trial: r of all trials is 0, not below."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        stimuli = [rng.normal(size=(200, 2)) for _ in range(8)]
        responses = [rng.normal(size=(200, 20)) + 0.3 * rng.normal(size=20) for _ in range(8)]
        scores = nested(TRF(0, 0.1, 50, [1e2, 1e6]), stimuli, responses, predict=True)
        y, x = np.concatenate(responses), np.concatenate(scores.predictions)
        level = np.repeat(scores.means, 200, axis=0)
        found.append([np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(a.T, b.T, strict=True)])
                      for a, b in ((x, y), (x - level, y - level))])
    raw, pooled = np.mean(found, 0)
    assert raw < -0.1 and abs(pooled) < 0.02


def test_nested_predictions_are_of_what_was_fitted_without_a_fold():
    stimuli, responses, _ = make()
    found = nested(TRF(0, 0.25, RATE, ALPHAS), stimuli, responses, predict=True)
    for i in range(len(stimuli)):
        rest = [[x for j, x in enumerate(side) if j != i] for side in (stimuli, responses)]
        fitted = TRF(0, 0.25, RATE, ALPHAS).fit(*rest)
        np.testing.assert_array_equal(found.alphas[i], fitted.alphas_)
        np.testing.assert_allclose(found.predictions[i], fitted.predict([stimuli[i]])[0], atol=1e-9)
    assert nested(TRF(0, 0.25, RATE, ALPHAS), stimuli, responses).predictions == []


def test_the_rank_is_by_correlation_feature_by_feature():
    """Whatever the level and the size of a feature or a segment."""
    rng = np.random.default_rng(5)
    truths = [rng.standard_normal((200, 3)) * np.repeat(10.0 ** rng.uniform(-2, 2, 10), 20)[:, None] * [1, 50, 0.1]
              + [0, 300, -7] for _ in range(2)]
    guesses = [x * [9, 0.01, 1] + 4 * rng.standard_normal(x.shape) * np.repeat(
        x.reshape(10, 20, 3).std(1), 20, 0) * [9, 0.01, 1] + 5 for x in truths]
    found = identify(guesses, truths, ["a", "b"], 20)
    pieces = [[part for x in side for part in x.reshape(10, 20, 3)] for side in (guesses, truths)]
    scores = np.array([[np.mean([np.corrcoef(z[:, f], y[:, f])[0, 1] for f in range(3)]) for y in pieces[1]]
                       for z in pieces[0]])
    rank = 1 + (scores > np.diag(scores)[:, None]).sum(1)
    np.testing.assert_array_equal(found.result.values["rank"], rank)
    assert 1 < rank.mean() < 6 and found.samples == 20 and len(set(found.candidate)) == 20


@pytest.mark.parametrize("direction, penalty", [("forward", "ridge"), ("forward", "smooth"), ("backward", "smooth")])
def test_weights_are_those_of_the_penalised_sum_of_squares(direction, penalty):
    """By least squares with a row for each term of the penalty and a column of 1 that has none."""
    stimuli, responses, _ = make(d=2, channels=3, n=60)
    found = TRF(-0.05, 0.2, RATE, [50.0], direction=direction, penalty=penalty).fit(stimuli, responses)
    xs, ys = (stimuli, responses) if direction == "forward" else (responses, stimuli)
    lags, sign = np.arange(-2, 7), 1 if direction == "forward" else -1
    (n_lags, d), columns = (len(lags), xs[0].shape[1]), []
    for lag in sign * lags[::sign]:  # x(t − lag), 0 outside of a trial
        columns.append(np.concatenate([np.roll(np.vstack([x, np.zeros((10, d))]), lag, 0)[:len(x)] for x in xs]))
    terms = []
    for k in range(d):
        for lag in range(n_lags - (penalty == "smooth")):
            row = np.zeros((n_lags, d))
            row[lag, k] = 1
            if penalty == "smooth":
                row[lag + 1, k] = -1
            terms.append(np.append(row.ravel(), 0))
    design, y = np.hstack([*columns, np.ones((len(columns[0]), 1))]), np.concatenate(ys)
    w = np.linalg.lstsq(np.vstack([design, np.sqrt(50) * np.array(terms)]),
                        np.vstack([y, np.zeros((len(terms), y.shape[1]))]), rcond=None)[0]
    np.testing.assert_allclose(found.kernels, w[:-1].reshape(n_lags, d, -1).transpose(1, 0, 2) * RATE, atol=1e-9)
    np.testing.assert_allclose(found.intercept_, w[-1], atol=1e-9)


@pytest.mark.parametrize("criterion", ["mse", "r"])
def test_groups_of_trials_are_held_out_and_gaps_left_out(criterion, monkeypatch):
    """Errors are means over all held-out samples, correlations over trials, of what each channel has of them."""
    stimuli, responses, _ = make(n_trials=5, n=40, d=2, channels=6, noise=6.0)
    responses[1][5:15, 1], responses[3][:, 2] = np.nan, np.nan
    groups, alphas, lags = [0, 1, 0, 2, 1], 10.0 ** np.arange(0, 5), np.arange(0, 9)
    trf = TRF(0, 0.25, RATE, alphas, criterion=criterion).fit(stimuli, responses, groups=groups)
    designs = [np.hstack([lagged(padded(x, lags), lags), np.ones((len(x), 1))]) for x in stimuli]
    for channel in range(6):
        rows = [np.isfinite(y[:, channel]) for y in responses]
        errors, scores = np.zeros(5), np.zeros(5)
        for held in range(3):
            train = [i for i in range(5) if groups[i] != held]
            x = np.concatenate([designs[i][rows[i]] for i in train])
            y = np.concatenate([responses[i][rows[i], channel] for i in train])
            for k, alpha in enumerate(alphas):
                free = alpha * np.diag(np.append(np.ones(18), 0))
                w = np.linalg.solve(x.T @ x + free, x.T @ y)
                for i in set(range(5)) - set(train):
                    guess, truth = designs[i][rows[i]] @ w, responses[i][rows[i], channel]
                    errors[k] += ((guess - truth) ** 2).sum()
                    scores[k] += np.corrcoef(guess, truth)[0, 1] if len(truth) else 0
        np.testing.assert_allclose(trf.cv_errors_[0, :, channel], errors / sum(map(sum, rows)), rtol=1e-9)
        np.testing.assert_allclose(trf.cv_r_[0, :, channel], scores / sum(map(any, rows)), atol=1e-10)
    best = {"mse": trf.cv_errors_[0].argmin(0), "r": trf.cv_r_[0].argmax(0)}
    assert (best["mse"] != best["r"]).any()
    np.testing.assert_array_equal(trf.alphas_, alphas[best[criterion]])
    whole = trf.predict(stimuli)
    monkeypatch.setattr(trf_module, "ROWS", 7)  # rows of the design matrix at a time
    for one, other in zip(trf.predict(stimuli), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    expected = [np.mean([np.corrcoef(guess[own, c], y[own, c])[0, 1] for guess, y in zip(whole, responses, strict=True)
                         if (own := np.isfinite(y[:, c])).any()]) for c in range(6)]
    np.testing.assert_allclose(trf.score(stimuli, responses), expected, atol=1e-10)


def test_patterns_of_several_features():
    """Haufe's: the lagged brain's covariance with the reconstructions, times the inverse of theirs."""
    stimuli, responses, _ = make(d=2, channels=3, n=80)
    stimuli = [x @ [[1.0, 0.8], [0.0, 0.6]] for x in stimuli]  # features that go together
    trf = TRF(0, 0.1, RATE, [10.0], direction="backward").fit(stimuli, responses)
    lags, guesses = -np.arange(4)[::-1], np.concatenate(trf.predict(responses))
    brain = np.concatenate([lagged(padded(y, lags), lags) for y in responses])
    joint = np.cov(brain.T, guesses.T, ddof=0)
    expected = joint[:12, 12:] @ np.linalg.inv(joint[12:, 12:])  # lags from −0.1 to 0 × channels
    np.testing.assert_allclose(trf.patterns(responses), expected.reshape(4, 3, 2).transpose(2, 0, 1)[:, ::-1],
                               atol=1e-9)


@pytest.mark.parametrize("penalty", ["ridge", "smooth"])
def test_a_planted_kernel_is_found(penalty):
    stimuli, responses, kernel = make(noise=1.0)
    trf = TRF(-0.1, 0.4, RATE, ALPHAS, penalty=penalty).fit(stimuli, responses)
    found = trf.kernels[:, np.searchsorted(trf.samples, 0):][:, :9] / RATE
    assert np.corrcoef(found.ravel(), kernel.ravel())[0, 1] > 0.98
    assert np.abs(trf.kernels[:, trf.lags < 0] / RATE).mean() < 0.1 * np.abs(kernel).max()
    pure = [y - 2 for y in make(noise=0.0)[1]]
    assert trf.score(stimuli, pure).min() > 0.95


@settings(max_examples=10, deadline=None)
@given(shift=st.integers(-3, 3), folds=st.sampled_from([None, 2]))
def test_a_later_brain_has_a_later_kernel(shift, folds):
    stimuli, responses, _ = make(n_trials=3, n=200, d=2)
    inner = [slice(10, len(x) - 10) for x in stimuli]
    moved = [slice(10 + shift, len(x) - 10 + shift) for x in stimuli]  # of the stimulus: as if the brain came later
    around = [{"before": [x[:at.start] for x, at in zip(stimuli, cut, strict=True)],
               "after": [x[at.stop:] for x, at in zip(stimuli, cut, strict=True)]} for cut in (inner, moved)]
    y = [r[at] for r, at in zip(responses, inner, strict=True)]
    kernels = [TRF(*window, RATE, ALPHAS, folds=folds).fit([x[at] for x, at in zip(stimuli, cut, strict=True)], y,
                                                           **context).kernels
               for cut, context, window in [(inner, around[0], (-2 / RATE, 10 / RATE)),
                                            (moved, around[1], ((shift - 2) / RATE, (shift + 10) / RATE))]]
    np.testing.assert_allclose(kernels[1], kernels[0], atol=1e-9)


def test_linear_in_channels_and_cut_anywhere():
    stimuli, responses, _ = make()
    mix = np.random.default_rng(1).standard_normal((5, 3))
    trf = TRF(0, 0.3, RATE, [1.0]).fit(stimuli, responses)
    mixed = TRF(0, 0.3, RATE, [1.0]).fit(stimuli, [y @ mix for y in responses])
    np.testing.assert_allclose(mixed.kernels, trf.kernels @ mix, atol=1e-10)
    x, whole = stimuli[0], trf.predict(stimuli[:1])[0]
    parts = trf.predict([x[:100], x[100:]], before=[x[:0], x[:100]], after=[x[100:], x[:0]])
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-12)


def test_repeats_and_what_was_not_measured():
    stimuli, responses, _ = make(channels=4)
    rng = np.random.default_rng(2)
    repeats = [y + rng.standard_normal((3, *y.shape)) for y in responses]
    repeats[0][2] = np.nan          # a trial heard twice
    repeats[1][0, :50, 1] = np.nan  # and samples of one channel
    repeats[2][:, :, 3] = np.nan    # a channel that was off
    count = [np.isfinite(y).sum(0) for y in repeats]
    mean = [np.where(n > 0, np.nansum(y, 0) / np.maximum(n, 1), np.nan) for y, n in zip(repeats, count, strict=True)]
    trf = TRF(0, 0.3, RATE, ALPHAS, folds=4).fit(stimuli, mean, count)
    every = [(x, y[r], i) for i, (x, y) in enumerate(zip(stimuli, repeats, strict=True)) for r in range(3)]
    single = TRF(0, 0.3, RATE, ALPHAS, folds=4).fit([x for x, _, _ in every], [y for _, y, _ in every],
                                                    groups=[i for _, _, i in every])
    np.testing.assert_allclose(trf.kernels, single.kernels, atol=1e-9)
    lags = lag_samples(0, 0.3, RATE)
    rows = [lagged(padded(x, lags), lags) for x in stimuli]
    kept = [np.repeat(n[:, 1], n[:, 1]) > 0 for n in count]
    x = np.concatenate([np.repeat(row, n[:, 1], 0) for row, n in zip(rows, count, strict=True)])
    y = np.concatenate([np.repeat(m[:, 1], n[:, 1]) for m, n in zip(mean, count, strict=True)])
    x, y = x - x.mean(0), y - y.mean()
    assert all(keep.all() for keep in kept)
    w = np.linalg.solve(x.T @ x + trf.alphas_[1] * np.eye(x.shape[1]), x.T @ y)
    np.testing.assert_allclose(np.asarray(trf.coef_)[:, 1], w, atol=1e-10)
    assert np.isfinite(trf.score(stimuli, mean)).all()
    scores = nested(trf, stimuli, mean, count)
    assert np.isnan(scores.r[2, 3]) and scores.scalings[2, 3] == -1 and np.isfinite(np.delete(scores.r, 2, 0)).all()


def test_bands_and_partition():
    stimuli, responses, _ = make(d=6, channels=3, noise=2.0)
    rng = np.random.default_rng(3)
    noise = [rng.standard_normal((len(x), 4)) for x in stimuli]          # of no use
    copies = [x[:, :2] + 0.1 * rng.standard_normal((len(x), 2)) for x in stimuli]  # shared with the first two
    wide = [np.hstack([x, a, b]) for x, a, b in zip(stimuli, noise, copies, strict=True)]
    options = {"tmin": 0, "tmax": 0.3, "rate": RATE, "alphas": ALPHAS}
    groups = {"own": slice(0, 6), "noise": slice(6, 10), "copies": slice(10, 12)}
    found = partition({**options, "scalings": dirichlet(6, 3)}, groups, wide, responses)
    np.testing.assert_allclose(found.product.sum(0), found.r2, atol=1e-10)
    assert (found.r2 > 0.4).all() and (np.abs(found.unique[1]) < 0.02).all() and (found.alone[1] < 0.02).all()
    assert (found.unique[0] > 0.1).all() and (found.unique[2] < 0.02).all()
    np.testing.assert_allclose(found.shared, found.r2 - found.unique.sum(0), atol=1e-12)
    two = partition(options, {"own": slice(0, 6), "copies": slice(6, 8)},
                    [np.hstack([x, b]) for x, b in zip(stimuli, copies, strict=True)], responses)
    np.testing.assert_allclose(two.shared, two.alone.sum(0) - two.r2, atol=1e-12)
    assert two.shared.max() > 0.05  # of a channel that hears the first two features
    bands = np.repeat([0, 1, 2], [6, 4, 2])
    banded = TRF(**options, bands=bands, scalings=[[1, 1, 1], [1, 0, 1]]).fit(wide, responses)
    assert (banded.scalings_ == 1).all() and np.abs(banded.kernels[6:10]).max() == 0


def test_a_backward_model_reconstructs_and_its_patterns_are_forward():
    rng = np.random.default_rng(4)
    stimuli = [rng.standard_normal((600, 1)) for _ in range(3)]
    mixing, noise_mixing = rng.standard_normal((2, 6)), rng.standard_normal((6, 6))
    brains = []
    for x in stimuli:
        brain = rng.standard_normal((600, 6)) @ noise_mixing
        brain[2:] += x[:-2] * mixing[0]
        brain[5:] += x[:-5] * mixing[1]
        brains.append(brain)
    trf = TRF(0, 0.25, RATE, ALPHAS, direction="backward").fit(stimuli, brains)
    assert trf.lags[0] == -0.25 and trf.score(stimuli, brains)[0] > 0.7
    pattern = trf.patterns(brains)[0]
    assert pattern.shape == (9, 6)
    assert np.corrcoef(pattern[[2, 5]].ravel(), mixing.ravel())[0, 1] > 0.95 and np.abs(pattern[7]).max() < 0.3
    guesses = trf.predict(brains)
    found = identify(guesses, stimuli, ["a", "b", "c"], 60)
    assert found.result.n_candidates == 30 and found.result.summary()["top1"] > 0.95
    twice = identify([*guesses, guesses[0]], [*stimuli, stimuli[0]], ["a", "b", "c", "a"], 60)
    assert twice.result.n_candidates == 30 and len(twice.trial) == 40
    shuffled = identify(guesses[::-1], stimuli, ["a", "b", "c"], 60)
    assert shuffled.result.summary()["top1"] < 0.5


def test_segments_with_silent_features_are_ranked_as_decoders_rank():
    """Σ r / √n of the n features that vary in the candidate, by hand."""
    rng = np.random.default_rng(0)
    truths = [rng.standard_normal((30, 6)) * np.where(rng.random(6) < 0.4, 0, 1) for _ in range(40)]
    truths = [y if y.any() else rng.standard_normal((30, 6)) for y in truths]
    guesses = [y + 4 * rng.standard_normal((30, 6)) for y in truths]
    found = identify(guesses, truths, [str(i) for i in range(40)]).result
    scores, means = np.zeros((40, 40)), np.zeros((40, 40))
    for i, j in np.ndindex(40, 40):
        varies = np.flatnonzero(truths[j].any(0))
        r = [np.corrcoef(guesses[i][:, f], truths[j][:, f])[0, 1] for f in varies]
        scores[i, j], means[i, j] = np.sum(r) / np.sqrt(len(r)), np.sum(r) / 6
    ranks, by_mean = ((own >= own.diagonal()[:, None]).sum(1) for own in (scores, means))
    np.testing.assert_array_equal(found.values["rank"], ranks)
    assert (ranks != by_mean).any()


@pytest.mark.parametrize(("options", "message"), [
    ({"tmin": 0.3, "tmax": 0.3}, "must be below"), ({"rate": 0}, "rate=0"), ({"direction": "up"}, "direction='up'"),
    ({"alphas": [0]}, "positive"), ({"penalty": "lasso"}, "penalty"),
    ({"tmax": 0.001, "penalty": "smooth"}, "two lags"),
    ({"scalings": [[1, 1]]}, "need bands="), ({"bands": [0, 1, 1], "scalings": [[1, -1]]}, "not negative"),
    ({"bands": [0, 1]}, "labels 2 predictors"), ({"folds": 5}, "cv=5"), ({"criterion": "r2"}, "criterion")])
def test_bad_settings(options, message):
    stimuli, responses, _ = make()
    with pytest.raises(ValueError, match=message):
        TRF(**{"tmin": 0, "tmax": 0.3, "rate": RATE} | options).fit(stimuli, responses)


def test_bad_data():
    stimuli, responses, _ = make()
    trf = TRF(0, 0.3, RATE)
    with pytest.raises(ValueError, match="one trial: nothing is left"):
        trf.fit(stimuli[:1], responses[:1])
    assert np.isnan(TRF(0, 0.3, RATE, 1.0).fit(stimuli[:1], responses[:1]).cv_r_).all()
    with pytest.raises(ValueError, match="predictors have NaN"):
        trf.fit([np.full_like(x, np.nan) for x in stimuli], responses)
    with pytest.raises(ValueError, match="but 3 of responses"):
        trf.fit(stimuli, responses[:3])
    with pytest.raises(ValueError, match="expected predictors"):
        trf.fit([x[:-1] for x in stimuli], responses)
    with pytest.raises(ValueError, match="trial 1 has 2 predictors"):
        trf.fit([stimuli[0], *(x[:, :2] for x in stimuli[1:])], responses)
    with pytest.raises(ValueError, match="weights must be"):
        trf.fit(stimuli, responses, [np.full(len(x), -1.0) for x in stimuli])
    lost = [np.where(i, np.nan, y) for i, y in enumerate(responses)]
    with pytest.raises(ValueError, match="measured in 1 of 4 folds"):
        trf.fit(stimuli, lost)
    with pytest.raises(ValueError, match="fitted with 3"):
        trf.fit(stimuli, responses).predict([x[:, :1] for x in stimuli])
    with pytest.raises(ValueError, match="backward model"):
        trf.patterns(responses)
    with pytest.raises(ValueError, match="needs three"):
        nested(trf, stimuli[:2], responses[:2])
    with pytest.raises(ValueError, match="columns once"):
        partition({"tmin": 0, "tmax": 0.3, "rate": RATE}, {"a": slice(0, 2), "b": slice(1, 3)}, stimuli, responses)
    with pytest.raises(ValueError, match="say how long"):
        identify(stimuli, stimuli, list("abcd"))
    with pytest.raises(ValueError, match="at least two"):
        identify(stimuli[:1], stimuli[:1], ["a"])
