"""Output nonlinearities with parameters of their own per neuron.

With `non_negative`, amplitude and baseline go through a softplus, so that no response is below zero; without it they
are free, from the same starting values.
"""
import torch
from torch import Tensor, nn
from torch.nn import functional


def uniform(n: int, low: float, high: float) -> Tensor:
    return torch.empty(n).uniform_(low, high)


class PerNeuron(nn.Module):
    """A function of (B, N, …) whose parameters are (N,), each neuron's own."""

    def __init__(self, n: int, non_negative: bool):
        super().__init__()
        if n < 1:
            raise ValueError(f"an activation needs at least one neuron, got {n}")
        self.n, self.non_negative = n, non_negative

    def start(self, low: float, high: float) -> nn.Parameter:
        """A parameter to read with `level`, its value before the softplus drawn from U(low, high)."""
        raw = uniform(self.n, low, high)
        return nn.Parameter(raw if self.non_negative else functional.softplus(raw))

    def level(self, raw: Tensor) -> Tensor:
        return functional.softplus(raw) if self.non_negative else raw

    def spread(self, values: Tensor, x: Tensor) -> Tensor:
        """`values` (N,) in the shape that multiplies x (B, N, …)."""
        return values.view(-1, *[1] * (x.ndim - 2))


class Sigmoid(PerNeuron):
    """b · σ((x − c) / d) + a."""

    def __init__(self, n: int, non_negative: bool = True):
        super().__init__(n, non_negative)
        self.b, self.a = self.start(-0.43, 1.40), self.start(-1.43, 0.43)
        self.c, self.d = nn.Parameter(uniform(n, -0.5, 0.5)), nn.Parameter(uniform(n, 0.5, 1.5))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = (self.spread(values, x) for values in (self.level(self.a), self.level(self.b), self.c, self.d))
        return b * torch.sigmoid((x - c) / d) + a


class DoubleExponential(PerNeuron):
    """a · exp(−exp(k x − s)) + b (Thorson et al. 2015). It rises with x where k < 0, so k starts there.

    The published package gives no bounds: amplitude and baseline start as the sigmoid's.
    """

    def __init__(self, n: int, non_negative: bool = True):
        super().__init__(n, non_negative)
        self.a, self.b = self.start(-0.43, 1.40), self.start(-1.43, 0.43)
        self.k, self.s = nn.Parameter(uniform(n, -1.5, -0.5)), nn.Parameter(uniform(n, -0.5, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        a, b, k, s = (self.spread(values, x) for values in (self.level(self.a), self.level(self.b), self.k, self.s))
        # exp(−exp(20)) is already 0; beyond it the gradient would be 0 · ∞.
        return a * torch.exp(-torch.exp((k * x - s).clamp(max=20))) + b


class ParametricSoftplus(PerNeuron):
    """log(1 + exp(β x)) / β + b, β > 0."""

    def __init__(self, n: int, non_negative: bool = True):
        super().__init__(n, non_negative)
        self.beta, self.b = nn.Parameter(uniform(n, 5.0, 6.0)), self.start(-5.0, -3.0)

    def forward(self, x: Tensor) -> Tensor:
        beta = self.spread(functional.softplus(self.beta), x)
        return functional.softplus(beta * x) / beta + self.spread(self.level(self.b), x)


ACTIVATIONS: dict[str, type[PerNeuron]] = {
    "sigmoid": Sigmoid, "double_exponential": DoubleExponential, "softplus": ParametricSoftplus}


def make_activation(name: str, n: int, non_negative: bool) -> nn.Module:
    """The nonlinearity of `n` neurons; "identity" has none. Errors: ValueError if there is no such name."""
    if name == "identity":
        return nn.Identity()
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; there are: identity, {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name](n, non_negative)
