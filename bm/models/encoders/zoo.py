"""Published encoders of auditory neurons that convolve: from one linear filter per neuron to a deep front-end.

Sizes are those of the deepSTRF package (F = 34 bands, `window` = 9 frames); so are the numbers of parameters.
"""
from typing import Any, ClassVar

from torch import Tensor, nn

from bm.models.encoders.base import Core, left_pad
from bm.models.encoders.kernels import ChannelNorm, ExponentialDecay, make_strf
from bm.models.encoders.readouts import LEAK


class Linear(Core):
    """One STRF per neuron, batch norm (Aertsen & Johannesma 1981).

    Args:
        window: frames of the STRF, the present one included.
        kernel: "full", "parametric" (a sum of `n_gaussians` Gaussians) or "separable" (bands × frames).
    """

    readout: ClassVar[str] = "batchnorm"

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, window: int = 9,
                 kernel: str = "full", n_gaussians: int | None = None):
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=n_out, history=window - 1)
        self.strf = make_strf(kernel, in_channels, n_out, n_bands, window, n_gaussians)

    def forward(self, x: Tensor) -> Tensor:
        return self.strf(x)

    def tail(self, x: Tensor, frames: int) -> Tensor:
        return self.strf.tail(x, frames)


class LinearNonlinear(Linear):
    """`Linear` with a nonlinearity per neuron (Simoncelli et al. 2004)."""

    readout_defaults: ClassVar[dict[str, Any]] = {"activation": "softplus"}


class NetworkReceptiveField(Core):
    """`hidden` STRFs shared by all neurons, layer norm, tanh, a weighted sum per neuron (Harper et al. 2016).

    The published package's docstring says its outputs are sigmoids; they are softplus, as here.
    """

    readout: ClassVar[str] = "linear"
    readout_defaults: ClassVar[dict[str, Any]] = {"activation": "softplus"}
    nonlinearity: ClassVar[type[nn.Module]] = nn.Tanh

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, window: int = 9, hidden: int = 20,
                 kernel: str = "full", n_gaussians: int | None = None):
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=hidden, history=window - 1)
        self.strf = make_strf(kernel, in_channels, hidden, n_bands, window, n_gaussians)
        self.norm, self.squash = ChannelNorm(hidden), self.nonlinearity()

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.norm(self.strf(x)))


class DNet(NetworkReceptiveField):
    """The network receptive field with sigmoids, each with a leaky memory of its own (Rahman et al. 2019).

    Args:
        tau: time constant of the memory at the start, in frames; its kernel has round(7 · tau) of them.
    """

    readout_defaults: ClassVar[dict[str, Any]] = {}
    nonlinearity: ClassVar[type[nn.Module]] = nn.Sigmoid

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, window: int = 9, hidden: int = 20,
                 tau: float = 2.0, kernel: str = "full", n_gaussians: int | None = None):
        super().__init__(in_channels=in_channels, n_bands=n_bands, n_out=n_out, rate=rate, window=window,
                         hidden=hidden, kernel=kernel, n_gaussians=n_gaussians)
        self.decay = ExponentialDecay(hidden, tau)
        self.history = window - 1 + self.decay.window - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.decay(super().forward(x))


class ConvNet2D(Core):
    """`layers` small 2-D convolutions with layer norm, then one hidden layer (Pennington & David 2023).

    The published package says its window is 24 frames; it is 25.

    Args:
        channels, kernel_bands, kernel_frames: of each convolution; bands are not padded, so each takes away
            `kernel_bands` − 1.
    """

    readout: ClassVar[str] = "linear"
    readout_defaults: ClassVar[dict[str, Any]] = {"readout_hidden": 20, "activation": "softplus"}

    def __init__(self, *, in_channels: int, n_bands: int, n_out: int, rate: float, channels: int = 10,
                 kernel_bands: int = 3, kernel_frames: int = 9, layers: int = 3):
        if min(layers, channels, kernel_bands, kernel_frames) < 1:
            raise ValueError(f"channels, kernel_bands, kernel_frames and layers must be at least 1, got {channels}, "
                             f"{kernel_bands}, {kernel_frames}, {layers}")
        bands = n_bands - layers * (kernel_bands - 1)
        if bands < 1:
            raise ValueError(f"{layers} convolutions over {kernel_bands} bands need at least "
                             f"{layers * (kernel_bands - 1) + 1} bands, got {n_bands}")
        super().__init__(in_channels=in_channels, n_bands=n_bands, out_features=channels * bands,
                         history=layers * (kernel_frames - 1))
        stack: list[nn.Module] = []
        for index in range(layers):
            stack += [nn.Conv2d(in_channels if index == 0 else channels, channels, (kernel_bands, kernel_frames)),
                      ChannelNorm(channels), nn.LeakyReLU(LEAK)]
        self.stack = nn.Sequential(*stack)

    def forward(self, x: Tensor) -> Tensor:
        # All frames before the first are padded at once, as published: the first layer's bias reaches into them.
        assert self.history is not None
        return self.stack(left_pad(x, self.history)).flatten(1, 2)
