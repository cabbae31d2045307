"""Short-time Fourier transform as a front-end."""
import torch
from torch import Tensor, nn


def pad_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pads the last axis on the right to a multiple of `multiple`.

    >>> pad_multiple(torch.ones(1, 1, 7), 5).shape
    torch.Size([1, 1, 10])
    """
    return nn.functional.pad(x, (0, -x.shape[-1] % multiple))


class STFT(nn.Module):
    """Spectrogram of each channel with a Hann window of `n_fft` samples and a hop of half of it, as channels.

    The signal is padded by a quarter of the window on both sides, so that frame k is centred on the middle of the
    hop [k, k + 1)·n_fft/2: a transposed convolution of kernel n_fft, stride n_fft/2 and padding n_fft/4 puts it back
    in place.

    Args:
        n_fft: window in samples, a multiple of 4.
        complex: real and imaginary parts instead of magnitudes.

    Shape: `(B, C, T)` → `(B, C·factor, ceil(T / (n_fft/2)))` with factor = n_fft/2 + 1, doubled if `complex`.
    """

    window: Tensor

    def __init__(self, n_fft: int, complex: bool = True):
        super().__init__()
        if n_fft < 4 or n_fft % 4:
            raise ValueError(f"n_fft must be a positive multiple of 4, got {n_fft}")
        self.n_fft, self.complex = n_fft, complex
        self.factor = (n_fft // 2 + 1) * (2 if complex else 1)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.shape
        pad = self.n_fft // 4
        x = nn.functional.pad(pad_multiple(x, self.n_fft // 2), (pad, pad), mode="reflect")
        z = torch.stft(x.flatten(0, 1), self.n_fft, self.n_fft // 2, window=self.window, center=False,
                       return_complex=True) / self.window.square().sum().sqrt()
        parts = torch.view_as_real(z).permute(0, 1, 3, 2) if self.complex else z.abs()
        return parts.reshape(batch, channels * self.factor, -1)
