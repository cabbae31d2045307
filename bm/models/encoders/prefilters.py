"""Adaptation to the mean level in each frequency band, before an encoder's core.

Time constants fall with frequency, τ(f) = 500 − 105 · log10 f ms (Dean et al. 2008, measured in the inferior
colliculus). The weighted mean of the past is a geometric sum, computed by doubling: 2 · log2(taps) passes over the
spectrogram instead of one multiplication per tap, with the same result as the FIR filter.
"""
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bm.models.encoders.scales import band_frequencies


def geometric_sum(x: Tensor, decay: Tensor, taps: int) -> Tensor:
    """Σ over n < `taps` of decayⁿ · x_{t − n}, for every t that has so many frames before it.

    The sum of 2k terms is that of k terms plus decayᵏ times the same k frames earlier.

    Args:
        x: `(…, F, T)`.
        decay: broadcasts against x, last dimension 1.
        taps: 1 to T.

    Shape: → `(…, F, T − taps + 1)`.
    """
    total, power, terms = x, decay, 1
    for bit in f"{taps:b}"[1:]:
        total = total[..., terms:] + power * total[..., :-terms]
        power, terms = power.square(), 2 * terms
        if bit == "1":
            total = x[..., terms:] + decay * total[..., :-1]
            power, terms = power * decay, terms + 1
    return total


def time_constants(frequencies: Tensor) -> Tensor:
    """τ in ms of bands at so many Hz. Errors: ValueError where the formula gives none (above 57 kHz)."""
    tau = 500 - 105 * torch.log10(frequencies)
    if not (tau > 0).all():
        raise ValueError(f"bands at up to {frequencies.max():g} Hz: τ = 500 − 105 · log10 f is positive for 0 < f < "
                         "57 kHz alone")
    return tau


class _Adaptation(nn.Module):
    """What both prefilters share: decay per frame of each band, and the mean of the past.

    Args:
        n_bands: F.
        rate: frames a second.
        frequencies: Hz of each band; or
        fmin, fmax, scale: where the bands are: from, to (Hz), on which scale of `bm.models.encoders.scales.SCALES`;
            the published package supposes 500, 20,000 and mel of any spectrogram.
        taps: frames of the filter, the present one included; none: 3 of the longest time constants, in frames.
            "original": 3 of them in *milliseconds*, whatever a frame lasts, as the published package counts.
    """

    rectifies: ClassVar[bool] = True  # gradients at a constant or silent spectrogram may vanish

    def __init__(self, n_bands: int, rate: float, fmin: float | None, fmax: float | None, scale: str,
                 frequencies: Sequence[float] | None, taps: int | Literal["original"] | None) -> None:
        super().__init__()
        if rate <= 0:
            raise ValueError(f"rate={rate}: expected a positive number of frames a second")
        if frequencies is not None:
            bands = torch.as_tensor(frequencies, dtype=torch.float64)
        elif fmin is None or fmax is None:
            raise ValueError(f"fmin={fmin}, fmax={fmax}: time constants depend on the frequency of each band, so a "
                             "prefilter needs both, or frequencies")
        else:
            bands = band_frequencies(n_bands, fmin, fmax, scale)
        if bands.shape != (n_bands,):
            raise ValueError(f"frequencies has shape {tuple(bands.shape)}, expected one for each of {n_bands} bands")
        tau = time_constants(bands)
        if isinstance(taps, str) and taps != "original":
            raise ValueError(f"taps={taps!r}: expected a number of frames, 'original' or null")
        longest = 3 * float(tau.max())
        self.taps = (round(longest * rate / 1000) + 1 if taps is None else
                     round(longest) + 1 if isinstance(taps, str) else taps)
        if self.taps < 2:
            raise ValueError(f"{self.taps} taps: expected at least 2, the present frame and one before it; time "
                             f"constants of up to {tau.max():.0f} ms are short for frames of {1000 / rate:g} ms")
        self.history = self.taps - 1
        self.initial_decay = torch.exp(-1000 / (rate * tau)).float()  # per frame, a = exp(−dt / τ)

    def past_mean(self, x: Tensor, decay: Tensor) -> Tensor:
        """Mean of the frames before each, weighted with decayⁿ; the first frame also stands for those before it.

        Shape: x `(B, 1, F, T)`, decay `(C, F, 1)` → `(B, C, F, T)`.
        """
        past = torch.cat([x[..., :1].expand(*x.shape[:-1], self.history), x[..., :-1]], -1)
        weights = decay ** torch.arange(self.history, device=x.device)
        return geometric_sum(past, decay, self.history) / weights.sum(-1, keepdim=True)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] != len(self.initial_decay):
            raise ValueError(f"a prefilter of {len(self.initial_decay)} bands takes (B, 1, {len(self.initial_decay)}, "
                             f"T), got shape {tuple(x.shape)}")


class ICAdaptation(_Adaptation):
    """Rectified difference to the mean of the recent past, with fixed time constants: (B, 1, F, T) → (B, 1, F, T).

    max(0, x_t − m_t), m_t the mean over the past weighted with exp(−dt / τ)ⁿ. No parameters. Arguments: `_Adaptation`.

    Source: Willmore et al. 2016, doi:10.1523/JNEUROSCI.2441-15.2016.
    """

    out_channels = 1
    decay: Tensor

    def __init__(self, n_bands: int, rate: float, fmin: float | None = None, fmax: float | None = None,
                 scale: str = "mel", frequencies: Sequence[float] | None = None,
                 taps: int | Literal["original"] | None = None) -> None:
        super().__init__(n_bands, rate, fmin, fmax, scale, frequencies, taps)
        self.register_buffer("decay", self.initial_decay[None, :, None])

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        return torch.relu(x - self.past_mean(x, self.decay))


class AdapTrans(_Adaptation):
    """Onsets and offsets against the recent past, time constants and weights learned: (B, 1, F, T) → (B, 2, F, T).

    ON = max(0, x_t − w · m_t), OFF = max(0, m'_t − w · x_t), m and m' the means over the past with the time constants
    of either channel. Each band has its decays a = 1 / (1 + d²) and its weight w = 1 / (1 + p²). Further arguments:
    `_Adaptation`.

    Args:
        init_w: weight at first, in (0, 1): 1 gives the change alone, less also the level.

    Source: Rançon, Masquelier & Cottereau 2024, doi:10.1371/journal.pcbi.1012288.
    """

    out_channels = 2

    def __init__(self, n_bands: int, rate: float, fmin: float | None = None, fmax: float | None = None,
                 scale: str = "mel", frequencies: Sequence[float] | None = None, init_w: float = 0.75,
                 taps: int | Literal["original"] | None = None) -> None:
        super().__init__(n_bands, rate, fmin, fmax, scale, frequencies, taps)
        if not 0 < init_w < 1:
            raise ValueError(f"init_w={init_w}: expected a weight in (0, 1)")
        d = (1 / self.initial_decay - 1).sqrt()
        self.d_on, self.d_off = nn.Parameter(d.clone()), nn.Parameter(d.clone())
        self.p = nn.Parameter(torch.full((n_bands,), (1 / init_w - 1) ** 0.5))

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        decay = 1 / (1 + torch.stack([self.d_on, self.d_off])[..., None].square())
        mean = self.past_mean(x, decay)
        weight = 1 / (1 + self.p[:, None].square())
        return torch.relu(torch.cat([x - weight * mean[:, :1], mean[:, 1:] - weight * x], 1))
