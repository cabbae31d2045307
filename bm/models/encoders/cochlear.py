"""Front-ends that imitate the cochlea: gammatone filters, gammatonegram, and LEAF, whose filters are learned."""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bm.models.encoders.scales import band_frequencies, erb, nyquist_limit
from bm.models.encoders.wavefronts import TOP, Compression, WaveFront, causal_fir


def gammatone_kernels(frequencies: Tensor, bandwidths: Tensor, sample_rate: float, taps: int) -> Tensor:
    """Impulse responses t³ · exp(−2π · b · t) · cos(2π f t) of order 4, with gain 1 at f.

    Shape: frequencies f and bandwidths b in Hz `(F,)` → `(F, taps)`, of their type.
    Source: Patterson et al. 1987.
    """
    t = torch.arange(taps, dtype=frequencies.dtype, device=frequencies.device) / sample_rate
    f, b = frequencies[:, None], bandwidths[:, None]
    phase = 2 * torch.pi * f * t
    response = (t * b) ** 3 * torch.exp(-2 * torch.pi * b * t) * torch.cos(phase)
    gain = torch.hypot((response * torch.cos(phase)).sum(1), (response * torch.sin(phase)).sum(1))
    return response / gain[:, None]


def slaney_kernels(frequencies: Tensor, bandwidths: Tensor, sample_rate: float, taps: int) -> Tensor:
    """First samples of the impulse responses of Slaney's recursive gammatone filters: four biquads, gain 1 at f.

    Shape: frequencies f and bandwidths b in Hz, `(F,)` → `(F, taps)`, of their type. Taken from the transfer function
    on a grid of at least 2 `taps` points: what is left of a response after these comes back at its start.
    Source: Slaney 1993, Apple technical report 35.
    """
    angle = (2 * torch.pi * frequencies / sample_rate)[:, None]
    shrink = torch.exp(-2 * torch.pi * bandwidths / sample_rate)[:, None]

    def transfer(delay: Tensor) -> Tensor:
        product = torch.ones_like(delay)
        for root in (3 + 2 ** 1.5, 3 - 2 ** 1.5):
            for sign in (1, -1):
                zero = shrink * (angle.cos() + sign * root ** 0.5 * angle.sin())
                product = product * (1 - zero * delay)
        return product / (1 - 2 * shrink * angle.cos() * delay + shrink ** 2 * delay ** 2) ** 4

    size = 1 << (2 * taps - 1).bit_length()
    grid = torch.exp(-2j * torch.pi * torch.arange(size // 2 + 1, dtype=frequencies.dtype) / size)
    return torch.fft.irfft(transfer(grid), size)[:, :taps] / transfer(torch.exp(-1j * angle)).abs()


class Gammatone(WaveFront):
    """Gammatone filters, half-wave rectified, averaged over the last two frames, compressed.

    Args:
        rate, sample_rate: frames a second, Hz.
        bands, fmin, fmax: filters, equally far apart on the ERB-number scale, both limits (Hz) included; `fmax` none:
            22,627, or 0.9 of half the sample rate if that is lower.
        length_ms: of the impulse responses, which are cut there.
        compression: log, cuberoot, pcen (learned), log1p or none, see `Compression`.
        log_offset: least value that the logarithm sees.
        learnable: learn centre frequencies and bandwidths (kHz).

    Bandwidth 1.019 ERB (Glasberg & Moore 1990).
    """

    kernels: Tensor

    def __init__(self, rate: float, sample_rate: float = 48_000, bands: int = 34, fmin: float = 500.0,
                 fmax: float | None = None, length_ms: float = 20.0, compression: str = "log",
                 log_offset: float = 1e-4, learnable: bool = False) -> None:
        super().__init__(bands=bands, rate=rate, sample_rate=sample_rate)
        self.taps = self.samples(length_ms, "length_ms")
        top = min(TOP, 0.45 * sample_rate) if fmax is None else nyquist_limit(fmax, sample_rate)
        frequencies = band_frequencies(bands, fmin, top, "erb")
        self.bands_hz = frequencies.tolist()
        widths = 1.019 * erb(frequencies)
        self.learnable = learnable
        if learnable:
            self.frequencies = nn.Parameter((frequencies / 1000).float())
            self.widths = nn.Parameter((widths / 1000).float())
        else:
            kernels = gammatone_kernels(frequencies, widths, sample_rate, self.taps)
            self.register_buffer("kernels", kernels.float(), persistent=False)
        self.compress = Compression(compression, bands, log_offset)
        if self.compress.pcen is None:
            self.sees(self.taps - 1 + 2 * self.hop)

    def spectrogram(self, wave: Tensor) -> Tensor:
        kernels = self.kernels if not self.learnable else gammatone_kernels(
            1000 * self.frequencies.abs(), 1000 * self.widths.abs(), self.sample_rate, self.taps)
        half = F.avg_pool1d(torch.relu(causal_fir(wave, kernels)), self.hop)  # of single frames: each is in two means
        return self.compress((half + F.pad(half, (1, 0))[..., :-1]) / 2)


class Gammatonegram(WaveFront):
    """Root mean square of gammatone bands over the end of each frame, compressed.

    The recursive filters of the source have infinite responses; here they end 120 dB below their peak.

    Args:
        rate, sample_rate: frames a second, Hz.
        bands, fmin, fmax: filters from, to (Hz), both included, on the ERB-number scale.
        window_ms: of the mean, at most a frame; none: 2.5, or a frame if that is shorter.
        compression, log_offset: see `Compression`.

    Source: Slaney 1993 (filters); Ellis 2009 (gammatonegram).
    """

    kernels: Tensor

    def __init__(self, rate: float, sample_rate: float = 48_000, bands: int = 50, fmin: float = 1000.0,
                 fmax: float = 8000.0, window_ms: float | None = None, compression: str = "log1p",
                 log_offset: float = 1e-4) -> None:
        super().__init__(bands=bands, rate=rate, sample_rate=sample_rate)
        self.window = (min(self.samples(2.5, "window_ms"), self.hop) if window_ms is None
                       else self.samples(window_ms, "window_ms"))
        if self.window > self.hop:
            raise ValueError(f"window_ms={window_ms}: {self.window} samples, expected at most a frame's {self.hop}")
        frequencies = band_frequencies(bands, fmin, nyquist_limit(fmax, sample_rate), "erb")
        self.bands_hz = frequencies.tolist()
        widths = 1.019 * erb(frequencies)
        # t³ exp(−2πbt) is 120 dB below its peak where 2πbt is 24; taken a little further
        taps = math.ceil(27 / (2 * math.pi * float(widths.min())) * sample_rate)
        self.register_buffer("kernels", slaney_kernels(frequencies, widths, sample_rate, taps).float(),
                             persistent=False)
        self.compress = Compression(compression, bands, log_offset)
        if self.compress.pcen is None:
            self.sees(taps - 1 + self.window)

    def spectrogram(self, wave: Tensor) -> Tensor:
        frames = causal_fir(wave, self.kernels).unflatten(-1, (-1, self.hop))[..., self.hop - self.window:]
        return self.compress((frames.square().mean(-1) + 1e-12).sqrt())  # the root's slope at 0 is infinite


class Leaf(WaveFront):
    """Learned everything: complex Gabor filters, squared magnitude, one-sided Gaussian pooling, PCEN.

    Args:
        rate, sample_rate: frames a second, Hz.
        bands, fmin, fmax: filters, at first on the mel scale from, to (Hz), both included; `fmax` none: 0.9 of half
            the sample rate. Their spectra have at first a standard deviation of one ERB.
        length_ms: of the filters; they delay by half of it.
        pool_frames: frames that the pooling reaches back; its standard deviation is at first 0.4 of them.
        compression: pcen (learned), log, log1p, cuberoot or none.
        log_offset: least value that the logarithm sees.

    Source: Zeghidour et al. 2021 (LEAF), made causal.
    """

    def __init__(self, rate: float, sample_rate: float = 48_000, bands: int = 34, fmin: float = 60.0,
                 fmax: float | None = None, length_ms: float = 15.0, pool_frames: int = 4, compression: str = "pcen",
                 log_offset: float = 1e-4) -> None:
        super().__init__(bands=bands, rate=rate, sample_rate=sample_rate)
        if pool_frames < 1:
            raise ValueError(f"pool_frames={pool_frames}: expected at least 1")
        self.taps, self.pool_frames = self.samples(length_ms, "length_ms"), pool_frames
        top = 0.45 * sample_rate if fmax is None else nyquist_limit(fmax, sample_rate)
        frequencies = band_frequencies(bands, fmin, top)
        self.bands_hz = frequencies.tolist()
        self.frequencies = nn.Parameter((2 * torch.pi * frequencies / sample_rate).float())  # radians a sample
        self.log_sigma = nn.Parameter((sample_rate / (2 * torch.pi * erb(frequencies))).log().float())  # samples
        self.log_pool = nn.Parameter(torch.full((bands,), math.log(0.4)))  # of the window
        self.compress = Compression(compression, bands, log_offset,
                                    **({"smooth": 0.04, "alpha": 0.96} if compression == "pcen" else {}))
        if self.compress.pcen is None:
            self.sees(self.taps - 1 + pool_frames * self.hop)

    def kernels(self) -> Tensor:
        """Real parts, then imaginary parts of the Gabor filters: `(2 F, taps)`."""
        t = torch.arange(self.taps, device=self.frequencies.device) - (self.taps - 1) / 2
        sigma = self.log_sigma.exp()[:, None]
        envelope = torch.exp(-0.5 * (t / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma)
        phase = self.frequencies[:, None] * t
        return torch.cat([envelope * phase.cos(), envelope * phase.sin()])

    def pooling(self) -> Tensor:
        """Weights of the last samples, oldest first, `(F, pool_frames, hop)`; their sum is 1."""
        n = self.pool_frames * self.hop
        ago = torch.arange(n - 1, -1, -1, device=self.log_pool.device) / max(1, n - 1)
        weights = torch.exp(-0.5 * (ago / self.log_pool.exp()[:, None]) ** 2)
        return (weights / weights.sum(1, keepdim=True)).unflatten(1, (self.pool_frames, self.hop))

    def spectrogram(self, wave: Tensor) -> Tensor:
        real, imaginary = causal_fir(wave, self.kernels()).chunk(2, 1)
        energy = (real.square() + imaginary.square()).unflatten(-1, (-1, self.hop))
        parts = energy @ self.pooling().mT  # (B, F, T, pool_frames): each frame in each place of the window
        frames = parts.shape[2]
        pooled = sum(F.pad(parts[..., self.pool_frames - 1 - k], (k, 0))[..., :frames]
                     for k in range(self.pool_frames))
        return self.compress(pooled)
