"""A transformer over channels × times of an EEG segment, with a class token.

Re-expressed from the public "eeg-transformer" (MIT). Differences from the original: the feed-forward part has no ReLU
after its second layer (`trailing_relu`), the table of positions has one row per token (`positions`), noise is made of
the channels that are used, and attention goes through PyTorch's fused kernel unless its weights are asked for
(`bm.analysis.attention.record_attention`).
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bm.batch import Batch, BatchSpec
from bm.models.base import BrainModel, parse_options

SHUFFLES = ("none", "channels", "temporal", "all")


@dataclass(frozen=True)
class EEGTransformerOptions:
    """Options of `EEGTransformer`.

    `tokens` per channel, of `used_samples` (None: all) of a segment; `ignore_channels` (indices); width `dim`, `layers`
    and `heads`; `dropout`; in training `token_dropout` (share of tokens set to 0), `noise` (standard deviations of the
    batch) and `shuffle` of tokens (one of `SHUFFLES`, anew for each segment); `positions`, rows of the table of learned
    positions (None: one per token); `trailing_relu` after the feed-forward part, as in the original; `fused` attention.
    """

    tokens: int = 1
    used_samples: int | None = None
    ignore_channels: Sequence[int] = ()
    dim: int = 128
    layers: int = 5
    heads: int = 8
    dropout: float = 0.0
    token_dropout: float = 0.1
    noise: float = 0.2
    shuffle: str = "none"
    positions: int | None = None
    trailing_relu: bool = False
    fused: bool = True


class SelfAttention(nn.Module):
    """Multi-head self-attention, softmax(q·k / √(dim / heads)) · v, without dropout of the weights.

    `sink`: a list to which each forward appends its weights `(B, heads, S, S)`; None: they are never made.

    Shape: `(B, S, dim)` → `(B, S, dim)`.
    """

    def __init__(self, dim: int, heads: int, fused: bool = True):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} must divide dim={dim}")
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.sink: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused and self.sink is None:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
            if self.sink is not None:
                self.sink.append(weights.detach())
            y = weights @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, dim))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x)), then dropout of the sum."""

    def __init__(self, options: EEGTransformerOptions):
        super().__init__()
        dim, drop = options.dim, options.dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, options.heads, options.fused)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim),
                                          *([nn.ReLU()] if options.trailing_relu else []))
        self.dropout = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.attention(self.norm1(x))) + x
        return self.dropout(self.feed_forward(self.norm2(x)) + x)


class EEGTransformer(BrainModel):
    """Logits of classes from a segment: `(B, C, T)` → `(B, out_channels)`.

    Tokens are channel-major: token c·tokens + k holds part k of channel c (of those that are used); the class token
    comes before them.
    """

    pooled: ClassVar[bool] = True

    def __init__(self, spec: BatchSpec, out_channels: int, in_channels: dict[str, int] | None = None,
                 n_subjects: int | None = None, **options: Any):
        super().__init__(spec, out_channels, in_channels, n_subjects)
        self.options = o = parse_options(EEGTransformerOptions, options, "eeg_transformer")
        used = o.used_samples or spec.times
        if o.tokens < 1 or not o.tokens <= used <= spec.times:
            raise ValueError(f"eeg_transformer: {o.tokens} tokens of {used} samples, segments have {spec.times}: "
                             "expected tokens ≤ used_samples ≤ samples")
        if o.shuffle not in SHUFFLES:
            raise ValueError(f"eeg_transformer.shuffle={o.shuffle!r}, expected one of {', '.join(SHUFFLES)}")
        wrong = [channel for channel in o.ignore_channels if not 0 <= channel < spec.channels]
        if wrong or len(set(o.ignore_channels)) >= spec.channels:
            raise ValueError(f"eeg_transformer.ignore_channels={list(o.ignore_channels)}: expected indices below "
                             f"{spec.channels}, and at least one channel left")
        self.length = used // o.tokens
        kept = [channel for channel in range(spec.channels) if channel not in set(o.ignore_channels)]
        self.kept: Tensor
        self.register_buffer("kept", torch.tensor(kept), persistent=False)
        self.n_tokens = len(kept) * o.tokens
        if o.positions is not None and o.positions < self.n_tokens:
            raise ValueError(f"eeg_transformer.positions={o.positions}, but there are {self.n_tokens} tokens")
        self.norm_in = nn.BatchNorm1d(len(kept))
        self.embed = nn.Linear(self.length, o.dim)
        self.position = nn.Parameter(torch.randn(o.positions or self.n_tokens, o.dim))
        self.class_token = nn.Parameter(torch.randn(o.dim))
        self.dropout = nn.Dropout(o.dropout)
        self.blocks = nn.ModuleList(Block(o) for _ in range(o.layers))
        self.norm_out = nn.LayerNorm(o.dim)
        self.head = nn.Sequential(nn.Linear(o.dim, 64), nn.ReLU(), nn.Linear(64, out_channels))

    def tokenize(self, x: Tensor) -> Tensor:
        """`(B, C, T)` → tokens `(B, S, length)`; cropped at random in training, at the beginning otherwise."""
        o = self.options
        spare = x.shape[2] - self.length * o.tokens
        first = int(torch.randint(spare, ())) if self.training and spare else 0
        x = x[:, self.kept, first:first + self.length * o.tokens]
        if self.training and o.noise:
            x = x + torch.randn_like(x) * (o.noise * x.std())
        tokens = self.norm_in(x).reshape(len(x), len(self.kept), o.tokens, self.length)
        if self.training and o.shuffle != "none":
            tokens = self._shuffled(tokens)
        tokens = tokens.flatten(1, 2)
        if self.training and o.token_dropout:
            tokens = tokens * F.dropout(tokens.new_ones(*tokens.shape[:2], 1), o.token_dropout)
        return tokens

    def _shuffled(self, tokens: Tensor) -> Tensor:
        """`(B, C, K, L)` with channels, times or both in a random order, another one for each segment."""
        def order(n: int) -> Tensor:
            return torch.rand(len(tokens), n, device=tokens.device).argsort(1)
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        if self.options.shuffle == "channels":
            return tokens[row, order(tokens.shape[1])]
        if self.options.shuffle == "temporal":
            return tokens.transpose(1, 2)[row, order(tokens.shape[2])].transpose(1, 2)
        return tokens.flatten(1, 2)[row, order(self.n_tokens)].reshape(tokens.shape)

    def forward(self, batch: Batch) -> Tensor:
        x = self.embed(self.tokenize(self.branches(batch)["meg"])) + self.position[:self.n_tokens]
        x = torch.cat([self.class_token.expand(len(x), 1, -1), self.dropout(x)], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(self.norm_out(x[:, 0])))
