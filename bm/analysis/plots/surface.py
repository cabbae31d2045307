"""Values on the inflated cortex (extra `surface`)."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bm.analysis.plots import new_figure
from bm.analysis.surface import Mesh, Side

#: panels: hemisphere and view
VIEWS: tuple[tuple[Side, str], ...] = (("left", "lateral"), ("left", "medial"), ("right", "medial"),
                                       ("right", "lateral"))
#: greys of gyri and sulci, 0 white
_GYRUS, _SULCUS = 0.2, 0.45
#: inches: a panel's side, of which a brain fills the width and two thirds of the height, and what a row takes
_PANEL, _TALL = 2.0, 1.5


@dataclass(frozen=True)
class Row:
    """One map: a row of four views with one colour bar.

    Args:
        label: of the colours, with the unit. limits: of the colours.
        vertices: values `(10242,)` of each hemisphere, NaN where there is none (grey).
        dots: places `(n, 3)` on the inflated surface and values `(n,)` of each hemisphere; NaN: an empty dot.
    """

    label: str
    limits: tuple[float, float]
    vertices: Mapping[Side, np.ndarray] = field(default_factory=dict)
    dots: Mapping[Side, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    cmap: str = "viridis"


def plot_cortex(meshes: Mapping[Side, Mesh], rows: Sequence[Row]) -> Figure:
    """Lateral and medial views of both inflated hemispheres; sulci are darker, and cortex without values is grey.

    Args:
        meshes: of `bm.analysis.surface.fsaverage5`.
    """
    width, height = 4 * _PANEL + 1.1, _TALL * len(rows) + 0.3
    figure = new_figure(width, height)
    figure.set_layout_engine("none")  # panels are placed by hand, closer than their empty margins allow
    for k, row in enumerate(rows):
        middle = _TALL * (len(rows) - k - 0.5)
        colours = ScalarMappable(Normalize(*row.limits), matplotlib.colormaps[row.cmap])
        for i, (side, view) in enumerate(VIEWS):
            axes = figure.add_axes((_PANEL * i / width, (middle - _PANEL / 2) / height, _PANEL / width,
                                    _PANEL / height), projection="3d")
            _draw(axes, meshes[side], side, view, row, colours)
            if k == 0:
                figure.text(_PANEL * (i + 0.5) / width, 1 - 0.06 / height, f"{side}, {view}", ha="center", va="top",
                            fontsize=8)
        bar = figure.colorbar(colours, cax=figure.add_axes(((4 * _PANEL + 0.15) / width, (middle - 0.55) / height,
                                                            0.12 / width, 1.1 / height)))
        bar.set_label(row.label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def _draw(axes: Any, mesh: Mesh, side: Side, view: str, row: Row, colours: ScalarMappable) -> None:
    from nilearn.plotting import plot_surf
    values = row.vertices.get(side, np.full(len(mesh.sulc), np.nan))
    background = np.where(mesh.sulc > 0, _SULCUS, _GYRUS)
    low, high = row.limits
    plot_surf((mesh.inflated.copy(), mesh.faces), values, bg_map=background, hemi=side, view=view, engine="matplotlib",
              cmap=row.cmap, vmin=low, vmax=high, avg_method=_known_mean, colorbar=False, axes=axes,
              figure=axes.figure)
    if side in row.dots:
        places, found = row.dots[side]
        seen = _faces_viewer(mesh, places, side, view)
        axes.computed_zorder = False  # dots lie on the surface: drawn after it, never in it
        x, y, z = (places[seen] - mesh.inflated.mean(0)).T  # nilearn centres the mesh that it draws, in place
        points = colours.to_rgba(found[seen])
        points[np.isnan(found[seen])] = 0
        axes.scatter(x, y, z, c=points, s=8, edgecolors="black", linewidths=0.3, depthshade=False, zorder=10)
    axes.set_proj_type("ortho")
    axes.set_box_aspect(None, zoom=1.5)
    axes.patch.set_visible(False)  # panels of two rows overlap where they are empty


def _known_mean(corners: np.ndarray) -> float:
    """Of a triangle: the mean of its corners that have a value."""
    known = corners[np.isfinite(corners)]
    return float(known.mean()) if len(known) else np.nan


def _faces_viewer(mesh: Mesh, places: np.ndarray, side: Side, view: str) -> np.ndarray:
    """Which places are on the side of the surface that the view shows."""
    from scipy.spatial import cKDTree
    corners = mesh.inflated[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = np.zeros(len(mesh.inflated))  # the part along x: the views are from left or right
    np.add.at(outward, mesh.faces.ravel(), np.repeat(normal[:, 0], 3))
    towards = -1 if (side == "left") == (view == "lateral") else 1
    return outward[cKDTree(mesh.inflated).query(places)[1]] * towards > 0
