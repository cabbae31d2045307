"""From any set of sensors to a fixed number of channels, by where the sensors are."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bm.models.blocks.fourier import fourier_embedding, fourier_order


@dataclass
class Montages:
    """The R distinct sensor montages of a batch of B segments, so that they are worked on once each.

    Shape:
        - layout: `(R, C, 2)`, 0 where unknown; valid: `(R, C)` bool; subject: `(R,)` int64.
        - inverse: `(B,)`, the montage of each segment.
    """

    layout: Tensor
    valid: Tensor
    subject: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, layout: Tensor, channel_mask: Tensor, recording: Tensor, subject: Tensor,
           by_subject: bool = False) -> "Montages":
        """Groups a batch by recording (and by subject if `by_subject`, in case a recording holds several).

        A channel is valid where the mask is true and its layout is finite.

        Shape: layout `(B, C, 2)`, channel_mask `(B, C)`, recording and subject `(B,)`.
        Errors: ValueError if a recording has no valid channel, or not the same ones in all its segments.
        """
        key = torch.stack([recording, subject]) if by_subject else recording[None]
        unique, inverse = torch.unique(key, dim=1, return_inverse=True)
        count = unique.shape[1]
        order = torch.arange(len(recording), device=recording.device)
        first = order.new_full((count,), len(recording)).scatter_reduce(0, inverse, order, "amin")
        known = channel_mask & layout.isfinite().all(dim=-1)
        layout = layout.masked_fill(~known[..., None], 0.0)
        out = cls(layout[first], known[first], subject[first], inverse)
        problems = torch.stack([~out.valid.any(dim=1).all(), (known != out.valid[inverse]).any(),
                                (layout != out.layout[inverse]).any()])
        if problems.any():  # one synchronisation for all checks
            cls._explain(out, unique[0], problems.tolist())
        return out

    @staticmethod
    def _explain(montages: "Montages", recordings: Tensor, problems: list[bool]) -> None:
        if problems[0]:
            bad = recordings[~montages.valid.any(dim=1)].unique().tolist()
            raise ValueError(f"recordings {bad[:10]} (indices) have no valid channel: every channel is masked or has "
                             "no layout (NaN). Give the sensors a layout, or use a model without merger and dropout.")
        what = "channel_mask" if problems[1] else "layout"
        raise ValueError(f"{what} differs between segments of one recording: positions are read once per recording, "
                         "so give segments with other sensors another recording index")


def draw_disc(montages: Montages, radius: float) -> Tensor:
    """Which channels stay when those within `radius` of one random point of the unit square are dropped.

    One centre is drawn for the whole batch. Where the disc would take every channel of a montage, nothing is dropped.

    Shape: output `(R, C)` bool, false for invalid channels.
    """
    centre = torch.rand(2, device=montages.layout.device, dtype=montages.layout.dtype)
    outside = (montages.layout - centre).norm(dim=-1) > radius
    kept = montages.valid & outside
    return torch.where(kept.any(dim=1, keepdim=True), kept, montages.valid)


def keep_probability(layout: Tensor, radius: float, points: int = 64) -> Tensor:
    """Probability that a channel is farther than `radius` from a uniform point of the unit square.

    It is 1 minus the area that a disc around the channel shares with the square, by the midpoint rule on `points`
    vertical slices (error below 1e-3): exact enough to need neither random draws nor a cache.

    Shape: layout `(..., 2)`, output `(...)`.
    """
    x, y = layout[..., 0, None], layout[..., 1, None]
    left, right = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    middle = (torch.arange(points, device=layout.device, dtype=layout.dtype) + 0.5) / points
    slices = left + (right - left) * middle
    half = (radius ** 2 - (slices - x) ** 2).clamp(min=0).sqrt()
    height = (y + half).clamp(0, 1) - (y - half).clamp(0, 1)
    return 1 - (height.mean(dim=-1) * (right - left)[..., 0])


class ChannelDropout(nn.Module):
    """Zeroes invalid channels always, and in training those within `radius` of one random point.

    With `rescale`, what stays is divided in training by its probability to stay, so that the expected value of each
    channel is that of evaluation, as in ordinary dropout.

    Shape: x `(B, C, T)`, output `(B, C, T)`.
    """

    def __init__(self, radius: float, rescale: bool = True):
        super().__init__()
        if radius < 0:
            raise ValueError(f"dropout is a radius in layout units, at least 0: got {radius}")
        self.radius, self.rescale = radius, rescale

    def forward(self, x: Tensor, montages: Montages) -> Tensor:
        gain = montages.valid.to(x.dtype)
        if self.training and self.radius:
            gain = draw_disc(montages, self.radius).to(x.dtype)
            if self.rescale:
                gain = gain / (1e-8 + keep_probability(montages.layout, self.radius).to(x.dtype))
        return x * gain[montages.inverse, :, None]


class SpatialAttention(nn.Module):
    """Mixes the sensors into `out_channels` virtual ones, with weights that depend on sensor positions only.

    Each output has a learned query in the space of Fourier embeddings of positions; its weights are the softmax of the
    query's products with the sensors' embeddings, over valid sensors ("ChannelMerger" of Défossez et al. 2023).

    Args:
        out_channels: number of virtual channels O.
        pos_dim: size of the embedding, 2n².
        dropout: radius of the disc of sensors dropped in training, in layout units; 0 for none.
        n_subjects: when given, each subject has its own queries.
        penalty: weight λ of λ·mean Σ_c w², the inverse of the number of sensors an output effectively listens to.

    Shape: x `(B, C, T)`, output `(B, O, T)`.
    """

    def __init__(self, out_channels: int, pos_dim: int = 2048, dropout: float = 0.0, n_subjects: int | None = None,
                 penalty: float = 0.0):
        super().__init__()
        fourier_order(pos_dim)
        if out_channels < 1 or dropout < 0 or penalty < 0:
            raise ValueError(f"spatial attention needs out_channels ≥ 1, dropout ≥ 0 and penalty ≥ 0: "
                             f"got {out_channels}, {dropout}, {penalty}")
        shape = (out_channels, pos_dim) if n_subjects is None else (n_subjects, out_channels, pos_dim)
        self.heads = nn.Parameter(torch.randn(shape) / pos_dim ** 0.5)
        self.pos_dim, self.dropout, self.penalty = pos_dim, dropout, penalty
        self.per_subject = n_subjects is not None
        self.pending_penalty: Tensor | None = None

    def weights(self, montages: Montages) -> Tensor:
        """Weights `(R, O, C)` of each montage, summing to 1 over channels and 0 where invalid."""
        embedding = fourier_embedding(montages.layout.to(self.heads.dtype), self.pos_dim)
        heads = self.heads[montages.subject] if self.per_subject else self.heads
        scores = torch.matmul(heads, embedding.transpose(1, 2))
        kept = draw_disc(montages, self.dropout) if self.training and self.dropout else montages.valid
        return scores.masked_fill(~kept[:, None], float("-inf")).softmax(dim=-1)

    def forward(self, x: Tensor, montages: Montages) -> Tensor:
        weights = self.weights(montages)
        if self.training and self.penalty:
            self.pending_penalty = self.penalty * weights.square().sum(dim=-1).mean()
        weights = weights.to(x.dtype)
        if len(weights) == 1:  # one montage: a single matrix for the whole batch, nothing to gather
            return nn.functional.conv1d(x, weights[0, :, :, None])
        return torch.bmm(weights[montages.inverse], x)
