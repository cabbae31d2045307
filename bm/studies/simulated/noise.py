"""What a recording holds besides the response: Gaussian noise of known spectrum, and artifacts on top of it.

All spectral densities are two-sided: the variance is their integral over −rate/2 … rate/2.
"""
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bm.studies.simulated.forward import dipole_fields, random_dipoles

#: Hz; the band in which signal and noise are compared
BAND = (0.5, 20.0)
#: T, root mean square over channels of the brain's own activity in `BAND`, and of the alpha rhythm
_BACKGROUND, _ALPHA = 300e-15, 150e-15
#: share of the background that comes from the sources of the response themselves (spontaneous activity there)
_SPONTANEOUS = 0.3
_N_BACKGROUND, _N_ALPHA = 160, 6
#: T/√Hz (one-sided) of the sensors
_SENSOR = 5e-15


@dataclass(frozen=True)
class Noise:
    """Stationary Gaussian noise: 1/f background and alpha rhythm with patterns, and white noise of the sensors.

    `background (channels, sources)` in T, root mean square in `BAND`; `alpha (channels, sources)` in T, root mean
    square; `sensor` in T/√Hz, one-sided; `knee` (Hz) and `exponent` of the background's power
    1 / (1 + (f/knee)²)^(exponent/2);
    `alpha_freq` and `alpha_width` (Hz, standard deviation of the peak).
    """

    background: np.ndarray
    alpha: np.ndarray
    sensor: float
    knee: float
    exponent: float
    alpha_freq: float
    alpha_width: float

    def background_psd(self, freqs: np.ndarray) -> np.ndarray:
        """Density (1/Hz) of one background source, with variance 1 in `BAND`."""
        def shape(f: np.ndarray) -> np.ndarray:
            return (1 + (f / self.knee) ** 2) ** (-self.exponent / 2)

        grid = np.linspace(*BAND, 2001)
        return shape(np.asarray(freqs)) / (2 * np.trapezoid(shape(grid), grid))

    def alpha_psd(self, freqs: np.ndarray) -> np.ndarray:
        """Density (1/Hz) of one alpha source, with variance 1."""
        distance = (np.abs(freqs) - self.alpha_freq) / self.alpha_width
        return np.exp(-0.5 * distance ** 2) / (2 * np.sqrt(2 * np.pi) * self.alpha_width)

    def csd(self, freqs: np.ndarray) -> np.ndarray:
        """Cross-spectral density `(freqs, channels, channels)` in T²/Hz; it is real: no source lags another."""
        freqs = np.atleast_1d(np.asarray(freqs, dtype=float))
        background, alpha = self.background @ self.background.T, self.alpha @ self.alpha.T
        out = (self.background_psd(freqs)[:, None, None] * background
               + self.alpha_psd(freqs)[:, None, None] * alpha)
        channels = np.arange(len(background))
        out[:, channels, channels] += self.sensor ** 2 / 2
        return out

    def band_power(self) -> np.ndarray:
        """Variance of each channel in `BAND`, `(channels,)` in T²."""
        grid = np.linspace(*BAND, 2001)
        alpha = 2 * np.trapezoid(self.alpha_psd(grid), grid)
        white = self.sensor ** 2 * (BAND[1] - BAND[0])
        return (self.background ** 2).sum(1) + alpha * (self.alpha ** 2).sum(1) + white

    def sample(self, rng: np.random.Generator, n_times: int, rate: float) -> np.ndarray:
        """Draws the noise, `(time, channels)` float32 in T."""
        def coloured(n_sources: int, psd) -> np.ndarray:
            out = np.empty((n_sources, n_times), dtype=np.float32)
            n_fft = next_fast_len(n_times, real=True)
            gain = np.sqrt(psd(rfftfreq(n_fft, 1 / rate)) * rate).astype(np.float32)
            for row in out:  # one source at a time keeps the memory small
                row[:] = irfft(rfft(rng.standard_normal(n_fft, dtype=np.float32)) * gain, n_fft)[:n_times]
            return out

        from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

        out = rng.standard_normal((n_times, len(self.background)), dtype=np.float32)
        out *= self.sensor * np.sqrt(rate / 2)
        out += coloured(self.background.shape[1], self.background_psd).T @ self.background.T.astype(np.float32)
        out += coloured(self.alpha.shape[1], self.alpha_psd).T @ self.alpha.T.astype(np.float32)
        return out

    def save(self, path: Path) -> None:
        """Writes an `.npz` without pickled objects."""
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Noise":
        with np.load(path, allow_pickle=False) as file:
            values: dict[str, Any] = {key: file[key] if file[key].ndim else float(file[key]) for key in file}
        return cls(**values)


def make_noise(rng: np.random.Generator, sensors: np.ndarray, responding: np.ndarray) -> Noise:
    """The noise of a subject whose sensors are at `sensors` (m, from the centre of the head's sphere).

    `responding (channels, sources)` are the patterns of the response, whose sources are active without a stimulus too.
    """
    elsewhere = np.sqrt(1 - _SPONTANEOUS) * _unit_power(dipole_fields(sensors, *random_dipoles(rng, _N_BACKGROUND)))
    background = _BACKGROUND * np.c_[elsewhere, np.sqrt(_SPONTANEOUS) * _unit_power(responding)]
    occipital = np.array([0.0, -0.06, 0.025]) + rng.normal(0, 0.012, (_N_ALPHA, 3))
    alpha = _ALPHA * _unit_power(dipole_fields(sensors, occipital, rng.normal(0, 1, (_N_ALPHA, 3))))
    return Noise(background, alpha, _SENSOR, knee=0.5, exponent=float(rng.uniform(1.0, 1.4)),
                 alpha_freq=float(rng.uniform(9, 11)), alpha_width=float(rng.uniform(0.6, 1.0)))


def _unit_power(patterns: np.ndarray) -> np.ndarray:
    """Scales patterns `(channels, sources)` to a mean power of 1 over channels when all sources have variance 1."""
    return patterns / np.sqrt((patterns ** 2).sum(1).mean())


def add_artifacts(data: np.ndarray, rng: np.random.Generator, rate: float, sensors: np.ndarray,
                  bads: list[int]) -> None:
    """Adds, in place, eye blinks, jumps of single channels and bad channels to `data (time, channels)`, in T.

    The first of `bads` is flat, the others are noisy. Artifacts are no part of the noise model.
    """
    n_times, n_channels = data.shape
    at = np.array([[-0.03, 0.065, -0.01], [0.03, 0.065, -0.01]])
    eyes = dipole_fields(sensors, at, np.array([[1.0, 0, 0], [1.0, 0, 0]])).sum(1)
    eyes = (eyes / np.abs(eyes).max()).astype(np.float32)
    blink = np.hanning(round(0.35 * rate)).astype(np.float32)
    for start in np.flatnonzero(rng.random(n_times) < 1 / (6 * rate)):  # one in six seconds
        stop = min(start + len(blink), n_times)
        data[start:stop] += rng.uniform(1e-12, 2e-12) * blink[:stop - start, None] * eyes
    decay = np.exp(-np.arange(round(8 * rate)) / (2 * rate)).astype(np.float32)  # as behind a high-pass filter
    for start in np.flatnonzero(rng.random(n_times) < 1 / (60 * rate)):  # one a minute
        stop = min(start + len(decay), n_times)
        jump = rng.choice([-1, 1]) * rng.uniform(2e-12, 6e-12)
        data[start:stop, rng.integers(n_channels)] += jump * decay[:stop - start]
    data[:, bads[1:]] += 5e-12 * rng.standard_normal((n_times, len(bads) - 1), dtype=np.float32)
    data[:, bads[0]] = 0
