"""The study `broderick2019`: 19 people listen to an audiobook, EEG at 128 Hz (Broderick et al. 2018, Current Biology).

Data: doi 10.5061/dryad.070jc, "Natural Speech". Sound, text and forced alignments are not in it; the reader expects
them in `private/` (see `bm/studies/sources.py`).
"""
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from bm.studies.base import Study, register_study
from bm.studies.facts import Facts
from bm.studies.files import download_folder, find_file, numbered, read_mat
from bm.studies.gentle import gentle_events, read_gentle
from bm.studies.mne_recording import MneRecording
from bm.studies.sentences import SPLITTERS, assign_sentences
from bm.studies.sources import fetch

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

RATE = 128
CHANNELS = 128
#: the run whose alignment is known to be off from about 170 s on
DOUBTFUL_RUN = "15"
#: least share of a run's aligned words that must be found in its text; the published data have 9 of 10
MIN_MATCHED = 0.5
_UNITS = {"uV": 1e-6, "V": 1.0}
_PRIVATE = ("sound, text and alignment of the runs are not part of the Dryad data: put private/audio<run>.wav, "
            "private/oldman_run<run>.txt and private/align<run>.json (of the aligner Gentle) beside 'Natural Speech'; "
            "`python -m scripts.study download broderick2019 --dry-run` says from where")


@dataclass(frozen=True, repr=False)
class BroderickRecording(MneRecording):
    """One run of one subject; `folder` holds `Natural Speech/` and `private/`. EEG and sound begin together."""

    folder: Path
    subject: str
    session: str  # the run
    uid: str
    sentences: str = "punctuation"
    unit: str = "uV"
    run15_until: float | None = None
    study: str = "broderick2019"
    sensors: ClassVar[tuple[str, ...]] = ("eeg",)

    @property
    def path(self) -> Path:
        """Its MAT file."""
        return _eeg(self.folder) / f"Subject{self.subject}" / f"Subject{self.subject}_Run{self.session}.mat"

    def raw(self) -> "mne.io.BaseRaw":
        import mne

        content = read_mat(self.path, variable_names=["eegData", "fs"])
        _check(self.path, {name: value.shape for name, value in content.items() if not name.startswith("__")})
        if (rate := np.ravel(content["fs"])).size != 1 or rate[0] != RATE:
            raise ValueError(f"{self.path}: fs is {rate.tolist()}, expected {RATE} Hz: is it the file from Dryad?")
        montage = mne.channels.make_standard_montage("biosemi128")
        info = mne.create_info(montage.ch_names, RATE, "eeg", verbose="ERROR")
        raw = mne.io.RawArray(np.ascontiguousarray(content["eegData"].T) * _UNITS[self.unit], info, verbose="ERROR")
        raw.set_montage(montage)
        return raw

    def events(self) -> pd.DataFrame:
        return self._events()[0]

    def measures(self) -> dict[str, float]:
        """`unaligned_words` and `unmatched_words`, shares (see `bm.studies.quality.LIMITS`)."""
        return self._events()[1]

    def _events(self) -> tuple[pd.DataFrame, dict[str, float]]:
        """Events, and how well text and alignment fit. Nothing that starts after the EEG's end is kept; counted."""
        from scipy.io import whosmat

        private = self.folder / "private"
        files = [find_file(private, name.format(self.session), _PRIVATE)
                 for name in ("audio{}.wav", "align{}.json", "oldman_run{}.txt")]
        table, measures = _run_events(*files, self.sentences, tuple(path.stat().st_mtime_ns for path in files))
        shapes = {name: shape for name, shape, _ in read_mat(self.path, whosmat)}
        _check(self.path, shapes)
        end = shapes["eegData"][0] / RATE
        late = table["start"] > end
        if late.any():
            logger.warning("%s: %d events start after the end of the EEG (%g s): dropped", self.name, late.sum(), end)
        if self.session == DOUBTFUL_RUN and self.run15_until is not None:
            late |= (table["start"] > self.run15_until) & (table["kind"] != "sound")
        return table[~late].reset_index(drop=True), dict(measures)

    def source_files(self) -> list[Path]:
        return [self.path]

    def signal_options(self) -> dict[str, Any]:
        return {"unit": self.unit}


def _check(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    missing = sorted({"eegData", "fs"} - set(shapes))
    if missing:
        raise ValueError(f"{path}: no variable {missing}; it has {sorted(shapes)}: is it the file from Dryad?")
    shape = shapes["eegData"]
    if len(shape) != 2 or shape[1] != CHANNELS:
        raise ValueError(f"{path}: eegData has shape {shape}, expected (samples, {CHANNELS})")


@lru_cache(maxsize=64)  # every subject hears the same runs; the times of the files make a changed one be read again
def _run_events(sound: Path, alignment: Path, text: Path, sentences: str, _changed: tuple[int, ...]
                ) -> tuple[pd.DataFrame, dict[str, float]]:
    """The events of a run on the clock of its sound. Raises ValueError if text and alignment do not belong together."""
    words, unaligned = read_gentle(alignment)
    if not words:
        raise ValueError(f"{alignment}: no word with case 'success': was the aligner given another sound?")
    spoken = [word["word"] for word in words]
    sequences, matched = assign_sentences(spoken, SPLITTERS[sentences](text.read_text(encoding="utf-8-sig")))
    if matched < MIN_MATCHED * len(words):
        raise ValueError(f"{text}: only {matched} of the {len(words)} words of {alignment.name} are in it, expected "
                         f"at least {MIN_MATCHED:.0%}: is it the text of this run?")
    sound_event = pd.DataFrame([{"kind": "sound", "start": 0.0, "duration": np.nan, "filepath": str(sound)}])
    events = pd.concat([sound_event, gentle_events(words, sequences)], ignore_index=True)
    events = events.assign(modality="audio", language="en", condition="sentence")
    return events, {"unaligned_words": unaligned / (len(words) + unaligned),
                    "unmatched_words": 1 - matched / len(words)}


def _eeg(folder: Path) -> Path:
    return folder / "Natural Speech" / "EEG"


@register_study
class Broderick2019(Study):
    """Subjects 1–19, runs 1–20 of *The Old Man and the Sea*, 380 recordings, 19.2 h; nothing is excluded.

    Args:
        path: the study's folder, with or without `download/`.
        subjects, runs: numbers; None: all that are there, in numerical order.
        sentences: how the text is cut. "punctuation" needs nothing and gives the same blocks everywhere, now and in ten
            years; "spacy" is what the paper used, and depends on the version of spaCy and of its model.
        unit: of the files, which do not say: "uV" (BioSemi exports; brain signals come out at some 10 µV) or "V".
            Nothing after the robust scaling depends on it.
        run15_until: s; drops words and phonemes of run 15 after that time, where the alignment is known to be off from
            about 170 s on. None (as published) keeps them.

    The order of the channels is that of the BioSemi cap (A1…D32), which the files do not say either.

    Raises:
        ValueError: an unknown selection key or a value out of range.
    """

    name = "broderick2019"
    facts = Facts(
        title="EEG while listening to The Old Man and the Sea", doi="10.1016/j.cub.2018.01.080", licence="CC0 1.0",
        citation="Broderick, Anderson, Di Liberto, Crosse & Lalor 2018: Electrophysiological correlates of semantic "
                 "dissimilarity reflect the comprehension of natural, narrative speech. Current Biology",
        device="EEG, BioSemi 128", sensors=CHANNELS, rate=float(RATE), subjects=19, recordings=380, hours=19.2,
        language="en", page="https://doi.org/10.5061/dryad.070jc",
        notes="Sound, text and alignments are not on Dryad. The alignment of run 15 is off from about 170 s on. Units "
              "and the order of the channels are not written in the files.")

    def __init__(self, path: Path | None, subjects: list[int] | None = None, runs: list[int] | None = None,
                 sentences: str = "punctuation", unit: str = "uV", run15_until: float | None = None,
                 **selection: Any) -> None:
        super().__init__(path, **selection)
        if path is None:
            raise ValueError("study broderick2019: no path, expected the folder that holds 'Natural Speech'")
        for key, value, known in (("sentences", sentences, SPLITTERS), ("unit", unit, _UNITS)):
            if value not in known:
                raise ValueError(f"study broderick2019: {key} is {value!r}, expected one of {', '.join(known)}")
        self.subjects, self.runs = subjects, runs
        self.options: dict[str, Any] = {"sentences": sentences, "unit": unit,
                                        "run15_until": run15_until}

    def prepare(self) -> None:
        """Downloads and unpacks what is missing (see `bm.studies.sources`)."""
        fetch(self.name, self.path or "")

    def recordings(self) -> Iterator[BroderickRecording]:
        folder = download_folder(Path(self.path or ""))
        eeg = _eeg(folder)
        if not eeg.is_dir():
            raise FileNotFoundError(f"study broderick2019: no folder {eeg}: download 'Natural Speech' (doi "
                                    "10.5061/dryad.070jc), see `python -m scripts.study download broderick2019`")
        found = {subject: numbered([file.name for file in (eeg / f"Subject{subject}").iterdir()],
                                   f"Subject{subject}_Run", ".mat")
                 for subject in numbered([entry.name for entry in eeg.iterdir() if entry.is_dir()], "Subject")}
        unknown = [subject for subject in self.subjects or [] if subject not in found]
        if unknown or not found:
            raise FileNotFoundError(f"study broderick2019: no folder Subject<k> for {unknown or 'anybody'} in {eeg}, "
                                    f"only {[f'Subject{subject}' for subject in found]}")
        subjects = self.subjects or list(found)
        runs = self.runs or sorted({run for own in found.values() for run in own})
        missing = [f"{subject}_run{run}" for subject in subjects for run in runs if run not in found.get(subject, ())]
        if missing:
            logger.warning("broderick2019: %d of %d recordings are missing in %s: %s", len(missing),
                           len(subjects) * len(runs), eeg, ", ".join(missing[:8]))
        for subject in subjects:
            for run in runs:
                if run in found.get(subject, ()):
                    yield BroderickRecording(folder, str(subject), str(run), f"{subject}_run{run}", **self.options)
