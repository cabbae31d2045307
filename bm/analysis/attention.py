"""What a network attends to: weights of a transformer's layers, and their rollout to the input; weights of a GRU.

`record_attention` asks every `bm.models.eeg_transformer.SelfAttention` of a model for its weights, which the fused
kernel never makes otherwise, or the attention GRU of an encoder (`bm.models.encoders.attention_gru`; what follows from
them is in `bm.analysis.encoder_attention`). Attention is no proof of use: compare with a model that never saw the
labels, or with channels left out.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from bm.models.base import BrainModel
from bm.models.eeg_transformer import EEGTransformer, SelfAttention
from bm.models.encoders.attention_gru import AttentionGRU

HeadFusion = Literal["mean", "max", "min"]


class Recorded:
    """The weights of all forwards inside `record_attention`."""

    def __init__(self, sinks: list[list[Tensor]], layered: bool = True) -> None:
        self._sinks, self._layered = sinks, layered

    @property
    def forwards(self) -> list[Tensor]:
        """The weights of each forward, as in `weights`: for inputs of different lengths."""
        each = zip(*self._sinks, strict=True)
        return [torch.stack(layers, 1) if self._layered else layers[0] for layers in each]

    @property
    def weights(self) -> Tensor:
        """The segments of all forwards in order; rows (the last dimension) sum to 1.

        Shape: `(B, layers, heads, tokens, tokens)` of a transformer, queries before keys; `(B, heads or targets,
        frames, window)` of an attention GRU, whose weight w of frame t is on input frame t − (window − 1) + w.

        Raises:
            RuntimeError: the model was not applied.
            ValueError: the inputs had different lengths.
        """
        if not self._sinks[0]:
            raise RuntimeError("no attention was recorded: apply the model inside `with record_attention(model)`")
        each = self.forwards
        if len({weights.shape[1:] for weights in each}) > 1:
            raise ValueError(f"inputs had different lengths ({', '.join(str(tuple(w.shape)) for w in each[:3])}…): "
                             "take the list `forwards`")
        return torch.cat(each)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[Recorded]:
    """`with record_attention(model) as attention: model(batch)`; then `attention.weights`.

    Raises:
        ValueError: the model has no such attention, or is recorded already.
    """
    layers: list[SelfAttention | AttentionGRU] = [
        module for module in model.modules() if isinstance(module, SelfAttention | AttentionGRU)]
    recurrent = sum(isinstance(layer, AttentionGRU) for layer in layers)
    if not layers or recurrent > 1 or 0 < recurrent < len(layers):
        raise ValueError(f"{type(model).__name__} has no attention to record, or of several kinds: expected a model "
                         "with layers of bm.models.eeg_transformer.SelfAttention, or one attention GRU "
                         "(bm.models.encoders.attention_gru.AttentionGRU)")
    if any(layer.sink is not None for layer in layers):
        raise ValueError("this model's attention is being recorded already: leave the other record_attention first")
    sinks: list[list[Tensor]] = [[] for _ in layers]
    for layer, sink in zip(layers, sinks, strict=True):
        layer.sink = sink
    try:
        yield Recorded(sinks, layered=not recurrent)
    finally:
        for layer in layers:
            layer.sink = None


def rollout(weights: Tensor, head_fusion: HeadFusion = "mean", residual: bool = True, reference: bool = False
            ) -> Tensor:
    """Attention from the outputs to the input tokens through all layers (Abnar & Zuidema 2020,
    doi:10.18653/v1/2020.acl-main.385): A_L · … · A_1, where A_l is the layer's attention with heads fused.

    Args:
        weights: from `record_attention`.
        head_fusion: over heads; "max" and "min" are normalised to rows that sum to 1 again.
        residual: each A_l is ½ A_l + ½ I, as each layer adds its output to its input.
        reference: as the original program: A_1 · … · A_L (the order reversed), not normalised, and no residual
            whatever `residual` says.

    Shape: `(B, layers, heads, S, S)` → `(B, S, S)`; rows (outputs) sum to 1 unless `reference`.
    Errors: ValueError for another shape or fusion.
    """
    if weights.ndim != 5 or weights.shape[3] != weights.shape[4]:
        raise ValueError(f"weights have shape {tuple(weights.shape)}, expected (B, layers, heads, S, S)")
    if head_fusion not in ("mean", "max", "min"):
        raise ValueError(f"head_fusion={head_fusion!r}, expected mean, max or min")
    fused = getattr(weights, {"mean": "mean", "max": "amax", "min": "amin"}[head_fusion])(dim=2)
    if not reference:
        fused = fused / fused.sum(-1, keepdim=True).clamp_min(1e-12)
        if residual:
            fused = (fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)) / 2
    result = fused[:, 0]
    for layer in range(1, fused.shape[1]):
        result = result @ fused[:, layer] if reference else fused[:, layer] @ result
    return result


def class_attention(rolled: Tensor, reference: bool = False) -> Tensor:
    """What the class token sees of each other token, 1 for the most seen one of each segment.

    Args:
        rolled: from `rollout`.
        reference: divided by the largest value of the whole batch, as the original program did.

    Shape: `(B, S, S)` → `(B, S - 1)`.
    """
    row = rolled[:, 0, 1:]
    return row / (row.amax() if reference else row.amax(-1, keepdim=True)).clamp_min(1e-12)


def channel_map(attention: Tensor, model: BrainModel) -> Tensor:
    """Values per token on channels and times; NaN for channels that the model ignores. Tokens are channel-major.

    Shape: `(B, tokens)` → `(B, C, tokens per channel)`.
    Errors: ValueError if the model is no `EEGTransformer` or has another number of tokens.
    """
    if not isinstance(model, EEGTransformer) or attention.shape[-1] != model.n_tokens:
        raise ValueError(f"{attention.shape[-1]} values of tokens do not fit {type(model).__name__}: expected an "
                         "EEGTransformer, and a value for each token but the class token")
    out = attention.new_full((len(attention), model.spec.channels, model.options.tokens), torch.nan)
    out[:, model.kept] = attention.reshape(len(attention), -1, model.options.tokens)
    return out
