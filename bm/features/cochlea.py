"""What the ear makes of sound: gammatone bands, envelopes and onsets."""
from typing import Any, Literal

import numpy as np

from bm.features.audio import resample
from bm.features.base import SoundFeature, register_feature

#: a filter's impulse response ends where the exponent of its decay is so much: 90 dB below its peak
_DECAY = 20.0


def erb(frequency: np.ndarray) -> np.ndarray:
    """Equivalent rectangular bandwidth of the auditory filter at a frequency, Hz (Glasberg & Moore 1990)."""
    return 24.7 * (4.37e-3 * np.asarray(frequency) + 1)


def erb_space(low: float, high: float, n: int) -> np.ndarray:
    """`n` frequencies from `low` to `high` Hz, equally far apart on the ERB-number scale (Glasberg & Moore 1990)."""
    first, last = (float(np.log10(4.37e-3 * f + 1)) for f in (low, high))
    return (10 ** np.linspace(first, last, n) - 1) / 4.37e-3


def gammatone(frequency: float, rate: int, samples: int, order: int = 4) -> np.ndarray:
    """Impulse response of a complex gammatone filter with gain 1 at its frequency: `(samples,)` complex.

    t^(order − 1) · exp(−2π · 1.019 ERB(f) · t) · exp(2πi f t). The magnitude of what it gives for a real sound is half
    the band's envelope; gain 2 is applied, so that a tone of amplitude 1 has an envelope of 1.

    Source: Patterson et al. 1987; Slaney 1993 (order 4, b = 1.019 ERB).
    """
    t = np.arange(samples) / rate
    ramp = t ** (order - 1) * np.exp(-2 * np.pi * 1.019 * erb(np.array(frequency)) * t)
    return 2 * ramp / ramp.sum() * np.exp(2j * np.pi * frequency * t)


def smooth(envelope: np.ndarray, hop: int) -> np.ndarray:
    """Means of `(samples,)` under a Hann window of 2 `hop` samples centred on every `hop`-th: `⌈samples / hop⌉`."""
    n = -(-len(envelope) // hop)
    window = np.hanning(2 * hop + 1)[:-1]
    edge = np.zeros(hop * (n + 1))
    edge[hop:hop + len(envelope)] = envelope
    blocks = edge.reshape(n + 1, hop)
    return (blocks[:-1] @ window[:hop] + blocks[1:] @ window[hop:]) / window.sum()


class _Bands(SoundFeature):
    """What features of gammatone bands share: parameters and the envelope of each band."""

    default = 0.0
    shift_equivariant = True

    def __init__(self, n_bands: int, fmin: float, fmax: float, rate: float, in_sampling: int, compression: float
                 ) -> None:
        if not 0 < fmin < fmax <= in_sampling / 2:
            raise ValueError(f"fmin={fmin}, fmax={fmax}: expected 0 < fmin < fmax ≤ in_sampling / 2 = "
                             f"{in_sampling / 2}")
        if rate <= 0 or in_sampling % rate:
            raise ValueError(f"rate={rate}: expected a divisor of in_sampling={in_sampling}")
        if n_bands < 1 or not 0 < compression <= 1:
            raise ValueError(f"n_bands={n_bands}, compression={compression}: expected at least 1, and an exponent in "
                             "(0, 1]")
        self.params: dict[str, Any] = {"n_bands": n_bands, "fmin": fmin, "fmax": fmax, "rate": rate,
                                       "in_sampling": in_sampling, "compression": compression}
        self.rate = rate
        self.frequencies = erb_space(fmin, fmax, n_bands)
        self.taps = int(np.ceil(_DECAY / (2 * np.pi * 1.019 * erb(np.array(fmin))) * in_sampling))
        self.context_s = self.taps / in_sampling + 1 / rate

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, **self.params}

    def bands(self, audio: np.ndarray, rate: int, before: float = 1.0, after: float = 1.0) -> np.ndarray:
        """`(n, n_bands)`: envelopes to the power `before`, at `rate` rows a second, to the power `after`."""
        from scipy.fft import fft, ifft, next_fast_len
        fs = self.params["in_sampling"]
        hop = round(fs / self.rate)
        sound = resample(np.asarray(audio, np.float32), rate, fs)
        size = next_fast_len(len(sound) + self.taps)
        spectrum = fft(sound.astype(np.float64), size)  # compression makes single precision's noise heard
        rows = np.empty((-(-len(sound) // hop), len(self.frequencies)), np.float32)
        for band, frequency in enumerate(self.frequencies):  # one at a time: all would take 16 bytes · bands a sample
            response = fft(gammatone(frequency, fs, self.taps), size)
            envelope = np.abs(ifft(spectrum * response)[:len(sound)])
            rows[:, band] = smooth(envelope ** before, hop) ** after
        return rows


@register_feature
class Gammatone(_Bands):
    """Cochleagram: compressed envelopes of gammatone bands, 100 rows a second; row j is centred on j / rate.

    The bands' own delay (some ms, 14 in the lowest) stays, as in the ear. Levels are the file's: no normalisation.

    Args:
        n_bands: filters of order 4, `fmin` to `fmax` Hz, equally spaced in ERB.
        rate: rows a second, a divisor of `in_sampling`.
        in_sampling: Hz.
        compression: exponent of the envelope; 0.3 is near the ear's, 1 none.
        onsets: the rise of each band instead, max(0, dx/dt): an acoustic onset spectrogram.

    Source: Slaney 1993; compression as in McDermott & Simoncelli 2011.
    """

    def __init__(self, n_bands: int = 32, fmin: float = 80.0, fmax: float = 7600.0, rate: float = 100.0,
                 in_sampling: int = 16_000, compression: float = 0.3, onsets: bool = False) -> None:
        super().__init__(n_bands, fmin, fmax, rate, in_sampling, compression)
        self.params["onsets"], self.dim = onsets, n_bands
        self.bands_hz = self.frequencies

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        rows = self.bands(audio, rate, after=self.params["compression"])
        return rise(rows, self.rate) if self.params["onsets"] else rows


@register_feature
class Envelope(_Bands):
    """Broadband envelope, 100 rows a second; row j is centred on j / rate.

    Args:
        method: "gammatone": mean over bands of their envelopes to the power `compression`; "hilbert": magnitude of the
            analytic signal to that power.
        n_bands, fmin, fmax: of the bands, see `Gammatone`.
        rate, in_sampling: rows a second, Hz.
        compression: 0.6 tracks attention best (source).

    Source: Biesmans et al. 2017.
    """

    dim = 1

    def __init__(self, method: Literal["gammatone", "hilbert"] = "gammatone", n_bands: int = 28, fmin: float = 50.0,
                 fmax: float = 5000.0, rate: float = 100.0, in_sampling: int = 16_000, compression: float = 0.6
                 ) -> None:
        super().__init__(n_bands, fmin, fmax, rate, in_sampling, compression)
        if method not in ("gammatone", "hilbert"):
            raise ValueError(f"method={method!r}: expected gammatone or hilbert")
        self.params["method"] = method
        if method == "hilbert":  # its kernel falls off as 1 / t
            self.context_s, self.shift_equivariant = float("inf"), False

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        power = self.params["compression"]
        if self.params["method"] == "gammatone":
            return self.bands(audio, rate, before=power).mean(1, keepdims=True)
        from scipy.signal import hilbert
        fs = self.params["in_sampling"]
        sound = resample(np.asarray(audio, np.float32), rate, fs)
        return smooth(np.abs(hilbert(sound)) ** power, round(fs / self.rate)).astype(np.float32)[:, None]


@register_feature
class OnsetEnvelope(Envelope):
    """Rise of the broadband envelope, max(0, dx/dt) in envelope units a second; arguments of `Envelope`.

    Source: half-wave rectified derivative, as in Oganian & Chang 2019 (whose peaks are "peak rate" events).
    """

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        return rise(super().compute(audio, rate), self.rate)


def rise(rows: np.ndarray, rate: float) -> np.ndarray:
    """Positive part of the difference to the row before, a second; row 0 is 0."""
    return np.maximum(np.diff(rows, axis=0, prepend=rows[:1]), 0) * np.float32(rate)
