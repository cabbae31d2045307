"""What an attention GRU attends to in a sound: weights of each frame's window, and whether they follow the sound.

    weights = attention_weights(model, spectrogram)          # (B, heads or targets, T, W)
    found = time_lock([weights[0, 0]], [spectrogram[0, 0].T])

What weights show, and what they do not. They are on *states* of a GRU, and a state holds what came before it: a network
that answers to what was 7 frames ago may attend to the state 7 frames ago, or remember and attend to any later one.
Trained on such responses, nets with windows of 16 frames put their attention on frame 7; with windows of 10 frames some
spread it evenly over frames 0 to 7, and predict as well. So a peak says where the network reads, which is at the
latency or after it; that it is the latency of the brain needs a second look, at gradients or at a network that is not
given those frames. Attention to earlier frames would be wrong in any case: their states hold nothing of it, except
those of a bidirectional GRU, where a peak at any frame is possible.

A network can attend to a lag (the same part of every window), to what is in the sound, or to both. `time_lock` tells
the second: a frame of sound that attracts attention keeps it while it moves through the window.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bm.analysis.attention import record_attention


def attention_weights(model: nn.Module, sound: Tensor) -> Tensor:
    """The weights of all output frames, in evaluation mode; the model is left as it was.

    Args:
        model: with an attention GRU: a trained encoder, alone or inside another module.
        sound: what the model takes, e.g. `(B, 1, F, T)`.

    Shape: `(B, heads or targets, T, W)`; weight w of frame t is on input frame t − (W − 1) + w, frames before the first
    are zeros.
    Errors: ValueError if the model has no such attention.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), record_attention(model.eval()) as attention:
            model(sound)
    finally:
        for module, mode in modes:
            module.training = mode
    if attention.weights.ndim != 4:
        raise ValueError(f"{type(model).__name__} has attention of shape {tuple(attention.weights.shape)}: expected an "
                         "attention GRU, (B, heads, frames, window)")
    return attention.weights


def lag_profile(weights: ArrayLike) -> np.ndarray:
    """Mean attention by lag, 0 (the present frame) to W − 1, over the frames whose window is full.

    Shape: `(…, T, W)` → `(…, W)`. Errors: ValueError if no window is full (T < W).
    """
    values = np.asarray(weights)
    times, window = values.shape[-2:]
    if times < window:
        raise ValueError(f"{times} frames are fewer than a window ({window}): expected at least one full window")
    return values[..., window - 1:, ::-1].mean(-2)


def received(weights: ArrayLike) -> np.ndarray:
    """The attention that each frame of sound gets at each lag, as it moves through the window.

    Row i is sound frame W − 1 + i: the first and last W − 1 frames do not pass through W full windows.

    Shape: `(T, W)` → `(T − 2 (W − 1), W)`. Errors: ValueError if that leaves fewer than 2 frames.
    """
    values = np.asarray(weights, dtype=float)
    if values.ndim != 2 or len(values) < 2 * values.shape[1]:
        raise ValueError(f"weights have shape {values.shape}, expected (T, W) of one head and one sound, with at least "
                         "twice as many frames as the window")
    window = values.shape[1]
    n = len(values) - 2 * (window - 1)
    return np.stack([values[window - 1 + lag:window - 1 + lag + n, window - 1 - lag] for lag in range(window)], 1)


@dataclass(frozen=True)
class TimeLock:
    """Which frames of sound attention follows; "frames" are those of all sounds that pass through whole windows, N.

    Args:
        sound, frame: `(N,)`, which sound and which of its frames.
        received: `(N, W)`, attention at each lag (lag 0 is the present).
        expected: `(W,)`, its mean: what attention would be if it depended on lag alone.
        score: `(N,)`, mean over lags of received / mean of expected: 1 for a frame like any other.
        strength: standard deviation of the scores.
        p: of the strength; chance is each lag shifted on the sound's circle by itself.
        followed: `(N,)`, frames above the (1 − alpha) quantile of the scores by chance (mean over shifts).
        difference: `(D,)`, mean feature of followed frames minus that of the rest, in standard deviations.
        difference_p: `(D,)`, two-sided, corrected for D (largest of all); chance is the features shifted on the circle.
            NaN, as `difference`, if no frame or every frame is followed.
    """

    sound: np.ndarray
    frame: np.ndarray
    received: np.ndarray
    expected: np.ndarray
    score: np.ndarray
    strength: float
    p: float
    followed: np.ndarray
    difference: np.ndarray
    difference_p: np.ndarray


def time_lock(weights: Sequence[ArrayLike], features: Sequence[ArrayLike], *, alpha: float = 0.05,
              n_permutations: int = 500, seed: int = 0) -> TimeLock:
    """Whether attention follows parts of the sound, which ones, and how these differ from the rest.

    Circular shifts keep, at each lag, how attention varies over time, and break that it is the same frame of sound
    which has it at all lags. Attention that depends on lag alone, or drifts between lags, is not significant. With
    several sounds, each is shifted on its own circle. p-values are (1 + number at least as extreme) / (1 + shifts).

    Args:
        weights: `(T, W)` of each sound, of one head (or a mean over heads).
        features: `(T, D)` of each sound, e.g. its spectrogram.
        alpha: share of frames that would be called followed by chance.

    Errors: ValueError for sounds of other lengths, or too short.
    """
    if not weights or len(weights) != len(features):
        raise ValueError(f"{len(weights)} sounds with weights and {len(features)} with features: expected as many, "
                         "and at least one")
    parts = [received(values) for values in weights]
    window = parts[0].shape[1]
    tables = [np.asarray(table, dtype=float) for table in features]
    for part, table in zip(parts, tables, strict=True):
        if part.shape[1] != window or table.ndim != 2 or len(table) != len(part) + 2 * (window - 1):
            raise ValueError(f"weights of {len(part) + 2 * (window - 1)} frames with windows of {part.shape[1]} do not "
                             f"fit features {table.shape} or the first sound's windows of {window}")
    kept = [table[window - 1:window - 1 + len(part)] for part, table in zip(parts, tables, strict=True)]
    got = np.concatenate(parts)
    expected = got.mean(0)

    rng = np.random.default_rng(seed)
    score = got.mean(1) / expected.mean()
    chance, limits = np.empty((2, n_permutations))
    for draw in range(n_permutations):
        null = _shifted_scores(parts, rng) / expected.mean()
        chance[draw], limits[draw] = null.std(), np.quantile(null, 1 - alpha)
    # rounding alone differs between orders of summing: 1e-9 of the mean is no difference
    strength, followed = score.std(), score > limits.mean() + 1e-9
    difference, difference_p = _compare(kept, followed, n_permutations, rng)
    return TimeLock(
        sound=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        frame=np.concatenate([np.arange(len(part)) + window - 1 for part in parts]),
        received=got, expected=expected, score=score, strength=float(strength),
        p=float((1 + (chance >= strength - 1e-9).sum()) / (1 + n_permutations)),
        followed=followed, difference=difference, difference_p=difference_p)


def _shifted_scores(parts: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Means over lags `(N,)` once each lag of each sound is shifted by a random number of frames."""
    out = []
    for part in parts:
        rows = np.arange(len(part))[:, None] + rng.integers(len(part), size=part.shape[1])
        out.append(np.take_along_axis(part, rows % len(part), 0).mean(1))
    return np.concatenate(out)


def _compare(features: Sequence[np.ndarray], followed: np.ndarray, n_permutations: int, rng: np.random.Generator
             ) -> tuple[np.ndarray, np.ndarray]:
    """Differences `(D,)` of followed frames and the rest, and p-values from features shifted within each sound."""
    values = np.concatenate(features)
    spread = values.std(0)
    values = (values - values.mean(0)) / np.where(spread > 0, spread, 1)
    n, count = len(values), int(followed.sum())
    if not 0 < count < n:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    contrast = np.where(followed, 1 / count, -1 / (n - count))
    difference = contrast @ values
    ends = np.cumsum([len(table) for table in features])
    largest = np.empty(n_permutations)
    for draw in range(n_permutations):
        moved = [np.roll(part, rng.integers(len(part))) for part in np.split(contrast, ends[:-1])]
        largest[draw] = np.abs(np.concatenate(moved) @ values).max()
    exceed = (largest[:, None] >= np.abs(difference) - 1e-12).sum(0)
    return difference, (1 + exceed) / (1 + n_permutations)
