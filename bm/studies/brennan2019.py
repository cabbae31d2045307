"""The study `brennan2019`: 33 people listen to chapter one of *Alice in Wonderland*, EEG (Brennan & Hale 2019).

Data: Deep Blue, doi 10.7302/Z29C6VNH (MAT files of FieldTrip, "v1") or 10.7302/746w-g237 (BrainVision, "v2"). A trial
table goes with the signals of its own release: the two differ in length.
"""
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from bm.studies.base import Study, register_study
from bm.studies.facts import Facts
from bm.studies.files import download_folder, find_file, read_mat
from bm.studies.mne_recording import MneRecording
from bm.studies.quality import Anchors, audio_lag
from bm.studies.sources import fetch

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

RATE = 500
CHANNELS = 60
#: subjects with bad data or a wrong trial table: the authors do not use them
EXCLUDED = ("S02", "S24", "S26", "S27", "S30", "S32", "S34", "S35", "S36")
#: of S01–S49, those of whom no preprocessing file, and so no trial table, is published
WITHOUT_TRIALS = ("S28", "S29", "S31", "S33", "S46", "S47", "S49")
STORY = "AliceChapterOne-EEG.csv"
SOUND = "audio/DownTheRabbitHoleFinal_SoundFile{}.wav"
#: where the trial tables are: MAT release, BrainVision release
TABLES = ("proc", "timelock-preprocessing")
_COLUMNS = ("Word", "Segment", "onset", "offset", "Position", "Sentence")
_CURE = "see `python -m scripts.study download brennan2019 --dry-run`"


@dataclass(frozen=True, repr=False)
class BrennanRecording(MneRecording):
    """The one recording of a subject. The last channels of its `raw` may be the sound (AUD or Aux5); see `anchors`."""

    folder: Path
    subject: str
    uid: str
    onset_from_offset: bool = True
    bads: bool = True
    session: str = "1"
    study: str = "brennan2019"
    sensors: ClassVar[tuple[str, ...]] = ("eeg",)

    @property
    def path(self) -> Path:
        """Its signal: the MAT file if there is one, else the BrainVision header."""
        matlab = self.folder / f"{self.subject}.mat"
        return matlab if matlab.is_file() else find_file(self.folder, f"{self.subject}.vhdr", _CURE)

    @property
    def table(self) -> Path:
        """Its trial table."""
        folders = [self.folder / name for name in TABLES if (self.folder / name / f"{self.subject}.mat").is_file()]
        return find_file(folders[0] if folders else self.folder / TABLES[0], f"{self.subject}.mat", _CURE)

    def raw(self) -> "mne.io.BaseRaw":
        import mne

        path = self.path
        raw = mne.io.read_raw_brainvision(path, verbose="ERROR") if path.suffix == ".vhdr" else _read_fieldtrip(path)
        if raw.info["sfreq"] != RATE:
            raise ValueError(f"{path}: {raw.info['sfreq']:g} Hz, expected {RATE}")
        montage = mne.channels.make_standard_montage("easycap-M10")
        kinds = {name: "eog" if "EOG" in name else "misc" for name in raw.ch_names if name not in montage.ch_names}
        if len(raw.ch_names) - len(kinds) != CHANNELS:
            raise ValueError(f"{path}: {len(raw.ch_names) - len(kinds)} EEG channels, expected {CHANNELS} (1–61 "
                             f"without 29); the others are {sorted(kinds)}")
        raw.set_channel_types(kinds, verbose="ERROR")
        raw.set_montage(montage)
        if self.bads:
            bads = set(_proc(self.table)["bads"])
            raw.info["bads"] = [name for name in raw.ch_names if name in bads]
        return raw

    def events(self) -> pd.DataFrame:
        return _events(self._words(), self.folder)

    def _words(self) -> pd.DataFrame:
        """The story's table beside the trial table: one row per word, `start` in the recording."""
        story = read_story(self.folder / STORY)
        trials = _proc(self.table)["trials"]
        if len(trials) != len(story):
            raise ValueError(f"{self.table}: {len(trials)} trials, but {STORY} has {len(story)} words: words and "
                             f"trials cannot be paired; if the file is whole, add {self.subject} to `exclude`")
        table = pd.concat([story, trials.add_prefix("trl_")], axis=1)
        begin = table["trl_start_sample"]
        return table.assign(start=(begin - 1 - table["trl_offset"] if self.onset_from_offset else begin) / RATE)

    def anchors(self) -> Anchors:
        """Every word is one: its place in its sound (the story's table) and in the recording (the trial table)."""
        words = self._words()
        segment = words["Segment"].to_numpy()
        return Anchors(words["onset"].to_numpy(), words["start"].to_numpy(), len(words), len(words), segment)

    def measures(self) -> dict[str, float]:
        """`table_mismatch`; and if the sound was recorded too, `audio_lag_ms`, its median lag behind the sound events,
        and `audio_r`, the correlation of the two envelopes there."""
        words = self._words()
        wrong = np.zeros(len(words), bool)
        if "trl_segment" in words:
            wrong |= (words["trl_segment"] != words["Segment"]).to_numpy()
        if "trl_tmin" in words:
            wrong |= ((words["trl_tmin"] - words["onset"]).abs() > 0.05).to_numpy()
        raw = self.raw()
        sound = [name for name in raw.ch_names if name in ("AUD", "Aux5") and np.ptp(raw.get_data(picks=[name])) > 0]
        measures = {"table_mismatch": float(wrong.mean())}
        if sound:
            channel = raw.get_data(picks=sound[:1])[0]
            played = _events(words, self.folder)
            lags = [audio_lag(channel, RATE, Path(row.filepath), row.start)
                    for row in played[played["kind"] == "sound"].itertuples()]
            known = np.array([pair for pair in lags if np.isfinite(pair[0])]).reshape(-1, 2)
            lag, r = np.median(known, axis=0) if len(known) else (0.0, 0.0)
            measures |= {"audio_r": float(r)} | ({"audio_lag_ms": float(1000 * lag)} if r > 0.3 else {})
        return measures

    def source_files(self) -> list[Path]:
        path = self.path
        parts = [path] if path.suffix == ".mat" else [path, path.with_suffix(".eeg"), path.with_suffix(".vmrk")]
        return [*parts, self.table] if self.bads else parts

    def signal_options(self) -> dict[str, Any]:
        return {"bads": self.bads}

    def event_files(self) -> list[Path]:
        return [self.folder / STORY, self.table]

    def event_options(self) -> dict[str, Any]:
        return {"onset_from_offset": self.onset_from_offset}


def read_story(path: Path) -> pd.DataFrame:
    """One row per word in the order of the story; text as text ("null" is a word), header names in any case.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, or holds something else than numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, the words of the story: {_CURE}")
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    names = {name.strip().lower(): name for name in table.columns}
    missing = [name for name in _COLUMNS if name.lower() not in names]
    if missing:
        raise ValueError(f"{path}: no column {missing}; it has {list(table.columns)}")
    table = table.rename(columns={names[name.lower()]: name for name in _COLUMNS})[list(_COLUMNS)]
    for name in _COLUMNS[1:]:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.isna().any():
            row = int(numbers.isna().to_numpy().argmax())
            raise ValueError(f"{path}, line {row + 2}, column {name}: got {table[name].iloc[row]!r}, expected a number")
        table[name] = numbers
    return table.astype({"Segment": int, "Sentence": int})


def _events(words: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Words, and the sounds they are in: a sound starts where its first word says. Some start before the EEG."""
    said = words["Word"].groupby(words["Sentence"])
    spoken = pd.DataFrame({
        "kind": "word", "start": words["start"], "duration": words["offset"] - words["onset"], "word": words["Word"],
        "word_index": said.cumcount(), "word_sequence": said.transform(" ".join), "sequence_id": words["Sentence"],
        "position": words["Position"]})
    first = words.groupby("Segment").first()
    files = [str(find_file(folder, SOUND.format(segment), _CURE)) for segment in first.index]
    sounds = pd.DataFrame({"kind": "sound", "start": first["start"] - first["onset"], "duration": np.nan,
                           "filepath": files})
    events = pd.concat([sounds, spoken]).sort_values("start", kind="stable", ignore_index=True)
    return events.assign(modality="audio", language="en", condition="sentence")


def _load(path: Path, variable: str) -> dict[str, Any]:
    """A struct of a MAT file as nested dicts. Raises ValueError if the file is broken or has no such variable."""
    content = read_mat(path, variable_names=[variable], squeeze_me=True, simplify_cells=True)
    if not isinstance(content.get(variable), dict):
        raise ValueError(f"{path}: no struct {variable!r}: is it the file from Deep Blue?")
    return content[variable]


def _read_fieldtrip(path: Path) -> "mne.io.BaseRaw":
    """The continuous recording in a struct `raw` of FieldTrip, µV, as V."""
    import mne

    content = _load(path, "raw")
    header, names = content["hdr"], strings(content["hdr"]["label"])
    data = np.asarray(content["trial"], dtype=float)
    shape = (int(header["nChans"]), int(header["nSamples"]))
    if data.shape != shape or len(names) != shape[0]:
        raise ValueError(f"{path}: the header promises {shape[0]} channels of {shape[1]} samples, the file has "
                         f"{data.shape} and {len(names)} names: download it again")
    info = mne.create_info(names, float(content["fsample"]), "eeg", verbose="ERROR")
    return mne.io.RawArray(data * 1e-6, info, verbose="ERROR")


def _proc(path: Path) -> dict[str, Any]:
    """`trials`, the trial table, and `bads`, channels the authors found bad, of a preprocessing file."""
    proc = _load(path, "proc")
    trl = np.atleast_2d(np.asarray(proc["trl"], dtype=float))
    names = strings(proc["varnames"])
    if len(names) != trl.shape[1]:  # only those of the columns that FieldTrip does not define
        names = ["start_sample", "stop_sample", "offset", *names]
    if len(names) != trl.shape[1]:
        raise ValueError(f"{path}: {trl.shape[1]} columns in trl, but names for {len(names)}: {names}")
    if "tot_trials" in proc and int(proc["tot_trials"]) != len(trl):
        raise ValueError(f"{path}: tot_trials is {int(proc['tot_trials'])}, but trl has {len(trl)} rows")
    bads = [name for struct, field in (("impedence", "bads"), ("rejections", "badchans"))
            if isinstance(proc.get(struct), dict) for name in strings(proc[struct].get(field, []))]
    return {"trials": pd.DataFrame(trl, columns=["start_sample", "stop_sample", "offset", *names[3:]]),
            "bads": sorted(set(bads))}


def strings(cell: Any) -> list[str]:
    """A cell of strings, however squeezed: one string comes back bare, none as an empty array of floats."""
    if isinstance(cell, str):
        return [cell] if cell else []
    return [str(item) for item in np.atleast_1d(np.asarray(cell, dtype=object)).ravel()]


@register_study
class Brennan2019(Study):
    """33 of 49 subjects, one recording each, 6.7 h.

    Args:
        path: the study's folder, with or without `download/`.
        subjects: names as "S01"; None: all that have a trial table, sorted.
        exclude: subjects left out; None: `EXCLUDED`.
        onset_from_offset: True: a word starts at `begin − 1 − offset` samples, as FieldTrip defines a trial (`offset`
            counts from the event to the trial's first sample: negative if the trial begins before the event). Public
            conversions of these data do the same. False: at `begin`, as in the published decoding results; words and
            sounds are then |offset| (some 0.3 s) early. `scripts.study check` measures which one fits, by the sound
            channel that some recordings have (`audio_lag_ms`).
        bads: True: channels that the authors found bad are flagged, and so hidden from models. False: all are used.

    Raises:
        ValueError: an unknown selection key.
    """

    name = "brennan2019"
    facts = Facts(
        title="EEG while listening to chapter one of Alice in Wonderland", doi="10.1371/journal.pone.0207741",
        citation="Brennan & Hale 2019: Hierarchical structure guides rapid linguistic predictions during naturalistic "
                 "listening. PLoS ONE", licence="CC BY 4.0", device="EEG, actiCAP 61", sensors=CHANNELS,
        rate=float(RATE), subjects=33, recordings=33, hours=6.7, language="en",
        page="https://doi.org/10.7302/Z29C6VNH",
        notes="2129 words in 12 sounds and 84 sentences. Some sounds begin before the EEG. 49 people were recorded; "
              "trial tables of 42 are published, 9 of which are bad.")

    def __init__(self, path: Path | None, subjects: list[str] | None = None, exclude: list[str] | None = None,
                 onset_from_offset: bool = True, bads: bool = True, **selection: Any) -> None:
        super().__init__(path, **selection)
        if path is None:
            raise ValueError(f"study brennan2019: no path, expected the folder that holds {STORY}")
        self.subjects, self.exclude = subjects, EXCLUDED if exclude is None else tuple(exclude)
        self.options: dict[str, Any] = {"onset_from_offset": onset_from_offset, "bads": bads}

    def prepare(self) -> None:
        """Downloads and unpacks what is missing (see `bm.studies.sources`)."""
        fetch(self.name, self.path or "")

    def recordings(self) -> Iterator[BrennanRecording]:
        folder = download_folder(Path(self.path or ""))
        names = [entry.name for table in TABLES if (folder / table).is_dir() for entry in (folder / table).iterdir()]
        found = sorted({name[:-4] for name in names if re.fullmatch(r"S\d+\.mat", name)})
        if not found:
            raise FileNotFoundError(f"study brennan2019: no trial tables S….mat in {folder}, in {' or '.join(TABLES)}: "
                                    f"{_CURE}")
        left_out = [subject for subject in found if subject in self.exclude]
        if left_out:
            logger.info("brennan2019: %d subjects are left out: %s", len(left_out), ", ".join(left_out))
        wrong = [subject for subject in self.subjects or [] if subject not in found or subject in self.exclude]
        if wrong:
            raise ValueError(f"study brennan2019: {wrong} have no trial table or are excluded; expected some of "
                             f"{[subject for subject in found if subject not in self.exclude]}, or another `exclude`")
        for subject in self.subjects or found:
            if subject not in self.exclude:
                yield BrennanRecording(folder, subject, subject, **self.options)
