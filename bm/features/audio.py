"""Acoustic features of sound."""
from pathlib import Path
from typing import Any

import numpy as np

from bm.features.base import SoundFeature, register_feature


def read_audio(path: Path | str, start: float = 0.0, stop: float | None = None) -> tuple[np.ndarray, int]:
    """Mono samples of a part of a sound file: `(samples,)` float32 and the rate in Hz; channels are averaged.

    Args:
        path: any format soundfile reads.
        start, stop: seconds in the file; `stop` may pass the end by at most 0.1 s.

    Raises:
        ValueError: when less is there than asked for, or what is asked for is no span.
    """
    import soundfile
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
        first = round(start * rate)
        n = (file.frames if stop is None else round(stop * rate)) - first
        if first < 0 or n <= 0 or first >= file.frames:
            raise ValueError(f"{path}: asked for {start:.3f}–{first / rate + n / rate:.3f} s of a file of "
                             f"{file.frames / rate:.3f} s, expected a span within it: check `offset` and `duration` of "
                             "the sound events")
        file.seek(first)
        samples = file.read(n, dtype="float32", always_2d=True)
    if len(samples) < n - 0.1 * rate:
        raise ValueError(f"{path}: asked for {start:.3f}–{stop:.3f} s, but the file has only "
                         f"{file.frames / rate:.3f} s: is it whole, and the file that was played?")
    return samples.mean(axis=1), rate


def resample(x: np.ndarray, old: int, new: int) -> np.ndarray:
    """Band-limited resampling along the last axis, `⌊n · new / old⌋` samples (julius, replicate padding)."""
    import julius
    import torch
    if old == new:
        return x
    with torch.no_grad():
        return julius.resample_frac(torch.from_numpy(np.require(x, requirements=["C", "W"])), old, new).numpy()


@register_feature
class MelSpectrum(SoundFeature):
    """Log mel power spectrogram, 125 rows a second at the defaults.

    The chunk is standardised, resampled to `in_sampling`, cut into periodic-Hann windows of `n_fft` samples with a hop
    of `n_fft / 4` (centred, reflected edges); power spectra, divided by the window's energy if `normalized`, are
    summed by `n_mels` triangular HTK filters over [0, in_sampling / 2], then `log10(mel + log_scale_eps)`.

    Args:
        n_fft: window, samples.
        n_mels: number of filters. With 120 filters of a 512-point spectrum the lowest ones may hold no bin.
        in_sampling: Hz.
        normalized: divide the power by Σ window².
        norm_audio: standardise the chunk's samples first (unbiased standard deviation).
        use_log_scale: take the logarithm.
        log_scale_eps: added before it; silence is its logarithm.

    Source: Défossez et al. 2023; filters as in `torchaudio.transforms.MelSpectrogram`.
    """

    def __init__(self, n_fft: int = 512, n_mels: int = 40, in_sampling: int = 16_000, normalized: bool = True,
                 norm_audio: bool = True, use_log_scale: bool = True, log_scale_eps: float = 1e-5) -> None:
        if n_fft < 16 or n_fft % 4:
            raise ValueError(f"n_fft={n_fft}: expected a multiple of 4, at least 16")
        if not 1 <= n_mels <= n_fft // 2:
            raise ValueError(f"n_mels={n_mels}: expected 1 to n_fft / 2 = {n_fft // 2}")
        if log_scale_eps <= 0:
            raise ValueError(f"log_scale_eps={log_scale_eps}: expected a positive number")
        self.params: dict[str, Any] = {
            "n_fft": n_fft, "n_mels": n_mels, "in_sampling": in_sampling, "normalized": normalized,
            "norm_audio": norm_audio, "use_log_scale": use_log_scale, "log_scale_eps": log_scale_eps}
        self.dim = n_mels
        top = 2595 * np.log10(1 + in_sampling / 2 / 700)  # HTK's mel
        self.bands_hz = 700 * (10 ** (np.linspace(0, top, n_mels + 2)[1:-1] / 2595) - 1)
        self.rate = in_sampling / (n_fft // 4)
        self.default = float(np.log10(log_scale_eps)) if use_log_scale else 0.0
        self.context_s = n_fft / 2 / in_sampling
        self.shift_equivariant = not norm_audio

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, **self.params}

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        import torch
        from torchaudio.transforms import MelSpectrogram
        p = self.params
        if p["norm_audio"]:
            audio = (audio - audio.mean()) / (1e-8 + audio.std(ddof=1))
        audio = resample(audio.astype(np.float32), rate, p["in_sampling"])
        if len(audio) <= p["n_fft"] // 2:  # too short to reflect: pad with silence
            audio = np.pad(audio, (0, p["n_fft"] // 2 + 1 - len(audio)))
        transform = MelSpectrogram(p["in_sampling"], n_fft=p["n_fft"], hop_length=p["n_fft"] // 4, n_mels=p["n_mels"],
                                   normalized=p["normalized"])
        mel = transform(torch.from_numpy(audio)).numpy().T
        if p["use_log_scale"]:
            mel = np.log10(mel + p["log_scale_eps"])
        return np.ascontiguousarray(mel, dtype=np.float32)


@register_feature
class Waveform(SoundFeature):
    """The sound itself, as it is, for an encoder that learns its spectrogram (`encoder.wav2spec`).

    Args:
        rate: Hz; resampled band-limited.
    """

    native = True
    normalize = False
    dim, default, shift_equivariant = 1, 0.0, True

    def __init__(self, rate: int = 16_000) -> None:
        if rate < 1:
            raise ValueError(f"Waveform: rate={rate}, expected a positive number of Hz")
        self.rate = float(rate)
        self.context_s = 24 / rate  # the resampler's filter

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, "rate": self.rate}

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        return np.ascontiguousarray(resample(audio.astype(np.float32), rate, round(self.rate))[:, None])


@register_feature
class Wav2VecChunk(SoundFeature):
    """The sound itself at 16 kHz, for a network that learns from it (`feature_model=wav2vec2`).

    Args:
        normalized: standardise each chunk (zero mean, variance 1 with 1e-7 added to it), as wav2vec 2.0 was trained.
    """

    native = True
    normalize = False
    dtype = "float16"
    dim, rate, default = 1, 16_000.0, 0.0

    def __init__(self, normalized: bool = True) -> None:
        self.normalized = normalized
        self.context_s = float("inf") if normalized else 0.01  # the resampler's filter
        self.shift_equivariant = not normalized

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, "normalized": self.normalized}

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        audio = resample(audio.astype(np.float32), rate, round(self.rate))
        if self.normalized:
            audio = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
        return np.ascontiguousarray(audio[:, None], dtype=np.float32)
