"""Recurrent encoders that look back over a window of sound, with attention over the window's time.

Each output frame has a window of its own: the GRU starts from zeros at the window's first frame, so that exactly
`window` frames matter (`history` = window − 1). Windows are views over the spectrogram; only `chunk` of them are copied
at a time. Under autograd the states of all chunks are kept, as for any network: then the number of frames in a batch
decides how much memory it takes.

| name | heads of attention | readout |
|---|---|---|
| gru | none: the last state | one, of the last state |
| gru_attention | 1 | one |
| gru_attention_multihead | `heads` | one, of all contexts |
| gru_attention_shared | one per target | one: each target sees all contexts |
| gru_attention_per_target | one per target | one per target, of its own context |
| gru_attention_concat | one per target and layer | one per target, of its contexts of all layers |
| cnn_gru_attention | 1, after a causal convolution | one |

Re-expressed from the public "selfattention_audio". Differences: `gru` reads the last state of the top layer (the
original returned a row per layer, wrong for more than one), bidirectional layers work, options that do nothing do not
exist, and `gru_attention_concat` concatenates over layers as its docstring promised (its code was that of
`gru_attention_shared`). The convolution and the heads, which the original's README promised, are new.
"""
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bm.models.encoders.base import Core, left_pad


def window_chunks(frames: Tensor, window: int, chunk: int) -> Iterator[Tensor]:
    """The windows that end at each frame, some at a time, as views; zeros stand before the first frame.

    Args:
        frames: `(B, T, D)`.
        window: frames of a window, W.
        chunk: windows at a time, of all B together.

    Shape: yields `(B, n, W, D)`, in order, T along the second dimension in all. Memory: none but that of the frames,
    except for the chunks that begin before frame W − 1, which are padded.
    """
    step = max(1, chunk // max(len(frames), 1))
    for first in range(0, frames.shape[1], step):
        begin = first - window + 1
        part = frames[:, max(begin, 0):first + step]
        if begin < 0:
            part = functional.pad(part, (0, 0, -begin, 0))
        yield part.unfold(1, window, 1).transpose(2, 3)


class TimeAttention(nn.Module):
    """`heads` weighted means of states over time; a head's weights are softmax(w · state + b), 1e-7 in the denominator.

    Shape: `(B, W, H)` → contexts `(B, heads, H)`, weights `(B, heads, W)`.
    """

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.logits = nn.Linear(features, heads)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(states).transpose(1, 2)
        powers = (logits - logits.amax(2, keepdim=True)).exp()
        weights = powers / (powers.sum(2, keepdim=True) + 1e-7)
        return weights @ states, weights


def make_readout(inputs: int, outputs: int, post: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, hidden sizes `post`; one layer where there are none."""
    layers: list[nn.Module] = []
    for size, following in pairwise([inputs, *post, outputs]):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class WindowGRU(Core):
    """`gru`: the last state of a GRU over the window, read out linearly. Base of those with attention.

    Args:
        in_channels, n_bands, n_out, rate: as any `Core`; the GRU's input is C · F wide.
        window: frames W that an output frame depends on, itself included.
        hidden: states of a layer (in each direction).
        layers: of the GRU.
        dropout: between the layers of the GRU.
        bidirectional: a second GRU runs from the window's end to its start (still causal: nothing follows the window).
        filters: channels of a causal convolution with ReLU over the window's time, before the GRU; 0: none. None: 32
            for `cnn_gru_attention`, 0 for others.
        kernel: its length in frames.
        heads: of `gru_attention_multihead` (None: 4).
        post: sizes of hidden layers (ReLU) of the readout.
        chunk: windows at a time.

    Shape: `(B, C, F, T)` → `(B, n_out, T)`.
    Errors: ValueError for sizes below 1, heads of a network that has no such option, another shape.
    """

    default_filters: ClassVar[int] = 0
    default_heads: ClassVar[int | None] = None  # of classes where they are an option

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, window: int = 25, hidden: int = 50,
                 layers: int = 1, dropout: float = 0.0, bidirectional: bool = False, filters: int | None = None,
                 kernel: int = 5, heads: int | None = None, post: Sequence[int] = (), chunk: int = 4096):
        sizes = {"window": window, "hidden": hidden, "layers": layers, "kernel": kernel, "chunk": chunk,
                 "heads": 1 if heads is None else heads, "post": min(post, default=1)}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} of {type(self).__name__} must be at least 1, got {size}")
        if heads is not None and self.default_heads is None:
            raise ValueError(f"heads={heads} is an option of gru_attention_multihead only: {type(self).__name__} has "
                             "as many heads as its outputs need")
        if not 0 <= dropout < 1 or (filters or 0) < 0:
            raise ValueError(f"dropout={dropout}, filters={filters}: expected 0 ≤ dropout < 1 and filters ≥ 0")
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=n_out, history=window - 1)
        self.window, self.hidden, self.chunk, self.post = window, hidden, chunk, tuple(post)
        self.states_size = (1 + bidirectional) * hidden
        width = in_channels * n_bands
        filters = self.default_filters if filters is None else filters
        self.conv = nn.Conv1d(width, filters, kernel) if filters else None
        width = filters or width
        self.layers = nn.ModuleList(
            nn.GRU(self.states_size if layer else width, hidden, batch_first=True, bidirectional=bidirectional)
            for layer in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.build(n_out, heads or self.default_heads or 1)

    def build(self, n_out: int, heads: int) -> None:
        """Makes what `pool` needs."""
        self.out = make_readout(self.states_size, n_out, self.post)

    def states(self, windows: Tensor) -> list[Tensor]:
        """States `(B, W, H)` of each layer. Shape of windows: `(B, W, C · F)`."""
        x = windows
        out: list[Tensor] = []
        if self.conv is not None:
            padded = left_pad(x.transpose(1, 2), self.conv.kernel_size[0] - 1)
            x = self.conv(padded).relu().transpose(1, 2)
        for layer in self.layers:
            x, _ = layer(self.dropout(x) if out else x)
            out.append(x)
        return out

    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Outputs `(B, n_out)` from the states of each layer, and the weights `(B, heads, W)` if there are any."""
        top, hidden = states[-1], self.hidden  # the backward GRU, if any, ends at the window's first frame
        return self.out(torch.cat([top[:, -1, :hidden], top[:, 0, hidden:]], 1)), None

    def record(self, weights: list[Tensor]) -> None:
        """What a forward does with its weights, `(B, heads, frames, W)` of each chunk."""

    def attend(self, windows: Tensor) -> Tensor:
        """Outputs for windows that were cut already: `(B, W, C · F)` → `(B, n_out)`. Not chunked."""
        if windows.shape[1:] != (self.window, self.in_channels * self.n_bands):
            raise ValueError(f"windows have shape {tuple(windows.shape)}, expected (B, {self.window}, "
                             f"{self.in_channels * self.n_bands})")
        out, weights = self.pool(self.states(windows))
        self.record([] if weights is None else [weights[:, :, None]])
        return out

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1:3] != (self.in_channels, self.n_bands):
            raise ValueError(f"the input has shape {tuple(x.shape)}, expected (B, {self.in_channels}, "
                             f"{self.n_bands}, T)")
        outs, seen = [], []
        for windows in window_chunks(x.flatten(1, 2).transpose(1, 2), self.window, self.chunk):
            out, weights = self.pool(self.states(windows.flatten(0, 1)))
            outs.append(out.unflatten(0, windows.shape[:2]))
            if weights is not None:
                seen.append(weights.unflatten(0, windows.shape[:2]).transpose(1, 2))
        self.record(seen)
        return torch.cat(outs, 1).transpose(1, 2)


class AttentionGRU(WindowGRU):
    """`gru_attention`: one mean of the top layer's states, weighted by attention, and one readout.

    `sink`: a list to which each forward appends its weights `(B, heads, T, W)`; None: they are not kept
    (`bm.analysis.attention.record_attention`). Weight w of frame t is on input frame t − (W − 1) + w.
    """

    sink: list[Tensor] | None = None

    def build(self, n_out: int, heads: int) -> None:
        self.attention = TimeAttention(self.states_size, heads)
        self.out = make_readout(heads * self.states_size, n_out, self.post)

    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        contexts, weights = self.attention(states[-1])
        return self.out(contexts.flatten(1)), weights

    def record(self, weights: list[Tensor]) -> None:
        if self.sink is not None:
            self.sink.append(torch.cat([part.detach() for part in weights], 2))


class MultiHeadAttentionGRU(AttentionGRU):
    """`gru_attention_multihead`: `heads` means of the states, concatenated, and one readout."""

    default_heads: ClassVar[int | None] = 4


class SharedAttentionGRU(AttentionGRU):
    """`gru_attention_shared`: one head per target; the readout of each target sees the contexts of all."""

    def build(self, n_out: int, heads: int) -> None:
        super().build(n_out, n_out)


class PerTargetAttentionGRU(AttentionGRU):
    """`gru_attention_per_target`: one head per target, and a readout of its own for its context alone."""

    def build(self, n_out: int, heads: int) -> None:
        self.attention = TimeAttention(self.states_size, n_out)
        self.own = nn.ModuleList(make_readout(self.states_size, 1, self.post) for _ in range(n_out))

    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        contexts, weights = self.attention(states[-1])
        return read_each(self.own, contexts), weights


class ConcatAttentionGRU(AttentionGRU):
    """`gru_attention_concat`: one head per target on each layer; a target's contexts of all layers are concatenated
    for a readout of its own. Heads are recorded layer by layer: head l · n_out + k is that of target k on layer l."""

    def build(self, n_out: int, heads: int) -> None:
        self.attentions = nn.ModuleList(TimeAttention(self.states_size, n_out) for _ in self.layers)
        width = len(self.layers) * self.states_size
        self.own = nn.ModuleList(make_readout(width, 1, self.post) for _ in range(n_out))

    def pool(self, states: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        found = [attention(layer) for attention, layer in zip(self.attentions, states, strict=True)]
        contexts = torch.cat([context for context, _ in found], 2)
        return read_each(self.own, contexts), torch.cat([weights for _, weights in found], 1)


class ConvAttentionGRU(AttentionGRU):
    """`cnn_gru_attention`: `gru_attention` after a causal convolution over the window's time."""

    default_filters: ClassVar[int] = 32


def read_each(readouts: nn.ModuleList, contexts: Tensor) -> Tensor:
    """Readout k of context k. Shape: contexts `(B, K, H)` → `(B, K)`."""
    return torch.cat([readout(contexts[:, k]) for k, readout in enumerate(readouts)], 1)


GRUS: dict[str, type[WindowGRU]] = {
    "gru": WindowGRU, "gru_attention": AttentionGRU, "gru_attention_multihead": MultiHeadAttentionGRU,
    "gru_attention_shared": SharedAttentionGRU, "gru_attention_per_target": PerTargetAttentionGRU,
    "gru_attention_concat": ConcatAttentionGRU, "cnn_gru_attention": ConvAttentionGRU,
}
