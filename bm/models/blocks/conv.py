"""Stacks of one-dimensional convolutions."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def make_activation(gelu: bool, relu_leakiness: float) -> Activation:
    """GELU if `gelu`, else a leaky ReLU if the leakiness is not 0, else a ReLU."""
    if gelu:
        return nn.GELU
    return (lambda: nn.LeakyReLU(relu_leakiness)) if relu_leakiness else nn.ReLU


class LayerScale(nn.Module):
    """A learned gain per channel, `boost` × faster to learn than its stored value (Touvron et al. 2021).

    Shape: `(B, C, T)` → `(B, C, T)`.
    """

    def __init__(self, channels: int, init: float, boost: float = 5.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), init / boost))
        self.boost = boost

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.boost * self.scale)[:, None]


@dataclass(frozen=True)
class ConvOptions:
    """How the layers of a `ConvSequence` are made.

    kernel and stride of every layer; dilation starts at 1, is multiplied by `dilation_growth` after each layer and
    comes back to 1 every `dilation_period` layers; `groups` applies from the second layer on; `dropout` after each
    activation and `dropout_input` before the first layer; `skip` adds a layer's input to its output where the shapes
    agree, the latter through a LayerScale of initial gain `scale` and a depthwise gain (`post_skip`); `rewrite` adds a
    1×1 convolution; every `glu` layers comes a convolution of half-width `glu_context` gated by itself (or with the
    activation if not `glu_glu`), which is not residual.
    """

    kernel: int = 4
    stride: int = 1
    dilation_growth: int = 1
    dilation_period: int | None = None
    batch_norm: bool = False
    activation: Activation = field(default=nn.ReLU)
    activation_on_last: bool = True
    relu_leakiness: float = 0.0
    dropout: float = 0.0
    dropout_input: float = 0.0
    groups: int = 1
    skip: bool = False
    scale: float | None = None
    post_skip: bool = False
    rewrite: bool = False
    glu: int = 0
    glu_context: int = 0
    glu_glu: bool = True
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.stride < 1 or self.dilation_growth < 1 or self.groups < 1:
            raise ValueError("kernel, stride, dilation_growth and groups must be at least 1, got "
                             f"{self.kernel}, {self.stride}, {self.dilation_growth}, {self.groups}")
        if self.dilation_period is not None and self.dilation_period < 1:
            raise ValueError(f"dilation_period must be at least 1 or null, got {self.dilation_period}")
        if self.glu < 0 or self.glu_context < 0:
            raise ValueError(f"glu and glu_context must be at least 0, got {self.glu}, {self.glu_context}")


class ConvSequence(nn.Module):
    """Convolutions through the given channel sizes, see `ConvOptions`.

    Shape: `(B, channels[0], T)` → `(B, channels[-1], T')`, with T' = T when the kernel is odd and the stride 1.
    """

    def __init__(self, channels: Sequence[int], options: ConvOptions):
        super().__init__()
        self.layers = nn.ModuleList()
        self.gates = nn.ModuleList()
        self.skip = options.skip
        dilation = 1
        for index, (inside, outside) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            if options.dilation_period and index % options.dilation_period == 0:
                dilation = 1
            last = index == len(channels) - 2
            self.layers.append(_conv_layer(inside, outside, index, last, dilation, options))
            gated = options.glu and (index + 1) % options.glu == 0
            self.gates.append(_gate(outside, options) if gated else nn.Identity())
            dilation *= options.dilation_growth

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            y = layer(x)
            x = gate(y + x if self.skip and y.shape == x.shape else y)
        return x


def _conv_layer(inside: int, outside: int, index: int, last: bool, dilation: int, options: ConvOptions) -> nn.Module:
    groups = options.groups if index else 1
    if inside % groups or outside % groups:
        raise ValueError(f"groups={groups} must divide the channels of all layers but the first: {inside} → {outside}")
    modules: list[nn.Module] = []
    if index == 0 and options.dropout_input:
        modules.append(nn.Dropout(options.dropout_input))
    conv = nn.ConvTranspose1d if options.transposed else nn.Conv1d
    modules.append(conv(inside, outside, options.kernel, stride=options.stride, dilation=dilation, groups=groups,
                        padding=options.kernel // 2 * dilation))
    if options.activation_on_last or not last:
        if options.batch_norm:
            modules.append(nn.BatchNorm1d(outside))
        modules.append(options.activation())
        if options.dropout:
            modules.append(nn.Dropout(options.dropout))
        if options.rewrite:
            modules += [nn.Conv1d(outside, outside, 1), nn.LeakyReLU(options.relu_leakiness)]
    if inside == outside and options.skip:
        if options.scale is not None:
            modules.append(LayerScale(outside, options.scale))
        if options.post_skip:
            modules.append(nn.Conv1d(outside, outside, 1, groups=outside, bias=False))
    return nn.Sequential(*modules)


def _gate(channels: int, options: ConvOptions) -> nn.Module:
    width = 2 * channels if options.glu_glu else channels
    conv = nn.Conv1d(channels, width, 1 + 2 * options.glu_context, padding=options.glu_context)
    return nn.Sequential(conv, nn.GLU(dim=1) if options.glu_glu else options.activation())
