"""The study `eegmmidb`: EEG of 109 people at rest, and while they move or imagine to move (Schalk et al. 2004).

1526 EDF+ files on PhysioNet, doi 10.13026/C28G6P. The codes T1 and T2 mean something else in every other run, so what
is told here is what they mean. There is no stimulus: blocks (what goes to one split as a whole) are a rest with the
movement after it, or equal parts of a minute at rest.
"""
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from bm.studies.base import Study, register_study
from bm.studies.download import DEPTH, Manifest, RemoteFile
from bm.studies.facts import Facts
from bm.studies.mne_recording import MneRecording

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

PAGE = "https://physionet.org/content/eegmmidb/1.0.0/"
URLS = ("https://physionet.org/files/eegmmidb/1.0.0/", "https://physionet-open.s3.amazonaws.com/eegmmidb/1.0.0/")
SUBJECTS, RUNS = tuple(range(1, 110)), tuple(range(1, 15))
#: recorded at 128 Hz instead of 160 Hz
EXCLUDED = (88, 92, 100)
RATE, CHANNELS = 160, 64
REST = {1: "eyes_open", 2: "eyes_closed"}
#: what T1 and T2 mean in runs 3, 4, 5, 6, 7, …: executed and imagined fists, then both fists and both feet
_TASKS = (("left_fist", "right_fist"), ("imagined_left_fist", "imagined_right_fist"),
          ("both_fists", "both_feet"), ("imagined_both_fists", "imagined_both_feet"))
#: run → what its codes mean
CODES = {run: {"T0": "rest", **dict(zip(("T1", "T2"), _TASKS[(run - 3) % 4], strict=True))} for run in RUNS[2:]}
#: an interruption of the download left it; the next start goes on
UNFINISHED = ".unfinished"
_NAME = re.compile(r"S(\d{3})R(\d{2})\.edf", re.IGNORECASE)


def channel_name(label: str) -> str:
    """The name in MNE's montages of a label of the files, e.g. "Fcz." → "FCz", "Fp1." → "Fp1"."""
    name = label.strip(".").upper()
    name = name[:-1] + "z" if name.endswith("Z") else name
    return "Fp" + name[2:] if name.startswith("FP") else name


def file_name(subject: int, run: int) -> str:
    """Its place on PhysioNet."""
    return f"S{subject:03d}/S{subject:03d}R{run:02d}.edf"


@lru_cache(1)
def checksums() -> dict[str, str]:
    """File → SHA-256, as MNE-Python ships them.

    Raises:
        FileNotFoundError: this version of MNE has no such list.
    """
    import mne
    path = Path(mne.__file__).parent / "data" / "eegbci_checksums.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the list of checksums of eegmmidb, is not in MNE {mne.__version__}: install "
                                "mne 1.13")
    return dict(line.split() for line in path.read_text().splitlines() if line.strip())


def manifest(subjects: Iterable[int] = SUBJECTS, runs: Iterable[int] = RUNS) -> Manifest:
    """The published files of some subjects and runs."""
    known, runs = checksums(), list(runs)
    names = [file_name(subject, run) for subject in subjects for run in runs]
    return Manifest("eegmmidb", PAGE, tuple(
        RemoteFile(name, tuple(url + name for url in URLS), None, known[name]) for name in names))


@dataclass(frozen=True, repr=False)
class EegmmidbRecording(MneRecording):
    """One run. `condition` in its events is one of `REST` and `CODES`.

    Args:
        path: the EDF file.
        number, run: of the subject and of the run, from 1.
        block_s: see `Eegmmidb`.
    """

    path: Path
    number: int
    run: int
    block_s: float = 10.0
    session: str = "1"
    study: str = "eegmmidb"
    sensors: ClassVar[tuple[str, ...]] = ("eeg",)

    @property
    def subject(self) -> str:  # type: ignore[override]
        return f"S{self.number:03d}"

    @property
    def uid(self) -> str:  # type: ignore[override]
        return f"{self.subject}R{self.run:02d}"

    def _open(self) -> "mne.io.BaseRaw":
        import mne
        try:
            return mne.io.read_raw_edf(self.path, preload=False, verbose="ERROR")
        except (ValueError, RuntimeError, IndexError, AssertionError) as error:
            raise ValueError(f"{self.path} cannot be read as EDF ({type(error).__name__}: {error}): is it whole? "
                             "Download it again") from error

    def raw(self) -> "mne.io.BaseRaw":
        import mne
        header = _header_bytes(self.path)
        if header != (size := self.path.stat().st_size):
            raise ValueError(f"{self.path} has {size} bytes, its header promises {header}: it is not whole, download "
                             "it again")
        raw = self._open()
        names = {label: channel_name(label) for label in raw.ch_names}
        if len(names) != CHANNELS:
            raise ValueError(f"{self.path}: {len(names)} channels, expected {CHANNELS}")
        raw.rename_channels(names, verbose="ERROR")
        known = mne.channels.get_builtin_montages()
        montage = "colin27_1005" if "colin27_1005" in known else "standard_1005"
        raw.set_montage(mne.channels.make_standard_montage(montage), verbose="ERROR")
        return raw

    def source_files(self) -> list[Path]:
        return [self.path]

    def event_files(self) -> list[Path]:
        return [self.path]

    def event_options(self) -> dict[str, Any]:
        return {"block_s": self.block_s}

    def events(self) -> pd.DataFrame:
        """`special` events in runs 1 and 2, `motor` events (also of rest) in the others, with `name`, `condition` and
        `code`; and the blocks. Annotations beyond the end of the file end with it.

        A run at rest whose annotations are not one T0 has blocks alone, which is logged: nobody knows what it is.

        Raises:
            ValueError: a code that the run does not have, or no annotation at all in a run with a task.
        """
        raw = self._open()
        end = raw.n_times / raw.info["sfreq"]
        onset, codes = raw.annotations.onset, list(raw.annotations.description)
        duration = np.minimum(raw.annotations.duration, np.maximum(end - onset, 0))
        if self.run in REST:
            events = self._rest(codes, end)
        else:
            meaning = CODES[self.run]
            if not codes or set(codes) - set(meaning):
                raise ValueError(f"{self.path}: annotations {sorted(set(codes)) or 'missing'}, expected "
                                 f"{sorted(meaning)}; leave subject {self.number} out (the selection's `exclude`)")
            condition = [meaning[code] for code in codes]
            events = pd.DataFrame({"kind": "motor", "start": onset, "duration": duration, "name": condition,
                                   "condition": condition, "code": codes})
            # a rest begins a block, which so holds the movement after it
            first = onset[[i == 0 or code == "T0" for i, code in enumerate(codes)]]
            events = pd.concat([self._blocks(np.unique(first), end), events])
        return events.assign(modality="motor", language="").sort_values("start", kind="stable", ignore_index=True)

    def _rest(self, codes: list[str], end: float) -> pd.DataFrame:
        blocks = self._blocks(self.block_s * np.arange(max(int(end / self.block_s), 1)), end)
        if codes != ["T0"]:
            logger.warning("%s: annotations %s in a run at rest, expected one T0: its events are not used", self.name,
                           codes)
            return blocks
        name = REST[self.run]
        return pd.concat([blocks, pd.DataFrame([{"kind": "special", "start": 0.0, "duration": end, "name": name,
                                                 "condition": name, "code": "T0"}])])

    def _blocks(self, start: np.ndarray, end: float) -> pd.DataFrame:
        return pd.DataFrame({"kind": "block", "start": start, "duration": np.diff(start, append=end),
                             "uid": [f"{self.uid} from {second:.3f} s" for second in start]})


def _header_bytes(path: Path) -> int:
    """The size of the file that its header promises: EDF's number of records, times the samples of all signals."""
    with open(path, "rb") as file:
        fixed = file.read(256)
        try:
            length, records, signals = int(fixed[184:192]), int(fixed[236:244]), int(fixed[252:256])
            file.seek(256 + 216 * signals)
            samples = [int(file.read(8)) for _ in range(signals)]
        except ValueError:
            raise ValueError(f"{path} is no EDF file: download it again") from None
    return length + 2 * records * sum(samples)


@register_study
class Eegmmidb(Study):
    """109 people, 14 runs each: 1 and 2 at rest, 3 to 14 with tasks.

    Args:
        path: a folder that has the files in any subfolder (PhysioNet's, MNE's, or all in one), or will have them.
        subjects: their numbers; None: all. The folder's own, if it has files and `subjects` and `runs` are not given.
        runs: numbers of runs; None: all.
        exclude: numbers of subjects left out; None: `EXCLUDED` (128 Hz). The literature often leaves out others whose
            annotations are odd: 89, 104, 106, sometimes 38 and 43.
        block_s: length (s) of the blocks of the runs at rest.

    Raises:
        ValueError: an unknown selection key, subject or run.
    """

    name = "eegmmidb"
    blocks = "block"
    merge_blocks = False
    facts = Facts(
        title="EEG at rest, while moving and while imagining to move", doi="10.1109/TBME.2004.827072",
        citation="Schalk et al. 2004: BCI2000: a general-purpose brain-computer interface system. IEEE TBME "
                 "51:1034-1043; Goldberger et al. 2000: PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101:e215",
        licence="ODC-BY 1.0", device="EEG, BCI2000 64", sensors=CHANNELS, rate=float(RATE), subjects=106,
        recordings=1484, hours=48.5, language="", page=PAGE,
        notes="109 people were recorded; 88, 92 and 100 at 128 Hz, who are left out by default. T1 and T2 mean left "
              "and right fist in runs 3, 4, 7, 8, 11 and 12, both fists and both feet in the others; even runs are "
              "imagined. Run 1 and run 2 are one recording each, so whatever differs between two recordings tells "
              "open from closed eyes, too.")

    def __init__(self, path: Path | None, subjects: list[int] | None = None, runs: list[int] | None = None,
                 exclude: list[int] | None = None, block_s: float = 10.0, **selection: Any) -> None:
        super().__init__(path, **selection)
        if path is None:
            raise ValueError("study eegmmidb: no path, expected the folder that has the files S001R01.edf, … or will "
                             "have them")
        for key, values, known in (("subjects", subjects, SUBJECTS), ("runs", runs, RUNS),
                                   ("exclude", exclude, SUBJECTS)):
            if wrong := [value for value in values or [] if value not in known]:
                raise ValueError(f"study eegmmidb: {key}={wrong}: expected numbers from 1 to {known[-1]}")
        if block_s <= 0:
            raise ValueError(f"study eegmmidb: block_s={block_s}, expected seconds above 0")
        self.folder, self.block_s = Path(path), float(block_s)
        self.subjects, self.runs = subjects, runs
        self.exclude = EXCLUDED if exclude is None else tuple(exclude)

    def found(self) -> dict[tuple[int, int], Path]:
        """(subject, run) → file, of all below the folder; the first of two copies in the order of their paths."""
        files: dict[tuple[int, int], Path] = {}
        for depth in range(DEPTH + 3):  # MNE's own place is five folders down
            for path in sorted(self.folder.glob("*/" * depth + "[Ss]*R*.[Ee][Dd][Ff]")):
                if match := _NAME.fullmatch(path.name):
                    files.setdefault((int(match[1]), int(match[2])), path)
        return files

    def wanted(self, found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Subjects and runs of the selection; of a folder that has files, those that it has, unless both are named."""
        pairs = list(found) if self.subjects is None or self.runs is None else []
        subjects = self.subjects or sorted({subject for subject, _ in pairs}) or SUBJECTS
        runs = self.runs or sorted({run for _, run in pairs}) or RUNS
        every = [(subject, run) for subject in subjects for run in runs if subject not in self.exclude]
        return [pair for pair in every if pair in pairs] if pairs and self.subjects is None else every

    def prepare(self) -> None:
        """Downloads what is missing (3.4 GB in all), checked by SHA-256; a folder that has files is used as it is.

        To get all files into a folder that has some, name `subjects` and `runs`.
        """
        found, marker = self.found(), self.folder / UNFINISHED
        missing = [pair for pair in self.wanted([] if marker.exists() else found) if pair not in found]
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
        files = manifest().select([file_name(*pair) for pair in missing])
        files.fetch(self.folder)
        marker.unlink(missing_ok=True)

    def recordings(self) -> Iterator[EegmmidbRecording]:
        found = self.found()
        wanted = self.wanted(found)
        left_out = sorted({subject for subject, _ in found if subject in self.exclude})
        if left_out:
            logger.info("eegmmidb: subjects %s are left out", ", ".join(map(str, left_out)))
        missing = [file_name(*pair) for pair in wanted if pair not in found]
        if not wanted:
            raise FileNotFoundError(f"study eegmmidb: of {len(found)} files in {self.folder} none is of this selection "
                                    f"(runs {self.runs or 'all'}, without subjects {list(self.exclude)})")
        if missing:
            raise FileNotFoundError(f"study eegmmidb: {len(missing)} of {len(wanted)} files are not in {self.folder}, "
                                    f"e.g. {', '.join(missing[:3])}: call prepare(), or fetch them from {PAGE}")
        for subject, run in wanted:
            yield EegmmidbRecording(found[subject, run], subject, run, self.block_s)
