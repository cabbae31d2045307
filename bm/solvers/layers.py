"""What XPs that compare a network's layers with the brain share: responses to whole sounds, and activations."""
from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.config import Config
from bm.data.assemble import build_studies, list_recordings
from bm.features.activations import Activations, compute, read, study_sounds
from bm.features.networks import Weights, open_network
from bm.solvers.base import Metrics, Solver
from bm.store import Store
from bm.studies.base import Recording


@dataclass(frozen=True)
class Responses:
    """What was measured: `values` `(sounds, voxels, repetitions)`; `voxels`, a table with `subject`, `voxel` and
    `region`; names of the sounds and their files."""

    sounds: list[str]
    values: np.ndarray
    voxels: pd.DataFrame
    files: dict[str, Path]


def one_recording(recording: Recording, sounds: list[str], tmin: float | None, tmax: float | None) -> np.ndarray:
    """`(sounds, channels, repetitions)` of a recording, in the order of `sounds`.

    Without a rate each row of the signal is the answer to the event of the same number; else a response is the mean
    over [tmin, tmax) after its sound's start (None: over the sound). Which repetition a row is says the column
    `repetition`, or else the order in which a sound comes again.

    Raises:
        ValueError: a sound that is heard more often than others or not at all, or a span outside the signal.
    """
    signal, events = recording.signal(), recording.events()
    events = events[events["kind"] == "sound"].reset_index(drop=True)
    names = events["stimulus_id"].astype(str)
    again = events["repetition"] if "repetition" in events else names.groupby(names).cumcount()
    counts = names.value_counts()
    if set(counts.index) != set(sounds) or counts.nunique() != 1:
        raise ValueError(f"{recording.name}: hears {len(counts)} sounds, {counts.min()} to {counts.max()} times each: "
                         f"expected the {len(sounds)} of the other recordings, equally often")
    data = signal.read()
    if signal.rate is None:
        if len(data) != len(events):
            raise ValueError(f"{recording.name}: {len(data)} rows for {len(events)} sounds: expected one for each")
        rows = data
    else:
        rows = np.empty((len(events), data.shape[1]))
        for i, (start, duration) in enumerate(zip(events["start"], events["duration"], strict=True)):
            low = round((start + (tmin or 0)) * signal.rate)
            high = round((start + (duration if tmax is None else tmax)) * signal.rate)
            if not 0 <= low < high <= len(data):
                raise ValueError(f"{recording.name}: encoding.tmin, tmax give samples [{low}, {high}) of {len(data)} "
                                 f"for the sound at {start:g} s")
            rows[i] = data[low:high].mean(0)
    place = {name: i for i, name in enumerate(sounds)}
    out = np.empty((len(sounds), data.shape[1], int(again.max()) + 1))
    out[names.map(place).to_numpy(), :, again.to_numpy()] = rows
    return out


def responses(cfg: Config, root: Path) -> Responses:
    """Responses of all recordings of the selections, side by side.

    Raises:
        ValueError: recordings that hear other sounds, or sounds more or less often, than the first.
    """
    recordings = list_recordings(build_studies(cfg, root), cfg.dset)[0]
    files = study_sounds(recordings[:1])
    sounds, values, tables = list(files), [], []
    for recording in recordings:
        values.append(one_recording(recording, sounds, cfg.encoding.tmin, cfg.encoding.tmax))
        channels = recording.signal().channels
        tables.append(pd.DataFrame({"subject": recording.subject, "voxel": channels["name"].astype(str),
                                    "region": channels["region"].astype(str)}))
    if len({value.shape[2] for value in values}) > 1:
        raise ValueError(f"recordings have {sorted({value.shape[2] for value in values})} repetitions: expected one "
                         "number; select them one by one")
    return Responses(sounds, np.concatenate(values, 1), pd.concat(tables, ignore_index=True), files)


class LayerSolver(Solver):
    """Compares layers with the brain in one "epoch", whose loss is 1 − the score of the best layer."""

    result: dict[str, Any]

    def prepare(self) -> None:
        build_studies(self.cfg, self.root)

    def build(self) -> None:
        cfg = self.cfg
        self.data = responses(cfg, self.root)
        self.n_train = cfg.encoding.n_train or (len(self.data.sounds) + 1) // 2
        if not cfg.show:
            self.layers = self.activations.layers

    @cached_property
    def activations(self) -> Activations:
        """Of the network, for the sounds of the study, computed or from the cache; or published ones."""
        cfg, own = self.cfg, self.cfg.encoding
        if own.activations is not None:
            return read(self.root / own.activations)
        weights = Weights(own.permuted, own.random, own.weights_seed, tuple(own.keep))
        network = open_network(str(own.model), self.root / cfg.features_models, layers=own.layers, weights=weights,
                               device=cfg.device, options=own.options)
        return compute(Store(self.root / cfg.cache), network, self.data.files, rms=own.rms)

    def features(self, layer: str) -> np.ndarray:
        """`(sounds, units)` of a layer, in the order of the responses."""
        values, found = self.activations.layer(layer), self.activations
        if found.sounds:
            values = values[found.rows(self.data.sounds)]
        elif len(values) != len(self.data.sounds):
            raise ValueError(f"{found.file}: {layer} has {len(values)} sounds without names, the study "
                             f"{len(self.data.sounds)}: expected the same, in the study's order")
        return values.reshape(len(values), -1)

    @abstractmethod
    def compare(self) -> Metrics:
        """Scores all layers; sets `result` and returns metrics with `loss`."""

    def train_epoch(self, epoch: int) -> Metrics:
        return self.compare()

    def valid_epoch(self, epoch: int) -> Metrics:
        return {"loss": self.result["loss"]}

    def finished(self, epoch: int) -> bool:
        return epoch >= 1

    def state_dict(self) -> dict[str, Any]:
        return self.result

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.result = state

    def keep_best(self) -> None:
        """There is one state."""

    def use_best(self) -> Any:
        return nullcontext()
