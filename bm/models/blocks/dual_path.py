"""Recurrence over long sequences, along chunks and across them."""
from torch import Tensor, nn

from bm.models.blocks.stft import pad_multiple


class DualPathRNN(nn.Module):
    """4·depth residual LSTMs, in turn inside chunks of `chunk` samples and across chunks (Luo et al. 2020).

    Time is reversed after every second LSTM, so that half of them read the segment backwards.

    Shape: `(B, C, T)` → `(B, C, T)`.
    """

    def __init__(self, channels: int, depth: int, chunk: int = 10):
        super().__init__()
        if depth < 1 or chunk < 1:
            raise ValueError(f"a dual-path network needs depth ≥ 1 and chunk ≥ 1, got {depth}, {chunk}")
        self.lstms = nn.ModuleList(nn.LSTM(channels, channels) for _ in range(4 * depth))
        self.chunk = chunk

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        x = pad_multiple(x, self.chunk).permute(2, 0, 1)
        for index, lstm in enumerate(self.lstms):
            y = x.reshape(-1, self.chunk, batch, channels)
            inside = index % 2 == 0
            if inside:
                y = y.transpose(0, 1)  # time inside a chunk first; the chunks become items of the batch
            y = lstm(y.reshape(y.shape[0], -1, channels))[0].reshape(y.shape)
            x = x + (y.transpose(0, 1) if inside else y).reshape(x.shape)
            if not inside:
                x = x.flip(0)
        return x.permute(1, 2, 0)[..., :length]
