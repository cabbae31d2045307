"""The study `schoffelen2019` (MOUS): 204 people hear or read Dutch sentences and word lists, MEG at 1200 Hz.

Schoffelen et al. 2019, Scientific Data 6:17. Sounds, words and phonemes are laid onto the MEG through the triggers of
fixation crosses and announcements; the phonemes come from TextGrids that are not part of the collection.
"""
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from bm.store import file_identity
from bm.studies.align import carry_over, match_clocks
from bm.studies.base import Study, register_study
from bm.studies.facts import Facts
from bm.studies.files import download_folder
from bm.studies.mne_recording import MneRecording
from bm.studies.quality import Anchors
from bm.studies.schoffelen_log import read_log
from bm.studies.schoffelen_stimuli import WAV, compare_words, grid_events, numbered_file, stimulus_uids
from bm.studies.sources import fetch

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

RATE = 1200
#: numbers of the subjects who read and of those who listened
NUMBERS = {"visual": range(1001, 1118), "audio": range(2002, 2126)}
#: two MEG runs that would have to be joined, an incomplete recording, or NaNs in unexpected places (1115)
UNUSABLE = frozenset([1006, 1014, 1090, 1115, 2011, 2036, 2062, 2063, 2076, 2084])
#: numbers that were never given
ABSENT = frozenset([1014, 1018, 1021, 1023, 1041, 1043, 1047, 1051, 1056, 1060, 1067, 1082, 1091, 1096, 1112, 2012,
                    2018, 2022, 2023, 2026, 2043, 2044, 2045, 2048, 2054, 2060, 2074, 2081, 2082, 2087, 2093, 2100,
                    2107, 2112, 2115, 2118, 2123])
CONTEXTS = ("sentence", "word_list")
#: trigger codes
CUE, FIXATION = 10, 20
#: fewer anchors than this are worth a warning
FEW_ANCHORS = 40
_LOGS = {"audio": "MEG-MOUS-Aud", "visual": "MEG-MOUS-Vis"}
COLUMNS = ["start", "duration", "kind", "modality", "language", "filepath", "offset", "word", "word_index",
           "word_sequence", "sequence_id", "sequence_uid", "context", "phoneme", "phoneme_id",
           "until"]


def subject_numbers(modality: str) -> list[int]:
    """The numbers of the subjects whose recording can be used, in order."""
    return [number for number in NUMBERS[modality] if number not in UNUSABLE | ABSENT]


@dataclass(frozen=True, repr=False)
class SchoffelenRecording(MneRecording):
    """The task of one subject. `folder` is the collection; `context` keeps sentences or word lists only."""

    folder: Path
    subject: str
    uid: str
    modality: str
    context: str | None = None
    stim_channel: str | None = None
    session: str = ""
    study: str = "schoffelen2019"
    sensors: ClassVar[tuple[str, ...]] = ("meg",)

    @property
    def path(self) -> Path:
        """The raw file or CTF folder of the task (not of the rest); a FIF beside it is taken in its place.

        Raises:
            FileNotFoundError: none.
            ValueError: several.
        """
        home = self.folder / self.uid / "meg"
        for pattern in ("*.fif", "*.ds"):
            found = [path for path in sorted(home.glob(pattern)) if "rest" not in path.name]
            if len(found) > 1:
                raise ValueError(f"{self.name}: {len(found)} files of the task, {[path.name for path in found]}, "
                                 "expected one: recordings in several parts cannot be used")
            if found:
                return found[0]
        raise FileNotFoundError(f"{self.name}: no .ds or .fif of the task in {home}: complete the download")

    @property
    def log(self) -> Path:
        """The log of Presentation. Raises FileNotFoundError without one, ValueError if it is of the other task."""
        home = self.folder / "sourcedata" / "meg_task"
        found = [path for path in sorted(home.glob("*.log")) if self.subject in path.name]
        mine = [path for path in found if _LOGS[self.modality] in path.name]
        if not found:
            raise FileNotFoundError(f"{self.name}: no *{self.subject}*.log in {home}: complete the download")
        if len(mine) != 1:
            raise ValueError(f"{self.name}: {[path.name for path in found]} in {home}, expected one file with "
                             f"{_LOGS[self.modality]!r} in its name")
        return mine[0]

    @property
    def stimuli(self) -> Path:
        """The texts of all stimuli."""
        return self.folder / "stimuli" / "stimuli.txt"

    def raw(self) -> "mne.io.BaseRaw":
        """Raises ValueError for a rate other than 1200 Hz, or a file that ends too early."""
        import mne

        if self.path.suffix == ".fif":
            raw = mne.io.read_raw_fif(self.path, preload=False, verbose="ERROR")
        else:
            try:
                raw = mne.io.read_raw_ctf(self.path, preload=False, clean_names=True, verbose="ERROR")
            except (RuntimeError, OSError) as error:
                raise ValueError(f"{self.name}: {self.path} cannot be read ({error}), expected whole trials: download "
                                 "its .meg4 files again") from error
        if raw.info["sfreq"] != RATE:
            raise ValueError(f"{self.name}: {self.path} has {raw.info['sfreq']:g} Hz, expected {RATE}: was it "
                             "resampled?")
        return raw

    def triggers(self) -> tuple[np.ndarray, np.ndarray]:
        """Times (s from the first sample) and codes of all triggers, from `UPPT001` if the file has it.

        Raises:
            ValueError: no trigger channel, or none of the name that was asked for.
        """
        import mne

        raw = self.raw()
        stims = [raw.ch_names[i] for i in mne.pick_types(raw.info, meg=False, stim=True)]
        wanted = self.stim_channel or next((name for name in ("UPPT001", "STI101", "STI 014") if name in stims), None)
        if wanted is not None and wanted not in stims or not stims:
            raise ValueError(f"{self.name}: no trigger channel {wanted or ''}; it has {stims}: set the selection's key "
                             "`stim_channel`")
        found = mne.find_events(raw, wanted, shortest_event=1, verbose="ERROR")
        return (found[:, 0] - raw.first_samp) / raw.info["sfreq"], found[:, 2]

    def anchors(self) -> Anchors:
        """Announcements and fixation crosses, on the log's clock and in the MEG."""
        return _match(read_log(self.log), *self.triggers(), self.name)

    def measures(self) -> dict[str, float]:
        """How well the words fit the texts of the stimuli."""
        events = self.events()
        return compare_words(events[events["kind"] == "word"], self.stimuli)

    def events(self) -> pd.DataFrame:
        """Sounds, words and phonemes, or the words read; see `bm/events.py`, with `context` and `phoneme_id`."""
        log = read_log(self.log)
        times, codes = self.triggers()
        anchors = _match(log, times, codes, self.name)
        log["start"] = carry_over(log["time"].to_numpy(), anchors.events, anchors.recorded)
        rows = _heard(log, self.folder, self.log, self.name) if self.modality == "audio" else _read(log)
        if rows.empty:
            raise ValueError(f"{self.name}: {self.log} shows no {'sound' if self.modality == 'audio' else 'word'}")
        out = ~((rows["start"] >= 0) & (rows["start"] <= times[-1]))  # NaN before the first anchor
        if out.any():
            logger.info("%s: %d of %d events lie before the first anchor or after the last trigger: dropped", self.name,
                        out.sum(), len(rows))
        rows = rows[~out].assign(modality=self.modality, language="nl")
        trials = rows.groupby("trial").agg(text=("word_sequence", "first"), sound=("sequence_id", "first"))
        rows["sequence_uid"] = rows["trial"].map(stimulus_uids(trials, self.stimuli, self.name))
        rows["sequence_id"] = rows["sequence_id"].fillna(rows["sequence_uid"])
        if self.context:
            rows = rows[rows["context"] == self.context]
            cues = np.r_[log.loc[log["new_context"], "start"].dropna(), np.nan]
            rows["until"] = cues[np.searchsorted(cues[:-1], rows["start"], side="right")]  # then comes what is left out
        return rows.reindex(columns=COLUMNS).reset_index(drop=True)

    def event_options(self) -> dict[str, Any]:
        """The selection, and what the signal is known by: it has the triggers, but is too large to be read for that."""
        return {"context": self.context, "stim_channel": self.stim_channel,
                "signal": [file_identity(path) for path in self.source_files()]}

    def source_files(self) -> list[Path]:
        if self.path.suffix == ".fif":
            return [self.path]
        return sorted(file for file in self.path.iterdir() if file.suffix == ".res4" or file.suffix.endswith("meg4"))

    def event_files(self) -> list[Path]:
        """The log, the texts and the alignments."""
        aligned = self.folder / "derivatives" / "phonemes"
        grids = sorted(aligned.glob("*.TextGrid")) if self.modality == "audio" else []
        return [self.log, self.stimuli, *grids]


def _match(log: pd.DataFrame, times: np.ndarray, codes: np.ndarray, name: str) -> Anchors:
    """Pairs the cues and fixation crosses of log and MEG.

    Raises:
        ValueError: fewer than two pairs, or times that do not fit: the log of another recording.
    """
    marks = log[log["new_context"] | (log["condition"] == "fix")]
    shown = np.where(marks["condition"] == "fix", FIXATION, CUE)
    mine = np.isin(codes, (CUE, FIXATION))
    i, j = match_clocks(shown.tolist(), marks["time"].to_numpy(), codes[mine].tolist(), times[mine])
    if len(i) < 2:
        raise ValueError(f"{name}: {len(i)} of the {len(marks)} cues and fixation crosses of the log are among the "
                         f"{mine.sum()} triggers {CUE} and {FIXATION}, expected nearly all: are log and MEG of one "
                         "recording, and is the trigger channel the right one (selection key `stim_channel`)?")
    pairs = Anchors(marks["time"].to_numpy()[i], times[mine][j], len(marks), int(mine.sum()))
    # rank correlation, as in the paper's code, is 1 for any matched pairs: both increase
    correlation = np.corrcoef(pairs.events, pairs.recorded)[0, 1]
    if not correlation > 0.9999:
        raise ValueError(f"{name}: matched times of log and triggers have a correlation of {correlation:.5f}, expected "
                         "0.9999 or more: are they of one recording?")
    if min(len(marks), mine.sum()) < FEW_ANCHORS:
        logger.warning("%s: only %d cues and fixation crosses in the log and %d triggers of them, expected %d or more",
                       name, len(marks), mine.sum(), FEW_ANCHORS)
    return pairs


def _read(log: pd.DataFrame) -> pd.DataFrame:
    """The words of those who read; a trial lasts from one fixation cross to the next."""
    rows = log[["start", "duration", "word", "context"]].assign(
        kind="word", trial=(log["condition"] == "fix").cumsum(), sequence_id=pd.Series(np.nan, log.index, dtype=object))
    rows = rows[(log["condition"] == "word") & (log["context"] != "init")].sort_values("start", ignore_index=True)
    rows["word_index"] = rows.groupby("trial").cumcount().astype(float)
    rows["word_sequence"] = rows.groupby("trial")["word"].transform(" ".join)
    rows["duration"] = rows["duration"].fillna(0.0)
    return rows


def _heard(log: pd.DataFrame, folder: Path, path: Path, name: str) -> pd.DataFrame:
    """Each sound at its acoustic onset, with the words and phonemes of its TextGrid.

    Raises:
        ValueError: a sound without an onset or an end.
        FileNotFoundError: no sound file of a number.
    """
    code = log["code"].str.lower()
    files = np.flatnonzero(code.str.contains("start file", regex=False))
    ends = int(code.str.contains("end of file", regex=False).sum())
    if len(files) != ends:
        raise ValueError(f"{name}: {path} has {len(files)} rows 'Start File' but {ends} 'End of file', expected as "
                         "many: is it whole?")
    numbers, wavs, grids = [], [], []
    for i in files:
        row = log.iloc[i]
        if i + 1 == len(log) or "audio onset" not in code[i + 1]:
            raise ValueError(f"{name}: {path}, line {row['line']}: {row['code']!r} is not followed by 'Audio onset'")
        number = "".join(c for c in Path(row["code"].split()[-1]).stem if c.isdigit())
        wav = numbered_file(folder / "stimuli" / "audio_files", number, ".wav")
        if wav is None:
            raise FileNotFoundError(f"{name}: {path}, line {row['line']}: no sound file {WAV}{number:0>3}.wav in "
                                    f"{folder / 'stimuli' / 'audio_files'}: complete the download")
        grid = numbered_file(folder / "derivatives" / "phonemes", number, ".TextGrid")
        numbers.append(str(int(number)))
        wavs.append(str(wav))
        grids.append(grid_events(None) if grid is None else grid_events(grid, grid.stat().st_mtime_ns))
    silent = sum(grid.empty for grid in grids)
    if silent:
        logger.warning("%s: %d of %d sounds have no TextGrid in %s: no words and phonemes for them", name, silent,
                       len(files), folder / "derivatives" / "phonemes")
    sounds = pd.DataFrame({
        "kind": "sound", "start": log["start"].to_numpy()[files + 1], "filepath": wavs, "offset": 0.0,
        "trial": np.arange(len(files)), "sequence_id": numbers, "context": log["context"].to_numpy()[files]})
    items = pd.concat([grid_events(None), *grids], ignore_index=True)
    items["trial"] = np.repeat(np.arange(len(files)), [len(grid) for grid in grids])
    stop = (items["start"] + items["duration"]).groupby(items["trial"]).max()
    sounds["duration"] = sounds["trial"].map(stop)  # it ends with the last word or phone; NaN: with the file
    words = items[items["kind"] == "word"]
    sounds["word_sequence"] = sounds["trial"].map(words["word"].groupby(words["trial"]).agg(" ".join))
    of_sound = sounds.iloc[items["trial"]].reset_index(drop=True)
    items["start"] += of_sound["start"]
    shared = ["sequence_id", "context", "word_sequence"]
    return pd.concat([sounds, items.assign(**of_sound[shared])], ignore_index=True)


_AUDIO = Facts(
    title="MOUS: Dutch sentences and word lists", citation="Schoffelen et al. 2019, Scientific Data 6:17",
    doi="10.1038/s41597-019-0020-y", licence="Donders data use agreement (RU-DI-HD-1.0): on request, not open",
    device="MEG, CTF 275", sensors=273, rate=float(RATE), subjects=96, recordings=96, hours=80.9, language="nl",
    page="https://data.donders.ru.nl/collections/di/dccn/DSC_3011020.09_236_v1",
    notes="TextGrids with words and phonemes are not part of the collection; without them there are sounds only.")
FACTS = {"audio": _AUDIO, "visual": replace(_AUDIO, subjects=99, recordings=99, hours=None, notes=(
    "Read word by word; no sound. The first recording lasts 67.1 minutes."))}


@register_study
class Schoffelen2019(Study):
    """Those who listened (`modality: audio`) or read (`visual`), without those whose recording cannot be used.

    Args:
        path: the folder of the study, or its `download` folder.
        modality: "audio" or "visual".
        context: "word_list" or "sentence" keeps the events of these alone, and the MEG up to the next announcement;
            None: both. Blocks keep their stimuli's numbers, so splits are the same.
        stim_channel: where the triggers are. None takes `UPPT001`, as in the collection, else `STI101` or `STI 014`:
            other channels of a CTF system hold the buttons.

    Raises:
        ValueError: another key, or another value.
    """

    name = "schoffelen2019"
    blocks = "sentence_or_sound"
    merge_blocks = False  # the unit is the stimulus, which has a number

    def __init__(self, path: Path | None, modality: str = "audio", context: str | None = None,
                 stim_channel: str | None = None, **selection: Any) -> None:
        super().__init__(path, **selection)
        for key, value, allowed in (("modality", modality, tuple(NUMBERS)), ("context", context, (None, *CONTEXTS))):
            if value not in allowed:
                raise ValueError(f"study schoffelen2019: {key} is {value!r}, expected one of {allowed}")
        if path is None:
            raise ValueError("study schoffelen2019: no path, expected its folder: set study_paths.schoffelen2019")
        self.modality, self.context, self.stim_channel = modality, context, stim_channel
        self.facts = FACTS[modality]  # type: ignore[misc]  # those of the selection

    def prepare(self) -> None:
        """Downloads what is missing (see `bm.studies.sources`)."""
        if self.path is not None:
            fetch(self.name, self.path)

    def recordings(self) -> Iterator[SchoffelenRecording]:
        """In the order of the subjects' numbers; subjects whose folder is not there are counted and logged.

        Raises:
            FileNotFoundError: none is there.
        """
        folder = download_folder(Path(self.path or ""))
        numbers = subject_numbers(self.modality)
        names = [("V" if number < 2000 else "A") + str(number) for number in numbers]
        there = [name for name in names if (folder / f"sub-{name}" / "meg").is_dir()]
        if not there:
            raise FileNotFoundError(f"study schoffelen2019: none of the {len(names)} folders sub-{names[0]}/meg … "
                                    f"sub-{names[-1]}/meg in {folder.absolute()}: `python -m scripts.study download "
                                    "schoffelen2019 --dry-run` says how to get them")
        if len(there) < len(names):
            missing = sorted(set(names) - set(there))
            logger.warning("study schoffelen2019: %d of %d subjects (%s) are in %s; missing: %s", len(there),
                           len(names), self.modality, folder, ", ".join(missing[:5]) + " …" * (len(missing) > 5))
        for name in there:
            yield SchoffelenRecording(folder, name, f"sub-{name}", self.modality, self.context, self.stim_channel)
