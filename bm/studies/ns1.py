"""The study `ns1`: units of ferret auditory cortex hear 20 natural sounds, twenty times each (Harper et al. 2016)."""
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from bm.studies.base import register_study
from bm.studies.clips import Clip, ClipRecording, ClipStudy, Clock, choose_clips, count_spikes, neuron_channels
from bm.studies.download import Manifest, RemoteFile, extract
from bm.studies.facts import Facts
from bm.studies.files import read_mat

logger = logging.getLogger(__name__)

PAGE = "https://osf.io/ayw2p/"
METADATA, ARCHIVE, UNPACKED = "MetadataSHEnCneurons.mat", "spikesandwav.zip", "spikesandwav"
MANIFEST = Manifest("ns1", PAGE, (RemoteFile(METADATA, ("https://osf.io/download/gdwyd/",)),
                                  RemoteFile(ARCHIVE, ("https://osf.io/download/5nxga/",))))
CLIPS, REPEATS = 20, 20
#: s of a clip that count, though 5 s were played
SECONDS = 4.995
#: the sound of each clip: wav files without an ending
SOUNDS = [f"source.1.sound.0.snr.0.token.0.fw.2.frozen.{n}" for n in range(1, 13)] + [
    f"source.2.sound.0.snr.0.token.0.fw.1.frozen.{n}" for n in range(1, 9)]
#: what is heard, as far as it is known
CATEGORIES = {0: "water", 19: "water", 3: "ferret", 6: "insects", **dict.fromkeys(range(8, 12), "speech")}
#: triage labels of units that the authors analysed
GOOD = ("Yes", "Maybe")


@dataclass(frozen=True)
class Unit:
    """A unit of the metadata; `depth` in µm, below 0 where it is unknown; `single` in the authors' words."""

    name: str
    path: str
    depth: float
    noise_ratio: float
    single: str


def read_units(path: Path) -> list[Unit]:
    """The units of the metadata, in their order.

    Raises:
        ValueError: a field is missing.
    """
    table = read_mat(path, squeeze_me=True)["neuron"]
    fields = table.dtype.names or ()
    if lacking := {"path", "depth", "NoiseRatio", "singleT"} - set(fields):
        raise ValueError(f"{path}: its units lack {sorted(lacking)}, they have {list(fields)}: is it the published "
                         "file?")
    return [Unit(str(unit[0]).removesuffix(".mat"), str(unit["path"]), float(unit["depth"]), float(unit["NoiseRatio"]),
                 str(unit["singleT"])) for unit in np.atleast_1d(table)]


def read_spikes(path: Path) -> tuple[tuple[np.ndarray, ...], ...]:
    """Spike times (ms) of a unit, by stimulus and repeat: the natural sounds alone.

    Raises:
        ValueError: the file has another structure.
    """
    return _read_spikes(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=128)  # every repeat's recording reads all units
def _read_spikes(path: Path, _: int) -> tuple[tuple[np.ndarray, ...], ...]:
    try:
        stimuli = read_mat(path)["data"]["set"][0, 0].ravel()[:CLIPS]
        spikes = tuple(tuple(np.asarray(times, float).ravel() for times in stimulus["repeats"]["t"].ravel())
                       for stimulus in stimuli)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path} has no spike times data.set(stimulus).repeats(repeat).t ({error}): is it a unit's "
                         "published file?") from error
    if 0 < (last := max((times.max(initial=0) for repeats in spikes for times in repeats), default=0)) < 10:
        raise ValueError(f"{path}: the last spike is at {last:g}, expected ms from the sound's start, up to 5000")
    return spikes


def bin_spikes(times_ms: np.ndarray, n_bins: int, rate: int) -> np.ndarray:
    """Counts `(n_bins,)` as in the paper: whole milliseconds, at most one spike in each."""
    return count_spikes(np.unique(np.floor(times_ms + 0.5)), n_bins, rate)


@dataclass(frozen=True, repr=False)
class NS1Recording(ClipRecording):
    """One repeat of the sounds for all units, which were recorded one after the other."""

    repeat: int
    clips: tuple[Clip, ...]
    numbers: tuple[int, ...]
    units: tuple[Unit, ...]
    files: tuple[Path, ...]
    clock: Clock
    subject: str = "ferrets"
    study: str = "ns1"

    def source_files(self) -> list[Path]:
        return [*self.files, *(clip.path for clip in self.clips)]

    def channels(self) -> pd.DataFrame:
        return neuron_channels([unit.name for unit in self.units], region="A1",
                               depth_um=[unit.depth for unit in self.units],
                               noise_ratio=[unit.noise_ratio for unit in self.units],
                               single=[unit.single for unit in self.units])

    def counts(self, clip: Clip, n_bins: int) -> np.ndarray:
        out, number = np.full((n_bins, len(self.files)), np.nan), self.numbers[self.clips.index(clip)]
        for column, path in zip(out.T, self.files, strict=True):
            stimuli = read_spikes(path)
            if number < len(stimuli) and self.repeat < len(stimuli[number]):
                column[:] = bin_spikes(stimuli[number][self.repeat], n_bins, self.clock.rate)
        return out

    def events(self) -> pd.DataFrame:
        return super().events().assign(category=[CATEGORIES.get(number, "") for number in self.numbers])


@register_study
class NS1(ClipStudy):
    """Spikes of units in primary auditory cortex of anaesthetised ferrets that hear 20 natural sounds of 5 s.

    One recording per repeat with all units as channels, NaN where a unit was repeated less often.

    Args:
        path: the folder of the data, or to put it.
        units: "good" (the 73 that the authors analysed: label Yes or Maybe, depth known) or "all".
        clips: numbers (0–19) to keep; None: all.
        test_clips, valid_clips: those of these splits (published: test 3, 6, 9, 19); see `strflab.Strflab`.
        rate, smooth_ms, gap_s: see `clips.Clock`; 200 bins a second as published.

    Raises:
        ValueError: an unknown selection key, value or clip, or no `path`.
    """

    name = "ns1"
    facts = Facts(
        title="73 units of ferret auditory cortex that hear 20 natural sounds, 20 times each",
        citation="Harper, Schoppe, Willmore, Cui, Schnupp & King 2016: Network receptive field modeling reveals "
                 "extensive integration and multi-feature selectivity in auditory cortical neurons. PLoS Computational "
                 "Biology",
        doi="10.1371/journal.pcbi.1005113", licence="not stated with the files: fetched from OSF, never redistributed",
        device="multi-electrode arrays, single and multi-units", sensors=73, rate=200.0, subjects=1,
        recordings=REPEATS, hours=None, language="", page=PAGE,
        notes="Units of several animals were recorded one after the other and are put side by side here, as channels "
              "of one subject: what they share beyond the stimulus is lost, and noise is independent by construction. "
              "12 dynamic random chords that were played too have no sound file and are left out, and so are units "
              "whose file is not in the archive (with a warning).")

    def __init__(self, path: Path | None, units: str = "good", clips: Iterable[int] | None = None,
                 test_clips: Iterable[int] | None = None, valid_clips: Iterable[int] | None = None, rate: int = 200,
                 smooth_ms: float = 0.0, gap_s: float = 0.5, **selection: object) -> None:
        super().__init__(path, ("units", "clips", "test_clips", "valid_clips", "rate", "smooth_ms", "gap_s"), selection)
        if units not in ("good", "all"):
            raise ValueError(f"study ns1: units={units!r}, expected good or all")
        self.units = units
        self.clips = choose_clips("ns1", range(CLIPS), "clips", clips, test_clips, valid_clips)
        self.clock = Clock(rate, smooth_ms, gap_s)

    def prepare(self) -> None:
        """Downloads and unpacks (155 MB) what the folder lacks."""
        if not (self.folder / METADATA).is_file():
            MANIFEST.select([METADATA]).fetch(self.folder)
        if not (self.folder / UNPACKED).is_dir():
            archive = MANIFEST.select([ARCHIVE]).fetch(self.folder)[ARCHIVE]
            extract(archive, self.folder / UNPACKED)

    def _root(self) -> Path:
        """The folder to which the metadata's paths are relative: an archive may have its own folder at its top."""
        root = self.folder / UNPACKED
        if not root.is_dir() or not (self.folder / METADATA).is_file():
            raise FileNotFoundError(f"study ns1: no {METADATA} or folder {UNPACKED} in {self.folder}: call prepare(), "
                                    f"which downloads them, or unpack {ARCHIVE} of {PAGE} there")
        return root / UNPACKED if (root / UNPACKED).is_dir() else root

    def _files(self, root: Path) -> dict[Unit, Path]:
        """The chosen units and their files; of some the file has `_1` before its ending, and those without one are left
        out (a warning)."""
        units = read_units(self.folder / METADATA)
        if self.units == "good":
            units = [unit for unit in units if unit.single in GOOD and unit.depth >= 0]
        found = {}
        for unit in units:
            paths = (root / unit.path, root / f"{unit.path.removesuffix('.mat')}_1.mat")
            if there := [path for path in paths if path.is_file()]:
                found[unit] = there[0]
        if missing := [unit.name for unit in units if unit not in found]:
            logger.warning("study ns1: %d of %d units have no file in %s and are left out: %s", len(missing),
                           len(units), root, ", ".join(missing))
        if not found:
            raise FileNotFoundError(f"study ns1: none of the {len(units)} units has a file in {root}: is {ARCHIVE} "
                                    "unpacked as a whole?")
        return found

    def recordings(self) -> Iterator[NS1Recording]:
        root = self._root()
        sounds = {path.name: path for path in sorted(root.rglob("source.*.frozen.*")) if path.is_file()}
        if lacking := [SOUNDS[number] for number in self.clips if SOUNDS[number] not in sounds]:
            raise FileNotFoundError(f"study ns1: {len(lacking)} sounds are not in {root}, the first is {lacking[0]}: "
                                    f"is {ARCHIVE} unpacked as a whole?")
        found = self._files(root)
        clips = tuple(Clip(f"clip{number:02d}", sounds[SOUNDS[number]], split, SECONDS)
                      for number, split in self.clips.items())
        for repeat in range(REPEATS):
            yield NS1Recording(repeat, clips, tuple(self.clips), tuple(found), tuple(found.values()), self.clock)
