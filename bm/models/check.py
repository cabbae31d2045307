"""What every model must satisfy, in the spirit of scikit-learn's `check_estimator`."""
import copy
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec

Build = Callable[[BatchSpec], nn.Module]
Call = Callable[[nn.Module, Batch], Tensor]


def make_batch(spec: BatchSpec, size: int = 4, recordings: int = 2, seed: int = 0,
               dtype: torch.dtype = torch.float32) -> Batch:
    """A random batch that fits `spec`: several montages, the last channels of the second one padded.

    Segment b is of recording b mod `recordings`, whose subject is its index modulo the number of subjects.
    """
    generator = torch.Generator().manual_seed(seed)
    recording = torch.arange(size) % recordings
    layouts = torch.rand(recordings, spec.channels, 2, generator=generator, dtype=dtype)
    mask = torch.ones(recordings, spec.channels, dtype=torch.bool)
    if recordings > 1 and spec.channels > 2:
        mask[1, -2:] = False
        layouts[1, -2:] = torch.nan
    brain = torch.randn(size, spec.channels, spec.times, generator=generator, dtype=dtype)
    features = {}
    for feature in spec.features:
        samples = round(spec.times * feature.rate / spec.sample_rate)
        if feature.n_classes:
            values = torch.randint(feature.n_classes, (size, feature.dim, samples), generator=generator).to(dtype)
        else:
            values = torch.randn(size, feature.dim, samples, generator=generator, dtype=dtype)
        features[feature.name] = values
    return Batch(brain=brain * mask[recording][..., None], channel_mask=mask[recording],
                 positions=torch.full((size, spec.channels, 3), torch.nan, dtype=dtype), layout=layouts[recording],
                 subject=recording % len(spec.subjects), recording=recording, segment=torch.arange(size),
                 features=features)


def check_model(build: Build, spec: BatchSpec, *, out_channels: int, call: Call = lambda model, batch: model(batch),
                merges_sensors: bool = False, pooled: bool = False, device: torch.device | str = "cpu") -> None:
    """Checks a model: shapes, gradients, dtype, independence of the batch, state, and that nothing is mutated.

    Args:
        build: makes the model from a spec.
        spec: sizes to try; small ones keep it fast.
        out_channels: rows expected in the output.
        call: how the model is applied to a batch.
        pooled: the output has no time axis.
        merges_sensors: also check that the order of the sensors does not matter.
        device: where to check.

    Errors: AssertionError that says what is wrong.
    """
    batch = make_batch(spec).to(device)
    model = build(spec).to(device)
    for size in (1, len(batch)):
        shape = (size, out_channels) if pooled else (size, out_channels, spec.times)
        _check_output(call(model.eval(), batch[:size]), shape, batch)
    _check_training(model, batch, call)
    model.eval()
    _check_unchanged(model, batch, call)
    with torch.no_grad():
        together = call(model, batch)
        alone = torch.cat([call(model, batch[i:i + 1]) for i in range(len(batch))])
        _same(alone, together, "a segment alone gives another output than in a batch")
        other = build(spec).to(device).eval()
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        _same(call(other, batch), together, "the state dict does not hold all of the model")
        double = make_batch(spec, dtype=torch.float64).to(device)
        _check_output(call(copy.deepcopy(model).double(), double), tuple(together.shape), double)
        if merges_sensors:
            _check_permutation(model, batch, call, together)


def _check_output(out: Tensor, shape: tuple[int, ...], batch: Batch) -> None:
    if tuple(out.shape) != shape:
        raise AssertionError(f"output has shape {tuple(out.shape)}, expected {shape}")
    reference = batch.brain if batch.brain is not None else batch.layout
    if out.dtype != reference.dtype or out.device != reference.device:
        raise AssertionError(f"output is {out.dtype} on {out.device}, input {reference.dtype} on {reference.device}")
    if not out.isfinite().all():
        raise AssertionError("output has NaN or infinite values")


def _check_training(model: nn.Module, batch: Batch, call: Call) -> None:
    model.train()
    call(model, batch).square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            raise AssertionError(f"parameter {name} takes no part in the output")
        if not parameter.grad.isfinite().all():
            raise AssertionError(f"the gradient of {name} has NaN or infinite values")


def _check_unchanged(model: nn.Module, batch: Batch, call: Call) -> None:
    state = copy.deepcopy(model.state_dict())
    before = copy.deepcopy(batch)
    with torch.no_grad():
        first, second = call(model, batch), call(model, batch)
    _same(first, second, "two evaluations differ", tolerance=0.0)
    for name, value in model.state_dict().items():
        if not torch.equal(value, state[name]):
            raise AssertionError(f"evaluation changed {name}")
    for field in fields(Batch):
        old, new = getattr(before, field.name), getattr(batch, field.name)
        pairs = [(old[k], new[k]) for k in old] if isinstance(old, dict) else [(old, new)]
        if isinstance(old, dict) and list(old) != list(new):
            raise AssertionError(f"the model changed the keys of Batch.{field.name}")
        if any(a is not None and not torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)) for a, b in pairs):
            raise AssertionError(f"the model changed Batch.{field.name}")


def _check_permutation(model: nn.Module, batch: Batch, call: Call, expected: Tensor) -> None:
    if batch.brain is None:
        raise AssertionError("a model that merges sensors needs Batch.brain")
    order = torch.randperm(batch.brain.shape[1], generator=torch.Generator().manual_seed(0)).to(batch.brain.device)
    shuffled = batch.replace(brain=batch.brain[:, order], layout=batch.layout[:, order],
                             positions=batch.positions[:, order], channel_mask=batch.channel_mask[:, order])
    _same(call(model, shuffled), expected, "the order of the sensors changes the output")


def _same(got: Tensor, expected: Tensor, message: str, tolerance: float = 1e-4) -> None:
    error = (got - expected).abs().max().item()
    if error > tolerance * max(1.0, expected.abs().max().item()):
        raise AssertionError(f"{message}: largest difference {error:.3g}")
