"""Several processes that train one XP on equal parts of each batch, and reach what one alone would.

Dora starts them (`dora run -d`, or as tasks of a SLURM job). Each runs the model on its part of a batch; estimates and
targets are then gathered, so that every process computes the loss of the whole batch, and gradients are averaged. Batch
norm sees the whole batch as well.
"""
from collections.abc import Iterable
from typing import Any

import torch
from dora import distrib as dora_distrib
from torch import Tensor, nn
from torch import distributed as dist

rank, world_size, is_master = dora_distrib.rank, dora_distrib.world_size, dora_distrib.is_master


def init(device: torch.device) -> None:
    """Joins the other processes, if Dora or SLURM started several: nccl between GPUs, gloo between CPUs."""
    if dora_distrib.get_distrib_spec().world_size > 1:
        dora_distrib.init("nccl" if device.type == "cuda" else "gloo")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
        dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
        lengths = [int(size) for size in sizes]
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[:len(x)] = x
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        start = sum(lengths[:rank()])
        ctx.own = slice(start, start + len(x))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # every process has the gradient of the same loss; gradients of the weights are averaged later
        return grads[0][ctx.own] * world_size()


def gather(x: Tensor) -> Tensor:
    """The rows `(ΣB, …)` of all processes, in the order of their ranks, from own `(B, …)`; B may differ.

    Its gradient is right for a loss that every process computes on all rows, with `average_gradients` after it.
    """
    if world_size() == 1:
        return x
    if x.dtype == torch.bool:
        return _Gather.apply(x.byte()).bool()
    return _Gather.apply(x.contiguous())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        out = grads[0].clone()
        dist.all_reduce(out)
        return out


def total(x: Tensor) -> Tensor:
    """Sum of a tensor over processes, with its gradient."""
    return x if world_size() == 1 else _Sum.apply(x)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces gradients by their mean over processes, in one transfer."""
    if world_size() == 1:
        return
    wanted = [p for p in parameters if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted])
    dist.all_reduce(flat)
    flat /= world_size()
    for p, grad in zip(wanted, flat.split([p.numel() for p in wanted]), strict=True):
        p.grad = grad.view_as(p)


def gather_objects(value: Any) -> list[Any]:
    """A picklable object of every process, by rank."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, value)
    return out


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over the segments of all processes; unlike torch's own it also works on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        axes = [0] if x.dim() == 2 else [0, 2]
        # float64: the variance is a difference of large sums
        wide, n = x.double(), x.numel() // x.shape[1]
        sums = total(torch.cat([wide.sum(axes), wide.square().sum(axes), wide.new_tensor([n])]))
        channels = x.shape[1]
        count = sums[-1]
        mean = sums[:channels] / count
        variance = (sums[channels:-1] / count - mean.square()).clamp(min=0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean += momentum * (mean - self.running_mean).to(self.running_mean)
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_var += momentum * (unbiased - self.running_var).to(self.running_var)
        shape = (1, -1) if x.dim() == 2 else (1, -1, 1)
        scale, shift = (variance + self.eps).rsqrt(), -mean * (variance + self.eps).rsqrt()
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale.view(shape).to(x) + shift.view(shape).to(x)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Makes every batch norm of a model, in place, one over all processes; weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncedBatchNorm1d
