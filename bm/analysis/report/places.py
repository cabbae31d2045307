"""Where in the brain a network's layers are: on the head (M/EEG), on the cortex (extra `surface`), or flat."""
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bm.analysis import surface
from bm.analysis.layers import BASELINE, LayersXP
from bm.analysis.plots import layers as plots
from bm.analysis.plots.sensors import plot_topomaps
from bm.analysis.report.parts import Part, note

#: names the file of the flattened patch, see `bm.analysis.surface.read_patch`
PATCH = "BM_FSAVERAGE_PATCH"
BEST = "best layer (0 first, 1 last)"
#: sensors' maps in a row of latencies
MOST = 6


def places(one: LayersXP) -> list[Part]:
    """Maps of one XP of ridge; RSA has a value per person, not per place."""
    path = one.xp.folder / "channels.csv"
    if one.task != "ridge" or not path.exists():
        return []
    found = surface.find_places(one)
    return _flat(one, pd.read_csv(path)) + ([] if found is None else _cortex(found, "Cortex"))


def places_together(own: Sequence[LayersXP]) -> list[Part]:
    """Maps of the trained networks of a group, and on the cortex the median over them."""
    parts = [Part(f"{one.network}: {part.title}", part.content, part.caption)
             for one in _trained(own) for part in places(one)]
    median = _median(own)
    return parts + ([] if median is None else _cortex(median, "Median over networks: Cortex"))


def _trained(own: Sequence[LayersXP]) -> list[LayersXP]:
    return [one for one in own if one.weights == "trained" and one.network != BASELINE]


def _median(own: Sequence[LayersXP]) -> surface.Places | None:
    found = [places for one in _trained(own) if (places := surface.find_places(one)) is not None]
    return surface.over_networks(found) if len(found) > 1 else None


def write_surfaces(own: Sequence[LayersXP], folder: Path, name: str) -> list[Path]:
    """Values on fsaverage5 as GIFTI, of each trained network and of their median: `score`, `position` and, as the paper
    wrote it, 10 · position + 1. Nothing of electrodes, and nothing where the page says that nilearn or the patch is
    missing.
    """
    named = {one.network: surface.find_places(one) for one in _trained(own)} | {"median": _median(own)}
    out: list[Path] = []
    for network, found in named.items():
        if found is None or found.frame == "inflated" or (found.frame == "flat" and not os.environ.get(PATCH)):
            continue
        try:
            score, position = vertex_maps(found)
        except ModuleNotFoundError:
            break
        published = {side: 10 * values + 1 for side, values in position.items()}
        out += surface.write_gifti(folder, re.sub(r"\W+", "_", f"{name} {network}").lower(), {
            "score": score, "position": position, "10 position + 1": published})
    return out


def vertex_maps(found: surface.Places) -> tuple[dict[surface.Side, np.ndarray], dict[surface.Side, np.ndarray]]:
    """Score and position on the vertices of fsaverage5; see `bm.analysis.surface.on_vertices` for errors."""
    file = os.environ.get(PATCH)
    patch = surface.read_patch(Path(file)) if file and found.frame == "flat" else None
    return surface.on_vertices(found, "score", patch), surface.on_vertices(found, "position", patch)


def cortex(found: surface.Places) -> Figure:
    """Score and position of the best layer on the inflated cortex: dots of electrodes, else values on vertices.

    Raises:
        ModuleNotFoundError: nilearn is not installed; ValueError: flat places without a patch.
    """
    from bm.analysis.plots.surface import Row, plot_cortex
    meshes = surface.fsaverage5()
    values = found.table["score"]
    limits = (min(float(values.min()), 0.0), max(float(values.max()), 1e-3))
    rows = [("score", found.metric, limits, "cividis"), ("position", BEST, (0.0, 1.0), "viridis")]
    if found.table["position"].isna().all():
        rows = rows[:1]
    if found.frame == "inflated":
        return plot_cortex(meshes, [Row(label, span, dots={side: found.of(side, column) for side in surface.SIDES},
                                        cmap=cmap) for column, label, span, cmap in rows])
    maps: Mapping[str, Mapping[surface.Side, np.ndarray]] = dict(zip(("score", "position"), vertex_maps(found),
                                                                     strict=True))
    return plot_cortex(meshes, [Row(label, span, vertices=maps[column], cmap=cmap)
                                for column, label, span, cmap in rows])


def _cortex(found: surface.Places, title: str) -> list[Part]:
    when = "" if found.latency is None else f" at {found.latency:g} s, the latency of the best median score"
    how = ("dots are electrodes at their published vertices" if found.frame == "inflated" else
           f"a vertex has the value of the nearest place within {surface.RADIUS[found.frame]:g} mm")
    if found.frame == "flat" and not os.environ.get(PATCH):
        return [note(title, "The places lie on a flattened patch of fsaverage, which the archive lacks: no surface. "
                            f"{PATCH} names its file; bm.analysis.surface.read_patch says which.")]
    try:
        return [Part(title, cortex(found), f"{found.n_targets} targets at {len(found.table)} places{when}, median over "
                     f"the people of a place; {how}. fsaverage5, inflated; darker: sulci; no colour: no value.")]
    except ModuleNotFoundError as error:
        return [note(title, f"{error}, then make this page again.")]


def _flat(one: LayersXP, channels: pd.DataFrame) -> list[Part]:
    """Maps of sensors over the head, or a scatter of flat places."""
    for names in (("layout_x", "layout_y"), ("x_ras", "y_ras"), ("x", "y")):
        if set(names) <= set(channels):
            there = channels[list(names)].notna().all(axis=1).to_numpy()
            layout = channels.loc[there, list(names)].to_numpy(float)
            if names[0] == "layout_x" and len(np.unique(layout.round(5), axis=0)) >= 4:
                return _heads(one, layout, there)
            scores, positions, _ = surface.by_channel(one)
            known = np.isfinite(positions)  # a network of one layer has only scores
            mean = np.where(known, positions, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)
            values, label = (mean, BEST) if known.any() else (scores.mean(1), one.metric)
            return [Part("Where", plots.plot_positions(layout, values[there], label, names),
                         "Flat places of voxels or sensors, all people (and hemispheres) together.")]
    return []


def _heads(one: LayersXP, layout: np.ndarray, there: np.ndarray) -> list[Part]:
    """Scores and best layers of sensors, at up to `MOST` latencies that are evenly spread and one that is the best."""
    scores, positions, latencies = surface.by_channel(one)
    whole = np.isfinite(scores[there]).all(axis=1)
    layout, scores, positions = layout[whole], scores[there][whole], positions[there][whole]
    if len(np.unique(layout.round(5), axis=0)) < 4:
        return [note("Sensors", f"{len(layout)} of {len(whole)} sensors have finite scores: too few for a map.")]
    n = scores.shape[1]
    best = int(np.median(scores, 0).argmax())
    shown = sorted({best, *np.linspace(0, n - 1, min(n, MOST)).round().astype(int).tolist()})
    titles = [""] if latencies is None else [f"{latencies[k]:g} s" + " (best)" * (k == best) for k in shown]
    span = (min(float(scores.min()), 0.0), max(float(scores.max()), 1e-3))
    lost = "" if whole.all() else f" {(~whole).sum()} more have no finite score, and are left out."
    unknown = "" if np.isfinite(positions).all() else (
        " Sensors where no layer is above 0 have no best layer, and no dot in its maps.")
    caption = f"{len(layout)} sensors; where people have a sensor at the same place, their mean.{lost}{unknown}"
    maps = [("Sensors: scores", scores, one.metric, span), ("Sensors: best layer", positions, BEST, (0.0, 1.0))]
    return [Part(title, plot_topomaps(values[:, shown].T, layout, titles, label, min(len(shown), 3), limits=limits),
                 caption)
            for title, values, label, limits in maps if len(one.layers) > 1 or values is scores]
