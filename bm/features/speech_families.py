"""Families of audio models of Hugging Face: what each wants to hear, and which instant each of its rows is about.

A family is a `Frontend`, built from a model's `config.json`. Row j of a model is about the samples
[j · hop, j · hop + receptive) at 16 kHz, so n samples have ⌊(n − receptive) / hop⌋ + 1 rows.
"""
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bm.config import nearest
from bm.features.model_files import read_settings

if TYPE_CHECKING:
    import torch

#: Hz, of all these models
RATE = 16_000


class Frontend(ABC):
    """What one family of models needs.

    Attributes: `hop` and `receptive` in samples; `max_rows` that one window may have (None: any); `robust`, whether
    shorter sounds may be padded to a longer one in a batch without changing their rows; `normalizes`, whether the
    model hears samples of mean 0 and variance 1; `n_layers`; `width` of a hidden state.
    """

    types: ClassVar[tuple[str, ...]]
    hop: int = 320
    receptive: int = 400
    max_rows: int | None = None
    robust: bool = True
    normalizes: bool = False

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.folder = folder
        self.n_layers: int = settings.get("num_hidden_layers", 12)
        self.width: int = settings.get("hidden_size", 768)

    def rows(self, samples: int) -> int:
        """Rows the model gives for so many samples."""
        return max((samples - self.receptive) // self.hop + 1, 0)

    def build(self, random: bool) -> Any:
        """The network: from its weights, or with `random` from its config alone."""
        from transformers import AutoConfig, AutoModel
        config = AutoConfig.from_pretrained(self.folder)
        config.add_adapter = False  # an adapter would halve the rate of the last layer
        if random:
            return AutoModel.from_config(config)
        return AutoModel.from_pretrained(self.folder, config=config)

    @abstractmethod
    def inputs(self, sounds: list[np.ndarray]) -> dict[str, "torch.Tensor"]:
        """Arguments of the model's `forward` for a batch of sounds `(samples,)`, padded to the longest."""

    def states(self, state: "torch.Tensor") -> "torch.Tensor":
        """A hidden state as `(batch, rows, width)`."""
        return state


class Waveform(Frontend):
    """wav2vec 2.0 and its kin: a strided convolution over samples (of `conv_width` channels), then a transformer.

    `local`: whether the convolution sees no further than its receptive field.
    """

    types = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "wav2vec2-conformer")
    #: these zero the padding before everything that mixes instants
    _masked = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        super().__init__(settings, folder)
        strides = settings.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))
        kernels = settings.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
        self.hop, self.receptive = int(np.prod(strides)), 1
        for stride, kernel in zip(reversed(strides), reversed(kernels), strict=True):
            self.receptive = (self.receptive - 1) * stride + kernel
        # a group norm (wav2vec2-base) takes its statistics over the padding too: those run one by one
        self.local = settings.get("feat_extract_norm") == "layer" or settings["model_type"] == "data2vec-audio"
        self.robust = (settings["model_type"] in self._masked and self.local
                       and not settings.get("conv_pos_batch_norm", False))  # which makes padding other than 0
        self.conv_width: int = settings.get("conv_dim", [512])[-1]
        self.normalizes = read_settings(folder, "preprocessor_config.json").get("do_normalize", True)

    def inputs(self, sounds: list[np.ndarray]) -> dict[str, "torch.Tensor"]:
        import torch
        lengths = [len(sound) for sound in sounds]
        values = np.zeros((len(sounds), max(lengths)), np.float32)
        for row, sound in zip(values, sounds, strict=True):
            row[:len(sound)] = sound
        if min(lengths) == max(lengths):
            return {"input_values": torch.from_numpy(values)}
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        return {"input_values": torch.from_numpy(values), "attention_mask": torch.from_numpy(mask).long()}


class Filterbank(Frontend):
    """w2v-BERT 2.0: pairs of 10-ms frames of 80 mel filters, each filter standardised over the window."""

    types = ("wav2vec2-bert",)
    receptive = 560

    def inputs(self, sounds: list[np.ndarray]) -> dict[str, "torch.Tensor"]:
        from transformers import SeamlessM4TFeatureExtractor
        return dict(_extractor(SeamlessM4TFeatureExtractor, self.folder)(
            sounds, sampling_rate=RATE, return_tensors="pt"))


class LogMel(Frontend):
    """Whisper's encoder: a log mel spectrogram, centred frames, always padded with silence to 30 s."""

    types = ("whisper",)
    receptive = 320  # of centred frames: row j is about the 20 ms from j · 20 ms on

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        super().__init__(settings, folder)
        self.n_layers, self.width = settings["encoder_layers"], settings["d_model"]
        self.max_rows = settings.get("max_source_positions", 1500)
        self.n_mels = settings.get("num_mel_bins", 80)
        self.encoder_alone = settings.get("architectures") == ["WhisperEncoder"] or _has_encoder_alone(folder)

    def build(self, random: bool) -> Any:
        from transformers import AutoConfig, WhisperModel
        from transformers.models.whisper.modeling_whisper import WhisperEncoder
        if random:
            return WhisperEncoder(AutoConfig.from_pretrained(self.folder))
        if self.encoder_alone:
            return WhisperEncoder.from_pretrained(self.folder)
        return WhisperModel.from_pretrained(self.folder).get_encoder()

    def inputs(self, sounds: list[np.ndarray]) -> dict[str, "torch.Tensor"]:
        from transformers import WhisperFeatureExtractor
        seconds = (self.max_rows or 1500) * self.hop // RATE
        extractor = _extractor(WhisperFeatureExtractor, self.folder, feature_size=self.n_mels, chunk_length=seconds)
        return {"input_features": extractor(sounds, sampling_rate=RATE, return_tensors="pt").input_features}


class Patches(Frontend):
    """AST: patches of a mel spectrogram, always padded to `max_length` frames; patches of one time are averaged."""

    types = ("audio-spectrogram-transformer",)

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        super().__init__(settings, folder)
        patch, self.mels = settings.get("patch_size", 16), settings.get("num_mel_bins", 128)
        step, self.frames = settings.get("time_stride", 10), settings.get("max_length", 1024)
        self.hop, self.receptive = 160 * step, 160 * (patch - 1) + 400
        self.max_rows = (self.frames - patch) // step + 1
        self.bands = (self.mels - patch) // settings.get("frequency_stride", 10) + 1

    def inputs(self, sounds: list[np.ndarray]) -> dict[str, "torch.Tensor"]:
        from transformers import ASTFeatureExtractor
        extractor = _extractor(ASTFeatureExtractor, self.folder, num_mel_bins=self.mels, max_length=self.frames)
        return {"input_values": extractor(sounds, sampling_rate=RATE, return_tensors="pt").input_values}

    def states(self, state: "torch.Tensor") -> "torch.Tensor":
        patches = state[:, -self.bands * (self.max_rows or 0):]  # after the class and distillation tokens
        return patches.unflatten(1, (self.bands, -1)).mean(1)


FAMILIES: dict[str, type[Frontend]] = {kind: family for family in (Waveform, Filterbank, LogMel, Patches)
                                       for kind in family.types}


def frontend(folder: Path) -> Frontend:
    """What the model in `folder` needs.

    Raises:
        ValueError: a model of no known family.
    """
    settings = read_settings(folder)
    kind = settings.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"{folder / 'config.json'} is of a model of type {kind!r}; known are {', '.join(FAMILIES)}"
                         f"{nearest(str(kind), FAMILIES)}. Write a feature AudioNet for any other")
    return FAMILIES[kind](settings, folder)


def _extractor(kind: Any, folder: Path, **otherwise: Any) -> Any:
    """The model's own feature extractor, with its settings if they lie beside it."""
    if (folder / "preprocessor_config.json").is_file():
        return kind.from_pretrained(folder)
    return kind(**otherwise)


def _has_encoder_alone(folder: Path) -> bool:
    """Whether the weights are named as a bare encoder's (the start of a safetensors file lists its tensors)."""
    import json
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            names = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        if any(name.startswith("layers.") for name in names):
            return True
    return False
