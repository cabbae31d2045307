"""Convolutions, an LSTM, and convolutions back: the encoding model of Chehab, Défossez et al. 2022 (Deep Recurrent
Encoder, doi:10.51628/001c.38668), also used as a decoder."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec
from bm.models.base import BrainModel, hidden_sizes, parse_options, subject_channels
from bm.models.blocks.attention import LocalAttention
from bm.models.blocks.conv import ConvOptions, ConvSequence, make_activation
from bm.models.blocks.recurrent import TimeLSTM
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers


@dataclass(frozen=True)
class ConvRNNOptions:
    """Options of `ConvRNN`.

    `hidden` channels per branch, growing by `growth` over `depth` layers of `kernel_size` and `stride` (`concatenate`
    merges the branches first), `batch_norm`, `relu_leakiness`, `conv_dropout`, `dropout_input`; `lstm` layers, which
    may be bidirectional or read backwards (`flip_lstm`), with `lstm_dropout`; `attention` residual layers of `heads`;
    `subject_dim` of an embedding appended at `embedding_location` (a subset of "input" and "lstm") with
    `embedding_scale`; `subject_layers` on the input; `linear_out` or `complex_out` heads, else the decoder ends in the
    output.
    """

    hidden: int | Mapping[str, int] = 512
    concatenate: bool = False
    depth: int = 2
    linear_out: bool = False
    complex_out: bool = False
    kernel_size: int = 4
    stride: int = 2
    growth: float = 1.0
    lstm: int = 4
    bidirectional_lstm: bool = False
    flip_lstm: bool = False
    attention: int = 0
    heads: int = 4
    conv_dropout: float = 0.0
    lstm_dropout: float = 0.0
    dropout_input: float = 0.0
    batch_norm: bool = False
    relu_leakiness: float = 0.0
    subject_dim: int = 64
    embedding_location: Sequence[str] = ("lstm",)
    embedding_scale: float = 1.0
    subject_layers: bool = False
    subject_layers_dim: str = "input"

    def __post_init__(self) -> None:
        if self.depth < 1 or self.kernel_size < 2 or self.lstm < 0:
            raise ValueError(f"convrnn needs depth ≥ 1, kernel_size ≥ 2, lstm ≥ 0: got {self.depth}, "
                             f"{self.kernel_size}, {self.lstm}")
        if isinstance(self.embedding_location, str) or set(self.embedding_location) - {"lstm", "input"}:
            raise ValueError(f"embedding_location is a list of 'lstm' and 'input', got {self.embedding_location!r}")
        if self.linear_out and self.complex_out:
            raise ValueError("linear_out and complex_out are two heads: choose one")


class ConvRNN(BrainModel):
    """Strided encoder per branch, LSTM, local attention, and a transposed decoder.

    Args:
        spec, out_channels, in_channels, n_subjects: see `BrainModel`.
        options: see `ConvRNNOptions`.

    Shape: a batch of `(B, C, T)` (and features `(B, F, T)`) → `(B, out_channels, T)`.
    Errors: ValueError for an unknown option, naming the nearest, or one out of range.
    """

    def __init__(self, spec: BatchSpec, out_channels: int, *, in_channels: Mapping[str, int] | None = None,
                 n_subjects: int | None = None, **options: Any):
        super().__init__(spec, out_channels, in_channels, n_subjects)
        self.options = opts = parse_options(ConvRNNOptions, options, "convrnn")
        sizes, hidden = dict(self.in_channels), hidden_sizes(opts.hidden, self.in_channels)
        self.subject_layers = None
        if opts.subject_layers:
            sizes["meg"] = subject_channels(opts.subject_layers_dim, sizes["meg"], hidden["meg"])
            self.subject_layers = SubjectLayers(spec.channels, sizes["meg"], self.n_subjects)
        self.embedding = None
        places = set(opts.embedding_location) if opts.subject_dim else set()
        if places:
            self.embedding = SubjectEmbedding(self.n_subjects, opts.subject_dim, opts.embedding_scale)
        self.embed_input, self.embed_lstm = "input" in places, "lstm" in places
        if self.embed_input:
            sizes["meg"] += opts.subject_dim
        if opts.concatenate:
            sizes, hidden = {"all": sum(sizes.values())}, {"all": sum(hidden.values())}
        channels = {name: [size] + [int(round(hidden[name] * opts.growth ** k)) for k in range(opts.depth)]
                    for name, size in sizes.items()}
        self.encoders = nn.ModuleDict({name: ConvSequence(branch, self._convolutions(decode=False))
                                       for name, branch in channels.items()})
        self._build_middle(sum(branch[-1] for branch in channels.values()))

    def _build_middle(self, width: int) -> None:
        """Makes the LSTM, the attention, the decoder and the head; `width` is that of the encoders together."""
        opts, inside = self.options, width + (self.options.subject_dim if self.embed_lstm else 0)
        self.lstm = None
        if opts.lstm:
            self.lstm = TimeLSTM(inside, width, opts.lstm, opts.lstm_dropout, opts.bidirectional_lstm, opts.flip_lstm)
            inside = width
        self.attentions = nn.ModuleList(LocalAttention(inside, opts.heads) for _ in range(opts.attention))
        channels = [inside] + [int(round(width / opts.growth ** k)) for k in range(1, opts.depth + 1)]
        self.head: nn.Module = nn.Identity()
        if opts.linear_out:
            self.head = nn.Conv1d(channels[-1], self.out_channels, 1)
        elif opts.complex_out:
            self.head = nn.Sequential(nn.Conv1d(channels[-1], 2 * channels[-1], 1), nn.ReLU(),
                                      nn.Conv1d(2 * channels[-1], self.out_channels, 1))
        else:
            channels[-1] = self.out_channels
        self.decoder = ConvSequence(channels, self._convolutions(decode=True))

    def _convolutions(self, decode: bool) -> ConvOptions:
        opts = self.options
        return ConvOptions(
            kernel=opts.kernel_size, stride=opts.stride, batch_norm=opts.batch_norm, dropout=opts.conv_dropout,
            dropout_input=0.0 if decode else opts.dropout_input, transposed=decode,
            activation=make_activation(False, opts.relu_leakiness),
            activation_on_last=not decode or opts.linear_out or opts.complex_out)

    def valid_length(self, length: int) -> int:
        """The shortest length to pad to so that the decoder gives at least `length` samples (361 → 362)."""
        opts, padding = self.options, self.options.kernel_size // 2
        short = length
        for _ in range(opts.depth):
            short = -(-short // opts.stride) + 1
        for _ in range(opts.depth):
            short = (short - 1) * opts.stride
        padded = max(short, length)

        def decoded(samples: int) -> int:
            for _ in range(opts.depth):
                samples = (samples + 2 * padding - opts.kernel_size) // opts.stride + 1
            for _ in range(opts.depth):
                samples = (samples - 1) * opts.stride - 2 * padding + opts.kernel_size
            return samples

        for extra in range(2 * opts.stride ** opts.depth):  # kernels other than 2·stride lose a few more samples
            if decoded(padded + extra) >= length:
                return padded + extra
        raise ValueError(f"kernel_size {opts.kernel_size} is too small for stride {opts.stride} and depth "
                         f"{opts.depth}: the decoder cannot give {length} samples")

    def forward(self, batch: Batch) -> Tensor:
        inputs = self.branches(batch)
        length = inputs["meg"].shape[-1]
        if self.subject_layers is not None:
            inputs["meg"] = self.subject_layers(inputs["meg"], batch.subject)
        if self.embedding is not None and self.embed_input:
            inputs["meg"] = self.embedding(inputs["meg"], batch.subject)
        if self.options.concatenate:
            inputs = {"all": torch.cat([inputs[name] for name in sorted(inputs)], dim=1)}
        pad = (0, self.valid_length(length) - length)
        x = torch.cat([self.encoders[name](nn.functional.pad(inputs[name], pad)) for name in sorted(inputs)], dim=1)
        if self.embedding is not None and self.embed_lstm:
            x = self.embedding(x, batch.subject)
        if self.lstm is not None:
            x = self.lstm(x)
        for attention in self.attentions:
            x = x + attention(x)
        return self.head(self.decoder(x))[..., :length]
