"""A network on the side of the sound, learned together with the brain model (Défossez et al. 2023, "Deep Mel")."""
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bm.batch import BatchSpec
from bm.models.base import parse_options
from bm.models.blocks.conv import ConvOptions, ConvSequence


@dataclass(frozen=True)
class DeepMelOptions:
    """Options of `DeepMel`: `n_hidden_layers` in all, the last giving the output; the others as in `ConvOptions`."""

    n_hidden_channels: int = 320
    n_hidden_layers: int = 10
    kernel: int = 3
    stride: int = 1
    dilation_growth: int = 2
    dilation_period: int | None = 5
    batch_norm: bool = True
    activation_on_last: bool = False
    skip: bool = True
    glu_context: int = 1
    glu: int = 2

    def __post_init__(self) -> None:
        if self.n_hidden_layers < 1:
            raise ValueError(f"n_hidden_layers must be at least 1, got {self.n_hidden_layers}")


class DeepMel(nn.Module):
    """Dilated residual convolutions over a feature such as the mel spectrogram.

    Args:
        spec: what a batch holds; the input has as many channels as its features together.
        out_channels: dimension of the learned space, the paper's `n_out_channels`.
        in_channels: number of input channels, when not that of the spec.
        options: see `DeepMelOptions`.

    Shape: `(B, F, T)` → `(B, out_channels, T)`.
    Errors: ValueError for an unknown option, naming the nearest.
    """

    def __init__(self, spec: BatchSpec, out_channels: int = 768, *, in_channels: int | None = None, **options: Any):
        super().__init__()
        opts = parse_options(DeepMelOptions, options, "deep_mel")
        size = sum(feature.dim for feature in spec.features) if in_channels is None else in_channels
        if size < 1 or out_channels < 1:
            raise ValueError(f"deep_mel needs features in the spec (or in_channels) and outputs, got {size} inputs and "
                             f"{out_channels} outputs")
        self.out_channels = out_channels
        channels = [size] + [opts.n_hidden_channels] * (opts.n_hidden_layers - 1) + [out_channels]
        self.layers = ConvSequence(channels, ConvOptions(
            kernel=opts.kernel, stride=opts.stride, dilation_growth=opts.dilation_growth,
            dilation_period=opts.dilation_period, batch_norm=opts.batch_norm,
            activation_on_last=opts.activation_on_last, skip=opts.skip, glu_context=opts.glu_context, glu=opts.glu))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
