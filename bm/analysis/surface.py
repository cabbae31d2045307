"""Voxels and electrodes on the cortical surface fsaverage5, whose meshes are files of nilearn (nothing is fetched).

Known places are columns of an XP's `channels.csv`, beside `hemi` or `hemisphere`. Their frame is one of

- `ras`: `x_ras`, `y_ras`, `z_ras`, mm in the space of fsaverage's surfaces (surface RAS, MNI305);
- `flat`: `x_ras`, `y_ras` alone, mm on a flattened patch of fsaverage's auditory cortex, on a grid of 2 mm. This is
  what is published of `nh2015` and `b2021`: their coordinates have no third axis, and mean nothing without the patch,
  which the archive lacks (`read_patch` says who has it);
- `inflated`: `x_infl`, `y_infl`, `z_infl`, mm on fsaverage's inflated surface, as the electrodes of `natsounds` have:
  all are within 1.7 mm of a vertex of fsaverage5's (half the mesh's grain), and those whose vertex fsaverage5 has are
  within 0.2 mm of it, so they are drawn as dots there.

A vertex takes the value of the nearest place within `RADIUS`, as published; a mean over a ball would blur which layer
is the best, and 4 mm is about the mesh's own grain. What is farther from every place is NaN.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bm.analysis.layers import LayersXP

Side = Literal["left", "right"]
Frame = Literal["ras", "flat", "inflated"]
Patch = Mapping[Side, tuple[np.ndarray, np.ndarray]]

SIDES: tuple[Side, Side] = ("left", "right")
#: frame → columns; the first whose columns are there counts
FRAMES: dict[Frame, tuple[str, ...]] = {
    "inflated": ("x_infl", "y_infl", "z_infl"), "ras": ("x_ras", "y_ras", "z_ras"), "flat": ("x_ras", "y_ras")}
#: mm, how far a vertex may be from the place whose value it takes; on the flat grid a little over half a diagonal
RADIUS = {"ras": 4.0, "flat": 1.5}
VERTICES = 10242
MISSING = "cortical surfaces need nilearn: pip install -e '.[surface]'"
#: names of a hemisphere
_NAMES: dict[str, Side] = {"lh": "left", "l": "left", "left": "left", "rh": "right", "r": "right", "right": "right"}


@dataclass(frozen=True)
class Mesh:
    """One hemisphere of fsaverage5: `inflated` and `middle` (half-way between white and pial) `(10242, 3)` mm, `faces`
    `(20480, 3)`, sulcal depth `sulc` `(10242,)` (above 0: in a sulcus)."""

    inflated: np.ndarray
    middle: np.ndarray
    faces: np.ndarray
    sulc: np.ndarray


@cache
def fsaverage5() -> dict[Side, Mesh]:
    """Both hemispheres, from the files of nilearn.

    Raises:
        ModuleNotFoundError: nilearn is not installed.
    """
    try:
        from nilearn.datasets import fetch_surf_fsaverage
        from nilearn.surface import load_surf_data, load_surf_mesh
    except ImportError as error:
        raise ModuleNotFoundError(MISSING) from error
    files = fetch_surf_fsaverage("fsaverage5")
    out: dict[Side, Mesh] = {}
    for side in SIDES:
        inflated, white, pial = (load_surf_mesh(files[f"{kind}_{side}"]) for kind in ("infl", "white", "pial"))
        out[side] = Mesh(np.asarray(inflated.coordinates, float),
                         (np.asarray(white.coordinates, float) + np.asarray(pial.coordinates, float)) / 2,
                         np.asarray(inflated.faces), np.asarray(load_surf_data(files[f"sulc_{side}"]), float))
    return out


@dataclass(frozen=True)
class Places:
    """What an XP, or the median of several, found at each coordinate.

    Args:
        table: a row per coordinate: `side`, the frame's columns, `score` (of the layer chosen on other data),
            `position` of the best layer (0 the first, 1 the last; NaN of a network of one layer).
        metric: what `score` is. latency: s, of responses that have several: the one with the highest median score.
        n_targets: behind the medians over people.
    """

    frame: Frame
    table: pd.DataFrame
    metric: str
    latency: float | None
    n_targets: int

    @property
    def columns(self) -> list[str]:
        return list(FRAMES[self.frame])

    def of(self, side: Side, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates `(n, 2 or 3)` and values `(n,)` of one hemisphere."""
        own = self.table[self.table["side"] == side]
        return own[self.columns].to_numpy(float), own[column].to_numpy(float)


def by_channel(one: LayersXP) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores of the best layers and their relative positions, `(channels, latencies)`, and the latencies (s), if any.

    Of a network of one layer positions are NaN.
    """
    latencies = np.unique(one.targets["latency"]) if "latency" in one.targets else None
    n = 1 if latencies is None else len(latencies)
    position = one.position if len(one.layers) > 1 else np.full(len(one.targets), np.nan)
    return one.best.score.mean(0).reshape(-1, n), position.reshape(-1, n), latencies


def find_places(one: LayersXP) -> Places | None:
    """Values at the places of an XP of ridge: of each coordinate the median over people. None: no places are known.

    Raises:
        ValueError: a hemisphere of another name than lh, rh, left or right.
    """
    path = one.xp.folder / "channels.csv"
    if one.task != "ridge" or not path.exists():
        return None
    channels = pd.read_csv(path, dtype={"subject": str})
    named = next((name for name in ("hemi", "hemisphere") if name in channels), None)
    frame = next((frame for frame, names in FRAMES.items() if set(names) <= set(channels)
                  and channels[list(names)].notna().all(axis=1).any()), None)
    if named is None or frame is None:
        return None
    scores, positions, latencies = by_channel(one)
    best = int(np.median(scores, 0).argmax())
    names = list(FRAMES[frame])
    known = (channels[names].notna().all(axis=1) & channels[named].notna()).to_numpy()
    sides = channels.loc[known, named].astype(str).str.lower()
    if unknown := sorted(set(sides) - set(_NAMES)):
        raise ValueError(f"{path}: {named} is {unknown[:3]}, expected one of {', '.join(_NAMES)}")
    table = channels.loc[known, names].round(3).assign(
        side=sides.map(_NAMES), score=scores[known, best], position=positions[known, best])
    return Places(frame, _medians(table, names), one.metric, None if latencies is None else float(latencies[best]),
                  int(known.sum()))


def _medians(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    return table.groupby(["side", *names], as_index=False)[["score", "position"]].median()


def over_networks(found: Sequence[Places]) -> Places:
    """At each coordinate the median over networks.

    Raises:
        ValueError: networks whose places are in different frames.
    """
    frames = {one.frame for one in found}
    if len(frames) != 1:
        raise ValueError(f"places of networks are in {len(frames)} frames ({', '.join(sorted(frames))}), expected one")
    first = found[0]
    table = _medians(pd.concat([one.table for one in found], ignore_index=True), first.columns)
    return Places(first.frame, table, first.metric, first.latency if len({one.latency for one in found}) == 1 else None,
                  first.n_targets)


def read_patch(path: Path) -> Patch:
    """The flattened patch on which the coordinates of `nh2015` and `b2021` lie: of each hemisphere the vertices of
    fsaverage `(n,)`, from 0, and their flat coordinates `(n, 2)` in mm.

    Args:
        path: a file of MATLAB (version 7 or older) of the authors: `voxel_matrix_for_alex.mat`, which the scripts of
            Tuckute, Feather et al. read (`ras_coords_fsaverage`, `voxel_indices_fsaverage`), or the grids of
            Norman-Haignere, Kanwisher & McDermott 2015 (`G` with `vras` and `vi`, in `voxel_responses_3mm.mat` of
            snormanhaignere/natsound165-neuron2015). Both have the right hemisphere first.

    Raises:
        FileNotFoundError: no such file; ValueError: another content.
    """
    import scipy.io
    try:
        data = scipy.io.loadmat(path, simplify_cells=True)
    except NotImplementedError as error:
        raise ValueError(f"{path} is of MATLAB 7.3: save its variables again with save -v7") from error
    data = data.get("G", data)
    for places, vertices in (("ras_coords_fsaverage", "voxel_indices_fsaverage"), ("vras", "vi")):
        if places in data and vertices in data:
            out: dict[Side, tuple[np.ndarray, np.ndarray]] = {}
            for side, flat, index in zip(reversed(SIDES), data[places], data[vertices], strict=True):
                if np.shape(flat) != (len(index), 2):
                    raise ValueError(f"{path}: {places} has shape {np.shape(flat)} for {len(index)} vertices, expected "
                                     "two coordinates of each")
                out[side] = (np.asarray(index, int), np.asarray(flat, float))
            return out
    raise ValueError(f"{path} has neither ras_coords_fsaverage and voxel_indices_fsaverage nor G with vras and vi")


def on_vertices(places: Places, column: str, patch: Patch | None = None) -> dict[Side, np.ndarray]:
    """A column of the places on the vertices of fsaverage5: `(10242,)` for each hemisphere, NaN where nothing is near.

    Args:
        patch: of `read_patch`, for the frame `flat`.

    Raises:
        ValueError: flat places without a patch, or electrodes, which are dots.
    """
    from scipy.spatial import cKDTree
    if places.frame == "inflated" or (places.frame == "flat" and patch is None):
        raise ValueError(f"places of frame {places.frame!r} have no values on vertices" + (
            ": they lie on a flattened patch, expected its file (see bm.analysis.surface.read_patch)"
            if places.frame == "flat" else ": they are single electrodes"))
    out: dict[Side, np.ndarray] = {}
    for side, mesh in fsaverage5().items():
        index, at = np.arange(VERTICES), mesh.middle
        if places.frame == "flat" and patch is not None:
            index, at = patch[side]
            index, at = index[index < VERTICES], at[index < VERTICES]  # fsaverage5 is the first vertices of fsaverage
        out[side] = np.full(VERTICES, np.nan)
        where, values = places.of(side, column)
        if len(where) and len(at):
            far, nearest = cKDTree(where).query(at, distance_upper_bound=RADIUS[places.frame])
            near = np.isfinite(far)
            out[side][index[near]] = values[nearest[near]]
    return out


def write_gifti(folder: Path, name: str, maps: Mapping[str, Mapping[Side, np.ndarray]]) -> list[Path]:
    """Values on vertices as `<name>.lh.func.gii` and `<name>.rh.func.gii`, for freeview or wb_view on fsaverage5.

    Args:
        maps: title of a map → values of each hemisphere; each becomes an array of the file.
    """
    import nibabel
    from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
    out = []
    for side, short, structure in zip(SIDES, ("lh", "rh"), ("CortexLeft", "CortexRight"), strict=True):
        arrays = [GiftiDataArray(np.asarray(values[side], np.float32), intent="NIFTI_INTENT_SHAPE",
                                 datatype="NIFTI_TYPE_FLOAT32", meta={"Name": title}) for title, values in maps.items()]
        image = GiftiImage(darrays=arrays, meta=GiftiMetaData({"AnatomicalStructurePrimary": structure}))
        out.append(folder / f"{name}.{short}.func.gii")
        nibabel.save(image, out[-1])
    return out
