"""Temporal response functions as an experiment (`task.type=trf`): the brain from features over lags, or back."""
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bm import distrib
from bm.data.assemble import find_sources
from bm.data.responses import Responses, Trial, build_responses
from bm.linear import TRF, dirichlet
from bm.linear.lags import lag_samples
from bm.linear.reconstruct import identify
from bm.linear.trf_scores import Partition, nested, partition
from bm.metrics.encoding import correlation, encoding_scores, explained_variance
from bm.metrics.stats import bootstrap_interval
from bm.solvers.base import Metrics, Solver
from bm.solvers.encoding_report import all_moments, report
from bm.solvers.trf_segments import TrfSegments

logger = logging.getLogger(__name__)


class TrfSolver(Solver):
    """One temporal response function per subject, fitted to train trials in closed form: one "epoch" (section `trf`).

    Several processes all fit the same, and the first writes.

    Forward: all channels from all features, which are known around a trial too; the mean over repeats counts as often
    as it has repeats; channels measured in fewer than two folds are predicted to be 0. The loss is the cross-validated
    mean squared error; on valid trials 1 − mean r. With `trf.bands` each group of features has a scale of its own, and
    is left out in turn. With `trf.nested` the test is of all trials of all splits, in outer folds of whole stimuli,
    each predicted by a function whose penalties (per channel) and weights were found without its fold; channels
    measured in fewer than three of these folds have no scores. Kernels, and what is restored, are those of the train
    trials as ever.

    Backward: all columns of features from the channels that are measured throughout; tested by their correlation with
    the true ones, and by which segment was heard: pieces of the trials, or (`trf.candidates=segments`) the test
    segments of decoding, see `TrfSegments`.

    Written to the XP's folder: `encoding.parquet` (see `encoding_report`; backward: `reconstruction.parquet`, a row per
    subject and column, and `test_segments.parquet`); `kernels.npz`: `lags` (s), `features`, `units`, `layout` (of the
    units, flat), `unit` (of the kernels), forward `kernels` `(features, lags, units)`, NaN for units without one;
    backward for each subject i `kernels_i` `(channels, lags, features)` and `patterns_i` `(features, lags, channels)`
    (`TRF.patterns`, lags from tmin to tmax: `-lags[::-1]`) with the places in `units` of its channels, `channels_i`;
    with bands `partition.parquet`: R² of all, what each adds to the others (`unique_…`) and the rest (`shared`); nested
    also that of each by itself (`alone_…`) and its part of R² by the product measure (`product_…`).
    """

    responses: Responses
    segments: TrfSegments | None = None

    def prepare(self) -> None:
        find_sources(self.cfg, self.root)

    def build(self) -> None:
        cfg, trf = self.cfg, self.cfg.trf
        self.forward = trf.direction == "forward"
        self.bands = {"+".join(names): names for names in trf.bands}
        named = sorted(name for names in trf.bands for name in names)
        if named and named != sorted(cfg.dset.features):
            raise ValueError(f"trf.bands has the features {named}, dset.features {sorted(cfg.dset.features)}: expected "
                             "the same")
        self.settings: dict[str, Any] = {
            "tmin": trf.tmin, "tmax": trf.tmax, "rate": cfg.dset.sample_rate, "direction": trf.direction,
            "alphas": np.logspace(trf.alphas.low, trf.alphas.high, trf.alphas.n), "folds": trf.folds,
            "alpha_per_target": trf.alpha_per_target, "criterion": trf.criterion, "penalty": trf.penalty,
            "backend": "torch" if self.device.type == "cuda" else "numpy", "device": str(self.device)}
        lags = lag_samples(trf.tmin, trf.tmax, cfg.dset.sample_rate)
        around = (max(int(lags[-1]), 0), max(-int(lags[0]), 0)) if self.forward else (0, 0)
        self.responses = data = build_responses(cfg, self.root, *around)
        if data.hop > 1:
            raise ValueError(f"task.type=trf needs features at dset.sample_rate; {', '.join(data.feature_names)} has "
                             f"{data.hop} rows per frame")
        if distrib.is_master():
            self.folder.mkdir(parents=True, exist_ok=True)
            data.audit.table.to_csv(self.folder / "audit.csv", index=False)
        self.splits = {split: data.of(split) for split in ("train", "valid", "test")}
        self.columns = [f"{name}[{i}]" if own.stop - own.start > 1 else name
                        for name, own in data.feature_slices.items() for i in range(own.stop - own.start)]
        self.models: dict[str, list[TRF]] = {}
        self.used: list[np.ndarray] = []
        if trf.candidates == "segments":
            self.segments = TrfSegments(self)
        logger.info("%s TRF: %d columns of features, %d lags, %d units of %d subjects, %d penalties", trf.direction,
                    len(self.columns), len(lags), len(data.units), len(data.subjects), trf.alphas.n)

    def train_epoch(self, epoch: int) -> Metrics:
        self.used = [self._usable(subject) for subject in range(len(self.responses.subjects))]
        self.models = {band: [self._fit(subject, self._without(band)) for subject in range(len(self.used))]
                       for band in ("", *self.bands)}
        alphas = np.log10(np.concatenate([model.alphas_ for model in self.models[""]]))
        chosen = [_chosen(model) for model in self.models[""]]
        error, r = (np.concatenate(values) for values in zip(*chosen, strict=True))
        logger.info("penalties 10^%.1f to 10^%.1f; held-out r %.4f (median over targets)", alphas.min(), alphas.max(),
                    np.median(r))
        return {"loss": float(error.mean()), "r": float(r.mean()), "log10_alpha": float(alphas.mean())}

    def _own(self, subject: int, split: str = "train") -> list[Trial]:
        return [trial for trial in self.splits[split] if trial.subject == subject]

    def _without(self, band: str) -> np.ndarray:
        """The columns of features that are not of `band`; "": all."""
        if not band:
            return np.arange(len(self.columns))
        return np.flatnonzero(self._bands() != band)

    def _usable(self, subject: int) -> np.ndarray:
        """Channels of a subject that are predicted, or (backward) predict."""
        data, trials = self.responses, self._own(subject)
        n = data.units_of(subject).stop - data.units_of(subject).start
        stimuli = np.array([trial.stimulus for trial in trials])
        n_folds = self.cfg.trf.folds
        if not trials:
            raise ValueError(f"{data.subjects[subject]} has no train trials, and each subject has a TRF of its own: "
                             "use the same dset.n_subjects and dset.n_subjects_test")
        if len(np.unique(stimuli)) < (n_folds or 2):
            raise ValueError(f"trf.folds={n_folds}, but {data.subjects[subject]} has {len(np.unique(stimuli))} train "
                             "stimuli: use fewer folds, other ratios or a smaller dset.min_block_duration")
        if self.forward:
            usable = self._n_folds(trials) >= 2
        else:
            every = [trial.mean() for split in self.splits for trial in self._own(subject, split)]
            usable = np.all([np.isfinite(x).all(0) for x in every], 0)
        if not usable.any():
            raise ValueError(f"no channel of {data.subjects[subject]} is measured "
                             + ("in two folds" if self.forward else "throughout all trials"))
        if not usable.all():
            logger.warning("%s: %d of %d channels are not measured %s: left out", data.subjects[subject],
                           n - usable.sum(), n, "in two folds" if self.forward else "throughout")
        return np.flatnonzero(usable)

    def _n_folds(self, trials: Sequence[Trial]) -> np.ndarray:
        """In how many folds of trials of one subject each channel is measured."""
        folds = TRF(**self.settings).splits(len(trials), [trial.stimulus for trial in trials])
        return np.sum([np.any([np.isfinite(trials[i].responses).any((0, 1)) for i in fold], 0) for fold in folds], 0)

    def _in_three_folds(self, subject: int, trials: Sequence[Trial]) -> np.ndarray:
        """Of the used channels those that can be scored in nested folds: one to test on, two to choose penalties."""
        used, data = self.used[subject], self.responses
        enough = self._n_folds(trials)[used] >= 3
        names = data.units["name"].iloc[data.units_of(subject)].astype(str).to_numpy()[used]
        if not enough.all():
            logger.warning("%s: %s measured in fewer than three of the nested folds: without scores",
                           data.subjects[subject], ", ".join(names[~enough]))
        if not enough.any():
            raise ValueError(f"trf.nested: no channel of {data.subjects[subject]} is measured in three folds: use more "
                             "stimuli, or trf.nested=false")
        return used[enough]

    def _fit(self, subject: int, columns: np.ndarray) -> TRF:
        settings, trials = dict(self.settings), self._own(subject)
        if self.bands:
            bands = self._bands()[columns]
            labels = np.unique(bands)
            if len(labels) > 1:
                settings |= {"bands": bands, "scalings": self._scalings(len(labels))}
        stimuli = [trial.stimulus for trial in trials]
        if not self.forward:
            used = self.used[subject]
            return TRF(**settings).fit([trial.features[:, columns] for trial in trials],
                                       [trial.mean()[:, used] for trial in trials], groups=stimuli)
        return TRF(**settings).fit(**self._sides(trials, columns), groups=stimuli)

    def _scalings(self, n_bands: int) -> np.ndarray:
        return dirichlet(self.cfg.trf.n_scalings, n_bands, seed=self.cfg.seed)

    def _sides(self, trials: Sequence[Trial], columns: np.ndarray | slice = slice(None),
               used: np.ndarray | None = None) -> dict[str, Any]:
        """What a forward model is fitted to, of trials of one subject, and of its channels those that are `used`."""
        used = self.used[trials[0].subject] if used is None else used
        return {"stimuli": [trial.features[:, columns] for trial in trials],
                "responses": [trial.mean()[:, used] for trial in trials],
                "weights": [np.isfinite(trial.responses[:, :, used]).sum(0) for trial in trials],
                "before": [trial.before[:, columns] for trial in trials],
                "after": [trial.after[:, columns] for trial in trials]}

    def _bands(self) -> np.ndarray:
        """The band of each column."""
        out = np.zeros(len(self.columns), dtype=object)
        for band, names in self.bands.items():
            for name in names:
                out[self.responses.feature_slices[name]] = band
        return out.astype(str)

    def predict(self, trials: Sequence[Trial], band: str = "") -> list[np.ndarray]:
        """Of each trial the responses of its subject's channels (backward: all columns of features), without `band`."""
        columns, out = self._without(band), []
        for trial in trials:
            model, used = self.models[band][trial.subject], self.used[trial.subject]
            if not self.forward:
                out += model.predict([trial.mean()[:, used]])
                continue
            whole = np.zeros(trial.responses.shape[1:])
            whole[:, used] = model.predict([trial.features[:, columns]], before=[trial.before[:, columns]],
                                           after=[trial.after[:, columns]])[0]
            out.append(whole)
        return out

    def valid_epoch(self, epoch: int) -> Metrics:
        """1 − mean r as the loss; without trials, that of the cross-validation."""
        trials = self.splits["valid"]
        if not trials:
            return {"loss": 1 - float(np.concatenate([_chosen(model)[1] for model in self.models[""]]).mean())}
        if self.forward:
            r = correlation(all_moments(self.responses, trials, self.predict(trials)))
            return {"loss": 1 - float(r[np.isfinite(r)].mean())}
        return {"loss": 1 - float(self._reconstruction(trials, n_boot=1)["r"].mean())}

    def finished(self, epoch: int) -> bool:
        return epoch >= 1

    def test(self) -> Metrics:
        trials = self.splits["test"]
        # of all processes, who share the segments out
        ranked = self.segments.retrieval_metrics() if self.segments is not None and trials else {}
        if not distrib.is_master():
            return {}
        self._write_kernels()
        cfg = self.cfg
        if not trials and not cfg.trf.nested:
            return {}
        if not self.forward:
            return self._test_backward(trials) | (ranked or self._test_pieces(trials))
        if cfg.trf.nested:
            trials, predictions, parts = self._nested()
        else:
            predictions = self.predict(trials)
            parts = self._partition(trials, predictions) if self.bands else {}
        metrics = report(self.responses, trials, predictions, self.folder, n_boot=cfg.test.n_boot, seed=cfg.seed,
                         save_predictions=cfg.encode.predictions)
        if parts:
            table = self.responses.units.assign(**parts)
            table.to_parquet(self.folder / "partition.parquet")
            metrics |= {name: float(table[name].median()) for name in parts if name != "r2"}
        return metrics

    def _partition(self, trials: list[Trial], predictions: list[np.ndarray]) -> dict[str, np.ndarray]:
        """What each band adds to the R² of the others `(units,)`, on the test trials."""
        whole = explained_variance(all_moments(self.responses, trials, predictions))
        unique = {f"unique_{band}": whole - explained_variance(all_moments(
            self.responses, trials, self.predict(trials, band))) for band in self.bands}
        return {"r2": whole, **unique, "shared": whole - sum(unique.values())}

    def _nested(self) -> tuple[list[Trial], list[np.ndarray], dict[str, np.ndarray]]:
        """All trials, what is predicted of each without its fold, both relative to the mean response of the other folds
        (`linear.trf_scores.Nested`), and with bands the columns of partition.parquet."""
        trials: list[Trial] = []
        predictions: list[np.ndarray] = []
        parts: dict[str, np.ndarray] = {}
        for subject in range(len(self.used)):
            own = [trial for split in self.splits for trial in self._own(subject, split)]
            stimuli = [trial.stimulus for trial in own]
            used = self._in_three_folds(subject, own)
            sides = self._sides(own, used=used)
            if self.bands:
                bands = self._bands()
                groups = {band: np.flatnonzero(bands == band) for band in self.bands}
                settings = self.settings | {"scalings": self._scalings(len(groups))}
                found = partition(settings, groups, **sides, trial_groups=stimuli, predict=True)
                scores = found.whole
                for name, values in _columns(found).items():
                    column = parts.setdefault(name, np.full(len(self.responses.units), np.nan))
                    column[self.responses.units_of(subject).start + used] = values
            else:
                scores = nested(TRF(**self.settings), **sides, groups=stimuli, predict=True)
            for trial, found_part, mean in zip(own, scores.predictions, scores.means, strict=True):
                whole, level = np.zeros(trial.responses.shape[1:]), np.zeros(trial.responses.shape[2])
                whole[:, used], level[used] = found_part - mean, mean
                level[np.setdiff1d(self.used[subject], used)] = np.nan
                trials.append(replace(trial, responses=(trial.responses - level).astype(np.float32)))
                predictions.append(whole)
        return trials, predictions, parts

    def _reconstruction(self, trials: list[Trial], n_boot: int) -> pd.DataFrame:
        """Scores of each subject and column of features."""
        tables = []
        for subject, name in enumerate(self.responses.subjects):
            own = [trial for trial in trials if trial.subject == subject]
            if own:
                scores = encoding_scores(self.predict(own), [trial.features[None] for trial in own], n_boot=n_boot,
                                         seed=self.cfg.seed)
                tables.append(scores.assign(subject=subject, subject_name=name, feature=self.columns))
        return pd.concat(tables, ignore_index=True)

    def _test_backward(self, trials: list[Trial]) -> Metrics:
        table = self._reconstruction(trials, self.cfg.test.n_boot)
        table.to_parquet(self.folder / "reconstruction.parquet")
        return {"r": float(table["r"].median()), "r_mean": float(table["r"].mean()), "r2": float(table["r2"].median()),
                "n_units": len(table), "n_stimuli": len({trial.stimulus for trial in trials})}

    def _test_pieces(self, trials: list[Trial]) -> Metrics:
        """Which piece of the trials was heard; a row per piece goes to `test_segments.parquet`, as of decoding."""
        cfg = self.cfg
        samples = None if cfg.trf.segment_s is None else max(2, round(cfg.trf.segment_s * cfg.dset.sample_rate))
        found = identify(self.predict(trials), [trial.features for trial in trials],
                         [trial.stimulus for trial in trials], samples, ks=cfg.test.topk)
        subject = np.array([trial.subject for trial in trials])[found.trial]
        stimulus = np.array([trial.stimulus for trial in trials])[found.trial]
        seconds = found.samples / cfg.dset.sample_rate
        pd.DataFrame({"segment": found.result.segment, "subject": subject, "stimulus": stimulus, "block": stimulus,
                      "stimulus_start": found.number * seconds, "stimulus_stop": (found.number + 1) * seconds,
                      "word": "", "sentence": "", "candidate": found.candidate, "number": found.number,
                      **found.result.values}).to_parquet(self.folder / "test_segments.parquet")
        metrics: Metrics = found.result.summary()
        for k in cfg.test.topk:
            interval = bootstrap_interval(found.result.values[f"top{k}"], subject, pd.factorize(stimulus)[0],
                                          n_boot=cfg.test.n_boot, seed=cfg.seed)
            metrics |= {f"top{k}_low": interval.low, f"top{k}_high": interval.high}
        return metrics

    def _write_kernels(self) -> None:
        data, models = self.responses, self.models[""]
        units = data.units
        names = [f"{data.subjects[s]}/{name}" for s, name in zip(units["subject"], units["name"], strict=True)]
        side = {"zscore": "standard deviations of the response", "max": "largest mean train response",
                "none": "the response's own unit"}[self.cfg.encode.response]
        deviation = "standard deviation of the feature"
        unit = f"{side} per {deviation} and second" if self.forward else f"{deviation} per {side} and second"
        arrays: dict[str, Any] = {"lags": models[0].lags, "features": np.array(self.columns, dtype=str),
                                  "units": np.array(names, dtype=str), "unit": np.array(unit),
                                  "layout": units[["layout_x", "layout_y"]].to_numpy(float)}
        if self.forward:
            kernels = np.full((len(self.columns), len(models[0].lags), len(data.units)), np.nan)
            for subject, model in enumerate(models):
                kernels[:, :, data.units_of(subject).start + self.used[subject]] = model.kernels
            arrays["kernels"] = kernels
        else:
            for subject, model in enumerate(models):
                used = self.used[subject]
                brain = [trial.mean()[:, used] for trial in self._own(subject)]
                arrays |= {f"kernels_{subject}": model.kernels, f"patterns_{subject}": model.patterns(brain),
                           f"channels_{subject}": data.units_of(subject).start + used}
        np.savez(self.folder / "kernels.npz", allow_pickle=False, **arrays)

    def keep_best(self) -> None:
        """There is one state."""

    def use_best(self) -> Any:
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        import torch
        names = self.responses.subjects if self.segments is None else self.segments.data.spec.subjects
        return {"spec": {"subjects": list(names)},
                "models": {band: [model.state_dict() for model in models] for band, models in self.models.items()},
                "used": [torch.from_numpy(used) for used in self.used]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.used = [used.numpy() for used in state["used"]]
        self.models = {band: [TRF(**self.settings) for _ in states] for band, states in state["models"].items()}
        for band, states in state["models"].items():
            for model, own in zip(self.models[band], states, strict=True):
                model.load_state_dict(own)


def _columns(found: Partition) -> dict[str, np.ndarray]:
    """Columns of partition.parquet."""
    of_bands = {f"{kind}_{name}": values for kind in ("unique", "alone", "product")
                for name, values in zip(found.names, getattr(found, kind), strict=True)}
    return {"r2": found.r2, **of_bands, "shared": found.shared}


def _chosen(model: TRF) -> tuple[np.ndarray, np.ndarray]:
    """Held-out mean squared error and correlation `(N,)` of the chosen scalings and penalties."""
    where = (model.scalings_, np.searchsorted(model.alphas, model.alphas_), np.arange(len(model.alphas_)))
    return model.cv_errors_[where], model.cv_r_[where]
