"""The study `simulated_neurons`: neurons with known spectro-temporal receptive fields (STRFs) hear modulated noise.

Made from a seed on first use, with nothing to download; `SimulatedNeurons.truth` tells what a model should find.
"""
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bm.studies.base import register_study
from bm.studies.clips import Clip, ClipRecording, ClipStudy, Clock, choose_clips, neuron_channels
from bm.studies.facts import Facts
from bm.studies.files import make_once
from bm.studies.modulated_noise import FLOOR, RATE, SOUND_RATE, make_sounds, spectrogram

#: bins of a kernel: 0 to 95 ms
LAGS = 20
#: spread of a Poisson rate, as a part of its mean: rates below 0 are rare
MODULATION = 0.3
_FILES = ("kernels", "centre", "scale", "rates", "responses")


@dataclass(frozen=True)
class Parameters:
    """What a dataset depends on.

    Args:
        seed: of all that is random.
        neurons, clips, repeats, bands: numbers of them; bands are those of the spectrogram.
        seconds: of each clip.
        snr: signal over noise power of a single repeat.
        noise: "gaussian" (the response is a number of variance 1 + 1 / snr) or "poisson" (spike counts).

    Raises:
        ValueError: a value out of range.
    """

    seed: int = 0
    neurons: int = 8
    clips: int = 20
    repeats: int = 10
    bands: int = 24
    seconds: float = 3.0
    snr: float = 0.5
    noise: Literal["gaussian", "poisson"] = "gaussian"

    def __post_init__(self) -> None:
        ranges = {"seed": (0, 2**31), "neurons": (1, 1000), "clips": (1, 200), "repeats": (1, 100), "bands": (4, 64),
                  "seconds": (0.5, 60), "snr": (1e-6, 1e6)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"study simulated_neurons: {name}={value!r}, expected a number from {low} to {high}")
        if self.noise not in ("gaussian", "poisson"):
            raise ValueError(f"study simulated_neurons: noise={self.noise!r}, expected gaussian or poisson")

    @property
    def key(self) -> str:
        """Name of the dataset's folder."""
        text = json.dumps({"version": 1, **asdict(self)}, sort_keys=True)
        return f"seed{self.seed}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class NeuronTruth:
    """What lies behind the responses of N neurons.

    Args:
        kernels: `(N, LAGS, bands)`: response to the spectrogram's bands so many bins (of 5 ms) ago, after bands were
            centred by `centre` and divided by `scale` `(bands,)`. Before a clip is silence: log10(1e-5).
        rates: `(clips, bins, N)`, the expected response, which is linear in the spectrogram (for Poisson: but for
            rates below 0, which are 0).
    """

    kernels: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    rates: np.ndarray


def make_kernels(parameters: Parameters, rng: np.random.Generator) -> np.ndarray:
    """`(N, LAGS, bands)`: excited by a band at 10–40 ms, suppressed by it later and by its neighbours."""
    lag, band = np.arange(LAGS)[:, None], np.arange(parameters.bands)
    kernels = []
    for _ in range(parameters.neurons):
        peak, width = rng.uniform(2, 8), rng.uniform(1, 2)
        best, spread = rng.uniform(0.15, 0.85) * (parameters.bands - 1), rng.uniform(0.05, 0.1) * parameters.bands
        time = np.exp(-0.5 * ((lag - peak) / width)**2) - 0.6 * np.exp(-0.5 * ((lag - peak - 3 * width) / width)**2)
        tuning = np.exp(-0.5 * ((band - best) / spread)**2) - 0.4 * np.exp(-0.125 * ((band - best) / spread)**2)
        kernels.append(time * tuning)
    return np.array(kernels)


def make_dataset(parameters: Parameters, folder: Path) -> None:
    """Writes the sounds as `sound01.wav` …, and an array of each of the truth and of the responses."""
    import soundfile
    rng = np.random.default_rng(parameters.seed)
    images = []
    for number, sound in enumerate(make_sounds(parameters.clips, parameters.seconds, rng), start=1):
        path = folder / f"sound{number:02d}.wav"
        soundfile.write(path, sound, SOUND_RATE, subtype="PCM_16")
        images.append(spectrogram(soundfile.read(path)[0], parameters.bands)[:int(parameters.seconds * RATE)])
    centre, scale = np.mean(images, axis=(0, 1)), np.std(images, axis=(0, 1))
    before = np.full((len(images), LAGS - 1, parameters.bands), np.log10(FLOOR))
    heard = (np.concatenate([before, images], axis=1) - centre) / scale
    lagged = np.lib.stride_tricks.sliding_window_view(heard, LAGS, axis=1)[..., ::-1]  # clips, bins, bands, lags
    kernels = make_kernels(parameters, rng)
    drive = np.einsum("ctbl,nlb->ctn", lagged, kernels, optimize=True)
    kernels, drive = kernels / drive.std((0, 1))[:, None, None], drive / drive.std((0, 1))
    drive -= drive.mean((0, 1))
    shape = (parameters.repeats, *drive.shape)
    if parameters.noise == "poisson":  # signal over noise power is MODULATION² · mean
        mean = parameters.snr / MODULATION**2
        kernels, drive = kernels * mean * MODULATION, np.maximum(mean * (1 + MODULATION * drive), 0)
        responses = rng.poisson(drive, shape)
    else:
        responses = drive + rng.standard_normal(shape) / np.sqrt(parameters.snr)
    for name, array in zip(_FILES, (kernels, centre, scale, drive, responses.astype(np.float32)), strict=True):
        np.save(folder / f"{name}.npy", array)


@dataclass(frozen=True, repr=False)
class SimulatedNeuronsRecording(ClipRecording):
    """One repeat of all clips; `order` are their numbers (from 0) in the dataset."""

    root: Path
    repeat: int
    order: tuple[int, ...]
    clips: tuple[Clip, ...]
    clock: Clock
    subject: str = "population"
    study: str = "simulated_neurons"

    def source_files(self) -> list[Path]:
        return [self.root / "responses.npy", *(clip.path for clip in self.clips)]

    def channels(self) -> pd.DataFrame:
        neurons = np.load(self.root / "responses.npy", mmap_mode="r").shape[-1]
        return neuron_channels([f"neuron{number:03d}" for number in range(neurons)], "a.u.")

    def counts(self, clip: Clip, n_bins: int) -> np.ndarray:
        responses = np.load(self.root / "responses.npy", mmap_mode="r")
        return np.asarray(responses[self.repeat, self.order[self.clips.index(clip)]], dtype=float)[:n_bins]


@register_study
class SimulatedNeurons(ClipStudy):
    """Neurons with known STRFs that hear clips of modulated noise again and again: one recording per repeat.

    The selection takes the fields of `Parameters`, `test_clips` and `valid_clips` (numbers from 1; as `test_songs` of
    the study strflab) and `gap_s`. Each set of parameters has a folder of its own below `path`.

    Raises:
        ValueError: an unknown selection key, a value out of range, or no `path`.
    """

    name = "simulated_neurons"
    facts = Facts("Simulated neurons with known receptive fields", "this project", "", "MIT", "simulated", None,
                  float(RATE), 1, 10, None, "", "", "Counts are of the default selection.")

    def __init__(self, path: Path | None, test_clips: Iterable[int] | None = None,
                 valid_clips: Iterable[int] | None = None, gap_s: float = 0.5, **selection: float | str) -> None:
        super().__init__(path, [*(field.name for field in fields(Parameters)), "test_clips", "valid_clips", "gap_s"],
                         selection)
        self.parameters = Parameters(**selection)  # type: ignore[arg-type]
        self.root, self.clock = self.folder / self.parameters.key, Clock(RATE, 0.0, gap_s)
        self.clips = choose_clips(self.name, range(1, self.parameters.clips + 1), "clips", None, test_clips,
                                  valid_clips)

    def prepare(self) -> None:
        """Makes the dataset unless it is there. Many processes may call this at once; one makes it."""
        make_once(self.root, lambda folder: make_dataset(self.parameters, folder))

    def truth(self) -> NeuronTruth:
        """What lies behind the responses. Raises FileNotFoundError before `prepare`."""
        return NeuronTruth(*(np.load(self.root / f"{name}.npy") for name in _FILES[:-1]))

    def recordings(self) -> Iterator[SimulatedNeuronsRecording]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"study simulated_neurons: {self.root} is not made yet: call prepare() first")
        clips = tuple(Clip(f"sound{number:02d}", self.root / f"sound{number:02d}.wav", split)
                      for number, split in self.clips.items())
        for repeat in range(self.parameters.repeats):
            yield SimulatedNeuronsRecording(self.root, repeat, tuple(number - 1 for number in self.clips), clips,
                                            self.clock)
