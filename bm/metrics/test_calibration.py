"""Without information, scores must fall inside the 95 % chance interval 90 to 99 times out of a hundred."""
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter1d

from bm.losses import ClipLoss
from bm.metrics.retrieval import retrieval
from bm.metrics.stats import binomial_interval, permutation_chance

RATE, TIMES, FEATURES, BLOCKS, WORDS = 8, 24, 3, 20, 12  # 20 blocks of 12 words, windows of 3 s
REPEATS = 200


def story(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """First samples `(V,)` of the windows, one at each word (every 0.25 to 0.75 s), and the length."""
    gaps = generator.integers(2, 7, (BLOCKS, WORDS))
    gaps[:, 0] = TIMES  # a block begins after the last window of the one before
    first = gaps.cumsum() - TIMES
    return first, first[-1] + TIMES


def smooth(generator: np.random.Generator, length: int, channels: int) -> np.ndarray:
    """Noise that resembles itself for half a second, `(length, channels)`."""
    return gaussian_filter1d(generator.standard_normal((length, channels)), 3.0, axis=0).astype(np.float32)


def windows(x: np.ndarray, first: np.ndarray) -> np.ndarray:
    """`(V, channels, TIMES)`."""
    return np.ascontiguousarray(sliding_window_view(x, TIMES, axis=0)[first])


def labels(first: np.ndarray, subjects: int) -> dict[str, np.ndarray]:
    """Of the estimates, subject after subject."""
    return {"recordings": np.repeat(np.arange(subjects), len(first)), "starts": np.tile(first / RATE, subjects),
            "blocks": np.tile(np.repeat(np.arange(BLOCKS), WORDS), subjects)}


def noise_decoder(generator: np.random.Generator, subjects: int, habit: float) -> tuple:
    """What a decoder makes of noise: smooth estimates, with `habit` times the same shape in all of them."""
    first, length = story(generator)
    usual = habit * smooth(generator, TIMES, FEATURES).T
    estimates = np.concatenate([windows(smooth(generator, length, FEATURES), first) + usual for _ in range(subjects)])
    return estimates, windows(smooth(generator, length, FEATURES), first), labels(first, subjects)


@pytest.mark.parametrize("subjects, habit", [(3, 0.0), (2, 2.0)])
def test_overlapping_windows_and_shared_stimuli(subjects, habit):
    inside = {1: 0, 5: 0, 10: 0}
    binomial = 0
    for seed in range(REPEATS):
        estimates, candidates, about = noise_decoder(np.random.default_rng(seed), subjects, habit)
        ids = np.arange(len(candidates))
        result = retrieval(estimates, candidates, ids, np.tile(ids, subjects))
        chance = permutation_chance(result, seed=seed, **about)
        for k in inside:
            low, high = chance.interval(k)
            inside[k] += low - 1e-9 <= chance.observed[k] <= high + 1e-9
            assert chance.null[k].mean() == pytest.approx(result.chance(k), rel=0.5)
        low, high = binomial_interval(result.chance(10), len(estimates))
        binomial += low <= chance.observed[10] <= high
    print(f"{subjects} subjects, habit {habit}: inside {inside}, binomial {binomial} of {REPEATS}")
    assert all(0.90 <= count / REPEATS <= 0.99 for count in inside.values()), inside
    assert habit or binomial / REPEATS < 0.8  # independent trials they are not


def train(generator: np.random.Generator, channels: int = 4, steps: int = 6, subjects: int = 2) -> torch.nn.Module:
    """A small convolution trained to find the sound in noise."""
    first, length = story(generator)
    sound = torch.from_numpy(windows(smooth(generator, length, FEATURES), first))
    brains = [torch.from_numpy(windows(smooth(generator, length, channels), first)) for _ in range(subjects)]
    torch.manual_seed(int(generator.integers(2 ** 31)))
    model, loss = torch.nn.Conv1d(channels, FEATURES, 5, padding=2), ClipLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for step in range(steps):
        chosen = torch.from_numpy(generator.integers(len(first), size=64))
        optimizer.zero_grad()
        loss(model(brains[step % subjects][chosen]), sound[chosen]).backward()
        optimizer.step()
    return model.eval()


def test_trained_on_noise():
    """From the first weights to the interval."""
    inside = {1: 0, 5: 0, 10: 0}
    for seed in range(REPEATS):
        generator = np.random.default_rng(seed)
        model = train(generator)
        first, length = story(generator)
        brain = np.concatenate([windows(smooth(generator, length, 4), first) for _ in range(2)])
        with torch.no_grad():
            estimates = model(torch.from_numpy(brain))
        ids = np.arange(len(first))
        result = retrieval(estimates, windows(smooth(generator, length, FEATURES), first), ids, np.tile(ids, 2))
        chance = permutation_chance(result, seed=seed, **labels(first, 2))
        for k in inside:
            low, high = chance.interval(k)
            inside[k] += low - 1e-9 <= chance.observed[k] <= high + 1e-9
    print(f"trained on noise: inside {inside} of {REPEATS}")
    assert all(0.90 <= count / REPEATS <= 0.99 for count in inside.values()), inside
