"""Front-ends from a waveform to a spectrogram, differentiable and causal: log-mel and SincNet.

Frame t ends with sample (t + 1) · hop, and depends on no later one. All take `(B, 1, samples)` to `(B, 1, F, T)`, with
samples a multiple of hop = round(sample_rate / rate). Those that imitate the ear are in `cochlear.py`.
"""
import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bm.models.encoders.prefilters import geometric_sum
from bm.models.encoders.scales import band_frequencies, mel_filters, nyquist_limit

#: Hz; 34 bands from 500 Hz up to here are a sixth of an octave apart (500 · 2^(33 / 6))
TOP = 22_627.0
#: taps from which blocks of FFT are faster than a direct convolution
_LONG = 128


def causal_fir(wave: Tensor, kernels: Tensor) -> Tensor:
    """Each filter's response to a waveform, zeros before it; y_t = Σ_n kernel_n · x_{t − n}.

    Long filters go by overlap-save: on one core 34 filters of 960 taps take a quarter of `conv1d`'s time.

    Shape: wave `(B, 1, samples)`, kernels `(K, taps)` → `(B, K, samples)`.
    """
    taps, samples = kernels.shape[1], wave.shape[2]
    if taps < _LONG:
        return F.conv1d(F.pad(wave, (taps - 1, 0)), kernels.flip(-1)[:, None])
    size = 1 << (4 * taps - 1).bit_length()
    step = size - taps + 1
    blocks = -(-samples // step)
    padded = F.pad(wave[:, 0], (taps - 1, blocks * step - samples))
    spectra = torch.fft.rfft(padded.unfold(-1, size, step))
    product = spectra[:, None] * torch.fft.rfft(kernels, size)[:, None]
    return torch.fft.irfft(product, size)[..., taps - 1:].flatten(2)[..., :samples]


class Pcen(nn.Module):
    """Per-channel energy normalisation, learned for each band: (E / (ε + M)^α + δ)^r − δ^r.

    M is the running mean of E, M_t = (1 − s) · M_{t−1} + s · E_t, from M = E_0 at the first frame. Parameters are kept
    as logits and logarithms, so that α, r, s stay in (0, 1) and δ positive.

    Shape: `(B, F, T)` of values ≥ 0, → same.
    Source: Wang et al. 2017 (PCEN); Zeghidour et al. 2021 (LEAF: learned, s too).
    """

    def __init__(self, bands: int, smooth: float = 0.025, alpha: float = 0.98, delta: float = 2.0, root: float = 0.5,
                 eps: float = 1e-6) -> None:
        super().__init__()
        if not (0 < smooth < 1 and 0 < alpha < 1 and 0 < root < 1 and delta > 0 and eps > 0):
            raise ValueError(f"pcen with smooth={smooth}, alpha={alpha}, root={root}, delta={delta}, eps={eps}: the "
                             "first three must be in (0, 1), the others positive")
        self.smooth, self.alpha, self.root = (nn.Parameter(torch.full((bands, 1), math.log(value / (1 - value))))
                                              for value in (smooth, alpha, root))
        self.log_delta = nn.Parameter(torch.full((bands, 1), math.log(delta)))
        self.eps = eps

    def forward(self, energy: Tensor) -> Tensor:
        smooth, alpha, root = self.smooth.sigmoid(), self.alpha.sigmoid(), self.root.sigmoid()
        first, frames = energy[..., :1], energy.shape[-1]
        change = F.pad(energy - first, (frames - 1, 0))
        mean = first + smooth * geometric_sum(change, 1 - smooth, frames)
        delta = self.log_delta.exp()
        return (energy / (self.eps + mean) ** alpha + delta) ** root - delta ** root


class Compression(nn.Module):
    """Of values ≥ 0: log (of what is above `offset`), log1p, cuberoot (also called cubic), pcen or none.

    `pcen`: arguments of `Pcen`. Errors: ValueError for another name, or an offset that is not positive.
    """

    def __init__(self, name: str, bands: int, offset: float = 1e-4, **pcen: float) -> None:
        super().__init__()
        if name not in ("log", "log1p", "cuberoot", "cubic", "pcen", "none"):
            raise ValueError(f"compression={name!r}, expected log, log1p, cuberoot, pcen or none")
        if offset <= 0:
            raise ValueError(f"log_offset={offset}: expected a positive number")
        self.name, self.offset = name, offset
        self.pcen = Pcen(bands, **pcen) if name == "pcen" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pcen is not None:
            return self.pcen(x)
        if self.name == "log":
            return x.clamp_min(self.offset).log()
        if self.name in ("cuberoot", "cubic"):
            return x.clamp_min(1e-12) ** (1 / 3)  # its slope at 0 is infinite
        return torch.log1p(x) if self.name == "log1p" else x


class WaveFront(nn.Module):
    """What all front-ends share: sizes, and the check of the waveform.

    Args:
        bands: F.
        rate: frames a second.
        sample_rate: of the waveform, Hz. If a frame is no whole number of samples it is rounded, with a warning.

    A subclass says where its bands are before any learning: `bands_hz`.
    """

    bands_hz: list[float]

    def __init__(self, *, bands: int, rate: float, sample_rate: float) -> None:
        super().__init__()
        if bands < 1 or not 0 < rate <= sample_rate:
            raise ValueError(f"{bands} bands at {rate:g} frames/s of a waveform at {sample_rate:g} Hz: expected at "
                             "least one band, and 0 < rate ≤ sample_rate")
        self.out_channels, self.sample_rate, self.hop = bands, float(sample_rate), round(sample_rate / rate)
        self.history: int | None = None  # unbounded, unless `sees` says otherwise
        if abs(sample_rate / rate - self.hop) > 1e-6 * self.hop:
            warnings.warn(f"a frame at {rate:g} frames/s is {sample_rate / rate:.4f} samples at {sample_rate:g} Hz, "
                          f"rounded to {self.hop}: frames come at {sample_rate / self.hop:.3f} a second and drift "
                          "against responses; resample the sound", stacklevel=3)

    def samples(self, milliseconds: float, what: str) -> int:
        """A duration in samples. Errors: ValueError if it is less than one."""
        n = round(milliseconds * self.sample_rate / 1000)
        if n < 1:
            raise ValueError(f"{what}={milliseconds:g} ms is less than one sample at {self.sample_rate:g} Hz")
        return n

    def sees(self, samples: int) -> None:
        """Sets `history`, for frames that depend on the last so many samples before their end."""
        self.history = max(0, -(-(samples - self.hop) // self.hop))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """`(B, 1, samples)` → `(B, F, T)`."""
        raise NotImplementedError

    def forward(self, wave: Tensor) -> Tensor:
        if wave.ndim != 3 or wave.shape[1] != 1 or not wave.shape[2] or wave.shape[2] % self.hop:
            raise ValueError(f"{type(self).__name__} takes waveforms (B, 1, samples), samples a multiple of hop = "
                             f"{self.hop}, got shape {tuple(wave.shape)}: pad or cut the sound to whole frames")
        return self.spectrogram(wave)[:, None]


class Mel(WaveFront):
    """Causal log-mel spectrogram: periodic Hann windows that end with each frame, triangles on HTK's mel scale.

    Args:
        rate, sample_rate: frames a second, Hz.
        bands: F.
        fmin, fmax: limits of the triangles, Hz; `fmax` none: 22,627 or half the sample rate.
        window_ms: of the spectrum.
        n_fft: points of the spectrum, zeros after the window; none: the window's samples.
        power: exponent of the magnitude: 1 amplitude, 2 power.
        compression, log_offset: see `Compression`.
    """

    hann: Tensor
    filters: Tensor

    def __init__(self, rate: float, sample_rate: float = 48_000, bands: int = 34, fmin: float = 500.0,
                 fmax: float | None = None, window_ms: float = 10.0, n_fft: int | None = None, power: float = 1.0,
                 compression: str = "log", log_offset: float = 1e-4) -> None:
        super().__init__(bands=bands, rate=rate, sample_rate=sample_rate)
        self.window = self.samples(window_ms, "window_ms")
        self.n_fft, self.power = n_fft or self.window, power
        if self.n_fft < self.window or power <= 0:
            raise ValueError(f"n_fft={self.n_fft}, power={power}: expected at least the window's {self.window} "
                             "samples, and a positive exponent")
        top = nyquist_limit(fmax, sample_rate, TOP)
        self.bands_hz = band_frequencies(bands + 2, fmin, top)[1:-1].tolist()
        self.register_buffer("hann", torch.hann_window(self.window))
        self.register_buffer("filters", mel_filters(bands, self.n_fft, sample_rate, fmin, top))
        self.compress = Compression(compression, bands, log_offset)
        if self.compress.pcen is None:
            self.sees(self.window)

    def spectrogram(self, wave: Tensor) -> Tensor:
        frames = F.pad(wave[:, 0], (self.window - self.hop, 0)).unfold(-1, self.window, self.hop)
        magnitude = torch.fft.rfft(frames * self.hann, self.n_fft).abs().clamp_min(1e-12)
        return self.compress((magnitude ** self.power @ self.filters.T).mT)


class SincNet(WaveFront):
    """Band-pass filters whose two corners are learned: differences of low-passes under a Hamming window.

    Corners are min_hz + |low| and min_hz + |band| above; gain 1 in the band. Parameters are in kHz, so that a step of
    an optimiser is some Hz. Without `envelope`, frame t is the filter's output at its last sample (every hop-th of
    them, as published: a carrier above rate / 2 aliases); with it, the mean magnitude of the frame.

    Args:
        rate, sample_rate: frames a second, Hz.
        bands, taps: filters, and samples of each.
        fmin, fmax: Hz; corners are at first equally far apart on the mel scale, each band ends where the next starts;
            `fmax` none: 2 min_hz below half the sample rate, so that the last band can still widen.
        min_hz: least low corner and least width.
        compression: logabs (of what is above `log_offset`), symlog (sign(y) · log(1 + |y|)) or none.
        envelope: magnitude, averaged over the frame.

    Source: Ravanelli & Bengio 2018, doi:10.1109/SLT.2018.8639585; symlog: ICNet (Drakopoulos et al. 2025).
    """

    hamming: Tensor

    def __init__(self, rate: float, sample_rate: float = 48_000, bands: int = 34, taps: int = 251, fmin: float = 300.0,
                 fmax: float | None = None, min_hz: float = 50.0, compression: str = "logabs",
                 log_offset: float = 1e-4, envelope: bool = False) -> None:
        super().__init__(bands=bands, rate=rate, sample_rate=sample_rate)
        if compression not in ("logabs", "symlog", "none"):
            raise ValueError(f"compression={compression!r}, expected logabs, symlog or none")
        if taps < 3 or log_offset <= 0:
            raise ValueError(f"taps={taps}, log_offset={log_offset}: expected at least 3, and a positive number")
        edges = band_frequencies(bands + 1, fmin, nyquist_limit(fmax, sample_rate, sample_rate / 2 - 2 * min_hz))
        low, width = edges[:-1] - min_hz, edges.diff() - min_hz
        if min_hz < 0 or (low < 0).any() or (width < 0).any():
            raise ValueError(f"{bands} bands from {fmin:g} Hz are {edges.diff().min():.0f} Hz wide or more, but "
                             f"min_hz={min_hz:g}: expected 0 ≤ min_hz, below fmin and this width")
        self.bands_hz = ((edges[:-1] + edges[1:]) / 2).tolist()
        self.low, self.width = nn.Parameter(low.float() / 1000), nn.Parameter(width.float() / 1000)
        self.register_buffer("hamming", torch.hamming_window(taps, periodic=False))
        self.taps, self.min_hz, self.envelope = taps, min_hz, envelope
        self.compression, self.log_offset = compression, log_offset
        self.sees(taps if not envelope else taps - 1 + self.hop)

    def corners(self) -> tuple[Tensor, Tensor]:
        """Low and high corner of each filter, Hz, `(F,)` each."""
        low = self.min_hz + 1000 * self.low.abs()
        return low, (low + self.min_hz + 1000 * self.width.abs()).clamp_max(self.sample_rate / 2)

    def kernels(self) -> Tensor:
        """Impulse responses `(F, taps)`; symmetric, so that they delay by (taps − 1) / 2 samples."""
        t = torch.arange(self.taps, device=self.hamming.device) - (self.taps - 1) / 2
        low, high = (2 * corner[:, None] / self.sample_rate for corner in self.corners())
        return (high * torch.sinc(high * t) - low * torch.sinc(low * t)) * self.hamming

    def spectrogram(self, wave: Tensor) -> Tensor:
        if self.envelope:
            x = F.avg_pool1d(causal_fir(wave, self.kernels()).abs(), self.hop)
        else:
            x = F.conv1d(F.pad(wave, (self.taps - self.hop, 0)), self.kernels().flip(-1)[:, None], stride=self.hop)
        if self.compression == "logabs":
            return x.abs().clamp_min(self.log_offset).log()
        return x.sign() * x.abs().log1p() if self.compression == "symlog" else x
