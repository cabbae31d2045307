"""How well estimates of features match them, sample by sample: correlation, R², error, accuracy of classes."""
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from bm.batch import FeatureSpec
from bm.metrics.correlation import Correlation


class FeatureScores:
    """Metrics of each feature, accumulated batch by batch.

    For a feature `f` of numbers: `corr_f` and `r2_f`, computed for each recording, dimension and time over its
    segments, and averaged; `l2_f`, the root mean squared error. For one of classes: `acc_f`, the share of samples whose
    most probable class is right, the mean over recordings, beside `acc_f_chance`, that of the most frequent class.

    Args:
        features: in the order of the channels of estimate (`out_dim` rows each) and target (`dim` rows each).
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        self.features = tuple(features)
        self._correlation: dict[tuple[str, int], Correlation] = defaultdict(lambda: Correlation(over=(0,)))
        self._sums: dict[tuple[str, int], Tensor] = {}

    def update(self, estimate: Tensor, target: Tensor, mask: Tensor, recording: Tensor) -> None:
        """Adds a batch. Shape: `(B, Σ out_dim, T)`, `(B, Σ dim, T)`, `(B, 1, T)` bool, `(B,)`."""
        row = column = 0
        for feature in self.features:
            x, y = estimate[:, row:row + feature.out_dim], target[:, column:column + feature.dim]
            row, column = row + feature.out_dim, column + feature.dim
            for number in recording.unique().tolist():
                own, key = recording == number, (feature.name, number)
                if feature.n_classes:
                    # how often each class is true, and how often the estimate is right
                    kept = mask[own, 0]
                    label = y[own, 0][kept].long()
                    right = (x[own].argmax(1)[kept] == label).sum()
                    new = torch.cat([right[None], label.bincount(minlength=feature.n_classes)]).cpu()
                else:
                    self._correlation[key].update(x[own], y[own], mask[own])
                    error = (x[own] - y[own]).square().masked_fill(~mask[own], 0.0)
                    new = torch.stack([error.double().sum(), mask[own].sum() * feature.dim]).cpu()
                self._sums[key] = self._sums.get(key, torch.zeros_like(new)) + new

    def summary(self) -> dict[str, float]:
        """The metrics. Errors: ValueError before the first batch."""
        if not self._sums:
            raise ValueError("no batch was given: call update first")
        out: dict[str, float] = {}
        for feature in self.features:
            keys = [key for key in self._sums if key[0] == feature.name]
            sums = torch.stack([self._sums[key] for key in keys]).double()
            if feature.n_classes:
                seen = sums[:, 1:].sum(1).clamp(min=1)
                out[f"acc_{feature.name}"] = float((sums[:, 0] / seen).mean())
                total = sums[:, 1:].sum(0)
                out[f"acc_{feature.name}_chance"] = float(total.max() / total.sum().clamp(min=1))
                continue
            found = [self._correlation[key] for key in keys]
            out[f"corr_{feature.name}"] = float(torch.stack([c.pearson().mean() for c in found]).mean())
            out[f"r2_{feature.name}"] = float(torch.stack([c.r2().mean() for c in found]).mean())
            out[f"l2_{feature.name}"] = float((sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)).sqrt())
        return out
