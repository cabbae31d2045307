"""A trained decoder to use on any recording: no study, no splits, no Dora (`bm.load` makes one)."""
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import julius
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec, FeatureSpec
from bm.config import check_config
from bm.data.loader import Finish, Montages, SegmentDataset
from bm.data.prepare import prepare_signal
from bm.data.scaling import BrainScaler, Scalers, robust_center_scale
from bm.data.segments import Window
from bm.losses import ClipLoss
from bm.models.blocks.spatial import SpatialAttention
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers
from bm.networks import build_networks
from bm.studies.base import CHANNEL_COLUMNS, Signal
from bm.studies.mne_recording import channel_table

if TYPE_CHECKING:
    import mne

    from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)

#: seconds between windows where none were asked for
STEP = 0.5


@dataclass(frozen=True)
class Prediction:
    """`estimates` `(N, F, T)` float32 at `rate` Hz, and the `times` `(N,)` of the windows' triggers, in seconds from
    the first sample of the recording. The first sample of a window is `tmin` s after its trigger."""

    times: np.ndarray
    estimates: np.ndarray
    rate: float
    tmin: float


@dataclass(frozen=True)
class Inputs:
    """A recording as the model sees it: what gathers its windows, and what finishes them."""

    dataset: SegmentDataset
    finish: Finish
    times: np.ndarray


class Trained:
    """The best state of a trained decoder, with all that its inputs and outputs went through in training.

    Args:
        config: the XP's, as plain data.
        spec: what its batches hold; `spec.subjects` are the people it knows.
        weights: of `networks`, by name.
        scalers: of the brain of each training recording, and of the features.
        recordings: names of those recordings, the rows of `scalers.brain`.
        sensors: `name`, `layout_x`, `layout_y` of the channels, in order, if they were the same in all recordings.
        kinds: their MNE channel types.
        sig: the XP's signature.
        results: of the XP's test.
        device: where it computes.
    """

    def __init__(self, config: dict[str, Any], spec: BatchSpec, weights: Mapping[str, Tensor], scalers: Scalers,
                 recordings: list[str], sensors: pd.DataFrame | None, kinds: list[str], sig: str,
                 results: dict[str, Any], device: str = "cpu") -> None:
        self.config, self.spec, self.recordings, self.sensors, self.kinds = config, spec, recordings, sensors, kinds
        self.sig, self.results, self.device = sig, results, torch.device(device)
        self.cfg = check_config(config)
        with torch.random.fork_rng(devices=[]):
            self.networks = build_networks(self.cfg, spec).to(self.device).eval()
        # a loss that compares nothing has no part in what is estimated
        parts = set(self.networks) - ({"loss"} if self.cfg.optim.loss != "clip" else set())
        self.networks.load_state_dict({name: value for name, value in weights.items()
                                       if name.partition(".")[0] in parts})
        self.scalers = scalers.to(self.device)
        self.window = Window(*self.cfg.dset.test_window, STEP)

    @property
    def model(self) -> nn.Module:
        """From a finished batch to estimates."""
        return self.networks["model"]

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """What it estimates; behind a feature model its outputs have no names."""
        return self.spec.features

    @property
    def outputs(self) -> int:
        """Rows F of an estimate."""
        options = self.cfg.feature_model_params
        return options["n_out_channels"] if self.cfg.feature_model_name else sum(f.out_dim for f in self.features)

    @property
    def personal(self) -> bool:
        """Whether the model has weights for each subject."""
        return any(isinstance(module, SubjectLayers | SubjectEmbedding) or getattr(module, "per_subject", False)
                   for module in self.model.modules())

    @property
    def loss(self) -> ClipLoss:
        """Compares estimates with candidates."""
        loss = self.networks["loss"]
        assert isinstance(loss, ClipLoss)
        return loss

    @classmethod
    def of(cls, solver: "DecodeSolver", config: dict[str, Any], sig: str, results: dict[str, Any] | None,
           device: str = "cpu") -> "Trained":
        """The best state of a solver that has its data."""
        if solver.best_state is None:
            raise ValueError(f"XP {sig} has no best state: no epoch of it is done")
        tables = [p.channels for p in solver.data.prepared]
        sensors = tables[0][["name", "layout_x", "layout_y"]]
        same = all(table[["name", "layout_x", "layout_y"]].equals(sensors) for table in tables)
        kinds = sorted({kind for table in tables for kind in table["type"]})
        return cls(config, solver.data.spec, solver.best_state, solver.finish.scalers,
                   [recording.name for recording in solver.data.recordings], sensors if same else None, kinds, sig,
                   results or {}, device)

    def predict(self, raw: "mne.io.BaseRaw", times: Any = None, **options: Any) -> Prediction:
        """Estimates of the features for windows of a recording.

        The recording goes through what the training recordings went through: sensors picked, resampling, filters,
        baseline, robust scale of each channel, clamping, delay.

        Args:
            raw: its sensors are found by name; where none has a name of the training, by place (which takes a model
                with spatial attention). What is in `raw.info["bads"]` is left out.
            times: triggers of the windows, in seconds from the first sample, e.g. onsets of words; by default a window
                every `STEP` s, for which `predict` holds `2 · seconds · F · T` floats: see `stream`.
            subject: one of `spec.subjects`, where the model has something of its own for each.
            recording: one of `recordings`, to be scaled as it was in training; by default the recording is scaled by
                its own statistics.
            batch_size: windows at once.

        Errors: ValueError for an unknown subject or recording, windows outside the recording, or sensors that do not
        fit.
        """
        found = list(self.stream(raw, times, **options))
        estimates = np.concatenate([estimate.cpu().numpy() for _, estimate in found])
        return Prediction(np.concatenate([time for time, _ in found]), estimates, self.spec.sample_rate,
                          self.window.tmin)

    def embed(self, raw: "mne.io.BaseRaw", times: Any = None, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """`(times (N,), rows (N, K))`: estimates as what the trained loss compares with candidates (its projection,
        window and pooling applied, then flat). Arguments and errors as in `predict`."""
        found = [(time, self.loss.embed_estimates(estimate).cpu().numpy())
                 for time, estimate in self.stream(raw, times, **options)]
        return np.concatenate([time for time, _ in found]), np.concatenate([rows for _, rows in found])

    def stream(self, raw: "mne.io.BaseRaw", times: Any = None, *, subject: str | None = None,
               recording: str | None = None, batch_size: int = 64) -> Iterator[tuple[np.ndarray, Tensor]]:
        """`(times (B,), estimates (B, F, T))` of successive windows: see `predict`."""
        inputs = self.inputs(raw, times, subject, recording)
        for start in range(0, len(inputs.times), batch_size):
            ids = np.arange(start, min(start + batch_size, len(inputs.times)))
            batch = inputs.finish(inputs.dataset.__getitems__(ids).to(self.device))
            with torch.no_grad():
                yield inputs.times[ids], self.estimate(batch)

    def estimate(self, batch: Batch) -> Tensor:
        """What the model makes of a finished batch, `(B, F, T)` float32."""
        if self.cfg.task.lowpass and batch.brain is not None:
            batch = batch.replace(brain=julius.lowpass_filter(
                batch.brain, self.cfg.task.lowpass / self.spec.sample_rate, zeros=5))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.optim.amp):
            return self.model(batch).float()

    def targets(self, features: Mapping[str, Any]) -> Tensor:
        """What estimates are compared with, `(V, F, T)`.

        Args:
            features: name → `(V, dim, samples)`, in the feature's own units, of windows as long as the brain's.
        """
        lacking = [feature.name for feature in self.features if feature.name not in features]
        if lacking:
            raise ValueError(f"features {lacking} are missing; expected {[feature.name for feature in self.features]}")
        offset = self.finish(0).offset
        keep = slice(None, -offset if offset else None)
        out = torch.cat([self.scalers.features[feature.name](
            torch.as_tensor(features[feature.name], dtype=torch.float32, device=self.device)[..., keep])
            for feature in self.features], dim=1)
        with torch.no_grad():
            return self.networks["feature_model"](out).float() if "feature_model" in self.networks else out

    def finish(self, row: int) -> Finish:
        """What makes a batch of the training recording number `row` ready (given as recording 0)."""
        cfg, rate, brain = self.cfg, round(self.spec.sample_rate), self.scalers.brain
        own = BrainScaler(brain.center[row:row + 1], brain.scale[row:row + 1])
        return Finish(Scalers(own, {}), 1 - round(cfg.dset.tmin * rate) if cfg.dset.apply_baseline else 0,
                      cfg.norm.max_scale if cfg.norm.clip else None, int(cfg.task.offset_meg_ms / 1000 * rate))

    def inputs(self, raw: "mne.io.BaseRaw", times: Any, subject: str | None, recording: str | None) -> Inputs:
        """All windows of a recording."""
        person, known = self._subject(subject), self._recording(recording)
        array, table = self.prepare(raw)
        rate, samples = round(self.spec.sample_rate), self.window.samples(round(self.spec.sample_rate))
        before = round(self.window.tmin * rate)
        if len(array) < samples:
            raise ValueError(f"the recording has {len(array) / rate:g} s, windows have {samples / rate:g} s")
        if times is None:
            first = np.arange(0, len(array) - samples + 1, round(STEP * rate))
            times = (first - before) / rate
        times = np.asarray(times, dtype=float)
        first = np.rint(times * rate).astype(np.int64) + before
        outside = (first < 0) | (first + samples > len(array))
        if times.ndim != 1 or not len(times) or outside.any():
            raise ValueError(f"expected a list of times whose windows [{self.window.tmin:g}, {self.window.tmax:g}] s "
                             f"are inside the {len(array) / rate:g} s of the recording; {int(outside.sum())} of "
                             f"{times.size} are not, e.g. {times[outside][:3].tolist()}")
        montages = Montages.from_tables([table])

        def dataset(first: np.ndarray) -> SegmentDataset:
            return SegmentDataset([array], montages, pd.DataFrame({"first": first, "recording": 0}), samples, [person],
                                  [], [np.zeros(len(array), dtype=bool)])

        finish = self.finish(known or 0)
        if known is None:
            number = self.cfg.norm.scaler.n_samples_per_recording
            spread = np.unique(np.linspace(0, len(array) - samples, number, dtype=int))
            brain = dataset(spread).gather_brain(np.arange(len(spread)))
            if finish.baseline:
                brain -= brain[:, :finish.baseline].mean(1, keepdims=True)
            center, scale = robust_center_scale(brain.reshape(-1, brain.shape[2]))
            finish.scalers.brain = BrainScaler(torch.from_numpy(center)[None], torch.from_numpy(scale)[None])
        return Inputs(dataset(first), finish.to(self.device), times)

    def prepare(self, raw: "mne.io.BaseRaw") -> tuple[np.ndarray, pd.DataFrame]:
        """The recording at the model's rate, `(time, C)` float32, and its channels table, in the model's order."""
        picks = [i for i, kind in enumerate(raw.get_channel_types()) if kind in self.kinds]
        if not picks:
            raise ValueError(f"the recording has no channel of type {' or '.join(self.kinds)}, but "
                             f"{sorted(set(raw.get_channel_types()))}")
        names = [raw.ch_names[i] for i in picks]
        known = [] if self.sensors is None else self.sensors["name"].tolist()
        by_name = bool(set(known) & set(names))
        if by_name:
            picks = [picks[names.index(name)] for name in known if name in names]
        elif not any(isinstance(module, SpatialAttention) for module in self.model.modules()):
            raise ValueError(f"this model takes the channels {', '.join(known[:3]) or 'of its training'}… one by one; "
                             f"the recording has {', '.join(names[:3])}…: rename its channels")
        if len(picks) > self.spec.channels:
            raise ValueError(f"the recording has {len(picks)} channels of type {' or '.join(self.kinds)}, the model "
                             f"takes {self.spec.channels} at most: pick as many")
        table = channel_table(raw.info, np.array(picks), "raw")
        if not by_name and not table[["layout_x", "layout_y"]].notna().all(axis=1).any():
            raise ValueError(f"the recording has none of the sensors of the training ({', '.join(known[:3])}…), and "
                             f"its own ({', '.join(names[:3])}…) are in no layout that MNE knows: rename its channels")
        signal = Signal((int(raw.n_times), len(picks)), float(raw.info["sfreq"]), table,
                        lambda start, stop: raw.get_data(picks=picks, start=start, stop=stop).T)
        dset = self.cfg.dset
        found = prepare_signal(signal, dset.sample_rate, dset.highpass, "raw", dset.lowpass, dset.notch)
        place = [known.index(name) for name in table["name"]] if by_name else list(range(len(picks)))
        array = np.zeros((len(found), self.spec.channels), dtype=np.float32)
        array[:, place] = found
        whole = pd.DataFrame({"name": "", "type": "", "unit": "", "region": "", "bad": True},
                             index=range(self.spec.channels)).reindex(columns=CHANNEL_COLUMNS)
        xyz = ["x", "y", "z", "layout_x", "layout_y"]
        whole[xyz] = whole[xyz].astype(float)
        whole.loc[place] = table.set_axis(place)
        if by_name and self.sensors is not None:  # where the model learned that they are
            whole.loc[place, ["layout_x", "layout_y"]] = self.sensors.loc[place, ["layout_x", "layout_y"]]
            if len(place) < len(known):
                logger.warning("%d of the model's %d sensors are not in the recording: they are left out",
                               len(known) - len(place), len(known))
        return array, whole

    def _subject(self, subject: str | None) -> int:
        names = self.spec.subjects
        if subject in names:
            return names.index(str(subject))
        if subject is None and (not self.personal or len(names) == 1):
            return 0
        why = "this model has weights for each" if self.personal else "or leave it out: this model treats all alike"
        raise ValueError(f"subject={subject!r}: expected one of {', '.join(names)}; {why}")

    def _recording(self, recording: str | None) -> int | None:
        if recording is None:
            return None
        if recording not in self.recordings:
            raise ValueError(f"recording={recording!r} is none of the training: {', '.join(self.recordings[:5])}…")
        return self.recordings.index(recording)
