"""Deeper encoders: a causal transformer over frames, and a convolutional network that reads the waveform."""
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bm.models.encoders.base import Core, left_pad


def sinusoids(frames: int, size: int, like: Tensor) -> Tensor:
    """Positions 0 … frames − 1 as sines and cosines (frames, size) (Vaswani et al. 2017)."""
    rate = torch.exp(torch.arange(0, size, 2, device=like.device) * (-math.log(10_000.0) / size))
    angle = torch.arange(frames, device=like.device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :size].to(like.dtype)


class Transformer(Core):
    """Frames (or patches of them) as tokens that attend to the past and themselves.

    Positions count from the first frame of the input, so a stretch cut elsewhere gives slightly different responses.

    Args:
        embedding: features per patch of bands.
        patch_bands: bands of a patch, all if null; must divide their number.
        patch_frames: frames of a patch, up to the present one; patches follow each other by one frame.
        context_window: frames a token can attend to in each layer, itself included; null for all.
    """

    readout: ClassVar[str] = "linear"

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, embedding: int = 48,
                 patch_bands: int | None = None, patch_frames: int = 1, layers: int = 1, heads: int = 1,
                 dropout: float = 0.1, context_window: int | None = None):
        bands = n_bands if patch_bands is None else patch_bands
        if bands < 1 or n_bands % bands:
            raise ValueError(f"patch_bands must divide the {n_bands} bands, got {bands}")
        if patch_frames < 1 or (context_window is not None and context_window < 1):
            raise ValueError("patch_frames and context_window must be at least 1 frame, "
                             f"got {patch_frames} and {context_window}")
        size = embedding * (n_bands // bands)
        if layers < 1 or heads < 1 or size % heads:
            raise ValueError(f"layers and heads must be at least 1 and heads divide the {size} features of a token, "
                             f"got {layers} and {heads}")
        history = None if context_window is None else layers * (context_window - 1) + patch_frames - 1
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=size, history=history)
        self.patch_frames, self.context_window = patch_frames, context_window
        self.patches = nn.Conv2d(in_channels, embedding, (bands, patch_frames), stride=(bands, 1))
        layer = nn.TransformerEncoderLayer(size, heads, 4 * size, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def hidden(self, frames: int, device: torch.device) -> Tensor:
        """(frames, frames) bool: what row i may not attend to."""
        allowed = torch.ones(frames, frames, dtype=torch.bool, device=device).tril()
        if self.context_window is not None:
            allowed = allowed.triu(1 - self.context_window)
        return ~allowed

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(left_pad(x, self.patch_frames - 1)).flatten(1, 2).transpose(1, 2)
        tokens = tokens + sinusoids(tokens.shape[1], tokens.shape[2], tokens)
        return self.transformer(tokens, mask=self.hidden(tokens.shape[1], x.device), is_causal=False).transpose(1, 2)


def factor_strides(total: int, layers: int) -> list[int]:
    """`layers` strides whose product is `total`: smallest prime factors first, what remains last.

    >>> factor_strides(240, 5)
    [2, 2, 2, 2, 15]
    """
    strides = []
    for _ in range(layers - 1):
        factor = next((prime for prime in range(2, total + 1) if total % prime == 0), 1)
        strides.append(factor)
        total //= factor
    return [*strides, total]


class CausalConv(nn.Conv1d):
    """A strided convolution (B, C, T) → (B, C', T / stride) whose output frames end where their own samples do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(left_pad(x, self.kernel_size[0] - self.stride[0]))


class ICNet(Core):
    """Strided causal convolutions from a filter bank on every sample to a bottleneck (Drakopoulos et al. 2025).

    It reads a front-end with one frame per sample and brings it down to the rate of the responses itself. With
    `wav2spec: sincnet` that is the published one, 48 filters of 64 taps, sign(y) · log(1 + |y|).

    Args:
        input_rate: samples (= frames of the front-end) per second; a multiple of `rate`.
        channels, bottleneck: features of the convolutions, and of the last one, which keeps the rate.
        kernel_size: taps of all.
        layers: convolutions before the bottleneck.
        strides: of each, input_rate / rate in all; null: the smallest factors first.
    """

    readout: ClassVar[str] = "linear"
    readout_defaults: ClassVar[dict[str, Any]] = {"activation": "softplus"}
    at_audio_rate: ClassVar[bool] = True
    wav2spec_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sincnet": {"bands": 48, "taps": 64, "compression": "symlog"}}

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, input_rate: float,
                 channels: int = 128, bottleneck: int = 64, kernel_size: int = 64, layers: int = 5,
                 strides: list[int] | None = None):
        hop = round(input_rate / rate)
        if hop < 1 or abs(input_rate - hop * rate) > 1e-6 * input_rate:
            raise ValueError(f"a sample rate of {input_rate} Hz is no multiple of {rate} frames per second")
        strides = factor_strides(hop, layers) if strides is None else [int(stride) for stride in strides]
        if len(strides) != layers or math.prod(strides) != hop:
            raise ValueError(f"strides must be {layers} numbers with product {hop} (samples per frame), got {strides}")
        if kernel_size < max(strides):
            raise ValueError(f"kernel_size {kernel_size} is shorter than a stride of {strides}: samples would be lost")
        steps = [*strides, 1]
        reach = sum((kernel_size - step) * math.prod(steps[:index]) for index, step in enumerate(steps))
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=bottleneck, history=reach, hop=hop)
        sizes = [in_channels * n_bands, *[channels] * layers, bottleneck]
        stack: list[nn.Module] = []
        for (before, after), step in zip(pairwise(sizes), steps, strict=True):
            stack += [CausalConv(before, after, kernel_size, stride=step), nn.PReLU(after)]
        self.stack = nn.Sequential(*stack)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x.flatten(1, 2))
