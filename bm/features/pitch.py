"""Fundamental frequency of speech."""
from typing import Any, Literal

import numpy as np

from bm.features.audio import resample
from bm.features.base import SoundFeature, register_feature

#: frames computed at once: some 30 MB
_BLOCK = 4096


def yin(frames: np.ndarray, shortest: int, longest: int, threshold: float) -> np.ndarray:
    """Period of each frame in samples, 0 where there is none: the first dip below `threshold`, followed to its bottom.

    With d(τ) = Σ_{i < W − τ} (x_i − x_{i+τ})², d′(τ) = d(τ) · τ / Σ_{j ≤ τ} d(j), the period is the first τ in
    [shortest, longest) with d′(τ) < threshold, then the following ones as long as d′ falls.

    Shape: frames `(n, W)` float64, result `(n,)`.
    Source: de Cheveigné & Kawahara 2002, steps 2 to 4, without interpolation.
    """
    n, width = frames.shape
    power = np.concatenate([np.zeros((n, 1)), np.cumsum(frames ** 2, axis=1)], axis=1)
    spectrum = np.fft.rfft(frames, 2 * width)
    product = np.fft.irfft(np.abs(spectrum) ** 2)[:, :longest]
    lag = np.arange(longest)
    d = np.maximum(power[:, width - lag] + power[:, -1:] - power[:, lag] - 2 * product, 0)
    total = np.cumsum(d[:, 1:], axis=1)
    normal = np.ones_like(d)
    np.divide(d[:, 1:] * lag[1:], total, out=normal[:, 1:], where=total > 0)  # of silence nothing is a period
    normal[total[:, -1] <= 1e-12 * np.maximum(power[:, -1], 1e-20)] = 1
    dips = normal[:, shortest:]
    voiced = (dips < threshold).any(1)
    first = np.argmax(dips < threshold, axis=1)
    bottom = np.ones_like(dips, dtype=bool)
    bottom[:, :-1] = dips[:, 1:] >= dips[:, :-1]
    bottom &= np.arange(dips.shape[1]) >= first[:, None]
    return np.where(voiced, bottom.argmax(1) + shortest, 0)


@register_feature
class Pitch(SoundFeature):
    """Fundamental frequency in Hz, 0 where the sound is not voiced; 250 rows a second at the defaults.

    YIN (see `yin`) on windows of `frame` samples every `hop`. As voiced and unvoiced rows lie side by side, resample
    them with `dset.feature_resampling=nearest`.

    Args:
        min_f0, max_f0: Hz; periods are whole samples of 16 kHz, so 350 Hz is found to within 1.1 %.
        harmonic_thresh: threshold of d′.
        frame, hop: samples at 16 kHz.
        mapping: "stride": row j is the window centred on j · hop, and rows whose window would leave the sound are 0;
            "ratio": only rows of whole windows, which `nearest` spreads over the chunk (Défossez et al. 2023).
    """

    in_sampling = 16_000
    dim, default = 1, 0.0
    shift_equivariant = True

    def __init__(self, min_f0: float = 100, max_f0: float = 350, harmonic_thresh: float = 0.1, frame: int = 256,
                 hop: int = 64, mapping: Literal["stride", "ratio"] = "stride") -> None:
        self.longest, self.shortest = int(self.in_sampling / min_f0), int(self.in_sampling / max_f0)
        if not 1 < self.shortest < self.longest < frame:
            raise ValueError(f"min_f0={min_f0}, max_f0={max_f0}, frame={frame}: expected 0 < min_f0 < max_f0, and "
                             f"periods shorter than a frame ({self.in_sampling / frame:g} Hz)")
        if hop < 1 or frame % (2 * hop) or harmonic_thresh <= 0 or mapping not in ("stride", "ratio"):
            raise ValueError(f"hop={hop}, harmonic_thresh={harmonic_thresh}, mapping={mapping!r}: expected a hop that "
                             f"divides half a frame ({frame // 2}), a positive threshold, stride or ratio")
        self.params: dict[str, Any] = {"min_f0": min_f0, "max_f0": max_f0, "harmonic_thresh": harmonic_thresh,
                                       "frame": frame, "hop": hop, "mapping": mapping}
        self.rate = self.in_sampling / hop
        self.context_s = (frame / 2 + 1) / self.in_sampling

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, **self.params}

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        p = self.params
        sound = resample(np.asarray(audio, np.float32), rate, self.in_sampling).astype(np.float64)
        edge = p["frame"] // (2 * p["hop"]) if p["mapping"] == "stride" else 0
        n = max(-(-(len(sound) - p["frame"]) // p["hop"]), 0)
        rows = np.zeros((max(-(-len(sound) // p["hop"]), 1) if edge else max(n, 1), 1), np.float32)
        if n:
            frames = np.lib.stride_tricks.sliding_window_view(sound, p["frame"])[::p["hop"]][:n]
            for start in range(0, n, _BLOCK):
                period = yin(frames[start:start + _BLOCK], self.shortest, self.longest, p["harmonic_thresh"])
                f0 = np.divide(self.in_sampling, period, out=np.zeros(len(period)), where=period > 0)
                rows[edge + start:edge + start + len(f0), 0] = f0
        return rows
