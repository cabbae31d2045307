"""The convolutional brain model of Défossez et al. 2023 (doi:10.1038/s42256-023-00714-5)."""
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec
from bm.models.base import BrainModel, hidden_sizes, parse_options, subject_channels
from bm.models.blocks.conv import Activation, ConvOptions, ConvSequence, make_activation
from bm.models.blocks.dual_path import DualPathRNN
from bm.models.blocks.spatial import ChannelDropout, Montages, SpatialAttention
from bm.models.blocks.stft import STFT
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers


@dataclass(frozen=True)
class SimpleConvOptions:
    """Options of `SimpleConv`, in the order in which they act.

    Sensors: `subsample_meg_channels` keeps that many random sensors (0: all); `dropout` is the radius of the disc
    dropped from the sensors, `dropout_rescale` makes up for it; `merger` is spatial attention to `merger_channels`
    with `merger_pos_dim` (2n²), dropped disc `merger_dropout`, `merger_penalty` on concentrated weights, and weights
    per subject if `merger_per_subject`; `initial_linear` channels out of `initial_depth` 1×1 convolutions, ended by an
    activation if `initial_nonlin`; `subject_layers` with as many outputs as inputs or `hidden` ("subject_layers_dim"),
    starting at the identity if `subject_layers_id`; `n_fft` samples of a spectrogram, complex or not (`fft_complex`);
    `subject_dim` of an embedding of scale `embedding_scale`.

    Encoders: `concatenate` merges the branches first; `hidden` channels per branch, growing by `growth` per layer;
    `depth` to `glu_glu` as in `ConvOptions`; `gelu`, else `relu_leakiness`.

    Head: `dual_path` recurrent layers; `linear_out` or `complex_out` (one hidden layer), else the last layer of the
    encoder gives the output.
    """

    hidden: int | Mapping[str, int] = 320
    concatenate: bool = False
    depth: int = 4
    linear_out: bool = False
    complex_out: bool = False
    kernel_size: int = 5
    dilation_growth: int = 2
    dilation_period: int | None = None
    skip: bool = False
    post_skip: bool = False
    growth: float = 1.0
    scale: float | None = None
    rewrite: bool = False
    groups: int = 1
    glu: int = 0
    glu_context: int = 0
    glu_glu: bool = True
    gelu: bool = False
    dual_path: int = 0
    conv_dropout: float = 0.0
    dropout_input: float = 0.0
    batch_norm: bool = False
    relu_leakiness: float = 0.0
    subject_dim: int = 64
    subject_layers: bool = False
    embedding_scale: float = 1.0
    subject_layers_dim: str = "input"
    subject_layers_id: bool = False
    n_fft: int | None = None
    fft_complex: bool = True
    merger: bool = False
    merger_pos_dim: int = 2048
    merger_channels: int = 270
    merger_dropout: float = 0.2
    merger_penalty: float = 0.0
    merger_per_subject: bool = False
    dropout: float = 0.0
    dropout_rescale: bool = True
    initial_linear: int = 0
    initial_depth: int = 1
    initial_nonlin: bool = False
    subsample_meg_channels: int = 0

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd so that outputs are as long as inputs, got {self.kernel_size}")
        if self.depth < 1 or self.initial_depth < 1:
            raise ValueError(f"depth and initial_depth must be at least 1, got {self.depth}, {self.initial_depth}")
        if self.linear_out and self.complex_out:
            raise ValueError("linear_out and complex_out are two heads: choose one")
        if self.n_fft and not (self.linear_out or self.complex_out):
            raise ValueError("n_fft needs linear_out or complex_out, whose transposed convolution restores the rate")

    def convolutions(self) -> ConvOptions:
        """Options of the encoders."""
        return ConvOptions(
            kernel=self.kernel_size, dilation_growth=self.dilation_growth, dilation_period=self.dilation_period,
            batch_norm=self.batch_norm, activation=make_activation(self.gelu, self.relu_leakiness),
            activation_on_last=self.linear_out or self.complex_out, relu_leakiness=self.relu_leakiness,
            dropout=self.conv_dropout, dropout_input=self.dropout_input, groups=self.groups, skip=self.skip,
            scale=self.scale, post_skip=self.post_skip, rewrite=self.rewrite, glu=self.glu,
            glu_context=self.glu_context, glu_glu=self.glu_glu)


class SimpleConv(BrainModel):
    """Spatial attention, subject layers and a stack of dilated residual convolutions.

    Args:
        spec, out_channels, in_channels, n_subjects: see `BrainModel`.
        options: see `SimpleConvOptions`; `model=clip_conv` sets those of the paper.

    Shape: a batch of `(B, C, T)` → `(B, out_channels, T)`.
    Errors: ValueError for an unknown option, naming the nearest, or one out of range.
    """

    def __init__(self, spec: BatchSpec, out_channels: int, *, in_channels: Mapping[str, int] | None = None,
                 n_subjects: int | None = None, **options: Any):
        super().__init__(spec, out_channels, in_channels, n_subjects)
        self.options = opts = parse_options(SimpleConvOptions, options, "simpleconv")
        hidden = hidden_sizes(opts.hidden, self.in_channels)
        activation = make_activation(opts.gelu, opts.relu_leakiness)
        # Parameters are created in the order of the reference, so that a seed means the same weights.
        sizes = dict(self.in_channels)
        sizes["meg"] = self._build_sensors(opts, hidden["meg"], activation)
        self.stft = STFT(opts.n_fft, opts.fft_complex) if opts.n_fft else None
        if self.stft is not None:
            sizes = {name: size * self.stft.factor for name, size in sizes.items()}
        self.embedding = None
        if opts.subject_dim:
            self.embedding = SubjectEmbedding(self.n_subjects, opts.subject_dim, opts.embedding_scale)
            sizes["meg"] += opts.subject_dim
        if opts.concatenate:
            sizes, hidden = {"all": sum(sizes.values())}, {"all": sum(hidden.values())}
        channels = {name: [size] + [int(round(hidden[name] * opts.growth ** k)) for k in range(opts.depth)]
                    for name, size in sizes.items()}
        headless = not (opts.linear_out or opts.complex_out)
        if headless:
            if len(channels) > 1:
                raise ValueError("two branches need linear_out or complex_out to be brought together, or concatenate")
            next(iter(channels.values()))[-1] = out_channels
        final = sum(branch[-1] for branch in channels.values())
        self.dual_path = DualPathRNN(final, opts.dual_path) if opts.dual_path else None
        self.head = nn.Identity() if headless else _head(final, out_channels, opts, activation)
        self.encoders = nn.ModuleDict({name: ConvSequence(branch, opts.convolutions())
                                       for name, branch in channels.items()})

    def _build_sensors(self, opts: SimpleConvOptions, hidden: int, activation: Activation) -> int:
        """Makes what acts on the sensors; returns the number of channels it gives."""
        size = self.spec.channels
        if opts.subsample_meg_channels:
            keep = list(range(size))
            random.Random(1234).shuffle(keep)
            selection = torch.zeros(size)
            selection[keep[:opts.subsample_meg_channels]] = 1
            self.register_buffer("selection", selection, persistent=False)
        self.dropout = ChannelDropout(opts.dropout, opts.dropout_rescale) if opts.dropout else None
        self.merger = None
        if opts.merger:
            subjects = self.n_subjects if opts.merger_per_subject else None
            self.merger = SpatialAttention(opts.merger_channels, opts.merger_pos_dim, opts.merger_dropout, subjects,
                                           opts.merger_penalty)
            size = opts.merger_channels
        linear: list[nn.Module] = []
        if opts.initial_linear:
            for index in range(opts.initial_depth):
                linear += [activation()] if index else []
                linear.append(nn.Conv1d(size, opts.initial_linear, 1))
                size = opts.initial_linear
            linear += [activation()] if opts.initial_nonlin else []
        self.initial = nn.Sequential(*linear)
        self.subject_layers = None
        if opts.subject_layers:
            out = subject_channels(opts.subject_layers_dim, size, hidden)
            self.subject_layers = SubjectLayers(size, out, self.n_subjects, opts.subject_layers_id)
            size = out
        return size

    def _sensors(self, x: Tensor, batch: Batch) -> Tensor:
        if self.options.subsample_meg_channels:
            x = x * self.get_buffer("selection").to(x.dtype)[:, None]
        if self.dropout is not None or self.merger is not None:
            montages = Montages.of(batch.layout, batch.channel_mask, batch.recording, batch.subject,
                                   by_subject=self.options.merger_per_subject)
            if self.dropout is not None:
                x = self.dropout(x, montages)
            if self.merger is not None:
                x = self.merger(x, montages)
        x = self.initial(x)
        return x if self.subject_layers is None else self.subject_layers(x, batch.subject)

    def forward(self, batch: Batch) -> Tensor:
        inputs = self.branches(batch)
        length = inputs["meg"].shape[-1]
        inputs["meg"] = self._sensors(inputs["meg"], batch)
        if self.stft is not None:
            inputs = {name: self.stft(x) for name, x in inputs.items()}
        if self.embedding is not None:
            inputs["meg"] = self.embedding(inputs["meg"], batch.subject)
        if self.options.concatenate:
            inputs = {"all": torch.cat([inputs[name] for name in sorted(inputs)], dim=1)}
        x = torch.cat([self.encoders[name](inputs[name]) for name in sorted(inputs)], dim=1)
        if self.dual_path is not None:
            x = self.dual_path(x)
        return self.head(x)[..., :length]


def _head(inside: int, outside: int, opts: SimpleConvOptions, activation: Activation) -> nn.Module:
    kernel, stride, padding = (opts.n_fft, opts.n_fft // 2, opts.n_fft // 4) if opts.n_fft else (1, 1, 0)
    if opts.linear_out:
        return nn.Sequential(nn.ConvTranspose1d(inside, outside, kernel, stride, padding))
    # The hidden layer is made first, as in the reference.
    hidden = nn.Conv1d(inside, 2 * inside, 1)
    return nn.Sequential(hidden, activation(), nn.ConvTranspose1d(2 * inside, outside, kernel, stride, padding))
