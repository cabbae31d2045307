"""What lies behind a simulated recording, and the observer who knows all of it but what was heard."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bm.studies.simulated.make import TRUTH, place
from bm.studies.simulated.noise import Noise
from bm.studies.simulated.study import SimulatedRecording


@dataclass(frozen=True)
class Truth:
    """The truth about one recording, for all its channels; leave the bad ones out yourself.

    Args:
        clean: `(time, channels)` float32, the response to the sounds without noise or artifacts, in T.
        sources: `(time, features · peaks)` float32, the activity behind it: clean = sources @ patterns.T.
        noise: the model of the Gaussian noise. Artifacts and bad channels are not in it.
        patterns: `(channels, features · peaks)`, field of each source in T.
        kernels: `(features, peaks, lags)` at `rate`, lag 0 first.
        stimulus: `(time, features)`, what the kernels are convolved with.
        features: names of the features.
        rate: Hz.
    """

    clean: np.ndarray
    sources: np.ndarray
    noise: Noise
    patterns: np.ndarray
    kernels: np.ndarray
    stimulus: np.ndarray
    features: tuple[str, ...]
    rate: float

    def noise_csd(self, freqs: np.ndarray) -> np.ndarray:
        """Cross-spectral density `(freqs, channels, channels)` of the noise in T²/Hz, two-sided, real."""
        return self.noise.csd(freqs)

    def response_functions(self) -> np.ndarray:
        """What a channel answers to an impulse in a feature: `(channels, features, lags)` in T."""
        n_features, n_peaks, _ = self.kernels.shape
        return np.einsum("cfp,fpl->cfl", self.patterns.reshape(-1, n_features, n_peaks), self.kernels)


def load_truth(recording: SimulatedRecording) -> Truth:
    """Reads the truth about a recording of the study `simulated`."""
    folder = recording.root / TRUTH
    with np.load(folder / f"{recording.stem}_response.npz", allow_pickle=False) as file:
        patterns, stories, onsets, n_times = file["patterns"], file["stories"], file["onsets"], int(file["n_times"])
    with np.load(folder / "kernels.npz", allow_pickle=False) as file:
        kernels, names, rate = file["kernels"], tuple(map(str, file["features"])), float(file["rate"])
    heard, sources = [], []
    for story in stories:
        with np.load(folder / f"{story}.npz", allow_pickle=False) as file:
            heard.append(file["features"])
            sources.append(file["sources"])
    course = place(sources, onsets, n_times)
    clean = course @ patterns.T.astype(np.float32)
    noise = Noise.load(folder / f"{recording.stem}_noise.npz")
    return Truth(clean, course, noise, patterns, kernels, place(heard, onsets, n_times), names, rate)


def whittle_scores(x: np.ndarray, mu: np.ndarray, csd: Callable[[np.ndarray], np.ndarray], rate: float,
                   fmin: float = 0.5, fmax: float = 20.0, channels: np.ndarray | None = None) -> np.ndarray:
    """Log-likelihood ratios of an ideal observer: how much better candidate v explains segment n than no response does.

    Whittle's approximation takes the Fourier coefficients of the noise as independent between frequencies, with the
    covariance T · rate · S(f). Over the bins f from `fmin` to `fmax`, with Fourier transforms X and M,

        score = Σ_f 2 Re(X* Σ_f⁻¹ M) − M* Σ_f⁻¹ M

    The segments are not tapered: a taper loses more than the little power that leaks between frequencies costs (with
    the study's noise and segments of 3 s, a Hann window took the top-10 accuracy from 94 % to 89 %).

    Args:
        x: segments `(N, T, C)`.
        mu: candidates' responses without noise `(V, T, C)`.
        csd: frequencies (Hz) → two-sided cross-spectral density `(F, C, C)`, real; for example `Truth.noise_csd`.
        rate: Hz.
        fmin, fmax: Hz.
        channels: indices of the channels to use; all if None.

    Returns:
        `(N, V)` in nats.

    Source: Whittle, "Estimation and information in stationary time series", Arkiv för Matematik 2 (1953).

    Raises:
        ValueError: shapes that do not fit, or a band without a bin.
    """
    from scipy.linalg import cholesky, solve_triangular

    if x.ndim != 3 or mu.ndim != 3 or x.shape[1:] != mu.shape[1:]:
        raise ValueError(f"x is {x.shape} and mu is {mu.shape}, expected (N, T, C) and (V, T, C)")
    n_times = x.shape[1]
    bins = np.fft.rfftfreq(n_times, 1 / rate)
    bins = bins[(bins >= fmin) & (bins <= fmax) & (bins > 0) & (bins < rate / 2)]
    if not len(bins):
        raise ValueError(f"no frequency between {fmin} and {fmax} Hz in segments of {n_times / rate:g} s")
    used = np.arange(x.shape[2]) if channels is None else np.asarray(channels)
    covariance = csd(bins)[:, used][:, :, used] * (rate * n_times)
    scores = np.zeros((len(x), len(mu)))
    observed, expected = (_fourier(values[:, :, used], bins / rate) for values in (x, mu))
    for f in range(len(bins)):
        factor = cholesky(covariance[f], lower=True)
        white_x, white_mu = (solve_triangular(factor, values[f], lower=True) for values in (observed, expected))
        scores += 2 * (white_x.conj().T @ white_mu).real - (np.abs(white_mu) ** 2).sum(0)
    return scores


def _fourier(values: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    """Fourier coefficients `(F, C, N)` of `(N, T, C)` at `cycles` per sample: matrix products, as F is much below T."""
    phase = 2 * np.pi * cycles[:, None] * np.arange(values.shape[1])
    return (np.cos(phase) @ values - 1j * (np.sin(phase) @ values)).transpose(1, 2, 0)
