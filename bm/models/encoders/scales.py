"""Frequency scales of hearing, and bands laid out on them."""
import math
from collections.abc import Callable

import torch
from torch import Tensor


def erb(frequency: Tensor) -> Tensor:
    """Equivalent rectangular bandwidth of the auditory filter at a frequency, both in Hz (Glasberg & Moore 1990)."""
    return 24.7 * (4.37e-3 * frequency + 1)


#: Hz to the scale, and back. mel: HTK's; erb: ERB numbers (Glasberg & Moore 1990); greenwood: place along the human
#: cochlea, 0 at the apex to 1 (Greenwood 1990: 165.4, 2.1, 0.88), above 20 Hz; log: octaves.
SCALES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "mel": (lambda f: 2595 * torch.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1)),
    "erb": (lambda f: 21.4 * torch.log10(1 + 4.37e-3 * f), lambda e: (10 ** (e / 21.4) - 1) / 4.37e-3),
    "greenwood": (lambda f: torch.log10(f / 165.4 + 0.88) / 2.1, lambda x: 165.4 * (10 ** (2.1 * x) - 0.88)),
    "log": (torch.log2, torch.exp2),
    "linear": (lambda f: f, lambda f: f),
}


def band_frequencies(n: int, low: float, high: float, scale: str = "mel") -> Tensor:
    """`(n,)` frequencies in Hz, float64, from `low` to `high`, both included, equally far apart on a scale.

    Errors: ValueError for an unknown scale, or limits that it cannot have.
    """
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r}, expected one of {', '.join(SCALES)}")
    if n < 1 or not 20 <= low < high:
        raise ValueError(f"{n} bands from {low:g} to {high:g} Hz: expected at least one band and 20 ≤ low < high")
    there, back = SCALES[scale]
    first, last = there(torch.tensor([low, high], dtype=torch.float64)).tolist()
    return back(torch.linspace(first, last, n, dtype=torch.float64))


def mel_filters(n: int, n_fft: int, sample_rate: float, low: float, high: float) -> Tensor:
    """`(n, n_fft // 2 + 1)` triangles on HTK's mel scale: peak 1 at the band's frequency, 0 at its neighbours'.

    Errors: ValueError if a triangle is so narrow that it holds no bin of the spectrum: its band would stay constant.
    """
    edges = band_frequencies(n + 2, low, high)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    rise = (bins - edges[:-2, None]) / edges.diff()[:-1, None]
    fall = (edges[2:, None] - bins) / edges.diff()[1:, None]
    filters = torch.minimum(rise, fall).clamp_min(0)
    empty = (filters.sum(1) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(f"mel bands {empty} of {n} from {low:g} to {high:g} Hz hold no bin of a {n_fft}-point "
                         f"spectrum at {sample_rate:g} Hz: fewer bands, a longer window or a larger n_fft")
    return filters.float()


def nyquist_limit(high: float | None, sample_rate: float, default: float = math.inf) -> float:
    """The upper limit of the bands, Hz: what was asked for, else `default` or the Nyquist frequency if that is lower.

    Errors: ValueError if what was asked for is above the Nyquist frequency.
    """
    if high is not None and high > sample_rate / 2:
        raise ValueError(f"fmax={high:g} Hz is above half the sample rate, {sample_rate / 2:g} Hz")
    return min(default, sample_rate / 2) if high is None else float(high)
