"""Scores of predicted responses, written and summed up: what all solvers that predict trials have in common."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bm.data.responses import Responses, Trial
from bm.metrics.encoding import encoding_scores, median_r_interval, stimulus_moments
from bm.solvers.base import Metrics


def report(responses: Responses, trials: Sequence[Trial], predictions: Sequence[np.ndarray], folder: Path, *,
           n_boot: int, seed: int, save_predictions: bool = False) -> Metrics:
    """Test metrics: medians over the units that could be scored, with the interval of the median of `r` over stimuli.

    Writes `encoding.parquet`, a row per unit: the columns of `Responses.units`, `subject_name`, and those of
    `metrics.encoding.encoding_scores`; `encoding_moments.npz`: `moments` (`all_moments` of these units, float32) and
    `stimulus`, the names of their rows, from which folds are pooled and XPs compared; with `save_predictions` also
    `encoding_predictions.npz`: of the i-th trial `prediction_i` and `response_i` (mean over repeats), `(T, C)`;
    `stimulus` and `subject` (index) of all.

    Args:
        trials: those that were predicted; `predictions`: `(T, C)` of each, the channels of its subject.
        n_boot: bootstrap samples.

    Raises:
        ValueError: no unit could be scored.
    """
    tables = []
    for subject, name in enumerate(responses.subjects):
        own = [i for i, trial in enumerate(trials) if trial.subject == subject]
        if own:
            scores = encoding_scores([predictions[i] for i in own], [trials[i].responses for i in own], n_boot=n_boot,
                                     seed=seed)
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
    _save_moments(responses, trials, moments, folder / "encoding_moments.npz")
    low, high = median_r_interval(moments, n_boot=n_boot, seed=seed)
    metrics: Metrics = {"r": float(found["r"].median()), "r_low": low, "r_high": high,
                        "r_mean": float(found["r"].mean()), "r2": float(found["r2"].median()), "n_units": len(found),
                        "n_stimuli": len(moments)}
    for name in ("ccnorm", "ccmax", "reliability"):
        if found[name].notna().any():
            metrics[name] = float(found[name].median())
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


def _save_moments(responses: Responses, trials: Sequence[Trial], moments: np.ndarray, path: Path) -> None:
    tested = np.isin(responses.units["subject"], [trial.subject for trial in trials])
    stimulus = pd.factorize(np.array([trial.stimulus for trial in trials], dtype=object))[1].astype(str)
    np.savez_compressed(path, allow_pickle=False, moments=moments[:, :, tested].astype(np.float32), stimulus=stimulus)


def _save_predictions(trials: Sequence[Trial], predictions: Sequence[np.ndarray], path: Path) -> None:
    arrays = {f"prediction_{i}": np.asarray(x, dtype=np.float32) for i, x in enumerate(predictions)}
    arrays |= {f"response_{i}": trial.mean() for i, trial in enumerate(trials)}
    arrays |= {"stimulus": np.array([trial.stimulus for trial in trials], dtype=str),
               "subject": np.array([trial.subject for trial in trials])}
    np.savez(path, allow_pickle=False, **arrays)
