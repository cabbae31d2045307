"""Losses between predicted and measured responses with repeats, where NaN means not measured.

Shapes of all: prediction (B, N, 1, T) or (B, N, T); target (B, N, R, T). Repeats are averaged over those measured (the
PSTH); a neuron's loss is the mean over its measured bins, and neurons without any are left out.
"""
from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-8  # lowest rate (responses per bin) whose logarithm is taken


def psth(target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over measured repeats (B, N, T), 0 where there is none, and where there is one (bool)."""
    measured = ~target.isnan()
    count = measured.sum(2)
    return target.where(measured, torch.zeros_like(target)).sum(2) / count.clamp(min=1), count > 0


def _masked(terms: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, target: Tensor, reduction: str) -> Tensor:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum' (over neurons), got {reduction!r}")
    if target.ndim != 4:
        raise ValueError(f"responses must be (B, N, R, T), got shape {tuple(target.shape)}")
    shape = (*target.shape[:2], target.shape[3])
    if prediction.ndim == 4 and prediction.shape[2] == 1:
        prediction = prediction.squeeze(2)
    if prediction.shape != shape:
        raise ValueError(f"predictions must be {(*shape[:2], 1, shape[2])} for responses {tuple(target.shape)}, "
                         f"got shape {tuple(prediction.shape)}")
    response, measured = psth(target)
    # Masked before anything is computed: what is not measured then has a gradient of exactly 0.
    values = terms(prediction.where(measured, torch.zeros_like(prediction)), response)
    bins = measured.sum((0, 2))
    losses = values.where(measured, torch.zeros_like(values)).sum((0, 2)) / bins.clamp(min=1)
    if reduction == "none":
        return losses.masked_fill(bins == 0, torch.nan)
    total, neurons = losses.sum(), (bins > 0).sum()
    if neurons == 0:
        raise ValueError("no response of this batch is measured: all targets are NaN")
    return total if reduction == "sum" else total / neurons


def mse(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared error: (N,) for reduction "none" (NaN where not measured), else the mean or sum over measured neurons.

    Errors: ValueError if shapes or the reduction are wrong, or nothing is measured.
    """
    return _masked(lambda rate, response: (rate - response) ** 2, prediction, target, reduction)


def poisson(prediction: Tensor, target: Tensor, reduction: str = "mean", log_rate: bool = False) -> Tensor:
    """Negative log likelihood of a Poisson process, up to a constant: λ − y log λ; e^η − y η for η = log λ.

    Args:
        log_rate: predictions are η; else λ, in responses per bin, below 1e-8 taken as that inside the logarithm.

    Reduction and errors as of `mse`; also ValueError if a response or a rate is negative.
    """
    def terms(rate: Tensor, response: Tensor) -> Tensor:
        if log_rate:
            return rate.exp() - response * rate
        if (rate < 0).any():  # the loss has no lower bound there: it would be followed down
            raise ValueError(f"Poisson loss needs rates of at least 0, the lowest is {rate.min().item():.3g}: give the "
                             "encoder an activation, e.g. encoder.params={activation: softplus}, and a GRU also "
                             "readout: linear")
        return rate - response * rate.clamp(min=EPS).log()

    if (target < 0).any():
        raise ValueError("Poisson loss needs responses of at least 0: counts, or encode.response 'max' or 'none'; "
                         f"the lowest is {target.nan_to_num(torch.inf).min().item():.3g}")
    return _masked(terms, prediction, target, reduction)
