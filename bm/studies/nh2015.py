"""The studies `nh2015` and `b2021`: fMRI of human auditory cortex that hears 165 natural sounds, three times each.

As packaged by Tuckute, Feather et al. 2023 (PLoS Biology 21: e3002366): one value per sound, voxel and repetition.
Tables about voxels are pickles there; they are read once converted (`python -m scripts.study convert`).
"""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from bm.config import nearest
from bm.studies.base import CHANNEL_COLUMNS, Recording, Signal, Study, register_study
from bm.studies.download import Manifest, RemoteFile, extract
from bm.studies.facts import Facts

PAGE = "https://github.com/gretatuckute/auditory_brain_dnn"
MANIFEST = Manifest("nh2015", PAGE, (RemoteFile(
    "data.tar", ("https://mcdermottlab.mit.edu/tuckute_feather_2023/data.tar",)),))
#: where the archive is unpacked
UNPACKED = "published"
RESPONSES, VOXELS, TABLE = "voxel_features_array.npy", "voxel_features_meta.npy", "df_roi_meta"
ORDER, ORDER_2021, COMPONENTS = "neural_stim_meta.npy", "stim_info_v4.mat", "components.mat"
REPETITIONS = 3
#: s, of every sound; and from one to the next in the events, which has no meaning
SOUND, PERIOD = 2.0, 3.0

_LICENCE = "none stated: ask before redistribution"
_PACKAGE = (" As packaged by Tuckute, Feather et al. 2023. One value per sound, voxel and repetition, sparse-sampled: "
            "no time axis. Rows are repetition by repetition, sounds in one order; times of events are invented.")


@dataclass(frozen=True, repr=False)
class NaturalSoundRecording(Recording):
    """The voxels of one person: `repetitions` × sounds rows, repetition by repetition; or the components of all.

    Args:
        folder: of the study's arrays; `order`: the file with the order of the sounds.
        sounds: number of sounds that are kept, the first ones.
        wavs: the sound files that were found, by name.
    """

    study: str
    subject: str
    uid: str
    folder: Path
    order: Path
    sounds: int
    wavs: tuple[Path, ...]
    space: Literal["voxels", "components"] = "voxels"
    session: str = "1"

    @property
    def repetitions(self) -> int:
        return REPETITIONS if self.space == "voxels" else 1

    def source_files(self) -> list[Path]:
        if self.space == "components":
            return [self.folder / COMPONENTS, self.order]
        return [self.folder / RESPONSES, self.folder / VOXELS, self.folder / f"{TABLE}.parquet"]

    def event_files(self) -> list[Path]:
        return [self.order]

    def event_options(self) -> dict[str, Any]:
        return {"sounds": self.sounds, "repetitions": self.repetitions}

    def names(self) -> list[str]:
        """Stimuli in the order of the rows, without ".wav"."""
        return [name for name, _ in _order(self.order, self.sounds)]

    def events(self) -> pd.DataFrame:
        """One `sound` per row of the signal, with `stimulus_id`, `category` and `repetition` (from 0).

        Raises:
            FileNotFoundError: a sound is not there.
        """
        known = {path.stem: path for path in self.wavs}
        order = _order(self.order, self.sounds)
        if missing := [name for name, _ in order if name not in known]:
            raise FileNotFoundError(f"{self.name}: {len(missing)} of {len(order)} sounds are not there, the first is "
                                    f"{missing[0]}.wav: they belong anywhere below the study's folder, or say where "
                                    "with the selection's key `sounds`")
        table = pd.DataFrame({"kind": "sound", "duration": SOUND, "filepath": [str(known[name]) for name, _ in order],
                              "stimulus_id": [name for name, _ in order], "category": [kind for _, kind in order]})
        out = pd.concat([table.assign(repetition=k) for k in range(self.repetitions)], ignore_index=True)
        out.insert(1, "start", PERIOD * np.arange(len(out)))
        return out

    def signal(self) -> Signal:
        return self._components() if self.space == "components" else self._voxels()

    def _voxels(self) -> Signal:
        responses = np.load(self.folder / RESPONSES, mmap_mode="r")
        kept, table = _voxel_table(self.folder, responses.shape)
        if len(responses) < self.sounds:
            raise ValueError(f"{self.name}: {self.folder / RESPONSES} has shape {responses.shape}, expected at least "
                             f"{self.sounds} sounds × voxels × {REPETITIONS} repetitions")
        own = (table["subj_idx"].astype(int).astype(str) == self.subject).to_numpy()
        values = np.asarray(responses[:self.sounds, kept[own]], dtype=np.float64)
        if np.isnan(values).any():
            raise ValueError(f"{self.name}: {int(np.isnan(values).any((0, 2)).sum())} voxels of {REPETITIONS} "
                             f"repetitions have NaN in {self.folder / RESPONSES}: is it damaged?")
        own_table = table[own].reset_index(drop=True)
        region = own_table["roi_label_general"].astype(object).where(own_table["roi_label_general"].notna(), "")
        more = {name: own_table[name] for name in own_table if name not in CHANNEL_COLUMNS}
        channels = _channels([f"voxel{v}" for v in own_table["voxel_id"]], [str(r) for r in region]).assign(**more)
        return Signal.from_array(values.transpose(2, 0, 1).reshape(-1, own.sum()), None, channels)

    def _components(self) -> Signal:
        import scipy.io
        data = scipy.io.loadmat(self.folder / COMPONENTS, squeeze_me=True)
        names = [str(name).removesuffix(".wav") for name in data["stim_names"]]
        order = self.names()
        if sorted(names) != sorted(order):
            raise ValueError(f"{self.name}: the sounds of {self.folder / COMPONENTS} are not those of {self.order}: "
                             f"{sorted(set(names) ^ set(order))[:5]}")
        place = {name: row for row, name in enumerate(names)}
        return Signal.from_array(data["R"][[place[name] for name in order]], None,
                                 _channels([str(name) for name in data["component_names"]], ""))


def _order(path: Path, sounds: int) -> list[tuple[str, str]]:
    """Name and category of each sound, in the order of the responses.

    Raises:
        ValueError: another number of sounds, or a name twice.
    """
    table = np.load(path)  # plain fields, so that no pickle is needed; they are known by position
    names, kinds = (table[table.dtype.names[field]] for field in (0, 4))
    out = [(name.decode() if isinstance(name, bytes) else str(name), str(kind)) for name, kind in
           zip(names.tolist(), kinds.tolist(), strict=True)]
    if len(out) != sounds or len({name for name, _ in out}) != sounds:
        raise ValueError(f"{path} names {len(out)} sounds, {len({name for name, _ in out})} of them different: "
                         f"expected {sounds}")
    return [(name.removesuffix(".wav"), kind) for name, kind in out]


def _voxel_table(folder: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, pd.DataFrame]:
    """Columns of the responses that have all repetitions, and the table about them.

    Raises:
        ValueError: responses, their metadata and the table do not fit each other.
    """
    meta = np.load(folder / VOXELS)
    if len(shape) != 3 or shape[2] != REPETITIONS or shape[1] != len(meta):
        raise ValueError(f"{folder / RESPONSES} has shape {shape}, but {VOXELS} has {len(meta)} voxels: expected "
                         f"sounds × {len(meta)} × {REPETITIONS}")
    names = meta.dtype.names or ()
    ids = meta if not names else meta["voxel_id" if "voxel_id" in names else names[0]]
    kept = np.flatnonzero(meta["n_reps"] == REPETITIONS) if "n_reps" in names else np.arange(len(meta))
    table = pd.read_parquet(folder / f"{TABLE}.parquet")
    if not np.array_equal(table["voxel_id"].to_numpy(), ids[kept].astype(np.int64)):
        raise ValueError(f"{folder / TABLE}.parquet has {len(table)} voxels, which are not, in this order, the "
                         f"{len(kept)} of {VOXELS} with {REPETITIONS} repetitions")
    return kept, table


def _channels(names: list[str], region: Any) -> pd.DataFrame:
    unknown = dict.fromkeys(["x", "y", "z", "layout_x", "layout_y"], np.nan)
    table = pd.DataFrame({"name": names, "type": "fmri", "unit": "a.u.", **unknown, "region": region, "bad": False})
    return table[CHANNEL_COLUMNS]


@register_study
class NH2015(Study):
    """Responses of 8 people's auditory cortex to 165 natural sounds of 2 s, three times each: 7,694 voxels.

    Args:
        path: the folder of the data, or to put it; the arrays are in `…/neural/NH2015` below it.
        subjects: `subj_idx` of the table to keep; None: all.
        space: "voxels"; or "components", the six of the paper of 2015 (one recording, no repetitions).
        sounds: a folder that has the wav files; None: the study's own.
        n_sounds: how many there are.

    Raises:
        ValueError: an unknown selection key or space, or no `path`.
    """

    name = "nh2015"
    blocks = "sound"
    merge_blocks = False
    folder_name: ClassVar[str] = "NH2015"
    facts = Facts(
        title="fMRI responses to 165 natural sounds",
        citation="Norman-Haignere, Kanwisher & McDermott 2015: Distinct cortical pathways for music and speech "
                 "revealed by hypothesis-free voxel decomposition. Neuron 88: 1281–1296",
        doi="10.1016/j.neuron.2015.11.035", licence=_LICENCE, device="fMRI 3 T", sensors=None, rate=None, subjects=8,
        recordings=8, hours=None, language="", page=PAGE, notes="7,694 voxels in all." + _PACKAGE)

    def __init__(self, path: Path | None, subjects: Iterable[int] | None = None, space: str = "voxels",
                 sounds: str | None = None, n_sounds: int = 165, **selection: Any) -> None:
        super().__init__(path)
        known = ("subjects", "space", "sounds", "n_sounds")
        if selection:
            raise ValueError(f"study {self.name}: unknown selection keys {sorted(selection)}, expected "
                             f"{', '.join(known)}" + nearest(next(iter(selection)), known))
        if path is None:
            raise ValueError(f"study {self.name}: no path, expected the folder that has the data or will have it")
        if space not in self.spaces():
            raise ValueError(f"study {self.name}: space={space!r}, expected {' or '.join(self.spaces())}")
        self.root, self.space, self.n_sounds = Path(path), space, n_sounds
        self.subjects = None if subjects is None else {str(subject) for subject in subjects}
        self.sounds = None if sounds is None else Path(sounds)

    @classmethod
    def spaces(cls) -> tuple[str, ...]:
        return ("voxels", "components")

    def prepare(self) -> None:
        """Downloads and unpacks the archive (180 MB) unless the arrays are there."""
        if self._found(self.folder_name) is None:
            archive = MANIFEST.fetch(self.root)["data.tar"]
            extract(archive, self.root / UNPACKED)

    def _found(self, name: str) -> Path | None:
        """The folder `neural/<name>` below the root, however the archive was unpacked."""
        places = [self.root / above / "neural" / name
                  for above in ("", "data", UNPACKED, f"{UNPACKED}/data", "download", "download/data")]
        return next((place for place in places if place.is_dir()), None)

    def folder(self, name: str) -> Path:
        """Raises FileNotFoundError where it is not there."""
        found = self._found(name)
        if found is None:
            raise FileNotFoundError(f"study {self.name}: no folder neural/{name} in {self.root}: call prepare(), which "
                                    f"downloads it, or unpack data.tar of {PAGE} there")
        return found

    def recordings(self) -> Iterator[NaturalSoundRecording]:
        order = self._file(self.folder("NH2015") / ORDER)
        root = self.sounds or self.root
        wavs = tuple(sorted(path for path in root.rglob("*.wav") if path.name.startswith("stim")))
        if self.space == "components":
            folder = self.folder("NH2015comp")
            self._file(folder / COMPONENTS)
            yield NaturalSoundRecording(self.name, "group", "components", folder, order, self.n_sounds, wavs,
                                        "components")
            return
        folder = self.folder(self.folder_name)
        for name in (RESPONSES, VOXELS):
            self._file(folder / name)
        self._check_order(folder, order)
        table = pd.read_parquet(self._table(folder), columns=["subj_idx"])
        subjects = [str(subject) for subject in sorted(set(table["subj_idx"].astype(int)))]
        if self.subjects is not None and (unknown := self.subjects - set(subjects)):
            raise ValueError(f"study {self.name}: no subjects {sorted(unknown)}; there are {', '.join(subjects)}")
        for subject in subjects:
            if self.subjects is None or subject in self.subjects:
                yield NaturalSoundRecording(self.name, subject, f"subject{int(subject):02d}", folder, order,
                                            self.n_sounds, wavs)

    def _file(self, path: Path) -> Path:
        if not path.is_file():
            raise FileNotFoundError(f"study {self.name}: no file {path}: unpack the whole of data.tar of {PAGE}")
        return path

    def _table(self, folder: Path) -> Path:
        table, pickled = folder / f"{TABLE}.parquet", folder / f"{TABLE}.pkl"
        if not table.is_file() and pickled.is_file():
            raise FileNotFoundError(f"study {self.name}: {pickled} is a pickle, and reading one may run what it says. "
                                    "If you trust its source, convert it once: python -m scripts.study convert "
                                    f"--trust {pickled} --sha256 $(sha256sum {pickled} | cut -c-64)")
        return self._file(table)

    def _check_order(self, folder: Path, order: Path) -> None:
        """For subclasses whose responses have an order of their own."""


@register_study
class B2021(NH2015):
    """Responses of 20 people, ten of them musicians, to the same 165 sounds: 26,792 voxels.

    27 further sounds of music are left out. Arguments: see `NH2015`, whose order of sounds it shares: both are in the
    same archive.
    """

    name = "b2021"
    folder_name = "B2021"
    facts = Facts(
        title="fMRI responses to 165 natural sounds of musicians and others",
        citation="Boebinger, Norman-Haignere, McDermott & Kanwisher 2021: Music-selective neural populations arise "
                 "without musical training. Journal of Neurophysiology 125: 2237–2263",
        doi="10.1152/jn.00588.2020", licence=_LICENCE, device="fMRI 3 T", sensors=None, rate=None, subjects=20,
        recordings=20, hours=None, language="", page=PAGE, notes="26,792 voxels in all." + _PACKAGE)

    @classmethod
    def spaces(cls) -> tuple[str, ...]:
        return ("voxels",)

    def _check_order(self, folder: Path, order: Path) -> None:
        import scipy.io
        path = self._file(folder / ORDER_2021)
        info = scipy.io.loadmat(path, squeeze_me=True)["stim_info"]
        names = [str(name) for name in np.atleast_1d(info["stim_names"].item())][:self.n_sounds]
        expected = [name for name, _ in _order(order, self.n_sounds)]
        if names != expected:
            differ = [i for i, pair in enumerate(zip(names, expected, strict=False)) if pair[0] != pair[1]]
            raise ValueError(f"study {self.name}: the sounds of {path} are not, in this order, those of {order}: "
                             f"{len(names)} and {len(expected)}, the first that differs is number {(differ or [0])[0]}")
