"""What all encoders share: from sound to the responses of many units, in four parts, strictly causal."""
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional


def left_pad(x: Tensor, frames: int) -> Tensor:
    """`x` (…, T) with `frames` zeros before its first frame: what keeps a convolution causal."""
    return functional.pad(x, (frames, 0)) if frames else x


class Core(nn.Module):
    """The part of an encoder between the (prefiltered) spectrogram and the readout: (B, C, F, T) → (B, H, T).

    A subclass is built as `cls(in_channels=C, n_bands=F, n_out=N, rate=frames per second, **options)`; the options are
    its other arguments. It says which readout it has unless told otherwise: `readout` (a name in `READOUTS`) and
    `readout_defaults`.

    Args:
        in_channels: C, channels of the prefilter (1 without one).
        n_bands: F.
        out_features: H.
        history: input frames before t that output t depends on; None if unbounded (recurrent).
        hop: input frames per output frame, 1 except for a core that reads a front-end at the rate of the audio.
    """

    readout: ClassVar[str] = "none"
    readout_defaults: ClassVar[Mapping[str, Any]] = {}
    at_audio_rate: ClassVar[bool] = False  # True: the front-end gives one frame per sample, the core downsamples
    wav2spec_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # options of a front-end other than its own

    def __init__(self, *, in_channels: int, n_bands: int, out_features: int, history: int | None, hop: int = 1):
        super().__init__()
        sizes = {"in_channels": in_channels, "n_bands": n_bands, "out_features": out_features, "hop": hop}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} of {type(self).__name__} must be at least 1, got {size}")
        self.in_channels, self.n_bands, self.out_features, self.hop = in_channels, n_bands, out_features, hop
        self.history = history

    def tail(self, x: Tensor, frames: int) -> Tensor:
        """The last `frames` of the output alone, (B, H, frames): cheaper, where a core can do without the others."""
        return self(x)[..., -frames:]


class AudioEncoder(nn.Module):
    """wav2spec → prefiltering → core → readout: (B, 1, F, T), or (B, 1, samples) with a wav2spec, → (B, N, 1, T).

    Strictly causal: output frame t depends on input frames ≤ t only (of a waveform: on samples before the end of
    frame t).

    Args:
        core: (B, C, F, T) → (B, H, T), see `Core`.
        readout: (B, H, T) → (B, N, 1, T).
        prefiltering: (B, 1, F, T) → (B, C, F, T), with `out_channels` (= C) and `history`.
        wav2spec: (B, 1, samples) → (B, 1, F, T), with `out_channels` (= F), `hop` (samples per frame), `history`
            (frames).

    Errors: ValueError if the parts do not fit together, or an input does not fit them.
    """

    def __init__(self, core: Core, readout: nn.Module, *, prefiltering: nn.Module | None = None,
                 wav2spec: nn.Module | None = None):
        super().__init__()
        channels = 1 if prefiltering is None else prefiltering.out_channels
        if channels != core.in_channels:
            raise ValueError(f"the core takes {core.in_channels} channels, the prefilter gives {channels}")
        if wav2spec is not None and wav2spec.out_channels != core.n_bands:
            raise ValueError(f"the core takes {core.n_bands} bands, the front-end gives {wav2spec.out_channels}")
        self.wav2spec, self.prefiltering, self.core, self.readout = wav2spec, prefiltering, core, readout

    @property
    def history(self) -> int | None:
        """Frames before t that output t depends on, all parts together; None: unbounded."""
        total = 0
        for part in (self.wav2spec, self.prefiltering, self.core):
            if part is not None:
                if part.history is None:
                    return None
                total += int(part.history)  # type: ignore[arg-type]
        return math.ceil(total / self.core.hop)

    @property
    def hop(self) -> int:
        """Input samples (with a wav2spec) or frames per output frame."""
        return self.core.hop * (1 if self.wav2spec is None else int(self.wav2spec.hop))  # type: ignore[arg-type]

    def frames(self, x: Tensor) -> Tensor:
        """The spectrogram (B, 1, F, T) of a waveform (B, 1, samples); the input itself without a wav2spec."""
        if self.wav2spec is None:
            return x
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] < self.hop or x.shape[2] % self.hop:
            raise ValueError(f"this encoder takes waveforms (B, 1, samples), samples a multiple of {self.hop}, "
                             f"got shape {tuple(x.shape)}")
        return self.wav2spec(x)

    def respond(self, frames: Tensor) -> Tensor:
        """Responses (B, N, 1, T) to a spectrogram (B, 1, F, T)."""
        if frames.ndim != 4 or frames.shape[1] != 1 or frames.shape[2] != self.core.n_bands:
            raise ValueError(f"this encoder takes spectrograms (B, 1, {self.core.n_bands}, T), "
                             f"got shape {tuple(frames.shape)}")
        return self.readout(self.core(frames if self.prefiltering is None else self.prefiltering(frames)))

    def forward(self, x: Tensor) -> Tensor:
        return self.respond(self.frames(x))
