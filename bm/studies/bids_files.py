"""Finds the files of a BIDS dataset, and reads the tables beside a recording.

Only names and small tables are read here, without mne-bids: its reader also parses events.tsv, and so refuses every
dataset whose table speaks another dialect.
"""
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.studies.events_tsv import read_tsv

logger = logging.getLogger(__name__)

#: datatype → endings of its raw files (lower case); FIF is MNE's own and accepted for all
FORMATS: dict[str, tuple[str, ...]] = {
    "meg": (".fif", ".ds", ".con", ".sqd"), "eeg": (".vhdr", ".edf", ".bdf", ".set", ".fif"),
    "ieeg": (".vhdr", ".edf", ".bdf", ".set", ".mefd", ".fif"),
}
#: metres in one of these
UNITS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
#: coordinate systems whose x axis points to the nose and y to the left ear, where MNE's head frame has x to the right
NOSE_X = {"CTF", "4DBti", "KitYokogawa", "EEGLAB", "EEGLAB-HJ"}
#: type in channels.tsv → type of MNE. Types of MEG are the file's own affair; any other is "misc"
CHANNEL_TYPES = {"EEG": "eeg", "ECOG": "ecog", "SEEG": "seeg", "DBS": "dbs", "EOG": "eog", "VEOG": "eog", "HEOG": "eog",
                 "ECG": "ecg", "EMG": "emg", "TRIG": "stim", "MISC": "misc", "RESP": "resp", "GSR": "gsr",
                 "TEMP": "temperature", "REF": "misc", "AUDIO": "misc", "EYEGAZE": "misc", "PUPIL": "misc"}
_MEG_TYPES = ("MEG", "HLU")


def entities_of(name: str) -> dict[str, str]:
    """`{"sub": "01", "task": "rest"}` of `sub-01_task-rest_eeg.edf`."""
    pairs = [part.partition("-") for part in name.split(".")[0].split("_")]
    return {key: value for key, dash, value in pairs if dash}


@dataclass(frozen=True)
class RawFile:
    """One raw file (or folder, for CTF): its path and entities; split files are known by their first part."""

    path: Path
    entities: dict[str, str] = field(hash=False)

    @property
    def uid(self) -> str:
        """The entities, joined: `sub-02_ses-a_task-listen_run-01`."""
        return "_".join(f"{key}-{value}" for key, value in self.entities.items())

    def order(self) -> list[tuple]:
        """Sorts subjects, sessions, tasks and runs in this order; numbers as such, and before names."""
        keys = ["sub", "ses", "task", *sorted(set(self.entities) - {"sub", "ses", "task", "run"}), "run"]
        values = [(key, self.entities.get(key, "")) for key in keys]
        return [(key, not value.isdigit(), int(value) if value.isdigit() else 0, value) for key, value in values]


def find_raws(root: Path, datatype: str) -> list[RawFile]:
    """All raw files of a datatype, in a fixed order.

    Raises:
        ValueError: two files for one recording, or parts of a split file without the first.
    """
    found: dict[str, RawFile] = {}
    parts: dict[str, Path] = {}
    for folder in sorted([*root.glob(f"sub-*/{datatype}"), *root.glob(f"sub-*/ses-*/{datatype}")]):
        for path in sorted(folder.iterdir()):
            if not path.stem.endswith(f"_{datatype}") or path.suffix.lower() not in FORMATS[datatype]:
                continue
            entities = entities_of(path.name)
            split = entities.pop("split", "")
            raw = RawFile(path, entities)
            if split and int(split) > 1:  # MNE follows from the first
                parts.setdefault(raw.uid, path)
            elif raw.uid in found:
                raise ValueError(f"{folder}: two raw files for one recording, {found[raw.uid].path.name} and "
                                 f"{path.name}; expected one: move the other out of the dataset")
            else:
                found[raw.uid] = raw
    orphans = sorted(set(parts) - set(found))
    if orphans:
        raise ValueError(f"{parts[orphans[0]]} is a later part of a split file whose first part is missing: complete "
                         "the download")
    return sorted(found.values(), key=RawFile.order)


def parts_of(path: Path) -> list[Path]:
    """All files that a raw file consists of: split parts, companions of its header, the content of a folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if "_split-" in path.name:
        before, _, after = path.name.partition("_split-")
        return sorted(path.parent.glob(f"{before}_split-*_{after.split('_', 1)[1]}"))
    companions = {".vhdr": (".vmrk", ".eeg", ".dat"), ".set": (".fdt",)}.get(path.suffix.lower(), ())
    return [path, *(file for file in map(path.with_suffix, companions) if file.exists())]


def _candidates(raw: RawFile, root: Path, suffix: str, extension: str) -> Iterator[list[Path]]:
    """The side-cars that apply to a recording, nearest folder first; in each the most specific ones first.

    A side-car applies if it has no entity that the recording has not, or has otherwise (`space` and `split` aside).
    """
    folder = raw.path.parent
    while True:
        found = []
        for path in sorted(folder.glob(f"*{suffix}{extension}")):
            entities = entities_of(path.name)
            named = path.name == suffix + extension or path.name.endswith(f"_{suffix}{extension}")
            if named and all(raw.entities.get(k) == v for k, v in entities.items() if k not in ("space", "split")):
                found.append((-len(set(entities) - {"space", "split"}), path.name, path))
        if found:
            yield [path for *_, path in sorted(found)]
        if folder in (root, folder.parent):
            return
        folder = folder.parent


def sidecar(raw: RawFile, root: Path, suffix: str, extension: str = ".tsv") -> Path | None:
    """The side-car that applies to a recording (inheritance principle: the nearest, most specific one), or None."""
    return next((paths[0] for paths in _candidates(raw, root, suffix, extension)), None)


def metadata(raw: RawFile, root: Path, suffix: str) -> dict[str, Any]:
    """The content of all JSON side-cars that apply; nearer ones win."""
    out: dict[str, Any] = {}
    for paths in reversed(list(_candidates(raw, root, suffix, ".json"))):
        for path in reversed(paths):
            try:
                values = json.loads(path.read_text(encoding="utf-8-sig"))
            except ValueError as error:  # also what is no UTF-8
                raise ValueError(f"{path} cannot be read as JSON: {error}") from error
            if not isinstance(values, dict):
                raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
            out |= values
    return out


@dataclass(frozen=True)
class Channels:
    """What channels.tsv says: the MNE type of channels (MEG aside), and which are bad."""

    path: Path
    names: list[str]
    types: dict[str, str]
    bads: list[str]


def read_channels(path: Path) -> Channels:
    """Reads a channels.tsv.

    Raises:
        ValueError: no column `name`, a name that is missing or there twice, a status other than good or bad; with line.
    """
    table = read_tsv(path)
    if "name" not in table:
        raise ValueError(f"{path}: no column 'name', expected name and type; it has {list(table.columns)}")
    wrong = table["name"].isna() | table["name"].duplicated()
    if wrong.any():
        line = table.index[wrong][0]
        raise ValueError(f"{path}, line {line}, column name: got {table.at[line, 'name']!r}, expected a name that no "
                         "other channel has")
    status = table.get("status", pd.Series(np.nan, table.index)).dropna().str.lower()
    unknown = status[~status.isin(["good", "bad"])]
    if len(unknown):
        raise ValueError(f"{path}, line {unknown.index[0]}, column status: got {unknown.iloc[0]!r}, expected good, bad "
                         "or n/a")
    types, misc = {}, []
    for name, kind in zip(table["name"], table.get("type", pd.Series(np.nan, table.index)), strict=True):
        if isinstance(kind, str) and not kind.upper().startswith(_MEG_TYPES):
            types[name] = CHANNEL_TYPES.get(kind.upper(), "misc")
            misc += [kind] if kind.upper() not in CHANNEL_TYPES else []
    if misc:
        logger.warning("%s: unknown types %s of %d channels, taken for misc", path, sorted(set(misc)), len(misc))
    bad = table["name"][status.index[status == "bad"]]
    return Channels(path, list(table["name"]), types, list(bad))


def read_electrodes(raw: RawFile, root: Path, datatype: str) -> dict[str, np.ndarray]:
    """Electrode → `(3,)` metres, axes turned to MNE's head frame (x right, y front); empty where the files lack.

    Raises:
        ValueError: a coordinate that is no number; with file, line and column.
    """
    path = sidecar(raw, root, "electrodes")
    if path is None:
        return {}
    system = metadata(raw, root, "coordsystem")
    prefix = {"eeg": "EEG", "ieeg": "iEEG", "meg": "MEG"}[datatype]
    prefix = prefix if f"{prefix}CoordinateUnits" in system else "EEG"  # EEG measured with MEG
    unit = system.get(f"{prefix}CoordinateUnits")
    if unit not in UNITS:
        logger.warning("%s: positions are not used, as the coordsystem.json beside it %s; expected %sCoordinateUnits "
                       "m, cm or mm", path, f"has the unit {unit!r}" if system else "is missing", prefix)
        return {}
    table = read_tsv(path)
    missing = [column for column in ("name", "x", "y", "z") if column not in table]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}, expected name, x, y, z; it has {list(table.columns)}")
    xyz = table[["x", "y", "z"]].apply(pd.to_numeric, errors="coerce")
    wrong = (xyz.isna() & table[["x", "y", "z"]].notna()) | xyz.isin([np.inf, -np.inf])
    for column in ("x", "y", "z"):
        if wrong[column].any():
            line = wrong.index[wrong[column]][0]
            raise ValueError(f"{path}, line {line}, column {column}: got {table.at[line, column]!r}, expected a number "
                             "or n/a")
    xyz = xyz[xyz.notna().all(axis=1)] * UNITS[unit]
    values = xyz.to_numpy(dtype=float)
    if system.get(f"{prefix}CoordinateSystem") in NOSE_X:
        values = np.c_[-values[:, 1], values[:, 0], values[:, 2]]
    return dict(zip(table["name"][xyz.index], values, strict=True))
