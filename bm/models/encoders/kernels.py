"""Spectro-temporal receptive fields as causal convolutions, free or with few parameters, and a learnable decay."""
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bm.models.base import unknown_name
from bm.models.encoders.base import left_pad

#: frames (and bands) from which on norms over a few channels are computed for all together: on a CPU torch's layer norm
#: goes from one to the next, which takes several times as long, above all backwards; of fewer, it has less overhead
MANY = 1000


class STRFConv(nn.Module):
    """(B, C, F, T) → (B, H, T): each output its own receptive field of F bands and `window` frames up to the present.

    A subclass says with `kernel()` what the (H, C, F, window) weights are; the last frame is the present.
    """

    def __init__(self, in_channels: int, out_features: int, n_bands: int, window: int):
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be at least 1 frame, got {window}")
        self.window = window
        bound = 1 / math.sqrt(in_channels * n_bands * window)
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))  # as torch's convolutions

    def kernel(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(x, x.shape[-1])

    def tail(self, x: Tensor, frames: int) -> Tensor:
        """The last `frames` of the output."""
        # Bands are channels here: the same sums as those of a 2-D convolution over all bands.
        needed = frames + self.window - 1
        heard = x.flatten(1, 2)[..., -needed:]
        heard = left_pad(heard, needed - heard.shape[-1])
        if frames == 1:  # one product of matrices, which takes less time than a convolution for one frame
            return functional.linear(heard.flatten(1), self.kernel().flatten(1), self.bias)[..., None]
        return functional.conv1d(heard, self.kernel().flatten(1, 2), self.bias)


class FullSTRF(STRFConv):
    """Every weight free."""

    def __init__(self, in_channels: int, out_features: int, n_bands: int, window: int):
        super().__init__(in_channels, out_features, n_bands, window)
        bound = 1 / math.sqrt(in_channels * n_bands * window)
        self.weight = nn.Parameter(torch.empty(out_features, in_channels, n_bands, window).uniform_(-bound, bound))

    def kernel(self) -> Tensor:
        return self.weight


class ParametricSTRF(STRFConv):
    """Σ_g w_g · Gaussian_g over bands and frames, each normalised to a mass of 1, σ = |s| + 0.27 (s starts at 1).

    The centres start uniform on the grid and are in bands and frames.
    """

    def __init__(self, in_channels: int, out_features: int, n_bands: int, window: int, n_gaussians: int = 4):
        super().__init__(in_channels, out_features, n_bands, window)
        if n_gaussians < 1:
            raise ValueError(f"n_gaussians must be at least 1, got {n_gaussians}")
        shape = (out_features, in_channels, n_gaussians)
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(in_channels * n_gaussians))
        self.band, self.frame = (nn.Parameter(torch.rand(shape) * (size - 1)) for size in (n_bands, window))
        self.band_width, self.frame_width = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
        self.n_bands = n_bands

    @staticmethod
    def profile(centre: Tensor, width: Tensor, size: int) -> Tensor:
        """Gaussians (…, size) of mass 1. A softmax: also where the centre has left the grid, and all but vanishes."""
        grid = torch.arange(size, dtype=centre.dtype, device=centre.device)
        sigma = width.abs() + 0.27
        return torch.softmax(-0.5 * ((grid - centre[..., None]) / sigma[..., None]) ** 2, dim=-1)

    def kernel(self) -> Tensor:
        bands = self.profile(self.band, self.band_width, self.n_bands)
        frames = self.profile(self.frame, self.frame_width, self.window)
        return torch.einsum("hcg,hcgf,hcgt->hcft", self.weight, bands, frames)


class SeparableSTRF(STRFConv):
    """The product of a profile over bands and one over frames."""

    def __init__(self, in_channels: int, out_features: int, n_bands: int, window: int):
        super().__init__(in_channels, out_features, n_bands, window)
        # Products then vary as the weights of a free kernel do.
        bands, frames = 1 / math.sqrt(n_bands), math.sqrt(3 / (in_channels * window))
        self.bands = nn.Parameter(torch.empty(out_features, in_channels, n_bands).uniform_(-bands, bands))
        self.frames = nn.Parameter(torch.empty(out_features, in_channels, window).uniform_(-frames, frames))

    def kernel(self) -> Tensor:
        return self.bands[..., :, None] * self.frames[..., None, :]


KERNELS: dict[str, type[STRFConv]] = {"full": FullSTRF, "parametric": ParametricSTRF, "separable": SeparableSTRF}


def make_strf(kernel: str, in_channels: int, out_features: int, n_bands: int, window: int,
              n_gaussians: int | None = None) -> STRFConv:
    """The STRF convolution of that kind. Errors: ValueError if there is no such kernel, or it has no Gaussians."""
    if kernel not in KERNELS:
        raise ValueError(unknown_name("kernel", kernel, KERNELS))
    options: dict[str, Any] = {} if n_gaussians is None else {"n_gaussians": n_gaussians}
    if options and kernel != "parametric":
        raise ValueError(f"n_gaussians is an option of kernel 'parametric', got kernel {kernel!r}")
    return KERNELS[kernel](in_channels, out_features, n_bands, window, **options)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, …), at each frame (and band) by itself, so that it is causal."""

    def forward(self, x: Tensor) -> Tensor:
        if x[:, 0].numel() < MANY or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)
        spread = (-1, *[1] * (x.ndim - 2))
        x = x.contiguous()
        x = x - x.mean(1, keepdim=True)
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return torch.addcmul(self.bias.view(spread), x, self.weight.view(spread))


class ExponentialDecay(nn.Module):
    """Leaky integration of each feature (B, H, T) with its own learnable time constant τ = 1 + d² frames.

    Weight of the frame k before the present: (1 − 1/τ)^k / τ, k < round(7 · tau); the first frame stands for those
    before it.
    """

    def __init__(self, n: int, tau: float = 2.0):
        super().__init__()
        if tau < 1:
            raise ValueError(f"tau must be at least 1 frame, got {tau}")
        self.d = nn.Parameter(torch.full((n,), math.sqrt(tau - 1)))
        self.window = round(7 * tau)

    def kernel(self) -> Tensor:
        """(H, window), the last frame is the present."""
        gain = 1 / (1 + self.d ** 2)
        lag = torch.arange(self.window - 1, -1, -1, device=self.d.device)
        return gain[:, None] * (1 - gain[:, None]) ** lag

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (self.window - 1, 0), mode="replicate")
        return functional.conv1d(padded, self.kernel()[:, None], groups=x.shape[1])
