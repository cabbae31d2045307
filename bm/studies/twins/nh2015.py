"""The twin of `nh2015`: 12 sounds, 9 voxels of 2 people, two of which have no third repetition; 3 components.

Responses follow the loudness of two bands of the sounds, so that there is something to predict.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd

from bm.store import file_sha256
from bm.studies.convert import convert
from bm.studies.nh2015 import COMPONENTS, ORDER, ORDER_2021, REPETITIONS, RESPONSES, TABLE, VOXELS

#: fault → what is wrong then
FAULTS = {
    "missing_sound": "a sound file is not there",
    "missing_file": "the order of the sounds is not there",
    "truncated_raw": "the responses end before what their header says",
    "transposed": "the responses are voxels × sounds",
    "wrong_voxels": "the table has its voxels in another order",
    "missing_value": "a voxel lacks a response that its metadata promises",
}
SOUNDS = 12
CATEGORIES = ("Music", "EngSpeech", "Nature", "Mechanical")
RATE = 16_000


def make(folder: Path, fault: str | None = None, sounds: int = SOUNDS, seed: int = 0, converted: bool = True) -> None:
    """Writes the twin.

    Args:
        folder: the study's root.
        fault: one of `FAULTS`.
        sounds: how many.
        seed: of noise.
        converted: the table about voxels is there as Parquet too, not only as a pickle.
    """
    names, drive = write_sounds(folder, sounds, seed)
    own = folder / "data/neural/NH2015"
    own.mkdir(parents=True)
    write_order(own / ORDER, names)
    meta = np.zeros(9, dtype=[("voxel_id", "i8"), ("n_reps", "i8")])
    meta["voxel_id"] = [40, 7, 12, 99, 3, 55, 21, 8, 70]
    meta["n_reps"] = REPETITIONS
    meta["n_reps"][[2, 6]] = 2
    responses = answers(drive, len(meta), seed)
    responses[:, meta["n_reps"] == 2, 2] = np.nan
    kept = meta["voxel_id"][meta["n_reps"] == REPETITIONS]
    write_voxels(own, responses, meta, kept, np.repeat([1, 4], [4, 3]), fault, converted)
    if fault == "missing_sound":
        (folder / f"data/stimuli/wavs/{names[1]}.wav").unlink()
    if fault == "missing_file":
        (own / ORDER).unlink()
    write_components(folder, names, drive, seed)
    marker = {"study": "nh2015", "subjects": 2, "recordings": 2}
    (folder / "twin.json").write_text(json.dumps(marker))


def write_sounds(folder: Path, sounds: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Mixtures of two bands of noise, 2 s each; their names, and the log power `(sounds, 2)` of each band."""
    import soundfile
    rng = np.random.default_rng(seed)
    names = [f"stim{7 * i + 3}_noise_{i}" for i in range(sounds)]
    level = rng.uniform(-4, -1, (sounds, 2))
    (folder / "data/stimuli/wavs").mkdir(parents=True, exist_ok=True)
    time = np.arange(2 * RATE) / RATE
    for name, (low, high) in zip(names, level, strict=True):
        tone = 10 ** low * np.sin(2 * np.pi * 300 * time) + 10 ** high * np.sin(2 * np.pi * 3000 * time)
        soundfile.write(folder / f"data/stimuli/wavs/{name}.wav", tone + 1e-4 * rng.standard_normal(len(time)), RATE,
                        subtype="FLOAT")
    return names, level


def write_order(path: Path, names: list[str]) -> None:
    """The order of the sounds as published: a plain structured array, known by position."""
    rows = [(f"{name}.wav".encode(), i, 0, 0, CATEGORIES[i % 4]) for i, name in enumerate(names)]
    np.save(path, np.array(rows, dtype=[("f0", "S60"), ("f1", "i8"), ("f2", "i8"), ("f3", "i8"), ("f4", "U12")]),
            allow_pickle=False)


def answers(drive: np.ndarray, voxels: int, seed: int) -> np.ndarray:
    """Responses `(sounds, voxels, repetitions)` to the drive, with noise."""
    rng = np.random.default_rng(seed + 1)
    signal = (drive - drive.mean(0)) @ rng.standard_normal((drive.shape[1], voxels))
    return signal[..., None] + 0.3 * rng.standard_normal((len(drive), voxels, REPETITIONS))


def write_voxels(folder: Path, responses: np.ndarray, meta: np.ndarray, kept: np.ndarray, subjects: np.ndarray,
                 fault: str | None, converted: bool) -> None:
    """Responses, metadata and the table about the `kept` voxels, a pickle as of an older pandas."""
    if fault == "missing_value":
        responses[1, 0, 0] = np.nan
    np.save(folder / RESPONSES, responses.transpose(1, 0, 2) if fault == "transposed" else responses)
    if fault == "truncated_raw":
        content = (folder / RESPONSES).read_bytes()
        (folder / RESPONSES).write_bytes(content[:len(content) // 2])
    np.save(folder / VOXELS, meta)
    n = len(kept)
    roi = np.array([("Primary", "Lateral", "Posterior", "Anterior")[i % 4] for i in range(n)], dtype=object)
    roi[n - 1] = np.nan
    table = pd.DataFrame({
        "voxel_id": kept[::-1] if fault == "wrong_voxels" else kept, "subj_idx": subjects, "x_ras": np.arange(n),
        "y_ras": -np.arange(n), "hemi": pd.Series(["lh", "rh"] * n, dtype=object)[:n],
        "coord_id": pd.Series([f"{i}_{-i}" for i in range(n)], dtype=object),
        "shared_by": pd.Series([str(i) for i in range(n)], dtype=object), "roi_label_general": roi})
    table.columns = pd.Index(table.columns.to_list(), dtype=object)
    table.to_pickle(folder / f"{TABLE}.pkl")
    if converted:
        convert(folder / f"{TABLE}.pkl", file_sha256(folder / f"{TABLE}.pkl"))


def write_components(folder: Path, names: list[str], drive: np.ndarray, seed: int) -> None:
    """Component responses, of sounds in another order."""
    import scipy.io
    rng = np.random.default_rng(seed + 2)
    order = rng.permutation(len(names))
    path = folder / "data/neural/NH2015comp" / COMPONENTS
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {
        "R": np.column_stack([drive, drive.sum(1)])[order],
        "stim_names": np.array([[names[i] for i in order]], dtype=object),
        "component_names": np.array([["lowfreq"], ["highfreq"], ["speech"]], dtype=object)})


def write_stim_info(path: Path, names: list[str]) -> None:
    """The order of the sounds of `b2021`."""
    import scipy.io
    scipy.io.savemat(path / ORDER_2021, {"stim_info": {"stim_names": np.array([[name] for name in names],
                                                                             dtype=object)}})
