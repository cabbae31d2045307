"""The study `natsounds`: human cortex hears 165 natural sounds (ECoG components of 2022, fMRI components of 2015)."""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from bm.config import nearest
from bm.studies.base import CHANNEL_COLUMNS, Recording, Signal, Study, register_study
from bm.studies.download import Manifest
from bm.studies.facts import Facts

ECOG_REPOSITORY, FMRI_REPOSITORY = "song-ecog-current-biology", "natsound165-neuron2015"
RESPONSES = f"{ECOG_REPOSITORY}/data/ecog_component_responses.mat"
WEIGHTS = f"{ECOG_REPOSITORY}/data/ecog_component_weights.mat"
COMPONENTS = f"{FMRI_REPOSITORY}/data/components.mat"
LABELS = f"{FMRI_REPOSITORY}/stimuli/category_labels.csv"

#: target → spaces, the default one first
SPACES = {"ecog": ("electrodes", "components"), "fmri": ("voxels", "components")}
#: target → the files with responses and weights
FILES = {"ecog": (RESPONSES, WEIGHTS), "fmri": (COMPONENTS,)}
#: s; what is published of each response, and so the distance of the sounds here
PERIOD = 3.0
#: s, of every sound
SOUND = 2.0

_LICENCE = "none stated: files that the authors published on GitHub; fetched from there, never redistributed"
FACTS = {
    "ecog": Facts(
        title="ECoG responses to 165 natural sounds, as 15 components",
        citation="Norman-Haignere, Feather, Boebinger, Brunner, Ritaccio, McDermott, Schalk & Kanwisher 2022: A neural "
                 "population selective for song in human auditory cortex. Current Biology",
        doi="10.1016/j.cub.2022.01.069", licence=_LICENCE, device="ECoG, broadband gamma", sensors=272, rate=25.0,
        subjects=15, recordings=1, hours=165 * PERIOD / 3600, language="",
        page="https://github.com/snormanhaignere/song-ecog-current-biology",
        notes="What is published is not the electrodes' recordings but 15 components (time courses) and their weights "
              "in 272 electrodes of 15 people. The electrodes here are responses @ weights: 272 channels of rank 15, "
              "without the noise that the components leave out, and the components were found with all 165 sounds. "
              "Responses are means over repetitions, in arbitrary units; each was 0–2.96 s from its sound's start: "
              "laid end to end here, neighbours in time were not neighbours in the experiment."),
    "fmri": Facts(
        title="fMRI responses to 165 natural sounds, as 6 components",
        citation="Norman-Haignere, Kanwisher & McDermott 2015: Distinct cortical pathways for music and speech "
                 "revealed by hypothesis-free voxel decomposition. Neuron",
        doi="10.1016/j.neuron.2015.11.035", licence=_LICENCE, device="fMRI 3 T", sensors=11065, rate=None,
        subjects=10, recordings=1, hours=165 * SOUND / 3600, language="",
        page="https://github.com/snormanhaignere/natsound165-neuron2015",
        notes="What is published on GitHub is 6 components and their weights in 11,065 voxels of 10 people. The voxels "
              "here are responses @ weights: of rank 6, denoised, without repeats, so they have no noise ceiling. One "
              "value per sound and voxel; which voxel is whose is not published there."),
}


def load_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, without dimensions of size 1."""
    import scipy.io
    return scipy.io.loadmat(path, squeeze_me=True)


@dataclass(frozen=True, repr=False)
class NatSoundsRecording(Recording):
    """The responses of all subjects together to the 165 sounds, in the order of the published file.

    Args:
        target, space: see `NatSounds`.
        neural: the published file(s).
        sounds: the wav files, named as the stimuli.
        labels: table of the categories.
    """

    target: str
    space: str
    neural: tuple[Path, ...]
    sounds: tuple[Path, ...]
    labels: Path
    subject: str = "group"
    session: str = "1"
    study: str = "natsounds"

    @property
    def uid(self) -> str:  # type: ignore[override]
        return f"{self.target}_{self.space}"

    def source_files(self) -> list[Path]:
        return list(self.neural)

    def names(self) -> list[str]:
        """Names of the stimuli, one per row (fMRI) or 75 rows (ECoG) of the signal."""
        return [str(name).removesuffix(".wav") for name in load_mat(self.neural[0])["stim_names"]]

    def events(self) -> pd.DataFrame:
        """One `sound` per stimulus, every 3 s, with `stimulus_id` (its published name) and `category`.

        Raises:
            ValueError: names of responses, sounds and categories do not match.
        """
        names = self.names()
        files = {path.stem: path for path in self.sounds}
        table = pd.read_csv(self.labels, header=None, names=["name", "category"], dtype=str, keep_default_na=False)
        category = dict(zip(table["name"], table["category"], strict=True))
        for what, known in {"sound files": files, "categories": category}.items():
            if sorted(known) != sorted(names):
                raise ValueError(f"{self.name}: {len(known)} {what} do not match the {len(names)} stimuli of "
                                 f"{self.neural[0]}: {sorted(set(known) ^ set(names))[:5]}")
        return pd.DataFrame({
            "kind": "sound", "start": PERIOD * np.arange(len(names)), "duration": SOUND,
            "filepath": [str(files[name]) for name in names], "stimulus_id": names,
            "category": [category[name] for name in names]})

    def signal(self) -> Signal:
        return self._ecog() if self.target == "ecog" else self._fmri()

    def _ecog(self) -> Signal:
        """25 Hz; sound i is at rows 75·i … 75·i + 74 (0–2.96 s)."""
        responses, weights = (load_mat(path) for path in self.neural)
        array, t = responses["R"], responses["t"]
        rate = (len(t) - 1) / (t[-1] - t[0])
        if array.shape[1] != len(t) or t[0] != 0 or abs(len(t) / rate - PERIOD) > 1e-6:
            raise ValueError(f"{self.name}: responses of shape {array.shape} at {t[0]:g}–{t[-1]:g} s, expected "
                             f"(sounds, times, components) that begin with the sound and fill {PERIOD:g} s")
        array = array.reshape(-1, array.shape[2])
        if self.space == "components":
            return Signal.from_array(array, round(rate, 6), _channels(
                [f"component{i + 1:02d}" for i in range(array.shape[1])], "ecog"))
        return Signal.from_array(array @ weights["W"], round(rate, 6), _electrodes(weights))

    def _fmri(self) -> Signal:
        """One row per sound."""
        data = load_mat(self.neural[0])
        if self.space == "components":
            return Signal.from_array(data["R"], None, _channels([str(n) for n in data["component_names"]], "fmri"))
        array = data["R"] @ data["W"]
        return Signal.from_array(array, None, _channels([f"voxel{i:05d}" for i in range(array.shape[1])], "fmri"))


def _channels(names: list[str], kind: str, **columns: Any) -> pd.DataFrame:
    unknown = dict.fromkeys(["x", "y", "z", "layout_x", "layout_y"], np.nan)
    table = pd.DataFrame({"name": names, "type": kind, "unit": "a.u.", **unknown, "region": "", "bad": False})
    return table[CHANNEL_COLUMNS].assign(**columns)


def _electrodes(weights: dict[str, Any]) -> pd.DataFrame:
    """The electrodes; `region` is the subject, and more columns say where they lie.

    The published coordinates are those of vertices of the *inflated* surface of FreeSurfer's fsaverage (compared with
    the first 10,242 vertices, which fsaverage5 has too): no places in a head, so x, y and z stay unknown. Kept are the
    vertex (`fsaverage_vertex`, from 0), its hemisphere (the sign of x: all lie on the lateral side) and the
    coordinates on that surface, whose middle is the origin of each hemisphere (`x_infl`, `y_infl`, `z_infl`, mm).
    """
    subject, place = weights["subject_indices"], weights["elec_verts_ras"].astype(float)
    number = pd.Series(subject).groupby(subject).cumcount() + 1
    names = [f"s{s:02d}e{n:02d}" for s, n in zip(subject, number, strict=True)]
    return _channels(names, "ecog", region=[f"s{s:02d}" for s in subject],
                     fsaverage_vertex=weights["elec_vert_nums"].astype(np.int64) - 1,
                     hemisphere=np.where(place[:, 0] < 0, "left", "right"),
                     **dict(zip(("x_infl", "y_infl", "z_infl"), place.T, strict=True)))


@register_study
class NatSounds(Study):
    """Responses to 165 natural sounds of 2 s: one recording in which they follow each other every 3 s.

    Args:
        path: the folder of the data, or to put it.
        target: "ecog" (time courses at 25 Hz) or "fmri" (one row per sound).
        space: "electrodes" (ecog) or "voxels" (fmri), the default; or "components", which lie behind them.

    Raises:
        ValueError: an unknown target, space or selection key, or no `path`.
    """

    name = "natsounds"
    blocks = "sound"
    merge_blocks = False
    continuous = False
    facts = FACTS["ecog"]
    manifest: ClassVar[Manifest] = Manifest.load(Path(__file__).with_name("files.json"))

    def __init__(self, path: Path | None, target: str = "ecog", space: str | None = None, **selection: Any) -> None:
        super().__init__(path)
        if selection:
            raise ValueError(f"study natsounds: unknown selection keys {sorted(selection)}, expected target, space"
                             + nearest(next(iter(selection)), ("target", "space")))
        if path is None:
            raise ValueError("study natsounds: no path, expected the folder that has the data or will have it")
        for key, value, known in [("target", target, tuple(SPACES)),
                                  ("space", space, (None, *SPACES.get(target, ())))]:
            if value not in known:
                raise ValueError(f"study natsounds: {key}={value!r}, expected one of {', '.join(map(str, known))}"
                                 + nearest(str(value), known))
        self.folder = Path(path)
        self.target, self.space = target, space or SPACES[target][0]

    def wanted(self) -> Manifest:
        """The files of this target, and the sounds."""
        sounds = [file.path for file in self.manifest.files if file.path.endswith(".wav")]
        return self.manifest.select([*FILES[self.target], LABELS, *sounds])

    def prepare(self) -> None:
        """Downloads what the folder lacks (30 MB in all); see `download.Manifest.fetch`."""
        self.wanted().fetch(self.folder)

    def recordings(self) -> Iterator[NatSoundsRecording]:
        files = self.wanted()
        found = files.locate(self.folder)
        missing = [file.path for file in files.files if file.path not in found]
        if missing:
            raise FileNotFoundError(f"study natsounds: {len(missing)} files are not in {self.folder}, the first is "
                                    f"{missing[0]}: call prepare(), which downloads them")
        yield NatSoundsRecording(self.target, self.space, tuple(found[path] for path in FILES[self.target]),
                                 tuple(path for name, path in found.items() if name.endswith(".wav")), found[LABELS])
