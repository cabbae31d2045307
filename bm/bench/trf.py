"""Temporal response functions: 5 minutes, 64 channels, 16 bands, 34 lags at 64 Hz, 10 penalties, 5 trials; and
how its cost grows with channels."""
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from bm.bench import Comparison, interleaved
from bm.linear import TRF
from bm.linear.trf_scores import nested

RATE, SECONDS, TRIALS, BANDS, CHANNELS = 64, 60, 5, 16, 64
TMIN, TMAX, ALPHAS = -0.1, 0.4, 10.0 ** np.arange(-4, 6)
#: numbers of channels whose cost is compared
MANY = (16, 64, 256, 512)
#: largest difference of held-out correlations that is rounding
SAME = 1e-10

Trials = list[np.ndarray]


def make_data(seconds: float = SECONDS, channels: int = CHANNELS) -> tuple[Trials, Trials]:
    """Slow stimuli, and channels that follow them for 0.3 s under noise."""
    rng = np.random.default_rng(0)
    n = round(seconds * RATE)
    kernel = rng.standard_normal((20, BANDS, channels)) / 50
    stimuli = []
    for _ in range(TRIALS):
        x = rng.standard_normal((n, BANDS)).cumsum(0)
        stimuli.append((x - x.mean(0)) / x.std(0))
    responses = []
    for x in stimuli:
        y = 3 * rng.standard_normal((n, channels))
        for lag, weights in enumerate(kernel):
            y[lag:] += x[:n - lag] @ weights
        responses.append(y)
    return stimuli, responses


def ours(stimuli: Trials, responses: Trials) -> np.ndarray:
    """Held-out r of each penalty, mean over channels and trials."""
    trf = TRF(TMIN, TMAX, RATE, ALPHAS, alpha_per_target=False, compat="mtrf")
    return trf.fit(stimuli, responses).cv_r_[0].mean(1)


def theirs(stimuli: Trials, responses: Trials) -> np.ndarray:
    """The same with mTRFpy."""
    import mtrf
    return mtrf.TRF().train(list(stimuli), list(responses), RATE, TMIN, TMAX, ALPHAS, verbose=False)


def ours_nested(stimuli: Trials, responses: Trials) -> np.ndarray:
    """Held-out r of each trial, mean over channels, penalties chosen without it."""
    trf = TRF(TMIN, TMAX, RATE, ALPHAS, alpha_per_target=False, compat="mtrf")
    return nested(trf, stimuli, responses).r.mean(1)


def theirs_nested(stimuli: Trials, responses: Trials) -> np.ndarray:
    """The same with mTRFpy."""
    import mtrf
    from mtrf.stats import nested_crossval
    return nested_crossval(mtrf.TRF(), list(stimuli), list(responses), RATE, TMIN, TMAX, ALPHAS, verbose=False)[0]


def by_channels(seconds: float = SECONDS, repeats: int = 3) -> Iterator[Comparison]:
    """The cost of `MANY` channels, beside that of the fewest for each channel as many times."""
    fits = [partial(ours, *make_data(seconds, channels)) for channels in MANY]
    fewest, *others = interleaved(*fits, repeats=repeats, clock=time.process_time)
    for channels, spent in zip(MANY[1:], others, strict=True):
        times = channels // MANY[0]
        yield Comparison("TRF channels", f"{channels} channels / {times} × {MANY[0]} channels ({fewest:.2f} s)", spent,
                         times * fewest, 1)


def run(seconds: float = SECONDS, repeats: int = 3) -> Iterator[Comparison]:
    """Yields the comparisons of this file, in seconds of all processors together.

    Raises:
        ArithmeticError: the scores differ.
    """
    data = make_data(seconds)
    for name, mine, other, times, target in [("TRF", ours, theirs, repeats, 1.7),
                                             ("TRF nested", ours_nested, theirs_nested, 1, None)]:
        gap = float(np.abs(mine(*data) - other(*data)).max())
        if not gap < SAME:
            raise ArithmeticError(f"{name}: held-out correlations differ from mTRFpy's by up to {gap:g}")
        fast, slow = interleaved(partial(mine, *data), partial(other, *data), repeats=times, clock=time.process_time)
        yield Comparison(name, f"leave one trial of {TRIALS} out, {len(ALPHAS)} penalties / mTRFpy, same scores", fast,
                         slow, target)
    yield from by_channels(seconds, repeats)
