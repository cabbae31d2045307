"""What the simulated brain hears in a story (features at the rate of the recording), and its temporal kernels."""
from dataclasses import dataclass

import numpy as np

from bm.studies.simulated.speech import RATE, Speech

#: number of mel bands, and their range in Hz
N_MELS, MEL_RANGE = 10, (80.0, 8000.0)
#: s of sound in one frame of the spectrum
FRAME = 0.025
#: dB under the loudest frame of a story that count as silence
FLOOR = 50.0
#: first letter of an IPA label → class of the phoneme; what is not here is a vowel
_CONSONANTS = {"stop": "ptkbdɡgʔɾ", "fricative": "szfvθðʃʒhʍ", "nasal": "mnŋ", "approximant": "lɹrwjʲ"}
PHONEME_CLASSES = ("vowel", *_CONSONANTS)
FEATURES = ("envelope", *(f"mel{band}" for band in range(N_MELS)), "word", *(f"{c}_onset" for c in PHONEME_CLASSES))
#: share of the response's power that each group of features starts from
_SHARES = {"envelope": 0.25, "mel": 0.35, "word": 0.15, "onset": 0.25}
#: s after which the brain has forgotten a sound
KERNEL_LENGTH = 0.6
#: the early and the late peak of a kernel: range of latencies (s), range of widths (s, standard deviation), sign
PEAKS = (((0.06, 0.13), (0.015, 0.03), 1.0), ((0.16, 0.36), (0.03, 0.06), -1.0))


def phoneme_class(label: str) -> str:
    """The class of an IPA label; affricates count as stops, which they begin with."""
    for name, letters in _CONSONANTS.items():
        if label[0] in letters:
            return name
    return "vowel"


def mel_filters(n_bands: int, n_fft: int, rate: int) -> np.ndarray:
    """Triangular filters `(bands, n_fft // 2 + 1)`, evenly spaced on the mel scale of O'Shaughnessy (1987)."""
    low, high = (2595 * np.log10(1 + frequency / 700) for frequency in MEL_RANGE)
    mel = np.linspace(low, high, n_bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    freqs = np.fft.rfftfreq(n_fft, 1 / rate)
    rising = (freqs - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - freqs) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def _spectrum(audio: np.ndarray, rate: float, n: int) -> np.ndarray:
    """Power spectra `(n, bins)` of the frames centred at i / rate seconds."""
    width = round(FRAME * RATE)
    padded = np.pad(audio.astype(np.float32) / 2 ** 15, (width // 2, width + round((KERNEL_LENGTH + 1 / rate) * RATE)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[np.round(np.arange(n) * RATE / rate).astype(int)]
    return np.abs(np.fft.rfft(frames * np.hanning(width).astype(np.float32), n=1024)) ** 2


def features(speech: Speech, rate: float) -> np.ndarray:
    """The features of a story, `(time, FEATURES)`, at `rate` Hz, from its onset to `KERNEL_LENGTH` after its end.

    Log-mel bands and envelope are decibels above `FLOOR`, divided by it, so that silence is 0 and the loudest frame 1;
    onsets are impulses of 1.
    """
    n = int(np.ceil((speech.duration + KERNEL_LENGTH) * rate))
    power = _spectrum(speech.audio, rate, n)
    bands = np.c_[power.sum(1), power @ mel_filters(N_MELS, 1024, RATE).T]
    decibels = 10 * np.log10(np.maximum(bands / bands.max(0), 10 ** (-FLOOR / 10)))
    onsets = np.zeros((n, 1 + len(PHONEME_CLASSES)))
    for row in speech.words:
        onsets[round(row["start"] * rate), 0] = 1
    for row in speech.phonemes:
        onsets[round(row["start"] * rate), 1 + PHONEME_CLASSES.index(phoneme_class(row["phoneme"]))] = 1
    return np.c_[1 + decibels / FLOOR, onsets]


@dataclass(frozen=True)
class Kernels:
    """Temporal kernels, `values (features, peaks, lags)` at `rate` Hz, lag 0 first; the same for every subject."""

    values: np.ndarray
    rate: float

    def respond(self, stimulus: np.ndarray) -> np.ndarray:
        """Convolves features `(time, features)` to the courses of the sources `(time, features · peaks)`, float32."""
        from scipy.signal import oaconvolve

        n_time, n_features = stimulus.shape
        out = oaconvolve(stimulus[:, :, None], self.values.transpose(2, 0, 1), axes=0)[:n_time]
        return out.reshape(n_time, -1).astype(np.float32)

    def scaled(self, stimuli: list[np.ndarray]) -> "Kernels":
        """The same kernels, scaled so that over these stimuli each source has the share of power `_SHARES` gives it.

        Power is the variance of the response: a constant response to ongoing speech tells nothing.
        """
        power = np.concatenate([self.respond(stimulus) for stimulus in stimuli]).var(0).reshape(self.values.shape[:2])
        groups = [next(group for group in _SHARES if group in name) for name in FEATURES]
        share = np.array([_SHARES[group] / groups.count(group) / len(PEAKS) for group in groups])
        wanted = np.sqrt(share[:, None] / np.where(power > 0, power, np.inf))
        return Kernels(self.values * wanted[:, :, None], self.rate)


def make_kernels(rng: np.random.Generator, rate: float) -> Kernels:
    """Kernels with an early and a late bump of random latency and width for each feature."""
    time = np.arange(round(KERNEL_LENGTH * rate)) / rate
    shape = (len(FEATURES), 1)
    bumps = [sign * np.exp(-0.5 * ((time - rng.uniform(*latency, shape)) / rng.uniform(*width, shape)) ** 2)
             for latency, width, sign in PEAKS]
    return Kernels(np.stack(bumps, axis=1), rate)
