"""clip_conv written straight down from the paper, layer after layer: a second witness, and what speed is compared with.

Nothing here is used by the library, and nothing of its blocks is used here.
"""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bm.batch import Batch, BatchSpec
from bm.models import BrainModel


def spatial_weights(heads: Tensor, layout: Tensor, valid: Tensor) -> Tensor:
    """Softmax over sensors of queries times Fourier embeddings of positions, for every segment of the batch.

    Shape: heads `(O, 2n²)`, layout `(B, C, 2)`, valid `(B, C)`; output `(B, O, C)`.
    """
    order = math.isqrt(heads.shape[1] // 2)
    x, y = (layout.nan_to_num() + 0.2).unbind(-1)
    i = torch.arange(order, dtype=layout.dtype, device=layout.device).repeat_interleave(order)
    j = torch.arange(order, dtype=layout.dtype, device=layout.device).repeat(order)
    angle = 2 * math.pi * (x[..., None] * i + y[..., None] * j) / 1.4
    embedding = torch.cat([angle.cos(), angle.sin()], dim=2)
    scores = torch.einsum("od,bcd->boc", heads, embedding)
    return scores.masked_fill(~valid[:, None], float("-inf")).softmax(dim=2)


class PlainClipConv(BrainModel):
    """The decoder of Défossez et al. 2023 (doi:10.1038/s42256-023-00714-5), `clip_conv`, at any width.

    Args:
        spec, out_channels: of any model.
        hidden: channels of the ten blocks (320); merged: virtual sensors (270); pos_dim: of the embedding (2048);
        disc: radius within which sensors are dropped in training (0.2).

    Parameters are made in the order of `SimpleConv`, so that a seed gives both the same weights.

    Shape: a batch of `(B, C, T)` → `(B, out_channels, T)`.
    """

    def __init__(self, spec: BatchSpec, out_channels: int, hidden: int = 320, merged: int = 270, pos_dim: int = 2048,
                 disc: float = 0.2):
        super().__init__(spec, out_channels)
        self.disc = disc
        self.heads = nn.Parameter(torch.randn(merged, pos_dim) / math.sqrt(pos_dim))
        self.initial = nn.Conv1d(merged, merged, 1)
        self.subject = nn.Parameter(torch.randn(len(spec.subjects), merged, merged) / math.sqrt(merged))
        self.head1 = nn.Conv1d(hidden, 2 * hidden, 1)
        self.head2 = nn.ConvTranspose1d(2 * hidden, out_channels, 1)
        self.convs, self.norms, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for k in range(10):
            dilation = 2 ** (k % 5)
            self.convs.append(nn.Conv1d(hidden if k else merged, hidden, 3, padding=dilation, dilation=dilation))
            self.norms.append(nn.BatchNorm1d(hidden))
            if k % 2:
                self.gates.append(nn.Conv1d(hidden, 2 * hidden, 3, padding=1))

    def forward(self, batch: Batch) -> Tensor:
        x = batch.brain
        if x is None:
            raise ValueError("this model needs Batch.brain, which is None")
        valid = batch.channel_mask & batch.layout.isfinite().all(dim=2)
        if self.training and self.disc:
            centre = torch.rand(2, dtype=x.dtype, device=x.device)
            valid = valid & ((batch.layout.nan_to_num() - centre).norm(dim=2) > self.disc)
        x = torch.einsum("boc,bct->bot", spatial_weights(self.heads, batch.layout, valid), x)
        x = self.initial(x)
        x = torch.einsum("bct,bcd->bdt", x, self.subject[batch.subject])
        for k in range(10):
            y = F.gelu(self.norms[k](self.convs[k](x)))
            x = x + y if k else y
            if k % 2:
                a, b = self.gates[k // 2](x).chunk(2, dim=1)
                x = a * torch.sigmoid(b)
        return self.head2(F.gelu(self.head1(x)))
