"""LSTM over time, for tensors with channels before time."""
from torch import Tensor, nn


class TimeLSTM(nn.Module):
    """Stacked LSTM; if `bidirectional`, followed by a linear map back to `hidden`; `flip` reads time backwards.

    Shape: `(B, in_channels, T)` → `(B, hidden, T)`.
    """

    def __init__(self, in_channels: int, hidden: int, layers: int, dropout: float = 0.0, bidirectional: bool = False,
                 flip: bool = False):
        super().__init__()
        # torch warns about dropout with one layer, where it has no place to act.
        self.lstm = nn.LSTM(in_channels, hidden, layers, dropout=dropout if layers > 1 else 0.0,
                            bidirectional=bidirectional)
        self.linear = nn.Linear(2 * hidden, hidden) if bidirectional else nn.Identity()
        self.flip = flip

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)
        x = self.linear(self.lstm(x.flip(0) if self.flip else x)[0])
        return (x.flip(0) if self.flip else x).permute(1, 2, 0)
