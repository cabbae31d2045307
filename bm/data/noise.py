"""Noise in the place of recordings, for controls."""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from bm.data.prepare import Prepared

#: interquartile range of a standard normal variable
NORMAL_IQR = 1.349

#: rows of noise drawn at once
NOISE_ROWS = 512


class Noise:
    """`(time, channels)` of white Gaussian noise that is drawn where it is read: the same there at every reading.

    Args:
        shape: of the recording it stands for.
        center, scale: median and interquartile range of each channel.
        seed: of its random stream.
    """

    def __init__(self, shape: tuple[int, ...], center: np.ndarray, scale: np.ndarray, seed: Sequence[int]) -> None:
        self.shape, self.center, self.std, self.seed = shape, center, scale / NORMAL_IQR, list(seed)
        self.rows = lru_cache(maxsize=8)(self._draw)

    def __len__(self) -> int:
        return self.shape[0]

    def _draw(self, block: int) -> np.ndarray:
        noise = np.random.default_rng([*self.seed, block]).standard_normal((NOISE_ROWS, self.shape[1]), np.float32)
        return noise * self.std + self.center

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        first, last = start // NOISE_ROWS, max(stop - 1, start) // NOISE_ROWS
        blocks = np.concatenate([self.rows(block) for block in range(first, last + 1)])
        return blocks[start - first * NOISE_ROWS:stop - first * NOISE_ROWS]


@dataclass(frozen=True)
class Altered(Prepared):
    """A prepared recording with another array."""

    array: Any = None  # type: ignore[assignment]

    @classmethod
    def of(cls, prepared: Prepared, array: Any) -> "Altered":
        return cls(prepared.folder, prepared.sample_rate, array)


def noise_recordings(prepared: Sequence[Prepared], seed: int) -> list[Prepared]:
    """White noise of unit variance instead of every recording (`task.noise_brain`): montages and lengths stay.

    A decoder that is trained on it and still finds held-out segments has met them in training: splits leak.
    """
    unit = [np.full(p.array.shape[1], NORMAL_IQR, np.float32) for p in prepared]
    return [Altered.of(p, Noise(p.array.shape, np.zeros_like(scale), scale, [seed, r]))
            for r, (p, scale) in enumerate(zip(prepared, unit, strict=True))]
