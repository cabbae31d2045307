"""What a filter bank of spectrotemporal modulations makes of a sound: the baseline of networks that hear.

Source: the model of Chi, Ru & Shamma 2005 (JASA 118: 887) on a cochleagram, as used by Tuckute, Feather et al. 2023.
"""
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

#: Hz of the sound and of its envelopes
RATE, ENVELOPE_RATE = 20_000, 200
#: half-cosine filters between these, Hz, each octave of the ERB scale covered `OVERLAP` times
BANDS, LOW, HIGH, OVERLAP = 50, 50.0, 10_000.0, 4
#: taps of the filter before the envelopes are sampled
TAPS = 1001
#: Hz; and cycles per ERB, of which the bands have so many samples
TEMPORAL = (0, 0.5, 1, 2, 4, 8, 16, 32, 64)
SPECTRAL = (0, 0.0625, 0.125, 0.25, 0.5, 1, 2)
PER_ERB = 6


def erb_number(frequency: np.ndarray | float) -> np.ndarray:
    """Place on the ERB scale of Glasberg & Moore 1990: 9.265 · ln(1 + f / 228.8)."""
    return 9.265 * np.log(1 + np.asarray(frequency) / (24.7 * 9.265))


def cosine_filters(samples: int) -> np.ndarray:
    """Amplitude responses `(211, samples // 2 + 1)`: half cosines on the ERB scale, and what lies below and above.

    Their squares sum to one over frequency.
    """
    place = erb_number(np.fft.rfftfreq(samples, 1 / RATE))
    n = OVERLAP * (BANDS + 1) - 1
    centres, step = np.linspace(erb_number(LOW), erb_number(HIGH), n + 2, retstep=True)
    distance = (place[None] - centres[1:-1, None]) / (OVERLAP * step)
    filters = np.where(np.abs(distance) < 1, np.cos(np.pi / 2 * distance), 0.0)
    below = [np.where(place < centres[1 + i], np.sqrt(1 - filters[i] ** 2), 0.0) for i in range(OVERLAP)]
    above = [np.where(place > centres[-2 - i], np.sqrt(1 - filters[-1 - i] ** 2), 0.0) for i in range(OVERLAP)]
    return np.vstack([*below, filters, *above[::-1]]) / np.sqrt(OVERLAP)


@lru_cache(1)
def _filters(samples: int) -> np.ndarray:
    return cosine_filters(samples)


def cochleagram(audio: np.ndarray) -> np.ndarray:
    """Compressed envelopes `(211, frames)` of samples at 20 kHz, 200 a second; 2 s give 390 frames.

    Raises:
        ValueError: a sound too short for one frame.
    """
    if len(audio) < TAPS:
        raise ValueError(f"a sound of {len(audio)} samples at {RATE} Hz: expected at least {TAPS}")
    from scipy.signal import oaconvolve
    n, hop = len(audio), RATE // ENVELOPE_RATE
    spectrum = np.zeros((211, n), complex)
    spectrum[:, :n // 2 + 1] = 2 * np.fft.rfft(audio) * _filters(n)  # the negative half is 0: an analytic signal
    spectrum[:, [0] + [n // 2] * (n % 2 == 0)] /= 2
    envelope = np.abs(np.fft.ifft(spectrum))
    taps = np.sinc((np.arange(TAPS) - TAPS // 2) / hop) * np.kaiser(TAPS, 5.0)
    smooth = oaconvolve(envelope, taps[None] / taps.sum(), mode="valid", axes=1)[:, :-1:hop]
    return (np.maximum(smooth, 0) + 1e-8) ** 0.3


def temporal_response(rate: float, frames: int, highest: bool) -> np.ndarray:
    """Transfer function `(frames,)` of sin(2πft) · (ft)² · exp(−3.5 ft) about its mean, of at most 1, with phase."""
    if rate == 0:
        return np.ones(frames, complex)
    t = rate * np.arange(frames) / ENVELOPE_RATE
    h = np.sin(2 * np.pi * t) * t ** 2 * np.exp(-3.5 * t)
    out = np.fft.fft(h - h.mean())
    return _normalised(out, highest)


def spectral_response(scale: float, bands: int, highest: bool) -> np.ndarray:
    """Transfer function `(bands,)` R · exp(−R), R = (ω / f)², of at most 1."""
    if scale == 0:
        return np.ones(bands, complex)
    r = (np.fft.fftfreq(bands, 1 / PER_ERB) / scale) ** 2
    return _normalised((r * np.exp(-r)).astype(complex), highest)


def _normalised(response: np.ndarray, highest: bool) -> np.ndarray:
    size = np.abs(response)
    half = len(response) // 2
    peak = int(size[:half].argmax())
    out = response / size.max()
    if highest:  # passes all that is faster than its peak
        beyond = np.arange(peak, len(response) - peak + 1)
        out[beyond] /= np.maximum(np.abs(out[beyond]), 1e-300)
    return out


def transfer_functions(bands: int, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and response `(bands, frames // 2 + 1)` of each filter, for real signals; upward and downward ones apart."""
    slow = np.fft.fftfreq(frames)
    steep = np.fft.fftfreq(bands)
    mirrored_bands, mirrored_frames = -np.arange(bands) % bands, -np.arange(frames) % frames
    for rate in TEMPORAL:
        for scale in SPECTRAL:
            both = np.outer(spectral_response(scale, bands, scale == SPECTRAL[-1]),
                            temporal_response(rate, frames, rate == TEMPORAL[-1]))
            directions = (1, -1) if rate and scale else (0,)
            for direction in directions:
                kept = both if not direction else np.where(direction * np.outer(steep, slow) >= 0, both, 0)
                # the real part of a complex signal is that of its Hermitian half
                hermitian = (kept + kept[mirrored_bands][:, mirrored_frames].conj()) / 2
                yield f"{rate:g}Hz_{scale:g}cyc_{('both', 'down', 'up')[direction]}", hermitian[:, :frames // 2 + 1]


@lru_cache(1)
def _bank(bands: int, frames: int) -> np.ndarray:
    return np.stack([response for _, response in transfer_functions(bands, frames)]).astype(np.complex64)


def spectrotemporal(audio: np.ndarray) -> np.ndarray:
    """Power of 111 modulation filters in 211 bands, mean over time, `(23421,)` float32, of samples at 20 kHz."""
    import scipy.fft
    image = 100 * cochleagram(audio).astype(np.float32)
    bands, frames = image.shape
    shape = (scipy.fft.next_fast_len(2 * bands, True), scipy.fft.next_fast_len(3 * frames, True))  # padded with zeros
    spectrum = scipy.fft.rfft2(image, shape)
    out = [np.maximum(scipy.fft.irfft2(spectrum * response, shape)[:bands, :frames] ** 2, 1e-8).mean(1)
           for response in _bank(*shape)]
    return np.concatenate(out).astype(np.float32)


def baseline(audio: np.ndarray) -> dict[str, np.ndarray]:
    """Both layers of the baseline: `avgpool`, mean power, as published; and `amplitude`, its square root.

    Regression does not scale its features, and power is dominated by the filter that passes everything: on the fMRI
    voxels of `natsounds_fmri` power predicts with a median r of .31, amplitude .76.
    """
    power = spectrotemporal(audio)
    return {"avgpool": power, "amplitude": np.sqrt(power)}
