"""The study `simulated`: made from a seed on first use, with nothing to download and the truth known."""
import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from bm.studies.base import Study, register_study
from bm.studies.events_tsv import read_events_tsv
from bm.studies.files import make_once
from bm.studies.mne_recording import MneRecording
from bm.studies.simulated.make import Parameters, entities, make_dataset

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class SimulatedRecording(MneRecording):
    """One session of one subject; `root` is the folder of the dataset. See `load_truth` for what lies behind it."""

    root: Path
    subject: str
    session: str
    uid: str
    study: str = "simulated"
    sensors: ClassVar[tuple[str, ...]] = ("meg",)

    @property
    def stem(self) -> str:
        """The start of its file names."""
        return entities(self.subject, self.session)

    @property
    def folder(self) -> Path:
        return self.root / f"sub-{self.subject}" / f"ses-{self.session}" / "meg"

    def raw(self) -> "mne.io.BaseRaw":
        import mne

        return mne.io.read_raw_fif(self.folder / f"{self.stem}_meg.fif", preload=False, verbose="ERROR")

    def events(self) -> pd.DataFrame:
        return read_events_tsv(self.event_files()[0], [self.root / "stimuli"])

    def event_files(self) -> list[Path]:
        return [self.folder / f"{self.stem}_events.tsv"]

    def source_files(self) -> list[Path]:
        return [self.folder / f"{self.stem}_meg.fif"]


@register_study
class Simulated(Study):
    """Subjects who listen to six stories, spoken by eSpeak NG; their MEG is a known response plus known noise.

    The selection takes the fields of `Parameters`. Each set of parameters is a BIDS dataset of its own,
    `<path>/<key of the parameters>`, so that all live side by side.

    Raises:
        ValueError: an unknown selection key, a value out of range, or no `path`.
    """

    name = "simulated"

    def __init__(self, path: Path | None, **selection: Any) -> None:
        super().__init__(path)
        known = [field.name for field in fields(Parameters)]
        unknown = sorted(set(selection) - set(known))
        if unknown:
            raise ValueError(f"study simulated: unknown selection keys {unknown}, expected some of {known}")
        if path is None:
            raise ValueError("study simulated: no path, expected the folder in which to make the dataset")
        self.parameters = Parameters(**selection)
        self.root = Path(path) / self.parameters.key

    def recordings(self) -> Iterator[SimulatedRecording]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"study simulated: {self.root} is not made yet: call prepare() first")
        for subject, session in self.parameters.recordings():
            yield SimulatedRecording(self.root, f"{subject:02d}", str(session), f"sub-{subject:02d}_ses-{session}")

    def prepare(self) -> None:
        """Makes the dataset unless it is there. Many processes may call this at once; one makes it."""
        def make(folder: Path) -> None:
            logger.info("simulated: making %s in %s", self.parameters, self.root)
            make_dataset(self.parameters, folder)

        make_once(self.root, make)
