"""The study `strflab`: an auditory neuron that hears 20 songs of zebra finches, ten times each."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from bm.studies.base import register_study
from bm.studies.clips import Clip, ClipRecording, ClipStudy, Clock, choose_clips, count_spikes, neuron_channels
from bm.studies.download import Manifest
from bm.studies.facts import Facts

PAGE = "https://github.com/theunissenlab/strflab"
SONGS, REPEATS = 20, 10


def read_spikes(path: Path) -> list[np.ndarray]:
    """Times (ms) of a file with one line per repeat; a repeat may be silent.

    Raises:
        ValueError: something that is no number.
    """
    lines = path.read_text().split("\n")
    if lines[-1].strip() == "":  # what follows the last line's end
        lines.pop()
    times = []
    for number, line in enumerate(lines, start=1):
        try:
            times.append(np.array([float(word) for word in line.split()]))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; expected spike times in ms") from error
    return times


@dataclass(frozen=True, repr=False)
class StrflabRecording(ClipRecording):
    """One repeat of the songs; `spikes` are the files of the clips, `repeat` counts from 0."""

    repeat: int
    clips: tuple[Clip, ...]
    spikes: tuple[Path, ...]
    clock: Clock
    subject: str = "finch"
    study: str = "strflab"

    def source_files(self) -> list[Path]:
        return [*self.spikes, *(clip.path for clip in self.clips)]

    def channels(self) -> pd.DataFrame:
        return neuron_channels(["neuron"])

    def counts(self, clip: Clip, n_bins: int) -> np.ndarray:
        repeats = read_spikes(self.spikes[self.clips.index(clip)])
        if self.repeat >= len(repeats):  # this song was repeated less often
            return np.full((n_bins, 1), np.nan)
        return count_spikes(repeats[self.repeat], n_bins, self.clock.rate)[:, None]


@register_study
class Strflab(ClipStudy):
    """Spikes of one auditory neuron while 20 songs of zebra finches are played: one recording per repeat.

    Args:
        path: the folder of the data, or to put it.
        songs: numbers (1–20) to keep; None: all.
        test_songs, valid_songs: those of these splits (the tutorial's test songs are 17–20). With both given the others
            are train; songs of neither list are drawn, as `dset.test_ratio` and `dset.valid_ratio` say.
        rate, smooth_ms, gap_s: see `clips.Clock`. 21 ms is what the field smooths with.

    Raises:
        ValueError: an unknown selection key or song, or no `path`.
    """

    name = "strflab"
    manifest: ClassVar[Manifest] = Manifest.load(Path(__file__).with_name("strflab.json"))
    facts = Facts(
        title="An auditory neuron of a zebra finch that hears 20 songs, ten times each",
        citation="Example data (fakedata/auditory) of the toolbox STRFlab: Theunissen lab and Gallant lab, UC Berkeley",
        doi="", licence="none stated: fetched from the toolbox's repository, never redistributed",
        device="single unit", sensors=1, rate=1000.0, subjects=1, recordings=REPEATS, hours=None, language="",
        page=PAGE,
        notes="Provenance undocumented: the folder is called fakedata, and nothing there says which neuron it is, or "
              "whether it is one; songs and spikes look like a real recording. Songs last 1.2–2.6 s; spike times are "
              "multiples of 1/32 ms, and those after a song's end are left out. Songs were played one by one: their "
              "order here, and the silence between them, is none of the experiment.")

    def __init__(self, path: Path | None, songs: Iterable[int] | None = None, test_songs: Iterable[int] | None = None,
                 valid_songs: Iterable[int] | None = None, rate: int = 1000, smooth_ms: float = 0.0,
                 gap_s: float = 0.5, **selection: object) -> None:
        super().__init__(path, ("songs", "test_songs", "valid_songs", "rate", "smooth_ms", "gap_s"), selection)
        self.songs = choose_clips("strflab", range(1, SONGS + 1), "songs", songs, test_songs, valid_songs)
        self.clock = Clock(rate, smooth_ms, gap_s)

    def wanted(self) -> Manifest:
        """The files of the chosen songs."""
        place = {Path(file.path).name: file.path for file in self.manifest.files}
        return self.manifest.select([place[name] for song in self.songs for name in (f"stim{song}.wav",
                                                                                    f"spike{song}")])

    def prepare(self) -> None:
        """Downloads what the folder lacks (2.5 MB in all); see `download.Manifest.fetch`."""
        self.wanted().fetch(self.folder)

    def recordings(self) -> Iterator[StrflabRecording]:
        wanted = self.wanted()
        found = wanted.locate(self.folder)
        if missing := [file.path for file in wanted.files if file.path not in found]:
            raise FileNotFoundError(f"study strflab: {len(missing)} files are not in {self.folder}, the first is "
                                    f"{missing[0]}: call prepare(), which downloads them")
        by_name = {Path(path).name: place for path, place in found.items()}
        clips = tuple(Clip(f"song{song}", by_name[f"stim{song}.wav"], split) for song, split in self.songs.items())
        spikes = tuple(by_name[f"spike{song}"] for song in self.songs)
        for repeat in range(max(len(read_spikes(path)) for path in spikes)):
            yield StrflabRecording(repeat, clips, spikes, self.clock)
