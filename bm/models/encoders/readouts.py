"""From features that all neurons share to the response of each: (B, H, T) → (B, N, 1, T)."""
from torch import Tensor, nn

from bm.models.encoders.activations import make_activation

LEAK = 0.1  # slope of LeakyReLU below zero, in all networks of this folder


class NoReadout(nn.Module):
    """For cores that already give one feature per neuron."""

    def __init__(self, in_features: int, n_out: int):
        super().__init__()
        if in_features != n_out:
            raise ValueError(f"the core gives {in_features} features and there are {n_out} neurons: name a readout")

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


class BatchNormReadout(NoReadout):
    """Batch norm and nonlinearity of cores with one feature per neuron: behind an STRF of each neuron's own.

    Args:
        activation: identity, sigmoid, double_exponential or softplus, with parameters per neuron.
        non_negative: no response below zero (but for identity).
    """

    def __init__(self, in_features: int, n_out: int, activation: str = "identity", non_negative: bool = True):
        super().__init__(in_features, n_out)
        self.norm = nn.BatchNorm1d(n_out)
        self.activation = make_activation(activation, n_out, non_negative)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(x)).unsqueeze(2)


class LinearReadout(nn.Module):
    """Each neuron a weighted sum of the features, or of a hidden layer of `readout_hidden` units; then a nonlinearity.

    Args: `activation` and `non_negative` as of `BatchNormReadout`.
    """

    def __init__(self, in_features: int, n_out: int, readout_hidden: int | None = None, activation: str = "identity",
                 non_negative: bool = True):
        super().__init__()
        self.linear: nn.Module = nn.Linear(in_features, n_out)
        if readout_hidden is not None:
            if readout_hidden < 1:
                raise ValueError(f"readout_hidden must be at least 1, or null for none, got {readout_hidden}")
            self.linear = nn.Sequential(nn.Linear(in_features, readout_hidden), nn.LeakyReLU(LEAK),
                                        nn.Linear(readout_hidden, n_out))
        self.activation = make_activation(activation, n_out, non_negative)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x.transpose(1, 2)).transpose(1, 2)).unsqueeze(2)
