"""Scores of predicted responses, written and summed up: what all solvers that predict trials have in common."""
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bm.data.responses import Responses, Trial
from bm.metrics.ceilings import noise_ceilings
from bm.metrics.encoding import (
    encoding_scores,
    few_stimuli,
    median_ccnorm_interval,
    median_r_interval,
    stimulus_moments,
)
from bm.solvers.base import Metrics

logger = logging.getLogger(__name__)


def report(responses: Responses, trials: Sequence[Trial], predictions: Sequence[np.ndarray], folder: Path, *,
           n_boot: int, seed: int, save_predictions: bool = False) -> Metrics:
    """Test metrics: medians over the units that could be scored, with intervals over stimuli of the medians of `r` and
    `ccnorm`; a warning if the stimuli are few.

    Writes `encoding.parquet`, a row per unit: the columns of `Responses.units`, `subject_name`, and those of
    `metrics.encoding.encoding_scores`; `encoding_moments.npz`: `moments` (`all_moments` of these units, float32),
    `powers` (`metrics.ceilings.Ceilings.powers`, float32) and `stimulus`, the names of their rows, from which folds are
    pooled and XPs compared; with `save_predictions` also `encoding_predictions.npz`: of the i-th trial `prediction_i`
    and `response_i` (mean over repeats), `(T, C)`; `stimulus` and `subject` (index) of all.

    Args:
        trials: those that were predicted; `predictions`: `(T, C)` of each, the channels of its subject.
        n_boot: bootstrap samples.

    Raises:
        ValueError: no unit could be scored.
    """
    stimulus, names = pd.factorize(np.array([trial.stimulus for trial in trials], dtype=object))
    tables, powers = [], np.zeros((len(names), 2, len(responses.units)))
    for subject, name in enumerate(responses.subjects):
        own = [i for i, trial in enumerate(trials) if trial.subject == subject]
        if own:
            repeats = [trials[i].responses for i in own]
            ceilings = noise_ceilings(repeats, seed=seed)
            scores = encoding_scores([predictions[i] for i in own], repeats, n_boot=n_boot, seed=seed,
                                     ceilings=ceilings)
            np.add.at(powers[..., responses.units_of(subject)], stimulus[own], ceilings.powers)
            units = responses.units.iloc[responses.units_of(subject)].reset_index(drop=True)
            tables.append(pd.concat([units, scores], axis=1).assign(subject_name=name))
    table = pd.concat(tables, ignore_index=True)
    table.to_parquet(folder / "encoding.parquet")
    if save_predictions:
        _save_predictions(trials, predictions, folder / "encoding_predictions.npz")
    found = table[np.isfinite(table["r"])]
    if found.empty:
        raise ValueError(f"none of {len(table)} units could be scored on {len(trials)} test trials: their responses "
                         "are not measured there, or constant")
    moments = all_moments(responses, trials, predictions)
    tested = np.isin(responses.units["subject"], [trial.subject for trial in trials])
    np.savez_compressed(folder / "encoding_moments.npz", allow_pickle=False, stimulus=names.astype(str),
                        moments=moments[:, :, tested].astype(np.float32),
                        powers=powers[:, :, tested].astype(np.float32))
    if few := few_stimuli(len(names)):
        logger.warning("%s", few)
    low, high = median_r_interval(moments, n_boot=n_boot, seed=seed)
    metrics: Metrics = {"r": float(found["r"].median()), "r_low": low, "r_high": high,
                        "r_mean": float(found["r"].mean()), "r2": float(found["r2"].median()), "n_units": len(found),
                        "n_stimuli": len(moments)}
    for name in ("ccnorm", "ccmax", "reliability"):
        if found[name].notna().any():
            metrics[name] = float(found[name].median())
    if "ccnorm" in metrics:
        limits = median_ccnorm_interval(moments, powers, n_boot=n_boot, seed=seed)
        metrics |= dict(zip(("ccnorm_low", "ccnorm_high"), limits, strict=True))
    return metrics


def all_moments(responses: Responses, trials: Sequence[Trial], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """`metrics.encoding.stimulus_moments` of the units of all subjects side by side, `(stimuli, 7, units)`."""
    stimulus, names = pd.factorize(np.array([trial.stimulus for trial in trials], dtype=object))
    moments = np.zeros((len(names), 7, len(responses.units)))
    for subject in {trial.subject for trial in trials}:
        own = [i for i, trial in enumerate(trials) if trial.subject == subject]
        part = stimulus_moments([predictions[i] for i in own], [trials[i].mean()[None] for i in own])
        np.add.at(moments[..., responses.units_of(subject)], stimulus[own], part)
    return moments


def _save_predictions(trials: Sequence[Trial], predictions: Sequence[np.ndarray], path: Path) -> None:
    arrays = {f"prediction_{i}": np.asarray(x, dtype=np.float32) for i, x in enumerate(predictions)}
    arrays |= {f"response_{i}": trial.mean() for i, trial in enumerate(trials)}
    arrays |= {"stimulus": np.array([trial.stimulus for trial in trials], dtype=str),
               "subject": np.array([trial.subject for trial in trials])}
    np.savez(path, allow_pickle=False, **arrays)
