"""The study `bids`: any dataset of MEG, EEG or intracranial EEG in BIDS, described by a few lines of yaml."""
import difflib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from bm.config import nearest
from bm.studies.base import Study, register_study
from bm.studies.bids_files import (
    FORMATS,
    Channels,
    RawFile,
    find_raws,
    metadata,
    parts_of,
    read_channels,
    read_electrodes,
    sidecar,
)
from bm.studies.bids_options import COLUMNS, BidsOptions
from bm.studies.events_tsv import events_of_cells, read_events_tsv, read_tsv
from bm.studies.mne_recording import MneRecording

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

#: names of montages that MNE 1.13 replaced
MONTAGES = {"standard_1005": "colin27_1005", "standard_1020": "colin27_1020"}
_ELECTRODES = ("eeg", "seeg", "ecog", "dbs")
_LABELS = {"subjects": "sub", "sessions": "ses", "tasks": "task", "runs": "run"}


@dataclass(frozen=True, repr=False)
class BidsRecording(MneRecording):
    """One raw file of a BIDS dataset at `root`, with the tables beside it."""

    root: Path
    file: RawFile
    datatype: str
    options: BidsOptions = field(hash=False)
    study: str
    subject: str
    session: str
    uid: str

    @property
    def sensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """What is picked of the file's channels."""
        default = {"meg": ("meg",), "eeg": ("eeg",), "ieeg": ("seeg", "ecog")}
        return self.options.sensors or default[self.datatype]

    def raw(self) -> "mne.io.BaseRaw":
        raw = self._open()
        self._place(raw)
        if self.options.bads == "interpolate" and raw.info["bads"]:
            self._interpolate(raw)
        drop = list(raw.info["bads"]) if self.options.bads == "drop" else []
        if self.options.unplaced == "drop":
            drop += [name for name in _electrodes(raw) if name not in drop and not _is_placed(raw, name)]
        if drop:
            logger.info("%s: dropped %d channels (bads: %s, unplaced: %s): %s", self.name, len(drop),
                        self.options.bads, self.options.unplaced, ", ".join(drop))
            if len(drop) == len(raw.ch_names):
                raise ValueError(f"{self.name}: bads={self.options.bads}, unplaced={self.options.unplaced} leave no "
                                 "channel")
            raw.drop_channels(drop)
        return raw

    def _open(self) -> "mne.io.BaseRaw":
        """The file with the names, types and bads of channels.tsv.

        Raises:
            ValueError: a file that MNE cannot read, or one of epochs.
        """
        import mne

        kind = metadata(self.file, self.root, self.datatype).get("RecordingType")
        if kind == "epoched":
            raise ValueError(f"{self.file.path}: its JSON says RecordingType 'epoched', expected a continuous "
                             "recording: events in time cannot be placed in epochs")
        try:
            raw = mne.io.read_raw(self.file.path, preload=False, verbose="ERROR")
        except FileNotFoundError:
            raise
        except Exception as error:  # readers fail with whatever a broken header leads to
            raise ValueError(f"{self.file.path} cannot be read by MNE ({type(error).__name__}: {error}): is it whole? "
                             "Leave it out with `exclude`, or unreadable ones with `on_error: skip`") from error
        path = sidecar(self.file, self.root, "channels")
        if path is not None:
            _apply_channels(raw, read_channels(path))
        return raw

    def _place(self, raw: "mne.io.BaseRaw") -> None:
        """Positions of electrodes: those of electrodes.tsv, else of the montage, else the file's own."""
        import mne

        electrodes = _electrodes(raw)
        if not electrodes:
            return
        positions, source = read_electrodes(self.file, self.root, self.datatype), "electrodes.tsv"
        if not positions and self.options.montage:
            positions, source = montage_positions(self.options.montage), f"the montage {self.options.montage!r}"
        if not positions:
            return
        place = {_key(name): xyz for name, xyz in positions.items()}
        found = {name: place[_key(name)] for name in electrodes if _key(name) in place}
        if not found:
            raise ValueError(f"{self.name}: none of the electrodes {electrodes[:5]}… is in {source}, which has "
                             f"{list(positions)[:5]}…: choose another montage, or rename the channels")
        if len(found) < len(electrodes):
            missing = [name for name in electrodes if name not in found]
            logger.warning("%s: %d of %d electrodes have no position in %s: %s", self.name, len(missing),
                           len(electrodes), source, ", ".join(missing[:10]))
        raw.set_montage(mne.channels.make_dig_montage(found, coord_frame="head"), on_missing="ignore", verbose="ERROR")

    def _interpolate(self, raw: "mne.io.BaseRaw") -> None:
        unplaced = [name for name in _electrodes(raw) if not _is_placed(raw, name)]
        if unplaced:
            raise ValueError(f"{self.name}: bads=interpolate needs positions of all electrodes, but {unplaced[:5]} "
                             "have none: add `unplaced: drop` and `bads: drop`, or a `montage`")
        raw.load_data(verbose="ERROR")
        raw.interpolate_bads(reset_bads=True, verbose="ERROR")

    def events(self) -> pd.DataFrame:
        options = self.options
        parse: dict[str, Any] = {
            "columns": {COLUMNS[ours]: theirs for ours, theirs in options.columns.items()}, "kinds": options.kinds,
            "sounds": options.sounds, "sounds_required": options.sounds_required, "language": options.language,
            "modality": options.modality, "max_gap": options.max_gap}
        folders = [self.root / "stimuli", self.root]
        path = sidecar(self.file, self.root, "events")
        if path is not None:
            events = read_events_tsv(path, folders, **parse)
            self._compare_samples(events, path)
        else:
            cells, where = self._cells()
            events = events_of_cells(cells, where, folders, **(parse | {"columns": {}}))
        if (events["kind"] == "word").any():  # the text of a block is that of words in a sentence
            condition = events.get("condition", pd.Series(np.nan, events.index, dtype=object)).astype(object)
            events["condition"] = condition.where(condition.notna() | (events["kind"] != "word"), "sentence")
        return events

    def _cells(self) -> tuple[pd.DataFrame, Path]:
        """Events from the file itself, as cells of a table: annotations, else triggers; and how to call them."""
        import mne

        raw = self._open()
        notes = raw.annotations
        shift = raw.first_time if notes.orig_time is not None else 0.0
        rows = [(onset - shift, duration, text)
                for onset, duration, text in zip(notes.onset, notes.duration, notes.description, strict=True)]
        where = f"{self.file.path} (annotations)"
        if not [text for *_, text in rows if not text.lower().startswith("bad_")]:
            if "stim" not in raw.get_channel_types() and self.options.stim_channel is None:
                raise ValueError(f"{self.name}: no events: expected {self.uid}_events.tsv beside {self.file.path}, or "
                                 "annotations or a channel of triggers in it")
            found = mne.find_events(raw, self.options.stim_channel, shortest_event=1, initial_event=True,
                                    verbose="ERROR")
            rows = [((sample - raw.first_samp) / raw.info["sfreq"], 0.0, code) for sample, _, code in found]
            where = f"{self.file.path} (triggers)"
        logger.info("%s: no events.tsv, so events are taken from %s", self.name, where)
        table = pd.DataFrame([[str(cell) for cell in row] for row in rows], dtype=object,
                             columns=["onset", "duration", "trial_type"], index=range(1, len(rows) + 1))
        return table, Path(where)

    def _compare_samples(self, events: pd.DataFrame, path: Path) -> None:
        """`sample` is never used for timing, but tells of a table that belongs to another version of the file."""
        rate = metadata(self.file, self.root, self.datatype).get("SamplingFrequency")
        if "sample" not in events or not isinstance(rate, int | float):
            return
        late = (pd.to_numeric(events["sample"], errors="coerce") - events["start"] * rate).abs()
        if (late > 1).any():
            logger.warning("%s: `onset` and `sample` disagree in %d rows, the most by %g samples of %g Hz; onsets are "
                           "used. Was the recording resampled or cut?", path, (late > 1).sum(), late.max(), rate)

    def source_files(self) -> list[Path]:
        tables = [sidecar(self.file, self.root, *name) for name in (("channels",), ("electrodes",),
                                                                    ("coordsystem", ".json"))]
        return [*parts_of(self.file.path), *(path for path in tables if path is not None)]

    def event_files(self) -> list[Path]:
        path = sidecar(self.file, self.root, "events")
        return [] if path is None else [path]

    def signal_options(self) -> dict[str, Any]:
        return self.options.model_dump(mode="json", include={"sensors", "bads", "unplaced", "montage"})

    def event_options(self) -> dict[str, Any]:
        return self.options.model_dump(mode="json", include={
            "columns", "kinds", "sounds", "sounds_required", "language", "modality", "max_gap"})


def _apply_channels(raw: "mne.io.BaseRaw", channels: Channels) -> None:
    """Gives the file the types and bads of channels.tsv, and its names where only spelling differs ("Fc5." → "FC5").

    Raises:
        ValueError: no name of the table is in the file.
    """
    by_key = {_key(name): name for name in channels.names}
    rename = {name: by_key[_key(name)] for name in raw.ch_names if name not in channels.names and _key(name) in by_key
              and by_key[_key(name)] not in raw.ch_names}
    if len(set(rename.values())) == len(rename):
        raw.rename_channels(rename, verbose="ERROR")
    known = [name for name in channels.names if name in raw.ch_names]
    if not known:
        raise ValueError(f"{channels.path}: none of its channels {channels.names[:5]}… is in the file, which has "
                         f"{raw.ch_names[:5]}…: mend the column name")
    unknown = [name for name in channels.names if name not in known]
    if unknown:
        logger.warning("%s: %d of its channels are not in the file: %s", channels.path, len(unknown),
                       ", ".join(unknown[:10]))
    raw.set_channel_types({name: kind for name, kind in channels.types.items() if name in known},
                          on_unit_change="ignore", verbose="ERROR")
    raw.info["bads"] = [name for name in channels.bads if name in known]


def _electrodes(raw: "mne.io.BaseRaw") -> list[str]:
    """Names of the channels that are electrodes."""
    return [name for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind in _ELECTRODES]


def _is_placed(raw: "mne.io.BaseRaw", name: str) -> bool:
    xyz = raw.info["chs"][raw.ch_names.index(name)]["loc"][:3]
    return bool(np.isfinite(xyz).all() and xyz.any())


def _key(name: str) -> str:
    """What spellings of an electrode's name have in common: "Fc5.", "EEG FC5-REF" and "FC5"."""
    return name.lower().removeprefix("eeg ").removesuffix("-ref").strip(". ")


def montage_positions(name: str) -> dict[str, np.ndarray]:
    """Electrode → `(3,)` metres in the head frame, of a montage that MNE knows.

    Raises:
        ValueError: an unknown montage, with those there are.
    """
    from mne.channels import get_builtin_montages, make_standard_montage, transform_to_head

    known = [*get_builtin_montages(), *MONTAGES]
    if name not in known:
        raise ValueError(f"study bids: unknown montage {name!r}, expected one of {', '.join(known)}"
                         + nearest(name, known))
    return transform_to_head(make_standard_montage(MONTAGES.get(name, name))).get_positions()["ch_pos"]


@register_study
class Bids(Study):
    """Any BIDS dataset: one recording per raw file, in the order of its entities. Options: `BidsOptions`.

    Raises:
        ValueError: an unknown option or a value that cannot be; a label that no recording has; no recording left.
        FileNotFoundError: no folder of that name.
    """

    name = "bids"

    def __init__(self, path: Path | None, **selection: Any) -> None:
        super().__init__(path)
        self.options = BidsOptions.parse(selection)
        if path is None:
            raise ValueError("study bids: no path, expected the folder of the dataset: set study_paths.bids")
        self.blocks = self.options.blocks  # type: ignore[misc]  # the dataset's, not the class's
        root = Path(path) / self.options.dataset if self.options.dataset else Path(path)
        self.root = root / "download" if any((root / "download").glob("sub-*")) else root

    def recordings(self) -> Iterator[BidsRecording]:
        datatype, raws = self._find()
        kept = self._select(raws)
        self._describe()
        study = f"bids-{self.options.dataset}" if self.options.dataset else "bids"
        for raw in kept:
            recording = BidsRecording(self.root, raw, datatype, self.options, study, raw.entities["sub"],
                                      raw.entities.get("ses", ""), raw.uid)
            if self.options.on_error == "skip" and not _is_readable(recording):
                continue
            yield recording

    def _find(self) -> tuple[str, list[RawFile]]:
        """The datatype, and all raw files of it."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"study bids: no folder {self.root.absolute()}: put the dataset there, or mend "
                                    "study_paths.bids or the selection's key `dataset`")
        wanted = [self.options.datatype] if self.options.datatype else list(FORMATS)
        found = {datatype: raws for datatype in wanted if (raws := find_raws(self.root, datatype))}
        if not found:
            formats = {datatype: FORMATS[datatype] for datatype in wanted}
            raise ValueError(f"study bids: no recording in {self.root.absolute()}, expected files such as "
                             f"sub-01/{wanted[0]}/sub-01_task-listen_{wanted[0]}{FORMATS[wanted[0]][0]} with these "
                             f"endings: {formats}; is this the folder that holds sub-01?")
        if len(found) > 1:
            raise ValueError(f"study bids: {self.root} has recordings of {', '.join(found)}: choose one with the "
                             "selection's key `datatype`")
        return next(iter(found.items()))

    def _select(self, raws: list[RawFile]) -> list[RawFile]:
        kept = raws
        for option, entity in _LABELS.items():
            wanted = getattr(self.options, option)
            if wanted is None:
                continue
            labels = list(dict.fromkeys(raw.entities.get(entity, "") for raw in raws))
            for label in wanted:
                if not any(_same_label(label, have) for have in labels):
                    _no_label(option, label, labels)
            kept = [raw for raw in kept if any(_same_label(label, raw.entities.get(entity, "")) for label in wanted)]
        for pattern in self.options.exclude:
            if not any(fnmatchcase(raw.uid, pattern) for raw in raws):
                raise ValueError(f"study bids: exclude {pattern!r} fits no recording; there are "
                                 f"{', '.join(raw.uid for raw in raws[:10])}…")
        out = [raw for raw in kept if not self._is_rest(raw)
               and not any(fnmatchcase(raw.uid, pattern) for pattern in self.options.exclude)]
        if len(out) < len(raws):
            logger.info("bids: %d of %d recordings are selected", len(out), len(raws))
        if not out:
            raise ValueError(f"study bids: the selection leaves none of {len(raws)} recordings: "
                             f"{', '.join(raw.uid for raw in raws[:10])}… (rest, noise and the empty room count only "
                             "if `tasks` or `subjects` names them)")
        return out

    def _is_rest(self, raw: RawFile) -> bool:
        """Whether nothing is heard by convention, and nobody asked for it."""
        task = raw.entities.get("task", "")
        return (self.options.tasks is None and (task.startswith("rest") or task == "noise")) or (
            self.options.subjects is None and raw.entities["sub"] == "emptyroom")

    def _describe(self) -> None:
        """Tells what the dataset's own tables lack or have too much of."""
        if not (self.root / "dataset_description.json").exists():
            logger.warning("bids: %s has no dataset_description.json, which BIDS requires", self.root)
        path = self.root / "participants.tsv"
        if path.exists():
            table = read_tsv(path)
            absent = [name for name in table.get("participant_id", pd.Series(dtype=object)).dropna()
                      if not (self.root / name).is_dir()]
            if absent:
                logger.info("%s: %d participants have no folder: %s", path, len(absent), ", ".join(absent[:10]))


def _same_label(wanted: str | int, label: str) -> bool:
    """A number in yaml finds the label with leading zeros."""
    return wanted == label or (isinstance(wanted, int) and label.isdigit() and int(label) == wanted)


def _no_label(option: str, label: str | int, labels: list[str]) -> NoReturn:
    known = [name or "(none)" for name in labels]
    close = difflib.get_close_matches(str(label), known, n=1)
    raise ValueError(f"study bids: {option}: no recording has {label!r}, expected some of {', '.join(known)}"
                     + (f"; did you mean {close[0]!r}?" if close else ""))


def _is_readable(recording: BidsRecording) -> bool:
    """Whether signal and events can be had; says why not."""
    reads: list[Callable[[], Any]] = [recording.signal, recording.events, partial(_first_row, recording)]
    try:
        for read in reads:
            read()
    except (OSError, ValueError) as error:
        logger.warning("%s is skipped (on_error: skip): %s", recording.name, error)
        return False
    return True


def _first_row(recording: BidsRecording) -> np.ndarray:
    return recording.signal().read(0, 1)
