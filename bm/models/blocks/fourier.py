"""Fourier embedding of flat sensor positions."""
import math

import torch
from torch import Tensor


def fourier_order(dim: int) -> int:
    """Number n of frequencies per axis of an embedding of `dim` = 2n² values.

    Errors: ValueError if `dim` is not twice a square, with the two nearest valid values.
    """
    order = math.isqrt(max(dim, 0) // 2)
    if order < 1 or 2 * order * order != dim:
        near = sorted({2 * max(order, 1) ** 2, 2 * (order + 1) ** 2})
        raise ValueError(f"Fourier embedding dimension must be 2n² (2, 8, …, 288, …, 2048), got {dim}: "
                         f"use one of {near}")
    return order


def fourier_embedding(layout: Tensor, dim: int = 2048, margin: float = 0.2) -> Tensor:
    """Embeds positions of the unit square with 2-D cosines and sines.

    For frequencies i, j in [0, n) the angle is 2π·(i·(x + margin) + j·(y + margin)) / (1 + 2·margin): the margin keeps
    opposite borders of the square, 1 apart, from being the same point of the period.
    Défossez et al. 2023 (doi:10.1038/s42256-023-00714-5), Methods, "Spatial attention".

    Args:
        layout: positions in [0, 1]².
        dim: size of the embedding, 2n².
        margin: empty border around the square, as a fraction of its side.

    Shape:
        - layout: `(..., 2)`
        - output: `(..., dim)`: all cosines, then all sines; the x frequency varies slowest.

    >>> fourier_embedding(torch.tensor([0.25, 0.5]), dim=8)[:2]
    tensor([ 1., -1.])
    """
    order = fourier_order(dim)
    frequency = torch.arange(order, device=layout.device, dtype=layout.dtype)
    position = (layout + margin) * (2 * math.pi / (1 + 2 * margin))
    angle = (position[..., 0, None] * frequency)[..., :, None] + (position[..., 1, None] * frequency)[..., None, :]
    angle = angle.flatten(-2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
