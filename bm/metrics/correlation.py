"""Pearson correlation and R², accumulated batch by batch."""
from collections.abc import Sequence

import torch
from torch import Tensor


class Correlation:
    """Correlation and R² of estimates with targets, over examples (and other axes), per remaining entry.

    Means and centred products are kept in float64 and combined exactly (Chan et al. 1983), so that the result depends
    neither on the batches nor on the offset or unit of the data. Where the target is constant or seen fewer than twice
    both are 0, as chance is, and so is the correlation of a constant estimate: `count` says how much was seen.

    Args:
        over: axes of the batches summed over; (0,) gives one value per (channel, time) of `(B, C, T)`, (0, 2) one per
            channel.

    >>> correlation = Correlation(over=(0,))
    >>> correlation.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    >>> correlation.pearson()
    tensor([1.], dtype=torch.float64)
    """

    def __init__(self, over: Sequence[int] = (0,)):
        if not over:
            raise ValueError("over must name at least one axis")
        self.over = tuple(over)
        self._sums: Tensor | None = None  # count, mean x, mean y, Σdx², Σdy², Σdxdy, Σ(y − x)²

    def update(self, estimate: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Adds a batch. Shape: both the same; mask broadcasts to it, false entries are left out (and may be NaN).

        Complex numbers are taken as pairs: products are Re(conj(x)·y).

        Errors: ValueError if shapes differ or a kept value is NaN or infinite.
        """
        if estimate.shape != target.shape:
            raise ValueError(f"estimate {tuple(estimate.shape)} and target {tuple(target.shape)} differ in shape")
        # Accelerators without float64 do this on the processor.
        device = "cpu" if estimate.device.type == "mps" else estimate.device
        dtype = torch.complex128 if estimate.is_complex() or target.is_complex() else torch.float64
        x, y = estimate.detach().to(device).to(dtype), target.detach().to(device).to(dtype)
        kept = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.to(device).bool().expand_as(x)
        x, y = x.masked_fill(~kept, 0), y.masked_fill(~kept, 0)
        if not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError("estimates or targets have NaN or infinite values where the mask is true")
        count = kept.sum(dim=self.over, keepdim=True).to(torch.float64)
        mean_x = x.sum(dim=self.over, keepdim=True) / count.clamp(min=1)
        mean_y = y.sum(dim=self.over, keepdim=True) / count.clamp(min=1)
        dx, dy = (x - mean_x).masked_fill(~kept, 0), (y - mean_y).masked_fill(~kept, 0)
        products = [(dx.conj() * dx).real, (dy.conj() * dy).real, (dx.conj() * dy).real, (y - x).abs().square()]
        sums = [count, mean_x, mean_y] + [p.sum(dim=self.over, keepdim=True) for p in products]
        axes = {axis % x.dim() for axis in self.over}
        shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
        self._add(torch.stack([s.to(dtype).reshape(shape) for s in sums]))

    def merge(self, other: "Correlation") -> None:
        """Adds what another accumulator, e.g. of another process, has seen."""
        if self.over != other.over:
            raise ValueError(f"accumulators sum over axes {self.over} and {other.over}")
        if other._sums is not None:
            self._add(other._sums)

    def _add(self, new: Tensor) -> None:
        old = self._sums
        if old is None:
            self._sums = new
            return
        if old.shape != new.shape:
            raise ValueError(f"a batch gives entries {tuple(new.shape[1:])}, earlier ones {tuple(old.shape[1:])}")
        new = new.to(old.device)
        count = old[0] + new[0]
        share = new[0] / count.real.clamp(min=1)
        gap_x, gap_y = new[1] - old[1], new[2] - old[2]
        weight = old[0] * share
        self._sums = torch.stack([
            count, old[1] + gap_x * share, old[2] + gap_y * share,
            old[3] + new[3] + weight * gap_x.conj() * gap_x, old[4] + new[4] + weight * gap_y.conj() * gap_y,
            old[5] + new[5] + weight * (gap_x.conj() * gap_y).real, old[6] + new[6]])

    def _read(self) -> tuple[Tensor, ...]:
        if self._sums is None:
            raise ValueError("no batch was given: call update first")
        return tuple(self._sums)

    @property
    def count(self) -> Tensor:
        """Number of samples behind each entry."""
        return self._read()[0].real.long()

    @staticmethod
    def _varies(count: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        # What rounding leaves of the variance of a constant, relative to its size: no unit is privileged.
        return (count.real > 1) & (square.real > count.real * (1e-12 * mean.abs()).square())

    def pearson(self) -> Tensor:
        """Correlation per entry, float64, in [−1, 1]."""
        count, mean_x, mean_y, xx, yy, xy, _ = self._read()
        varies = self._varies(count, mean_x, xx) & self._varies(count, mean_y, yy)
        r = xy.real / (xx.real.sqrt() * yy.real.sqrt()).masked_fill(~varies, 1.0)
        return r.masked_fill(~varies, 0.0).clamp(-1, 1)

    def r2(self) -> Tensor:
        """1 − Σ(y − x)² / Σ(y − mean y)² per entry, float64: the coefficient of determination, at most 1."""
        count, _, mean_y, _, yy, _, residual = self._read()
        varies = self._varies(count, mean_y, yy)
        return (1 - residual.real / yy.real.masked_fill(~varies, 1.0)).masked_fill(~varies, 0.0)
