"""What XPs that compare a network's layers with the brain share: responses to sounds or to their words, activations."""
import logging
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from bm.config import Config
from bm.data.assemble import build_studies, find_sources, list_recordings
from bm.data.items import Items, find_items, item_responses
from bm.features.activations import Activations, compute, read, study_sounds
from bm.features.item_activations import compute_items
from bm.features.networks import Weights, open_network
from bm.linear.kernel import Split
from bm.linear.voxelwise import random_splits
from bm.solvers.base import Metrics, Solver
from bm.solvers.regions import response_dimensionality
from bm.store import Store
from bm.studies.base import Recording, Signal

logger = logging.getLogger(__name__)

Span: TypeAlias = tuple[float, float | None]


@dataclass(frozen=True)
class Responses:
    """What was measured: `values` `(sounds, targets, repetitions)`; `voxels`, a row per target with `subject`, `voxel`
    and `region`, and with `latency` where each voxel (channel) has several, one after the other; names of the sounds
    and their files; `channels`, a row per voxel with its place; `stimuli`, a row per sound with its category, if any.
    With `encoding.items` not sound, `items` says what they are, and "sounds" are these items.
    """

    sounds: list[str]
    values: np.ndarray
    voxels: pd.DataFrame
    files: dict[str, Path]
    channels: pd.DataFrame
    stimuli: pd.DataFrame
    items: Items | None = None


#: columns of a study's channels that say where they lie, if any is known
PLACES = ("x", "y", "z", "layout_x", "layout_y", "x_ras", "y_ras", "z_ras", "x_infl", "y_infl", "z_infl", "hemi",
          "hemisphere")


def spans(cfg: Config) -> list[Span]:
    """What responses are averaged over, s after an item's start; an end of None is the end of the sound."""
    own = cfg.encoding
    return [(own.tmin or 0, own.tmax)] if own.latencies is None else list(own.latencies.windows())


def one_recording(recording: Recording, sounds: list[str], windows: Sequence[Span]) -> np.ndarray:
    """`(sounds, channels · windows, repetitions)` of a recording, in the order of `sounds`.

    Without a rate each row of the signal is the answer to the event of the same number; else a response is the mean
    over a window after its sound's start. Which repetition a row is says the column `repetition`, or else the order in
    which a sound comes again.

    Raises:
        ValueError: sounds without a name, one that is heard more often than others or not at all, or a span outside
            the signal.
    """
    signal, events = recording.signal(), recording.events()
    events = events[events["kind"] == "sound"].reset_index(drop=True)
    if "stimulus_id" not in events:
        raise ValueError(f"{recording.name}: its sounds have no stimulus_id: it is a long recording, of stories or "
                         "sentences, not of sounds that each subject hears whole. Use encoding.items=word (or phoneme)")
    names = events["stimulus_id"].astype(str)
    again = events["repetition"] if "repetition" in events else names.groupby(names).cumcount()
    counts = names.value_counts()
    if set(counts.index) != set(sounds) or counts.nunique() != 1:
        raise ValueError(f"{recording.name}: hears {len(counts)} sounds, {counts.min()} to {counts.max()} times each: "
                         f"expected the {len(sounds)} of the other recordings, equally often")
    if signal.rate is None:
        data = signal.read()
        if len(windows) > 1:
            raise ValueError(f"{recording.name}: has one value per sound, expected a time axis for encoding.latencies")
        if len(data) != len(events):
            raise ValueError(f"{recording.name}: {len(data)} rows for {len(events)} sounds: expected one for each")
        rows = data
    else:
        rows = np.stack([_means(recording, signal, start, duration, windows) for start, duration in
                         zip(events["start"], events["duration"], strict=True)])
    place = {name: i for i, name in enumerate(sounds)}
    n_times = int(counts.iloc[0])
    at, again = names.map(place).to_numpy(), again.to_numpy(int)
    if missing := {(i, k) for i in range(len(sounds)) for k in range(n_times)} - set(zip(at, again, strict=True)):
        raise ValueError(f"{recording.name}: the column repetition has {sorted(set(again.tolist()))[:6]} for "
                         f"{sounds[min(missing)[0]]} and others, each heard {n_times} times: expected 0 to "
                         f"{n_times - 1} once per sound")
    out = np.empty((len(sounds), rows.shape[1], n_times))  # each row and repetition is there once
    out[at, :, again] = rows
    return out


def _means(recording: Recording, signal: Signal, start: float, duration: float, windows: Sequence[Span]) -> np.ndarray:
    """Means over windows after `start`, `(channels · windows,)`; only what they cover is read."""
    assert signal.rate is not None
    edges = []
    for low, high in windows:
        first = round((start + low) * signal.rate)
        stop = round((start + (duration if high is None else high)) * signal.rate)
        if not 0 <= first < stop <= signal.shape[0]:
            raise ValueError(f"{recording.name}: encoding.tmin, tmax or latencies give samples [{first}, {stop}) of "
                             f"{signal.shape[0]} for the sound at {start:g} s")
        edges.append((first, stop))
    begin = min(first for first, _ in edges)
    data = signal.read(begin, max(stop for _, stop in edges))
    return np.stack([data[first - begin:stop - begin].mean(0) for first, stop in edges], 1).ravel()


def responses(cfg: Config, root: Path) -> Responses:
    """Responses of all recordings of the selections, side by side.

    Raises:
        ValueError: recordings that hear other sounds, or sounds more or less often, than the first.
    """
    recordings = list_recordings(build_studies(cfg, root), cfg.dset)[0]
    files = study_sounds(recordings[:1])
    sounds, windows, values, tables = list(files), spans(cfg), [], []
    for recording in recordings:
        values.append(one_recording(recording, sounds, windows))
        tables.append(_channel_table(recording.signal().channels, recording.subject))
    if len({value.shape[2] for value in values}) > 1:
        raise ValueError(f"recordings have {sorted({value.shape[2] for value in values})} repetitions: expected one "
                         "number; select them one by one")
    channels = pd.concat(tables, ignore_index=True)
    return Responses(sounds, np.concatenate(values, 1), _targets(cfg, channels), files, channels,
                     _stimuli(recordings[0], sounds))


def word_responses(cfg: Config, root: Path) -> Responses:
    """Responses to each word or phoneme (`encoding.items`) of all recordings, prepared as `dset` says (rate, filters);
    the mean over [dset.tmin, 0] is subtracted with `dset.apply_baseline`. Recordings of a subject are joined.

    Raises:
        ValueError: windows shorter than a sample; too few items that all subjects heard (`bm.data.items`).
    """
    dset = cfg.dset.model_copy(update={"features": []})
    sources = find_sources(cfg.model_copy(update={"dset": dset}), root)
    windows = [(round(low * dset.sample_rate), round((high or 0) * dset.sample_rate)) for low, high in spans(cfg)]
    if short := [span for span, (first, stop) in zip(spans(cfg), windows, strict=True) if first >= stop]:
        raise ValueError(f"encoding.latencies: the window {short[0]} s has no sample at dset.sample_rate="
                         f"{dset.sample_rate} Hz: use a larger width or rate")
    baseline = (round(dset.tmin * dset.sample_rate), 1) if dset.apply_baseline else None
    edges = [*windows, *([baseline] if baseline else [])]
    items = find_items(sources, dset, cfg.encoding.items, min(first for first, _ in edges),
                       max(stop for _, stop in edges))
    values, found = item_responses(items, sources, windows, baseline, cfg.norm.max_scale if cfg.norm.clip else None)
    channels = pd.concat([_channel_table(own, subject) for subject, own in found.groupby("subject", sort=False)],
                         ignore_index=True)
    stimuli = items.table.drop(columns="path").rename(columns={"item": "sound"})
    return Responses(items.table["item"].tolist(), values, _targets(cfg, channels), {}, channels, stimuli, items)


def _channel_table(channels: pd.DataFrame, subject: str) -> pd.DataFrame:
    known = [name for name in PLACES if name in channels and channels[name].notna().any()]
    return pd.DataFrame({"subject": subject, "voxel": channels["name"].astype(str),
                         "region": channels["region"].astype(str), **{name: channels[name] for name in known}})


def _targets(cfg: Config, channels: pd.DataFrame) -> pd.DataFrame:
    """A row per target: of each channel one, or one for each latency."""
    voxels = channels[["subject", "voxel", "region"]]
    if cfg.encoding.latencies is None:
        return voxels
    windows = cfg.encoding.latencies.windows()
    voxels = voxels.loc[np.repeat(voxels.index, len(windows))].reset_index(drop=True)
    return voxels.assign(latency=np.tile([round((low + high) / 2, 6) for low, high in windows], len(channels)))


def _stimuli(recording: Recording, sounds: list[str]) -> pd.DataFrame:
    events = recording.events()
    table = pd.DataFrame({"sound": sounds})
    if "category" in events:
        known = dict(zip(events["stimulus_id"].astype(str), events["category"], strict=True))
        table["category"] = [known[name] for name in sounds]
    return table


class LayerSolver(Solver):
    """Compares layers with the brain in one "epoch", whose loss is 1 − the score of the best layer."""

    result: dict[str, Any]

    @property
    def latencies(self) -> list[float]:
        """The middle of each window (s); none where responses have no latencies."""
        return [] if "latency" not in self.data.voxels else list(dict.fromkeys(self.data.voxels["latency"]))

    def prepare(self) -> None:
        build_studies(self.cfg, self.root)

    def build(self) -> None:
        cfg = self.cfg
        self.data = (responses if cfg.encoding.items == "sound" else word_responses)(cfg, self.root)
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
        store = Store(self.root / cfg.cache)
        if self.data.items is not None:
            return compute_items(store, network, self.data.items.every, own.context, rms=own.rms)
        return compute(store, network, self.data.files, rms=own.rms)

    @cached_property
    def splits(self) -> list[Split]:
        """(train, test) rows: random halves of the sounds, or of whole blocks of them where items are their words."""
        n_splits, items = self.cfg.encoding.n_splits, self.data.items
        if items is not None:
            return items.splits(self.n_train, n_splits)
        return random_splits(len(self.data.sounds), self.n_train, n_splits)

    def item_counts(self) -> Metrics:
        """How many items and groups there are, where items are not whole sounds."""
        items = self.data.items
        return {} if items is None else {"n_items": len(items.table), "n_groups": int(items.table["group"].nunique())}

    def features(self, layer: str) -> np.ndarray:
        """`(sounds, units)` of a layer, in the order of the responses."""
        values, found = self.activations.layer(layer), self.activations
        if found.sounds:
            values = values[found.rows(self.data.sounds)]
        elif len(values) != len(self.data.sounds):
            raise ValueError(f"{found.file}: {layer} has {len(values)} sounds without names, the study "
                             f"{len(self.data.sounds)}: expected the same, in the study's order")
        return values.reshape(len(values), -1)

    def dimensionality(self, layers: list[float], standardise: bool) -> dict[str, Any]:
        """Effective dimensionality of `layers`, and of responses: means over people (and latencies) of each region.

        All of it goes to `dimensionality.csv`, a row per layer, and per person and region of the responses.
        """
        brain = response_dimensionality(self.data.values, self.data.voxels, standardise)
        table = pd.concat([pd.DataFrame({"source": self.layers, "dimensionality": layers}),
                           brain.assign(source="responses")], ignore_index=True)
        table.to_csv(self.folder / "dimensionality.csv", index=False)
        means = brain.groupby("region", sort=False)["dimensionality"].mean().dropna()
        logger.info("effective dimensionality of responses, mean over people: %s",
                    ", ".join(f"{region} {value:.1f}" for region, value in means.items()))
        return {"dimensionality": layers, "responses_dimensionality": means.to_dict()}

    @abstractmethod
    def compare(self) -> Metrics:
        """Scores all layers; sets `result` and returns metrics with `loss`."""

    def train_epoch(self, epoch: int) -> Metrics:
        self.data.channels.to_csv(self.folder / "channels.csv", index=False)
        self.data.stimuli.to_csv(self.folder / "stimuli.csv", index=False)
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
