"""Robust scaling of the brain, standard scaling of features; fitted on train segments only."""
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def robust_center_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range of each column of `(n, channels)`; a range of 0 becomes 1.

    The quantile p of n sorted values is the value at position ⌊p · n⌋.
    """
    n = len(values)
    at = [int(p * n) for p in (0.25, 0.5, 0.75)]
    low, center, high = np.partition(values, at, axis=0)[at]
    scale = high - low
    return center, np.where(scale > 0, scale, 1).astype(values.dtype)


@dataclass
class BrainScaler:
    """`center`, `scale`: `(recordings, channels)` float32."""

    center: Tensor
    scale: Tensor

    def to(self, device: torch.device | str) -> "BrainScaler":
        return BrainScaler(self.center.to(device), self.scale.to(device))


@dataclass
class FeatureScaler:
    """`mean`, `std` of one feature: `(1,)` or `(dim,)` float32."""

    mean: Tensor
    std: Tensor

    def to(self, device: torch.device | str) -> "FeatureScaler":
        return FeatureScaler(self.mean.to(device), self.std.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        """Scales `(B, D, T)`."""
        return (x - self.mean[:, None]) / self.std[:, None]

    def inverse(self, x: Tensor) -> Tensor:
        """Back to the feature's own units."""
        return x * self.std[:, None] + self.mean[:, None]


def fit_feature(rows: np.ndarray, counts: np.ndarray, per_channel: bool, name: str) -> FeatureScaler:
    """Mean and unbiased standard deviation of a feature over chosen samples.

    Args:
        rows: `(n, dim)`, the bank.
        counts: `(n,)` how often each row is seen in the chosen segments: the same as gathering them all, without
            their memory.
        per_channel: one pair per dimension, else one for all.

    Raises:
        ValueError: no sample was chosen, or a value that never varies.
    """
    used = np.flatnonzero(counts)
    weight = counts[used].astype(np.float64)
    total = weight.sum()
    if total < 2:
        raise ValueError(f"feature {name}: no sample to fit its scale on: with dset.event_mask=true only samples where "
                         "a word is heard count; set it to false for stimuli without words")
    values = rows[used].astype(np.float64)
    mean = weight @ values / total
    variance = weight @ (values - mean) ** 2  # about each dimension's own mean
    if not per_channel:
        dim = rows.shape[1]
        grand = mean.mean(keepdims=True)
        variance = (variance.sum(keepdims=True) + total * ((mean - grand) ** 2).sum()) / (total * dim - 1)
        mean = grand
    else:
        variance = variance / (total - 1)
    if (variance <= 0).any():
        raise ValueError(f"feature {name}: dimensions {np.flatnonzero(variance <= 0)[:5].tolist()} never vary on the "
                         "train segments; use norm.scaler.per_channel=false or fewer dimensions")
    return FeatureScaler(torch.tensor(mean, dtype=torch.float32), torch.tensor(np.sqrt(variance), dtype=torch.float32))


@dataclass
class Scalers:
    """All that is fitted on the train segments and applied to every batch."""

    brain: BrainScaler
    features: dict[str, FeatureScaler]

    def to(self, device: torch.device | str) -> "Scalers":
        return Scalers(self.brain.to(device), {name: scaler.to(device) for name, scaler in self.features.items()})

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, for a checkpoint."""
        return {"center": self.brain.center, "scale": self.brain.scale,
                "features": {name: {"mean": scaler.mean, "std": scaler.std} for name, scaler in self.features.items()}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Scalers":
        return cls(BrainScaler(state["center"], state["scale"]),
                   {name: FeatureScaler(**pair) for name, pair in state["features"].items()})
