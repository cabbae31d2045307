"""Receptive fields of encoders by gradient: what a small change of each bin of the stimulus does to a response.

For a linear encoder this is its kernel; for any other, its linear approximation around a probe stimulus. All units go
in one backward pass: as many copies of the probe as units, the loss is the sum of unit n's response to copy n.
"""
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bm.models.encoders.base import AudioEncoder

#: responses (B, N, T) → one number per copy and unit, (B, N)
Target = Callable[[Tensor], Tensor]
_TARGETS: dict[str, Target] = {
    "last": lambda responses: responses[..., -1],
    "peak": lambda responses: responses.amax(-1),
    "sustained": lambda responses: responses.mean(-1),
    "sum": lambda responses: responses.sum(-1),
}
#: of the default probe behind a rectifying prefilter: level, and rise over the probe as a share of it
_LEVEL, _RISE = 0.01, 0.1


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode afterwards; gradients on, cuDNN's recurrent layers (which have none in
    eval mode) off."""
    modes = [(module, module.training) for module in model.modules()]
    recurrent = any(isinstance(module, nn.RNNBase) for module, _ in modes)
    model.eval()
    try:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _place(model: nn.Module) -> dict[str, Any]:
    """Device and type of a model's numbers."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return {"device": tensor.device, "dtype": tensor.dtype}
    return {}


def _target(target: str | Target, names: Sequence[str]) -> Target:
    if callable(target):
        return target
    if target not in names:
        raise ValueError(f"target={target!r}, expected one of {', '.join(names)}, or a function (B, N, T) → (B, N)")
    return _TARGETS[target]


def default_probe(model: AudioEncoder, n_frames: int) -> Tensor:
    """The stimulus around which `strf_gradmap` linearises if it is given none: `(1, 1, F, frames)`.

    Silence (zeros). But a prefilter that rectifies passes no gradient at silence, nor, if it takes the mean of the past
    away, at a constant: there all maps would be zero. Behind one, the probe rises slowly in all bands, by a tenth,
    from 0.01: what rises is above the mean of its past, but hardly, so that ON and OFF channels are both open. It
    starts `history` frames of the prefilter early, so that no map sees its start.
    """
    bands = model.core.n_bands
    if not getattr(model.prefiltering, "rectifies", False):
        return torch.zeros(1, 1, bands, n_frames, **_place(model))
    frames = n_frames + int(model.prefiltering.history)  # type: ignore[union-attr, arg-type]
    frames += -frames % model.core.hop
    ramp = _LEVEL * (1 + _RISE * torch.linspace(0, 1, frames, **_place(model)))
    return ramp.expand(1, 1, bands, frames)


def _probes(model: AudioEncoder, n_frames: int, at: Any) -> Tensor:
    bands, hop = model.core.n_bands, model.core.hop
    if n_frames < 1 or n_frames % hop:
        raise ValueError(f"n_frames={n_frames}: expected a positive multiple of {hop}")
    if at is None:
        return default_probe(model, n_frames)
    probes = torch.as_tensor(at, **_place(model)).detach()
    probes = probes[None, None] if probes.ndim == 2 else probes
    if probes.ndim != 4 or probes.shape[1:3] != (1, bands) or probes.shape[3] < n_frames or probes.shape[3] % hop:
        raise ValueError(f"at has shape {tuple(probes.shape)}, expected ({bands}, T) or (B, 1, {bands}, T) with T at "
                         f"least n_frames = {n_frames}" + (f" and a multiple of {hop}" if hop > 1 else ""))
    return probes


def _units(model: AudioEncoder, units: Sequence[int] | None) -> Tensor:
    silence = torch.zeros(1, model.core.out_features, 1, **_place(model))
    with torch.no_grad():
        n = model.readout(silence).shape[1]
    chosen = torch.arange(n) if units is None else torch.as_tensor(units, dtype=torch.long)
    if chosen.ndim != 1 or not len(chosen) or chosen.min() < 0 or chosen.max() >= n:
        raise ValueError(f"units={units}: expected a list of at least one of 0 to {n - 1}")
    return chosen


def _gradients(respond: Callable[[Tensor], Tensor], inputs: Tensor, units: Tensor, target: Target, batch: int
               ) -> Tensor:
    """Gradient of each unit's target with respect to its input, mean over the inputs.

    Shape: inputs `(B, C, F, T)`, units `(U,)` → `(U, C, F, T)`.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: expected at least 1")
    maps = inputs.new_zeros(len(units), *inputs.shape[1:])
    units = units.to(inputs.device)
    for pairs in torch.arange(len(inputs) * len(units), device=inputs.device).split(batch):
        probe, row = pairs // len(units), pairs % len(units)
        x = inputs.index_select(0, probe).requires_grad_()
        values = target(respond(x))
        if values.ndim != 2 or len(values) != len(pairs):
            raise ValueError(f"target gave shape {tuple(values.shape)} for {len(pairs)} copies, expected (B, N): one "
                             "number per copy and unit")
        own = torch.zeros_like(values).scatter_(1, units[row, None], 1.0)  # of copy and unit
        (gradient,) = torch.autograd.grad(values, x, own)
        maps.index_add_(0, row, gradient)
    return maps / len(inputs)


def strf_gradmap(model: AudioEncoder, n_frames: int, *, at: Any = None, target: str | Target = "last",
                 units: Sequence[int] | None = None, wrt: Literal["spectrogram", "prefilter"] = "spectrogram",
                 batch: int = 64) -> Tensor:
    """Spectro-temporal receptive fields: d(response of a unit) / d(bin of the spectrogram).

    Positive where more sound gives more response. The last frame is the present, the one before it a lag of one frame.
    A wav2spec is left out. The model is as before afterwards: modes, statistics, gradients.

    Args:
        model: in any mode; maps are those of eval mode. A recurrent one takes any `n_frames`.
        n_frames: T of the maps.
        at: probe stimulus or stimuli, `(F, T')` or `(B, 1, F, T')`, T' ≥ n_frames (frames before the last `n_frames`
            lead in); of several the maps' mean. None: `default_probe`, which is no silence behind a prefilter that
            rectifies; the mean stimulus is another choice, but no constant with "ic_adaptation".
        target: what of the response: "last" frame, "peak" (largest of the last n_frames), "sustained" (their mean),
            "sum", or a function from responses `(B, N, frames)` to `(B, N)`.
        units: which ones, all by default.
        wrt: the "spectrogram", or the output of the "prefilter", one map for each of its channels.
        batch: copies of the probe that pass at once.

    Shape: → `(units, C, F, n_frames)`, C = 1, or the prefilter's channels; detached.
    Warns: of units whose maps are zero everywhere. Errors: ValueError for what does not fit the model.
    """
    if wrt not in ("spectrogram", "prefilter") or (wrt == "prefilter" and model.prefiltering is None):
        raise ValueError(f"wrt={wrt!r}: expected spectrogram, or prefilter for a model that has one")
    function, probes = _target(target, list(_TARGETS)), _probes(model, n_frames, at)
    kept = 1 if target == "last" else n_frames // model.core.hop  # frames that pass the readout, which has no memory

    def respond(x: Tensor) -> Tensor:
        z = x if wrt == "prefilter" or model.prefiltering is None else model.prefiltering(x)
        return model.readout(model.core.tail(z, kept))[:, :, 0]

    with _evaluating(model):
        if wrt == "prefilter":
            probes = model.prefiltering(probes).detach()  # type: ignore[misc]
        chosen = _units(model, units)
        maps = _gradients(respond, probes, chosen, function, batch)[..., -n_frames:]
    silent = chosen[~maps.flatten(1).any(1).cpu()].tolist()
    if silent:
        warnings.warn(f"maps of units {silent} are zero everywhere: no gradient passes at this probe (a rectifier that "
                      "is shut?); give another one as `at`", stacklevel=2)
    return maps


def waveform_gradmap(model: AudioEncoder, wave: Any, *, unit: int | None = None, target: str | Target = "last",
                     batch: int = 64) -> Tensor:
    """d(response) / d(sample) at a real waveform, through the front-end. The model is as before afterwards.

    Args:
        model: with a wav2spec.
        wave: `(samples,)`, a multiple of the model's hop.
        unit: one, or all.
        target: "last" frame, "peak", "sum" over frames, "sustained" (their mean), or a function as of `strf_gradmap`.
        batch: copies of the spectrogram that pass at once. The front-end is applied once.

    Shape: → `(N, samples)`, or `(samples,)` of one unit; detached.
    Errors: ValueError if the model takes spectrograms, or the waveform does not fit.
    """
    if model.wav2spec is None:
        raise ValueError("this encoder takes spectrograms: waveform_gradmap needs one with a wav2spec")
    function = _target(target, list(_TARGETS))
    wave = torch.as_tensor(wave, **_place(model)).detach()
    if wave.ndim != 1:
        raise ValueError(f"wave has shape {tuple(wave.shape)}, expected (samples,)")
    with _evaluating(model):
        x = wave[None, None].clone().requires_grad_()
        spectrogram = model.frames(x)
        maps = _gradients(lambda z: model.respond(z)[:, :, 0], spectrogram.detach(),
                          _units(model, None if unit is None else [unit]), function, batch)
        rows = [torch.autograd.grad(spectrogram, x, map_[None], retain_graph=True)[0][0, 0] for map_ in maps]
    return torch.stack(rows) if unit is None else rows[0]
