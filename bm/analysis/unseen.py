"""Test subjects whom the model never saw, and what stands in for the weights that it would have for them."""
import logging
from typing import TYPE_CHECKING

import numpy as np

from bm.config import nearest
from bm.data.assemble import Data
from bm.models.personal import personal_weights, replace_weights

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)

SUBJECT_LAYERS = ("own", "average", "nearest")

#: samples of a recording from which its covariance is taken; share of the identity that makes it invertible
N_SAMPLES, SHRINKAGE = 20000, 0.05


def check_subject_layer(name: str) -> None:
    """Raises ValueError if `name` is none of `SUBJECT_LAYERS`."""
    if name not in SUBJECT_LAYERS:
        raise ValueError(f"subject_layer={name}: expected {', '.join(SUBJECT_LAYERS)}{nearest(name, SUBJECT_LAYERS)}")


def people(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the subjects with train segments, and of those who are in the test alone."""
    trained = data.trained_subjects()
    tested = np.asarray(data.subjects)[data.segments.loc[data.segments["split"] == "test", "recording"]]
    return trained, np.setdiff1d(tested, trained)


def place_subjects(solver: "DecodeSolver", how: str) -> None:
    """Gives unseen test subjects other personal weights, in the best state of a restored solver.

    "own" leaves what the training left: the mean over the trained subjects (in XPs from before it did so, weights as
    they were drawn: chance). "average" makes it that mean. "nearest" gives them those of the trained subject whose
    brain data are most alike (`nearest_subjects`), which asks for no word of what the new person heard, as the loss on
    some of their data would: who has such data should calibrate.

    Errors: ValueError for another `how`, or if there is nobody unseen, or the model treats all alike.
    """
    check_subject_layer(how)
    if how == "own":
        return
    trained, unseen = people(solver.data)
    names = personal_weights(solver.modules)
    if not len(unseen) or not names:
        raise ValueError(f"subject_layer={how}: " + (
            "every test subject was trained, nobody is new to the model. XPs that test people whom they never saw are "
            "those with dset.split_by=subject, or with dset.n_subjects below dset.n_subjects_test" if names else
            "the model has no weights that differ from one subject to the next, as simpleconv.subject_layers=true or "
            "simpleconv.subject_dim above 0 give it") + ": train one (docs/evaluation.md)")
    assert solver.best_state is not None
    sources = {subject: [other] for subject, other in nearest_subjects(solver, unseen, trained).items()
               } if how == "nearest" else dict.fromkeys(unseen.tolist(), trained.tolist())
    replace_weights(solver.best_state, names, sources)


def nearest_subjects(solver: "DecodeSolver", unseen: np.ndarray, trained: np.ndarray) -> dict[int, int]:
    """For each unseen subject the trained one whose sensors vary together most alike.

    The distance is log-Euclidean (Arsigny et al. 2006, doi:10.1002/mrm.20965) between correlations of the scaled,
    clamped channels, the mean over a subject's recordings, `SHRINKAGE` towards the identity. No event is looked at.

    Errors: ValueError if no trained subject has the same sensors.
    """
    data = solver.data
    logs: dict[int, np.ndarray] = {}
    sensors: dict[int, tuple[str, ...]] = {}
    for subject in (*unseen.tolist(), *trained.tolist()):
        recordings = [r for r, other in enumerate(data.subjects) if other == subject]
        sensors[subject] = tuple(data.prepared[recordings[0]].channels["name"])
        same = [r for r in recordings if tuple(data.prepared[r].channels["name"]) == sensors[subject]]
        logs[subject] = _log(np.mean([_correlation(solver, r) for r in same], axis=0))
    found = {}
    for subject in unseen.tolist():
        alike = [other for other in trained.tolist() if sensors[other] == sensors[subject]]
        if not alike:
            raise ValueError(f"subject_layer=nearest: no trained subject has the sensors of "
                             f"{data.spec.subjects[subject]}: use subject_layer=average")
        found[subject] = min(alike, key=lambda other: float(np.linalg.norm(logs[other] - logs[subject])))
        logger.info("%s: nearest of %d trained subjects is %s", data.spec.subjects[subject], len(alike),
                    data.spec.subjects[found[subject]])
    return found


def _correlation(solver: "DecodeSolver", recording: int) -> np.ndarray:
    """`(C, C)` of one recording, as the model sees its channels; what is bad is uncorrelated."""
    array, scaler = solver.data.prepared[recording].array, solver.finish.scalers.brain
    channels = array.shape[1]
    x = np.asarray(array[::max(len(array) // N_SAMPLES, 1)], dtype=float)
    x = (x - scaler.center[recording, :channels].cpu().numpy()) / scaler.scale[recording, :channels].cpu().numpy()
    if solver.finish.max_scale is not None:
        x = x.clip(-solver.finish.max_scale, solver.finish.max_scale)
    x = (x - x.mean(0)) * solver.data.montages.valid[recording, :channels]
    norm = np.linalg.norm(x, axis=0)
    x /= np.where(norm > 0, norm, 1)
    correlation = x.T @ x
    np.fill_diagonal(correlation, 1.0)
    return (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(channels)


def _log(matrix: np.ndarray) -> np.ndarray:
    """Logarithm of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.log(values)) @ vectors.T
