"""Losses between estimates and targets, and the pool of negatives of the contrastive one.

`build_loss("clip", …)`, "l1", "mse" or "regression_classification".
"""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bm.batch import BatchSpec, FeatureSpec


class ClipLoss(nn.Module):
    """Contrastive loss: which of the candidates is the segment of each estimate?

    score[b, o] = ⟨Z_b, Y_o⟩ / (1e-8 + ‖Y_o‖), over channels and time; the loss is the cross-entropy of each row with
    its own candidate. Only candidates are normalised and there is no temperature: the norm of an estimate plays that
    part. Défossez et al. 2023 (doi:10.1038/s42256-023-00714-5), eq. 2, after CLIP (Radford et al. 2021).

    Args:
        dim: channels F of estimates and candidates, needed by `linear` only.
        linear: project the channels of both sides to that many before comparing, with the same map if `twin`.
        pool: compare the means over time.
        center: first subtract from each item its mean over channels and time.
        tmin, tmax: window compared, in seconds from the segment's trigger; in training mode `tmin_train` and
            `tmax_train`, if either is given, replace both. The window ends at the latest where the segment does.
        sample_rate: in Hz, and segment_tmin: time of the first sample in seconds; needed by windows only.
        dedupe: candidates with the id of an estimate's own one are no negatives of it (`candidate_ids`).

    Shape:
        - estimates `(B, F, T)`; candidates `(B', F, T)`, B' ≥ B, of which estimate b's own is `targets[b]`, by default
          the b-th: candidates of other ranks or of a pool are appended, or put in front with `targets` shifted.
        - output of `forward`: a scalar; of `scores` and `probabilities`: `(B, B')`.
    """

    def __init__(self, *, dim: int | None = None, linear: int | None = None, twin: bool = True, pool: bool = False,
                 center: bool = False, tmin: float | None = None, tmax: float | None = None,
                 tmin_train: float | None = None, tmax_train: float | None = None, sample_rate: float | None = None,
                 segment_tmin: float | None = None, dedupe: bool = False):
        super().__init__()
        if linear is not None and (dim is None or linear < 1):
            raise ValueError(f"clip.linear={linear} must be positive, and needs the number of channels: dim={dim}")
        windows = (tmin, tmax, tmin_train, tmax_train)
        if any(t is not None for t in windows) and (sample_rate is None or segment_tmin is None):
            raise ValueError("a clip window (tmin, tmax) needs sample_rate and segment_tmin")
        self.pool, self.center, self.dedupe = pool, center, dedupe
        self.window, self.window_train = (tmin, tmax), (tmin_train, tmax_train)
        self.sample_rate, self.segment_tmin = sample_rate, segment_tmin
        self.estimate_map: nn.Module = nn.Identity()
        self.candidate_map: nn.Module = nn.Identity()
        if linear is not None and dim is not None:
            self.estimate_map = nn.Conv1d(dim, linear, 1)
            self.candidate_map = self.estimate_map if twin else nn.Conv1d(dim, linear, 1)

    def trim(self, x: Tensor, segment_tmin: float | None = None) -> Tensor:
        """The compared window of `(B, F, T)`, of segments that start at `segment_tmin` (s) if not as configured.

        Errors: ValueError if the window starts before the segment or is empty.
        """
        start, stop = self.window
        if self.training and any(t is not None for t in self.window_train):
            start, stop = self.window_train
        if start is None and stop is None:
            return x
        origin = self.segment_tmin if segment_tmin is None else segment_tmin
        if origin is None or self.sample_rate is None:
            raise ValueError("a clip window needs sample_rate and segment_tmin")
        first = 0 if start is None else round((start - origin) * self.sample_rate)
        last = x.shape[-1] if stop is None else min(round((stop - origin) * self.sample_rate), x.shape[-1])
        if not 0 <= first < last:
            raise ValueError(f"clip window [{start}, {stop}] s is not inside segments of {x.shape[-1]} samples that "
                             f"start at {origin} s: it gives samples [{first}, {last})")
        return x[..., first:last]

    def _embed(self, x: Tensor, project: nn.Module, segment_tmin: float | None) -> Tensor:
        if x.dim() != 3:
            raise ValueError(f"clip compares tensors (items, channels, time), got shape {tuple(x.shape)}")
        x = project(self.trim(x, segment_tmin))
        if self.pool:
            x = x.mean(dim=2, keepdim=True)
        if self.center:
            x = x - x.mean(dim=(1, 2), keepdim=True)
        return x.flatten(1)

    def embed_estimates(self, estimates: Tensor, segment_tmin: float | None = None) -> Tensor:
        """Estimates as rows `(B, K)` to multiply with candidates'."""
        return self._embed(estimates, self.estimate_map, segment_tmin)

    def embed_candidates(self, candidates: Tensor, segment_tmin: float | None = None) -> Tensor:
        """Candidates as rows `(B', K)`, not normalised."""
        return self._embed(candidates, self.candidate_map, segment_tmin)

    def scores(self, estimates: Tensor, candidates: Tensor, segment_tmin: float | None = None) -> Tensor:
        """Scores `(B, B')`."""
        if estimates.shape[1:] != candidates.shape[1:]:
            raise ValueError(f"estimates {tuple(estimates.shape)} and candidates {tuple(candidates.shape)} must have "
                             "the same channels and samples")
        rows = self.embed_estimates(estimates, segment_tmin)
        columns = self.embed_candidates(candidates, segment_tmin)
        # The columns of the product are scaled rather than the candidates: no normalised copy of them.
        return (rows @ columns.t()) * candidate_gain(columns)

    def probabilities(self, estimates: Tensor, candidates: Tensor, segment_tmin: float | None = None) -> Tensor:
        """Probability `(B, B')` of each candidate, the softmax of the scores."""
        return self.scores(estimates, candidates, segment_tmin).softmax(dim=1)

    def forward(self, estimates: Tensor, candidates: Tensor, mask: Tensor | None = None, *,
                targets: Tensor | None = None, candidate_ids: Tensor | None = None,
                segment_tmin: float | None = None) -> Tensor:
        if mask is not None and not mask.all():
            raise ValueError("the clip loss compares whole segments: its mask must be all true (task.mask_loss=false)")
        if targets is None:
            if len(candidates) < len(estimates):
                raise ValueError(f"{len(estimates)} estimates need at least as many candidates, got {len(candidates)}")
            targets = torch.arange(len(estimates), device=estimates.device)
        scores = self.scores(estimates, candidates, segment_tmin)
        if self.dedupe:
            if candidate_ids is None or len(candidate_ids) != len(candidates):
                raise ValueError("clip.dedupe needs candidate_ids, one per candidate")
            same = candidate_ids[targets][:, None] == candidate_ids
            same = same.scatter(1, targets[:, None], False)
            scores = scores.masked_fill(same, float("-inf"))
        return nn.functional.cross_entropy(scores, targets)


def candidate_gain(rows: Tensor) -> Tensor:
    """1 / (1e-8 + norm) of each row of `(V, K)`, in at least float32."""
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return 1 / (1e-8 + torch.linalg.vector_norm(rows, dim=1, dtype=dtype))


class MaskedLoss(nn.Module):
    """Mean absolute ("l1") or squared ("mse") error over the entries where the mask is true.

    Shape: estimate and target `(B, D, T)`; mask `(B, T)` or anything that broadcasts to the target, None for all true.
    With an all-false mask the loss is 0 and so is its gradient.
    """

    def __init__(self, kind: str):
        super().__init__()
        if kind not in ("l1", "mse"):
            raise ValueError(f"masked loss is 'l1' or 'mse', got {kind!r}")
        self.kind = kind

    def forward(self, estimate: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        if estimate.shape != target.shape:
            raise ValueError(f"estimate {tuple(estimate.shape)} and target {tuple(target.shape)} differ in shape")
        error = estimate - target
        error = error.abs() if self.kind == "l1" else error.square()
        if mask is None:
            return error.mean()
        mask = _mask_like(mask, error)
        # Masked entries are replaced, not multiplied: they may be NaN where nothing was measured.
        return error.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def _mask_like(mask: Tensor, x: Tensor) -> Tensor:
    return (mask[:, None] if mask.dim() == 2 else mask).expand_as(x)


def class_weights(counts: Tensor) -> Tensor:
    """Weights of classes seen `counts` times: 1/sqrt(p), 0 for those never seen, with E_p[weight] = 1.

    Shape: `(K,)` → `(K,)`. Errors: ValueError if nothing was counted.

    >>> class_weights(torch.tensor([1.0, 1.0, 0.0]))
    tensor([1., 1., 0.])
    """
    if counts.sum() <= 0:
        raise ValueError("class weights need at least one counted sample")
    p = counts / counts.sum()
    return torch.where(p > 0, p.clamp(min=1e-30).rsqrt(), 0.0) / p.sqrt().sum()


class RegressionClassificationLoss(nn.Module):
    """Sum over features of a cross-entropy (categorical) or a masked mean squared error (others).

    Args:
        features: in the order of the channels; categorical ones take `n_classes` channels of the estimate and one of
            the target.

    Shape: estimate `(B, Σ out_dim, T)`, target `(B, Σ dim, T)`, mask `(B, T)`, `(B, 1, T)` or None for all true.
    Errors: ValueError if sizes do not match the features.
    """

    def __init__(self, features: Sequence[FeatureSpec], weights: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.features = tuple(features)
        if not self.features:
            raise ValueError("regression_classification needs at least one feature")
        for feature in self.features:
            if feature.n_classes and feature.dim != 1:
                raise ValueError(f"categorical feature {feature.name!r} must have one row of labels, has {feature.dim}")
            if feature.n_classes:
                self.register_buffer(f"weight_{feature.name}", torch.ones(feature.n_classes))
        self.set_class_weights(weights or {})

    def set_class_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the weights `(K,)` of categorical features, e.g. once the scaler has counted their classes."""
        for name, weight in weights.items():
            buffers = dict(self.named_buffers())
            buffer = buffers.get(f"weight_{name}")
            if buffer is None or buffer.shape != weight.shape:
                sizes = {f.name: f.n_classes for f in self.features if f.n_classes}
                raise ValueError(f"weights {tuple(weight.shape)} for {name!r} do not fit categorical features {sizes}")
            buffer.copy_(weight)

    def forward(self, estimate: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        rows, columns = sum(f.out_dim for f in self.features), sum(f.dim for f in self.features)
        if estimate.shape[1] != rows or target.shape[1] != columns:
            raise ValueError(f"estimate and target have {estimate.shape[1]} and {target.shape[1]} rows, "
                             f"the features need {rows} and {columns}")
        kept = torch.ones_like(target[:, :1], dtype=torch.bool) if mask is None else _mask_like(mask, target[:, :1])
        total, row, column = estimate.new_zeros(()), 0, 0
        for feature in self.features:
            y, x = estimate[:, row:row + feature.out_dim], target[:, column:column + feature.dim]
            row, column = row + feature.out_dim, column + feature.dim
            if feature.n_classes:
                # Masked positions become class -100, which cross_entropy ignores; their labels may be anything.
                label = torch.where(kept, x, -100).long()[:, 0]
                weight = self.get_buffer(f"weight_{feature.name}").to(y.dtype)
                loss = nn.functional.cross_entropy(y, label, weight, ignore_index=-100, reduction="sum")
                # Their weights are summed here: the built-in mean is NaN when nothing is kept.
                seen = torch.where(label >= 0, weight[label.clamp(min=0)], 0.0).sum()
                total = total + loss / seen.clamp(min=1e-8)
            else:
                error = (y - x).square().masked_fill(~kept, 0.0)
                total = total + error.sum() / (kept.sum() * feature.dim).clamp(min=1)
        return total


class NegativesPool:
    """Recent targets kept as extra negatives for small batches (`optim.negatives`, `optim.negative_pool_size`).

    One pool per stage (train, valid), with its own generator, so that it moves no other random stream.

    Args:
        negatives: candidates wanted N: a batch of B < N gets up to N − B of the pool's.
        pool_size: targets kept, 2·N by default; the oldest leave.
        seed: of the draw.
    """

    def __init__(self, negatives: int, pool_size: int | None = None, seed: int = 0):
        self.negatives = negatives
        self.pool_size = 2 * negatives if pool_size is None else pool_size
        if negatives < 1 or self.pool_size < negatives:
            raise ValueError(f"negatives must be positive and negative_pool_size at least as large, "
                             f"got {negatives} and {self.pool_size}")
        self._generator = torch.Generator().manual_seed(seed)
        self._items: Tensor | None = None
        self._ids = torch.empty(0, dtype=torch.int64)
        self._seen = 0  # targets pushed so far; the pool is a ring

    def __len__(self) -> int:
        return min(self._seen, self.pool_size)

    def extend(self, candidates: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Appends negatives to the candidates of a batch, then keeps a copy of that batch (and of nothing else).

        The batch's own candidates keep their gradient; those of the pool have none.

        Shape: candidates `(B, F, T)`, ids `(B,)`; output `(B', F, T)` and `(B',)`, or None without ids.
        """
        out, out_ids = candidates, ids
        wanted = min(self.negatives - len(candidates), len(self))
        if wanted > 0 and self._items is not None:
            if self._items.shape[1:] != candidates.shape[1:]:
                raise ValueError(f"candidates have shape {tuple(candidates.shape[1:])}, those of the pool "
                                 f"{tuple(self._items.shape[1:])}")
            chosen = torch.randperm(len(self), generator=self._generator)[:wanted]
            out = torch.cat([candidates, self._items[chosen].to(candidates)])
            if ids is not None:
                out_ids = torch.cat([ids, self._ids[chosen].to(ids)])
        self._push(candidates.detach(), ids)
        return out, out_ids

    def _push(self, items: Tensor, ids: Tensor | None) -> None:
        if self._items is None:
            self._items = torch.empty(self.pool_size, *items.shape[1:], dtype=items.dtype)
            self._ids = torch.full((self.pool_size,), -1, dtype=torch.int64)
        kept = min(len(items), self.pool_size)
        where = (self._seen + torch.arange(kept)) % self.pool_size
        self._items[where] = items[-kept:].to(self._items)
        if ids is not None:
            self._ids[where] = ids[-kept:].to("cpu")
        self._seen += kept


def build_loss(name: str, spec: BatchSpec, dim: int | None = None, **params: Any) -> nn.Module:
    """The loss `name` of `optim.loss`, for batches of `spec`.

    Args:
        dim: channels compared by "clip", by default the dimensions of all features together.
        params: of `ClipLoss` ("clip") or `RegressionClassificationLoss` ("regression_classification").

    Errors: ValueError for an unknown name.
    """
    if name == "clip":
        size = sum(feature.dim for feature in spec.features) if dim is None else dim
        return ClipLoss(dim=size, sample_rate=spec.sample_rate, segment_tmin=spec.tmin, **params)
    if name in ("l1", "mse"):
        return MaskedLoss(name, **params)
    if name == "regression_classification":
        return RegressionClassificationLoss(spec.features, **params)
    raise ValueError(f"unknown loss {name!r}: use clip, l1, mse or regression_classification")
