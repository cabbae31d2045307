"""Recurrent layers that torch lacks, (B, T, size) → (B, T, hidden): Legendre memory and state-space models.

All step through time one frame after the other: slower than a convolution by FFT, but the future cannot reach the past,
not even as rounding.
"""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def scan(decay: Tensor, drive: Tensor) -> Tensor:
    """States s_t = decay_t · s_{t−1} + drive_t of `drive` (B, T, …), from 0; `decay` broadcasts to it."""
    decays = decay.expand_as(drive).unbind(1)
    state, states = torch.zeros_like(drive[:, 0]), []
    for step, now in zip(decays, drive.unbind(1), strict=True):
        state = step * state + now
        states.append(state)
    return torch.stack(states, dim=1)


class LMU(nn.Module):
    """Legendre memory unit (Voelker, Kajić & Eliasmith 2019): tanh units and a linear memory of `theta` frames.

    The memory holds the first `memory` Legendre coefficients of its input; zero-order hold.
    """

    transition: Tensor
    entry: Tensor

    def __init__(self, size: int, hidden: int, memory: int = 128, theta: float = 99.0):
        super().__init__()
        if memory < 1 or theta <= 0:
            raise ValueError(f"memory must be at least 1 and theta positive, got {memory} and {theta}")
        order = torch.arange(memory, dtype=torch.float64)
        row, column = order[:, None], order[None, :]
        matrix = (2 * row + 1) * torch.where(row < column, -1.0, (-1.0) ** (row - column + 1)) / theta
        vector = (2 * order + 1) * (-1.0) ** order / theta
        joint = torch.zeros(memory + 1, memory + 1, dtype=torch.float64)
        joint[:-1, :-1], joint[:-1, -1] = matrix, vector
        held = torch.linalg.matrix_exp(joint)
        self.register_buffer("transition", held[:-1, :-1].float())
        self.register_buffer("entry", held[:-1, -1].float())

        def lecun(n: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(n).uniform_(-math.sqrt(3 / n), math.sqrt(3 / n)))

        def xavier(n: int) -> nn.Parameter:
            return nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden, n)))

        self.input_code, self.hidden_code, self.memory_code = lecun(size), lecun(hidden), nn.Parameter(
            torch.zeros(memory))
        self.input_kernel, self.hidden_kernel, self.memory_kernel = xavier(size), xavier(hidden), xavier(memory)

    def forward(self, x: Tensor) -> Tensor:
        codes, inputs = x @ self.input_code, functional.linear(x, self.input_kernel)
        h = x.new_zeros(len(x), self.hidden_kernel.shape[0])
        m = x.new_zeros(len(x), len(self.entry))
        states = []
        for code, given in zip(codes.unbind(1), inputs.unbind(1), strict=True):
            u = code + h @ self.hidden_code + m @ self.memory_code
            m = m @ self.transition.T + u[:, None] * self.entry
            h = torch.tanh(given + h @ self.hidden_kernel.T + m @ self.memory_kernel.T)
            states.append(h)
        return torch.stack(states, dim=1)


class S4D(nn.Module):
    """Diagonal state-space layer, S4D-Lin (Gu et al. 2022): damped oscillations per feature, GELU, gated linear.

    Zero-order hold; time steps start log-uniform in 0.001 … 0.1 per frame.

    Args:
        state: real states per feature, in `state` / 2 conjugate pairs.
    """

    def __init__(self, size: int, hidden: int, state: int = 64):
        super().__init__()
        if state < 2 or state % 2:
            raise ValueError(f"state must be even and at least 2, got {state}")
        pairs = state // 2
        self.log_step = nn.Parameter(torch.empty(size).uniform_(math.log(0.001), math.log(0.1)))
        self.log_damping = nn.Parameter(torch.full((size, pairs), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(pairs).float().repeat(size, 1))
        self.output = nn.Parameter(torch.randn(size, pairs, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(size))
        self.mix = nn.Linear(size, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        poles = torch.complex(-self.log_damping.exp(), self.frequency)
        decay = torch.exp(poles * self.log_step.exp()[:, None])
        weights = torch.view_as_complex(self.output) * (decay - 1) / poles
        states = scan(decay, x[..., None] * torch.ones_like(decay))
        y = 2 * torch.einsum("bthn,hn->bth", states, weights).real + self.skip * x
        return functional.glu(self.mix(functional.gelu(y)), dim=-1)


class SelectiveSSM(nn.Module):
    """One Mamba block (Gu & Dao 2023) in plain torch, without residual: short convolution, selective scan, gate.

    Args:
        state: states per inner feature.
        expand: inner features per input.
        conv: frames of the convolution.
    """

    def __init__(self, size: int, hidden: int, state: int = 16, expand: int = 2, conv: int = 4):
        super().__init__()
        if min(state, expand, conv) < 1:
            raise ValueError(f"state, expand and conv must be at least 1, got {state}, {expand}, {conv}")
        inner, rank = expand * size, math.ceil(size / 16)
        self.split = (rank, state, state)
        self.enter = nn.Linear(size, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, conv, groups=inner)
        self.select = nn.Linear(inner, sum(self.split), bias=False)
        self.step = nn.Linear(rank, inner)
        self.log_damping = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, hidden, bias=False)
        with torch.no_grad():  # steps start log-uniform in 0.001 … 0.1: the bias is the softplus's inverse of that
            start = torch.empty(inner).uniform_(math.log(0.001), math.log(0.1)).exp()
            self.step.bias.copy_(start + torch.log(-torch.expm1(-start)))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.enter(x).chunk(2, dim=-1)
        u = functional.pad(u.transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))
        u = functional.silu(self.conv(u).transpose(1, 2))
        step, entry, output = self.select(u).split(self.split, dim=-1)
        step = functional.softplus(self.step(step))
        decay = torch.exp(-self.log_damping.exp() * step[..., None])
        states = scan(decay, (step * u)[..., None] * entry[:, :, None])
        y = torch.einsum("btin,btn->bti", states, output) + self.skip * u
        return self.leave(y * functional.silu(gate))
