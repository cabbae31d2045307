"""The study `gwilliams2022` (MEG-MASC): 27 people listen to four stories in up to two sessions, MEG at 1000 Hz.

Gwilliams et al. 2023, Scientific Data 10:862. A BIDS tree; what was heard is told by dictionaries in the column
`trial_type` of the events.
"""
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from bm.studies.arpabet import UNKNOWN, phoneme_id
from bm.studies.base import Study, register_study
from bm.studies.events_tsv import _cell, _literal, _unquote, events_of_cells, read_tsv
from bm.studies.facts import Facts
from bm.studies.files import download_folder, find_file
from bm.studies.mne_recording import MneRecording
from bm.studies.quality import Anchors
from bm.studies.sources import fetch

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

SESSIONS, TASKS = ("0", "1"), ("0", "1", "2", "3")
#: the stories of the four tasks
STORIES = ("lw1", "cable_spool_fort", "easy_money", "The_Black_Willow")
_BARE = re.compile(r"(?<=[:\s])[+-]?(?:nan|inf)(?=\s*[,}])")
_PAGE = "https://osf.io/ag3kj"
_CURE = "complete the download: `python -m scripts.study download gwilliams2022 --dry-run` says from where"


@dataclass(frozen=True, repr=False)
class GwilliamsRecording(MneRecording):
    """One story in one session of one subject; `folder` is the BIDS tree."""

    folder: Path
    subject: str
    session: str
    task: str
    uid: str
    study: str = "gwilliams2022"
    sensors: ClassVar[tuple[str, ...]] = ("meg",)

    @property
    def stem(self) -> str:
        """The start of its files' paths."""
        name = f"sub-{self.subject}_ses-{self.session}_task-{self.task}"
        return f"{self.folder}/sub-{self.subject}/ses-{self.session}/meg/{name}"

    @property
    def path(self) -> Path | None:
        """The raw file, a KIT .con or .sqd or a FIF; None: this session was not recorded.

        Raises:
            ValueError: several.
        """
        found = [path for end in (".con", ".sqd", ".fif") if (path := Path(f"{self.stem}_meg{end}")).is_file()]
        if len(found) > 1:
            raise ValueError(f"{self.name}: {[path.name for path in found]} in {found[0].parent}, expected one raw "
                             "file: remove the copies")
        return found[0] if found else None

    def raw(self) -> "mne.io.BaseRaw":
        """Positions stay in the device's frame: the dataset's markers are not read. Raises ValueError if truncated."""
        import mne

        path = self.source_files()[0]
        if path.suffix == ".fif":
            return mne.io.read_raw_fif(path, preload=False, verbose="ERROR")
        _check_whole(path)
        return mne.io.read_raw_kit(path, stim=None, preload=False, verbose="ERROR")

    def events(self) -> pd.DataFrame:
        """Sounds, words and phonemes; see `bm/events.py`, with `phoneme_id` (place in `bm.studies.arpabet.ARPABET`),
        `sound_start` (s in the sound), `condition` and what else the dictionaries hold."""
        path = self.event_files()[0]
        if not path.is_file():
            raise FileNotFoundError(f"{self.name}: no events {path}: {_CURE}")
        events = events_of_cells(_cells(path, self.folder), path, language="en").drop(columns="stim_file")
        events["sound_start"] = events["sound_start"].astype(float)
        label, different = pd.factorize(events["phoneme"])
        ids = [phoneme_id(text) for text in different]
        events["phoneme_id"] = np.array([*ids, np.nan])[label]  # the code of a missing label is -1
        if UNKNOWN in ids:
            logger.warning("%s: phonemes %s are not in the table: they get the identity %d", self.name,
                           sorted(text for text, i in zip(different, ids, strict=True) if i == UNKNOWN), UNKNOWN)
        return events

    def anchors(self) -> Anchors:
        """Where each word is by its place in the sound, and where by the table: the two clocks of its audio and MEG."""
        events = self.events()
        sounds = events.loc[events["kind"] == "sound", ["start", "filepath"]]
        words = events[(events["kind"] == "word") & events["sound_start"].notna()]
        if sounds.empty:
            raise ValueError(f"{self.name}: no sound in {self.event_files()[0]}")
        last = np.searchsorted(sounds["start"], words["start"] + 1e-3, side="right") - 1
        heard = last >= 0
        times = sounds["start"].to_numpy()[last] + words["sound_start"].to_numpy()
        order = np.argsort(times[heard], kind="stable")
        n = int(heard.sum())
        return Anchors(times[heard][order], words["start"].to_numpy()[heard][order], n, n)

    def source_files(self) -> list[Path]:
        if self.path is None:
            raise FileNotFoundError(f"{self.name}: no {self.stem}_meg.con (nor .sqd, .fif): {_CURE}")
        return [self.path]

    def event_files(self) -> list[Path]:
        return [Path(f"{self.stem}_events.tsv")]


def _check_whole(path: Path) -> None:
    """The tenth entry of a KIT file's directory says where the samples are, of how many bytes, and how many.

    MNE would read what is missing as zeros. Raises ValueError.
    """
    entries = np.fromfile(path, "<u4", 40)
    offset, size, _, count = entries[36:40].tolist() if len(entries) == 40 else (640, 0, 0, 0)
    expected = offset + size * count
    if path.stat().st_size < expected:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected {expected} by its own directory: the "
                         "download is not whole")


def _cells(path: Path, folder: Path) -> pd.DataFrame:
    """The table with the dictionaries of `trial_type` as columns; rows without one are dropped and counted."""
    table = read_tsv(path)
    missing = sorted({"onset", "duration", "trial_type"} - set(table))
    if missing:
        raise ValueError(f"{path}: no column {missing}, expected onset, duration and trial_type; it has {list(table)}")
    cells = table["trial_type"].dropna().map(_unquote)
    cells = cells[cells.str.startswith("{")]
    if len(cells) < len(table):
        logger.info("%s: %d of %d rows hold no dictionary: dropped", path, len(table) - len(cells), len(table))
    rows = {line: _dictionary(text, path, line) for line, text in cells.items()}
    about = pd.DataFrame.from_dict(rows, orient="index", dtype=object)
    about = about.drop(columns=["onset", "duration"], errors="ignore")  # the table's own are those in the MEG
    if "kind" not in about:
        raise ValueError(f"{path}: no dictionary has a key 'kind', expected it in all (sound, word or phoneme)")
    about = about.rename(columns={"start": "sound_start", "kind": "trial_type", "sound": "stim_file"})
    for column in ("sound_start", "stim_file", "word_index", "sequence_id"):
        if column not in about:
            about[column] = np.nan
    sound = about["trial_type"] == "sound"
    files = {name: str(_sound_file(name, folder)) for name in about.loc[sound, "stim_file"].dropna().unique()}
    about["stim_file"] = about["stim_file"].where(sound).map(files)
    return table.loc[cells.index, ["onset", "duration"]].join(about)


def _dictionary(text: str, path: Path, line: Any) -> dict[str, Any]:
    """The values of a dictionary as cells. Python writes nan and inf without quotes, where nothing can read them."""
    try:
        values = _literal(text, path, line)
    except ValueError:
        values = _literal(_BARE.sub("None", text), path, line)
    return {key: _cell(value) for key, value in values.items()}


def _sound_file(name: str, folder: Path) -> Path:
    """`stimuli/audio/LW1_0.0.wav` is the file `stimuli/audio/lw1_0.wav`: the number before the ending is not its own.

    Raises:
        FileNotFoundError: no such file.
    """
    parts = name.lower().rsplit(".", 2)
    file = f"{parts[0]}.{parts[2]}" if len(parts) == 3 and parts[1].isdigit() else name.lower()
    return find_file(folder, file, _CURE)


@register_study
class Gwilliams2022(Study):
    """All recordings: subjects in the order of participants.tsv, sessions 0 and 1, tasks 0 to 3 (the stories).

    Sessions and tasks that were not recorded, and participants without a folder, are counted and logged.
    """

    name = "gwilliams2022"
    facts = Facts(
        title="MEG-MASC: English stories", citation="Gwilliams et al. 2023, Scientific Data 10:862",
        doi="10.1038/s41597-023-02752-5", licence="CC0 (as a mirror states; confirm on OSF)",
        device="MEG, KIT 208", sensors=208, rate=1000.0, subjects=27, recordings=196, hours=56.2, language="en",
        page=_PAGE, notes="Synthetic voices of several rates; lists of random words stand between sentences. Both "
                          "sessions of a subject have the same stimuli. 196 recordings are expected, not confirmed.")

    def prepare(self) -> None:
        """Downloads what is missing (see `bm.studies.sources`)."""
        if self.path is not None:
            fetch(self.name, self.path)

    def recordings(self) -> Iterator[GwilliamsRecording]:
        """Raises FileNotFoundError without participants.tsv, or without any recording."""
        folder = download_folder(Path(self.path or ""))
        table = read_tsv(find_file(folder, "participants.tsv", _CURE))
        if "participant_id" not in table:
            raise ValueError(f"{folder / 'participants.tsv'}: no column participant_id; it has {list(table)}")
        subjects = table["participant_id"].dropna().str.removeprefix("sub-").tolist()
        found = [GwilliamsRecording(folder, subject, session, task, f"{subject}_session{session}_story{task}")
                 for subject in subjects for session in SESSIONS for task in TASKS]
        there = [recording for recording in found if recording.path is not None]
        if not there:
            raise FileNotFoundError(f"study gwilliams2022: no recording of the {len(subjects)} participants in "
                                    f"{folder.absolute()}, expected sub-…/ses-…/meg/…_meg.con: {_CURE}")
        strangers = sorted({path.name[4:] for path in folder.glob("sub-*")} - set(subjects))
        without = sorted(set(subjects) - {recording.subject for recording in there})
        if without or strangers:
            logger.warning("study gwilliams2022: %d of %d participants have no recording (%s); %d folders are of none "
                           "(%s)", len(without), len(subjects), ", ".join(without), len(strangers),
                           ", ".join(strangers))
        logger.info("study gwilliams2022: %d recordings of %d participants; %d sessions and stories were not recorded",
                    len(there), len(subjects), len(found) - len(there))
        yield from there
