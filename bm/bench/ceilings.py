"""Both normalised correlations of 64 neurons, 20 repeats of 20 stimuli of 999 bins, beside the obvious loops."""
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bm.bench import Comparison, interleaved
from bm.metrics.ceilings import half_splits, noise_ceilings
from bm.metrics.encoding import ccnorm, ccnorm_hsu, stimulus_moments

NEURONS, REPEATS, STIMULI, BINS = 64, 20, 20, 999
#: s
BUDGET = 0.1


def data(neurons: int = NEURONS, stimuli: int = STIMULI, bins: int = BINS) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predicted rates `(time, neurons)` and spike counts `(repeats, time, neurons)` of each stimulus."""
    rng = np.random.default_rng(0)
    rates = [rng.gamma(2.0, 0.15, (bins, neurons)) for _ in range(stimuli)]
    return rates, [rng.poisson(rate, (REPEATS, bins, neurons)).astype(np.float32) for rate in rates]


def both(predictions: Sequence[np.ndarray], responses: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """CCnorm of Schoppe and of Hsu, `(neurons,)` each."""
    moments, ceilings = stimulus_moments(predictions, responses), noise_ceilings(responses)
    return ccnorm(moments, ceilings), ccnorm_hsu(moments, ceilings)


def loops(predictions: Sequence[np.ndarray], responses: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same, neuron by neuron, stimulus by stimulus and split by split."""
    schoppe, hsu = [], []
    for neuron in range(responses[0].shape[2]):
        rows = []
        for x, repeats in zip(predictions, responses, strict=True):
            trials = repeats[..., neuron].astype(np.float64)
            (xx, xy), (_, yy) = np.cov(x[:, neuron], trials.mean(0), ddof=0)
            signal = (len(trials) * yy - trials.var(1).mean()) / (len(trials) - 1)
            half = np.mean([np.corrcoef(trials[split].mean(0), trials[~split].mean(0))[0, 1]
                            for split in half_splits(len(trials))])
            rows.append((xx, xy, yy, signal, np.sqrt(2 * half / (1 + half)) if half > 0 else np.nan))
        xx, xy, yy, signal = np.average([row[:4] for row in rows], axis=0, weights=[len(x) for x in predictions])
        schoppe.append(xy / np.sqrt(xx * signal))
        hsu.append(xy / np.sqrt(xx * yy) / np.nanmean([row[4] for row in rows]))
    return np.array(schoppe), np.array(hsu)


def compare_loops(neurons: int = 8, stimuli: int = 5) -> Comparison:
    """Ours beside the loops, at a size that the loops can do in seconds."""
    given = data(neurons, stimuli)
    ours, other = interleaved(lambda: both(*given), lambda: loops(*given), repeats=3, clock=time.process_time)
    return Comparison("ccnorm", f"{neurons} neurons × {stimuli} stimuli × {REPEATS} repeats × {BINS} bins / loops",
                      1000 * ours, 1000 * other, 40.0, "ms")


def compare_reading() -> Comparison:
    """Ours at the full size beside one pass that brings the same data to float64, neuron by neuron; at most
    `BUDGET` s are asked for on top of it."""
    given = data()

    def read() -> None:
        for one in given[1]:
            one.transpose(2, 0, 1).astype(np.float64, order="C")

    ours, other = interleaved(lambda: both(*given), read, repeats=7, clock=time.process_time)
    return Comparison("ccnorm, full", f"{NEURONS} × {STIMULI} × {REPEATS} × {BINS} / turning it to (neuron, repeat, "
                      "time)", 1000 * ours, 1000 * other, other / (other + BUDGET), "ms")


def run() -> Iterator[Comparison]:
    """Yields both comparisons."""
    yield compare_loops()
    yield compare_reading()
