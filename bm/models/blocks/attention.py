"""Attention to the neighbourhood in time."""
import torch
from torch import Tensor, nn

from bm.models.blocks.conv import LayerScale


class LocalAttention(nn.Module):
    """Multi-head attention to the samples within `radius`, with learned relative positions (Shaw et al. 2018).

    The logits are q·k + 0.3·q·e(t − s), not scaled; the output is Σ w·content + 0.3·Σ w·e, then a 1×1 convolution,
    batch norm, ReLU and a gain that starts at 0.1. Add it to its input.

    Shape: `(B, C, T)` → `(B, C, T)`; `heads` divides C.
    """

    def __init__(self, channels: int, heads: int = 4, radius: int = 50, position_gain: float = 0.3):
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads={heads} must divide the {channels} channels attended to")
        self.heads, self.radius, self.position_gain = heads, radius, position_gain
        self.content = nn.Conv1d(channels, channels, 1)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        # A normalised random walk: neighbouring delays start with similar embeddings.
        steps = torch.randn(2 * radius + 1, channels // heads).cumsum(dim=0)
        self.embedding = nn.Parameter(steps / torch.arange(1, 2 * radius + 2).sqrt()[:, None])
        self.out = nn.Conv1d(channels, channels, 1)
        self.norm = nn.BatchNorm1d(channels)
        self.gain = LayerScale(channels, 0.1)

    def _split(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        return x.reshape(batch, self.heads, channels // self.heads, length).transpose(2, 3)

    def weights(self, x: Tensor) -> Tensor:
        """Attention `(B, heads, T, T)` of each sample t (rows) to each sample s."""
        query, key = self._split(self.query(x)), self._split(self.key(x))
        time = torch.arange(x.shape[-1], device=x.device)
        delay = time[:, None] - time
        near = delay.abs() <= self.radius
        index = delay.clamp(-self.radius, self.radius) + self.radius
        relative = query @ self.embedding.t()
        relative = relative.gather(-1, index.expand(*relative.shape[:2], *index.shape))
        logits = query @ key.transpose(2, 3) + self.position_gain * relative
        return logits.masked_fill(~near, float("-inf")).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(x)
        time = torch.arange(x.shape[-1], device=x.device)
        source = time[:, None] - torch.arange(-self.radius, self.radius + 1, device=x.device)  # s of each (t, delay)
        inside = (source >= 0) & (source < len(time))
        source = source.clamp(0, len(time) - 1).expand(*weights.shape[:2], *source.shape)
        by_delay = weights.gather(-1, source) * inside
        y = weights @ self._split(self.content(x)) + self.position_gain * (by_delay @ self.embedding)
        y = y.transpose(2, 3).reshape(x.shape)
        return self.gain(self.norm(self.out(y)).relu())
