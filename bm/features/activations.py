"""Activations of every layer of a network for the sounds of a study, in the cache; and published ones.

An entry is `activations.safetensors`, one tensor per layer `(sounds, units)` float32 (or `(sounds, time, units…)`), and
`index.json`: the sounds, the layers in order and their shapes.
"""
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bm.features.audio import read_audio
from bm.features.networks import Network
from bm.progress import with_progress
from bm.store import Store, file_sha256
from bm.studies.base import Recording

logger = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Activations:
    """What a network says of some sounds.

    Args:
        folder: with `index.json` and the safetensors; or, of published files, None.
        sounds: names, in the order of the rows.
        layers: names, in the network's order.
    """

    sounds: list[str]
    layers: list[str]
    file: Path

    def layer(self, name: str) -> np.ndarray:
        """`(sounds, units)` of a layer (`(sounds, time, …)` if time was kept), read from disk."""
        if self.file.suffix == ".h5":
            return np.asarray(_hdf5(self.file)[name], dtype=np.float32)
        from safetensors import safe_open
        if self.file.is_dir():
            rows = []
            for sound in self.sounds:
                with safe_open(_of_sound(self.file, sound), "numpy") as opened:
                    rows.append(opened.get_tensor(name).ravel())
            return np.stack(rows)
        with safe_open(self.file, "numpy") as opened:
            return opened.get_tensor(name)

    def rows(self, sounds: Sequence[str]) -> list[int]:
        """Where those sounds are.

        Raises:
            ValueError: one is not there.
        """
        place = {name: row for row, name in enumerate(self.sounds)}
        if missing := [name for name in sounds if name not in place]:
            raise ValueError(f"{self.file} lacks {len(missing)} of {len(sounds)} sounds, the first is {missing[0]!r}")
        return [place[name] for name in sounds]


def study_sounds(recordings: Iterable[Recording]) -> dict[str, Path]:
    """Name → file of the sounds that a study's recordings hear whole, in order of appearance.

    Raises:
        ValueError: one name for two sounds, or no sound.
    """
    out: dict[str, Path] = {}
    for recording in recordings:
        events = recording.events()
        events = events[events["kind"] == "sound"]
        names = events["stimulus_id"] if "stimulus_id" in events else events["filepath"].map(lambda p: Path(p).stem)
        for name, path in zip(names, events["filepath"], strict=True):
            if out.setdefault(str(name), Path(path)) != Path(path):
                raise ValueError(f"{recording.name}: {name!r} is the name of two sounds, {out[str(name)]} and {path}")
    if not out:
        raise ValueError("the study's recordings hear no sound")
    return out


def level(audio: np.ndarray, rms: float | None) -> np.ndarray:
    """A sound without its mean, of that root mean square (silence stays as it is); None: as it is."""
    if rms is None:
        return audio
    audio = audio - audio.mean()
    size = float(np.sqrt((audio.astype(np.float64) ** 2).mean()))
    return audio if size == 0 else (audio * (rms / size)).astype(np.float32)


def compute(store: Store, network: Network, sounds: dict[str, Path], *, time: bool = False, rms: float | None = 0.1
            ) -> Activations:
    """Activations of the sounds, computed unless they are in the cache.

    Args:
        time: keep it (sounds must be equally long); else the mean over time, and all other axes in a row.
        rms: of every sound, whose mean is subtracted too (the paper's 0.1); None: sounds as they are.

    Raises:
        ValueError: values that are not finite, or layers whose shapes differ between sounds.
    """
    key = {"version": VERSION, "network": network.identity, "time": time, "rms": rms,
           "sounds": {name: file_sha256(path) for name, path in sounds.items()}}
    folder = store.get("activations", key, lambda target: _write(target, network, sounds, time, rms))
    return read(folder)


def _write(folder: Path, network: Network, sounds: dict[str, Path], time: bool, rms: float | None) -> None:
    from safetensors.numpy import save_file
    found: dict[str, list[np.ndarray]] = {}
    logger.info("activations of %d sounds: computed once, then in the cache", len(sounds))
    for path in with_progress(sounds.values(), "activations"):
        audio, rate = read_audio(path)
        for name, value in network.hear(level(audio, rms), rate).items():
            timed = network.timed.get(name, False)
            if not np.isfinite(value).all():
                raise ValueError(f"layer {name} gives NaN or infinite values for {path}")
            value = value if time and timed else (value.mean(0) if timed else value).ravel()
            found.setdefault(name, []).append(np.asarray(value, np.float32))
    for name, values in found.items():
        if len({value.shape for value in values}) > 1 or len(values) != len(sounds):
            shapes = sorted({value.shape for value in values})
            raise ValueError(f"layer {name} gives shapes {shapes} for {len(values)} of {len(sounds)} sounds: expected "
                             "one shape; layers without time need sounds of one length, and so does keeping it")
    # a stack of turned arrays is turned too, and what is written are the bytes as they lie
    arrays = {name: np.ascontiguousarray(np.stack(values)) for name, values in found.items()}
    save_file(arrays, folder / "activations.safetensors")
    layers = [{"name": name, "shape": list(array.shape)} for name, array in arrays.items()]
    (folder / "index.json").write_text(json.dumps({
        "sounds": list(sounds), "layers": layers,
        "time": time, "rms": rms, "network": network.identity}, indent=1))


def read(path: Path) -> Activations:
    """An entry's folder; or published activations: an HDF5 file with one dataset per layer, or a folder of files
    `<sound>_activations.safetensors` (pickles, converted: `python -m scripts.study convert`).

    An HDF5 file has the sounds in the canonical order of `nh2015` and does not name them: `sounds` is then empty.

    Raises:
        FileNotFoundError: neither is there.
    """
    if (path / "index.json").is_file():
        index = json.loads((path / "index.json").read_text())
        return Activations(index["sounds"], [layer["name"] for layer in index["layers"]],
                           path / "activations.safetensors")
    if path.suffix == ".h5" and path.is_file():
        listed = _hdf5(path)["layer_list"][:]
        return Activations([], [name.decode() if isinstance(name, bytes) else str(name) for name in listed], path)
    files = sorted(path.glob("*_activations*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{path} has no activations: expected index.json, an HDF5 file, or files "
                                "<sound>_activations.safetensors (from pickles: python -m scripts.study convert)")
    from safetensors import safe_open
    with safe_open(files[0], "numpy") as opened:
        layers = list(opened.keys())
    return Activations([file.name.partition("_activations")[0] for file in files], layers, path)


def _of_sound(folder: Path, sound: str) -> Path:
    return next(iter(sorted(folder.glob(f"{sound}_activations*.safetensors"))))


def _hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path} is HDF5: install h5py (pip install 'bm[published]')") from error
    return h5py.File(path, "r")
