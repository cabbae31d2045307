"""StateNet: each frame encoded by itself, then a recurrent network or state-space model over frames."""
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bm.models.base import unknown_name
from bm.models.encoders.base import Core
from bm.models.encoders.kernels import ChannelNorm
from bm.models.encoders.zoo_recurrent import LMU, S4D, SelectiveSSM


class LocallyConnected(nn.Module):
    """A convolution over bands whose weights differ between positions: (B, C, F, T) → (B, channels, positions, T)."""

    def __init__(self, in_channels: int, channels: int, positions: int, kernel_bands: int, stride_bands: int):
        super().__init__()
        bound = 1 / math.sqrt(in_channels * kernel_bands)
        shape = (positions, channels, in_channels, kernel_bands)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels, positions, 1).uniform_(-bound, bound))
        self.kernel_bands, self.stride_bands = kernel_bands, stride_bands

    def forward(self, x: Tensor) -> Tensor:
        # One matrix over all bands: rows of weights, each so many bands further on; faster than copies of the patches.
        positions, channels, n_in, kernel = self.weight.shape
        n_bands = x.shape[2]
        rows = functional.pad(self.weight.permute(1, 2, 0, 3), (0, n_bands + self.stride_bands - kernel)).flatten(2)
        matrix = rows[..., :positions * n_bands].unflatten(2, (positions, n_bands)).transpose(1, 2)
        return (matrix.reshape(channels * positions, -1) @ x.flatten(1, 2)).unflatten(1, (channels, positions)
                                                                                      ) + self.bias


class FullyConnected(nn.Module):
    """One matrix over all bands: (B, C, F, T) → (B, channels, positions, T)."""

    def __init__(self, in_channels: int, n_bands: int, channels: int, positions: int):
        super().__init__()
        self.linear = nn.Linear(in_channels * n_bands, channels * positions)
        self.shape = (channels, positions)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2).unflatten(1, self.shape)


class FirstOutput(nn.Module):
    """The states of one of torch's recurrent networks (B, T, H) without the last ones."""

    def __init__(self, recurrent: nn.RNNBase):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(x)[0]


def make_recurrent(rnn: str, size: int, hidden: int, layers: int, options: dict[str, Any]) -> nn.Module:
    """(B, T, size) → (B, T, hidden). Errors: ValueError if there is no such network or option, or sizes do not fit."""
    torch_ones = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
    others: dict[str, tuple[type[nn.Module], list[str]]] = {
        "lmu": (LMU, ["memory", "theta"]), "s4d": (S4D, ["state"]),
        "mamba": (SelectiveSSM, ["state", "expand", "conv"])}
    if rnn not in torch_ones and rnn not in others:
        raise ValueError(unknown_name("rnn", rnn, [*torch_ones, *others]))
    known = others[rnn][1] if rnn in others else []
    for name in options:
        if name not in known:
            raise ValueError(f"rnn_options of {rnn!r} are {known}, got {name!r}")
    if rnn in torch_ones:
        return FirstOutput(torch_ones[rnn](size, hidden, layers, batch_first=True))
    return nn.Sequential(*(others[rnn][0](size if index == 0 else hidden, hidden, **options)
                           for index in range(layers)))


class StateNet(Core):
    """An encoder of single frames, layer norm, sigmoid, and all memory in a recurrent network (Rançon et al. 2025).

    Args:
        encoder: "lc" (locally connected over bands), "conv" (shared weights) or "fc" (all bands).
        kernel_bands, stride_bands, channels: of the encoder; it has channels · positions features.
        rnn: "gru", "lstm", "rnn" (torch's), "lmu" (Legendre memory), "s4d" or "mamba" (state-space models).
        hidden: its size, that of the encoder if null.
        rnn_options: `memory` and `theta` (frames) of lmu; `state` of s4d; `state`, `expand` and `conv` of mamba.
    """

    readout: ClassVar[str] = "linear"
    readout_defaults: ClassVar[dict[str, Any]] = {"activation": "softplus"}

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, encoder: str = "lc",
                 kernel_bands: int = 7, stride_bands: int = 3, channels: int = 7, rnn: str = "gru",
                 hidden: int | None = None, layers: int = 1, rnn_options: dict[str, Any] | None = None):
        if kernel_bands < 1 or stride_bands < 1 or n_bands < kernel_bands:
            raise ValueError(f"kernel_bands must be 1 to {n_bands} (the bands) and stride_bands at least 1, "
                             f"got {kernel_bands} and {stride_bands}")
        left = (n_bands - kernel_bands) % stride_bands
        if left and encoder != "fc":
            raise ValueError(f"kernel_bands={kernel_bands} in steps of {stride_bands} leave {left} of {n_bands} bands "
                             f"out: kernel_bands={kernel_bands + left} leaves none")
        positions = (n_bands - kernel_bands) // stride_bands + 1
        size = channels * positions
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=size if hidden is None else hidden,
                         history=None)
        if encoder == "lc":
            self.encoder: nn.Module = LocallyConnected(in_channels, channels, positions, kernel_bands, stride_bands)
        elif encoder == "conv":
            self.encoder = nn.Conv2d(in_channels, channels, (kernel_bands, 1), stride=(stride_bands, 1))
        elif encoder == "fc":
            self.encoder = FullyConnected(in_channels, n_bands, channels, positions)
        else:
            raise ValueError(unknown_name("encoder of statenet", encoder, ["lc", "conv", "fc"]))
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        self.norm = ChannelNorm(channels)
        self.rnn = make_recurrent(rnn, size, self.out_features, layers, dict(rnn_options or {}))

    def forward(self, x: Tensor) -> Tensor:
        states = torch.sigmoid(self.norm(self.encoder(x)))
        return self.rnn(states.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
