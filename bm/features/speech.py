"""Hidden states of speech models: wav2vec 2.0, HuBERT, WavLM, w2v-BERT 2.0, Whisper, AST and their kin.

Each chunk of sound is heard by itself; what is longer than a window is heard in overlapping pieces, whose ends are
dropped. `transformers` is imported when the first chunk is computed, not before.
"""
import copy
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from bm.features.audio import resample
from bm.features.base import FeatureContext, SoundFeature, register_feature
from bm.features.model_files import files_identity, find_model, resolve_layers
from bm.features.speech_families import RATE, Frontend, Waveform, frontend
from bm.store import digest

XLSR = "facebook/wav2vec2-large-xlsr-53"
#: s of sound in a batch, padding included
_BATCH_S = {"cpu": 30, "cuda": 240}


class Piece(NamedTuple):
    """Rows `first` to `stop` of a chunk are computed together; `keep` to `until` are used."""

    first: int
    stop: int
    keep: int
    until: int


def cut(rows: int, window: int, margin: int) -> list[Piece]:
    """Pieces of at most `window` rows that cover `rows`, each used but for `margin` rows where others overlap it."""
    if rows <= window:
        return [Piece(0, rows, 0, rows)]
    out, core = [], window - 2 * margin
    for start in range(0, rows - 2 * margin, core):
        last = start + window >= rows
        first = rows - window if last else start  # the last one too hears a whole window
        until = rows if last else start + margin + core
        out.append(Piece(first, first + window, start + margin if start else 0, until))
    return out


class HuggingFaceFeature(SoundFeature):
    """What all features of Hugging Face models share; `states` says what is taken from the network.

    Args:
        model: `org/name` on the hub (fetched by `python -m scripts.features fetch`), or a folder.
        normalized: the chunk's samples get mean 0 and variance 1; None: as the model was trained.
        random: the untrained twin, with the weights that `seed` draws: the same in every process.
        max_window_s: longer chunks are heard in pieces (never longer than the model's own window).
        margin_s: s dropped at each end of a piece that another overlaps.
        mapping: "stride": row j is at j · hop, as the network's strides have it, and the last row is repeated where
            the sound ends before a whole receptive field; "ratio": the rows as they come, fewer by up to two, which
            `dset.feature_resampling=nearest` spreads over the chunk (Défossez et al. 2023: late by up to 20 ms at its
            end).
        precision: "bfloat16" is faster on recent GPUs.

    Raises:
        FileNotFoundError: no such model here, with the command that fetches it.
    """

    dtype = "float16"
    default = 0.0

    def __init__(self, model: str, normalized: bool | None, random: bool, seed: int, max_window_s: float,
                 margin_s: float, mapping: Literal["stride", "ratio"], precision: Literal["float32", "bfloat16"],
                 context: FeatureContext) -> None:
        if mapping not in ("stride", "ratio") or precision not in ("float32", "bfloat16"):
            raise ValueError(f"mapping={mapping!r}, precision={precision!r}: expected stride or ratio, float32 or "
                             "bfloat16")
        self.folder = find_model(model, context.models)
        self.frontend: Frontend = frontend(self.folder)
        self.device, self.random, self.seed, self.mapping, self.precision = (context.device, random, seed, mapping,
                                                                             precision)
        self.normalized = self.frontend.normalizes if normalized is None else normalized
        self.rate, self.context_s = RATE / self.frontend.hop, float("inf")
        self.margin = round(margin_s * self.rate)
        self.window = min(int(max_window_s * self.rate), self.frontend.max_rows or int(1e9))
        if self.margin < 0 or self.window <= 2 * self.margin:
            raise ValueError(f"max_window_s={max_window_s}, margin_s={margin_s}: windows of "
                             f"{self.window / self.rate:g} s must be longer than two margins")
        self.model_name = model.rstrip("/").rpartition("/")[2]

    def identity(self) -> dict[str, Any]:
        files: dict[str, Any] = dict(files_identity(self.folder, weights=not self.random))
        if self.random:  # what is drawn depends on the libraries that draw
            files |= {"seed": self.seed, "torch": version("torch"), "transformers": version("transformers")}
        return {"feature": self.name, "version": 1, "model": self.model_name, "files": files,
                "normalized": self.normalized, "window": self.window, "margin": self.margin, "mapping": self.mapping,
                "precision": self.precision}

    def network(self) -> Any:
        """The network on its device, kept for the process."""
        import torch
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        files = digest(files_identity(self.folder, weights=not self.random))
        return _network(str(self.folder), files, self.seed if self.random else None, device)

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        return self.compute_many([(audio, rate)])[0]

    def compute_many(self, chunks: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        front = self.frontend
        sounds = [self._sound(audio, rate) for audio, rate in chunks]
        tracks = [np.empty((front.rows(len(sound)), self.dim), np.float32) for sound in sounds]
        jobs, parts = [], []
        for number, (sound, track) in enumerate(zip(sounds, tracks, strict=True)):
            for piece in cut(len(track), self.window, self.margin):
                stop = None if piece.stop == len(track) else (piece.stop - 1) * front.hop + front.receptive
                jobs.append((number, piece))
                parts.append(sound[piece.first * front.hop:stop])
        for batch in self._batches([len(part) for part in parts]):
            for at, rows in zip(batch, self._forward([parts[i] for i in batch]), strict=True):
                number, (first, _, keep, until) = jobs[at]
                tracks[number][keep:until] = rows[keep - first:until - first]
        return [self._on_time(track, len(audio) / rate) for track, (audio, rate) in zip(tracks, chunks, strict=True)]

    def _sound(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Samples at 16 kHz, normalised; silence is added to what is shorter than a receptive field."""
        sound = resample(np.asarray(audio, np.float32), rate, RATE)
        if self.normalized:
            sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        return np.pad(sound, (0, max(self.frontend.receptive - len(sound), 0)))

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of pieces to compute together, longest first; of one length where padding would change rows."""
        import torch
        cuda = self.device.startswith("cuda") or (self.device == "auto" and torch.cuda.is_available())
        budget = _BATCH_S["cuda" if cuda else "cpu"] * RATE
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            full = batch and (len(batch) + 1) * lengths[batch[0]] > budget
            if full or (batch and not self.frontend.robust and lengths[number] != lengths[batch[0]]):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _forward(self, sounds: list[np.ndarray]) -> list[np.ndarray]:
        """Rows `(n, dim)` float32 of each sound of a batch."""
        import torch
        network = self.network()
        device = next(network.parameters()).device
        inputs = {name: value.to(device) for name, value in self.frontend.inputs(sounds).items()}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16,
                                                    enabled=self.precision == "bfloat16"):
            states = self.states(network, inputs).float().cpu().numpy()
        if not np.abs(states).max() <= np.finfo(np.float16).max:
            raise ValueError(f"{self.name}: {self.model_name} gave values that float16 cannot hold (up to "
                             f"{np.abs(states).max():g}): choose other layers")
        return [state[:self.frontend.rows(len(sound))] for state, sound in zip(states, sounds, strict=True)]

    def states(self, network: Any, inputs: dict[str, Any]) -> Any:
        """A tensor `(batch, rows, dim)` of a batch of inputs."""
        raise NotImplementedError

    def _on_time(self, track: np.ndarray, seconds: float) -> np.ndarray:
        missing = int(np.ceil(seconds * self.rate - 1e-6)) - len(track)
        return track if self.mapping == "ratio" or missing <= 0 else np.pad(track, ((0, missing), (0, 0)), mode="edge")

    def piece_agreement(self, audio: np.ndarray, rate: int, window_s: float) -> np.ndarray:
        """How alike rows are when a sound is heard in one window and in pieces of `window_s`: `(n,)` correlations.

        Each is over dimensions, after each dimension's mean over the sound is subtracted.
        """
        pieces = copy.copy(self)
        pieces.window = int(window_s * self.rate)
        if pieces.window <= 2 * self.margin or self.frontend.rows(len(audio) * RATE // rate) > self.window:
            raise ValueError(f"window_s={window_s}: expected more than two margins ({2 * self.margin / self.rate:g} "
                             f"s), and a sound of at most {self.window / self.rate:g} s")
        whole, cut_up = (f.compute(audio, rate) for f in (self, pieces))
        a, b = (rows - whole.mean(0) for rows in (whole, cut_up))
        return (a * b).sum(1) / np.sqrt((a ** 2).sum(1) * (b ** 2).sum(1))


@register_feature
class SpeechModel(HuggingFaceFeature):
    """Hidden states of any audio model of Hugging Face: see `bm/features/speech_families.py` for the families.

    Rows: 50 a second (AST: 10). wav2vec-like row j sees the samples from j · 20 ms to j · 20 + 25 ms before anything
    mixes instants; Whisper's is centred on j · 20 ms; AST's begins at j · 100 ms and is 175 ms long.

    Seams: a model whose rows know their place in its window (Whisper, AST) says something else in pieces. For Whisper
    tiny.en, half-way, 24.7 s of real speech in pieces of 12 s against one window of 30 s, the median correlation of a
    row is 0.86, and 5 % are below 0.65; `piece_agreement` measures it for any model. No chunk of up to 30 s is cut.

    Args:
        layers: hidden states: ints are indices (0 the input of the first layer, k the output of layer k), floats
            relative depths from 0.0 to 1.0.
        reduce: "mean" of the layers, or "concat".
        others: see `HuggingFaceFeature`.
    """

    def __init__(self, model: str, layers: Sequence[int | float] = (0.5,), reduce: Literal["mean", "concat"] = "mean",
                 normalized: bool | None = None, random: bool = False, seed: int = 0, max_window_s: float = 60.0,
                 margin_s: float = 2.0, mapping: Literal["stride", "ratio"] = "stride",
                 precision: Literal["float32", "bfloat16"] = "float32", *, context: FeatureContext) -> None:
        super().__init__(model, normalized, random, seed, max_window_s, margin_s, mapping, precision, context)
        if reduce not in ("mean", "concat"):
            raise ValueError(f"reduce={reduce!r}: expected mean or concat")
        self.layers, self.reduce = resolve_layers(layers, self.frontend.n_layers), reduce
        self.dim = self.frontend.width * (len(self.layers) if reduce == "concat" else 1)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "layers": self.layers, "reduce": self.reduce}

    def states(self, network: Any, inputs: dict[str, Any]) -> Any:
        import torch
        hidden = network(**inputs, output_hidden_states=True).hidden_states
        chosen = [self.frontend.states(hidden[layer]).float() for layer in self.layers]
        return torch.stack(chosen).mean(0) if self.reduce == "mean" else torch.cat(chosen, -1)


@register_feature
class Wav2VecTransformer(SpeechModel):
    """Mean of hidden states of wav2vec 2.0: what Défossez et al. (2023) decode; 1024 dimensions, 50 rows a second.

    Their code hears each whole chunk at once and spreads its rows over the chunk: `mapping=ratio`.
    """

    def __init__(self, model: str = XLSR, layers: Sequence[int | float] = (14, 15, 16, 17, 18),
                 reduce: Literal["mean", "concat"] = "mean", normalized: bool = True, random: bool = False,
                 seed: int = 0, max_window_s: float = 60.0, margin_s: float = 2.0,
                 mapping: Literal["stride", "ratio"] = "stride",
                 precision: Literal["float32", "bfloat16"] = "float32", *, context: FeatureContext) -> None:
        super().__init__(model, layers, reduce, normalized, random, seed, max_window_s, margin_s, mapping, precision,
                         context=context)


@register_feature
class Wav2VecConvolution(HuggingFaceFeature):
    """Output of wav2vec 2.0's convolutions after the layer norm of its projection: 512 dimensions, 50 rows a second.

    Row j is about the 25 ms from j · 20 ms on. Arguments: see `HuggingFaceFeature`.
    """

    def __init__(self, model: str = XLSR, normalized: bool = True, random: bool = False, seed: int = 0,
                 max_window_s: float = 60.0, margin_s: float = 2.0, mapping: Literal["stride", "ratio"] = "stride",
                 precision: Literal["float32", "bfloat16"] = "float32", *, context: FeatureContext) -> None:
        super().__init__(model, normalized, random, seed, max_window_s, margin_s, mapping, precision, context)
        if not isinstance(self.frontend, Waveform):
            raise ValueError(f"{model} has no convolution over samples: expected one of {', '.join(Waveform.types)}")
        self.dim = self.frontend.conv_width
        if self.frontend.local:
            self.context_s = self.frontend.receptive / RATE
            self.shift_equivariant = not normalized

    def states(self, network: Any, inputs: dict[str, Any]) -> Any:
        convolved = network.feature_extractor(inputs["input_values"]).transpose(1, 2)
        return network.feature_projection.layer_norm(convolved)


@lru_cache(maxsize=2)
def _network(folder: str, files: str, seed: int | None, device: str) -> Any:
    """A network in evaluation mode; `files` is there to tell a changed one from the one that is kept."""
    import torch
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    front = frontend(Path(folder))
    if seed is None:
        network = front.build(random=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = front.build(random=True)
    return network.float().to(device).eval()
