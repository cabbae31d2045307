"""Sounds and spikes for the twins of studies of neurons: noise that waxes and wanes, and a neuron that follows it."""
from pathlib import Path

import numpy as np

#: ms by which the neuron follows the sound
DELAY = 10


def write_noise(path: Path, seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Writes noise as a WAV file (whatever its name); returns its level per ms, at least 0 and of mean 1."""
    import soundfile
    n = round(1000 * seconds)
    level = np.maximum(np.convolve(rng.standard_normal(n), np.hanning(60), "same"), 0)
    level /= level.mean()
    sound = np.repeat(level, -(-rate // 1000))[:round(seconds * rate)]
    sound = np.pad(sound, (0, round(seconds * rate) - len(sound))) * rng.standard_normal(round(seconds * rate))
    soundfile.write(path, 0.05 * sound.clip(-15, 15), rate, format="WAV", subtype="FLOAT")
    return level


def spikes_of(level: np.ndarray, rng: np.random.Generator, hz: float = 40.0) -> np.ndarray:
    """Spike times (ms) of a Poisson neuron whose rate is `hz` times the level `DELAY` ms before."""
    rate = np.concatenate([np.ones(DELAY), level])[:len(level)] * hz / 1000
    times = np.repeat(np.arange(len(rate)), rng.poisson(rate))
    return np.sort(times + rng.integers(0, 32, len(times)) / 32)
