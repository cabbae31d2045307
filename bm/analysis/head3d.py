"""Connections between sensors on a head that can be turned: one HTML file that needs nothing else."""
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bm.analysis.attention_power import sphere_centre

#: connections that the page can show at most: more are a ball of wool
MOST = 500


def strongest(between: np.ndarray, n: int = MOST) -> list[tuple[int, int, float]]:
    """The pairs of channels with the largest mean of both directions (by size: differences may be negative), the
    strongest first.

    Shape: between `(C, C)`, finite. Errors: ValueError for another shape.
    """
    if between.ndim != 2 or between.shape[0] != between.shape[1] or not np.isfinite(between).all():
        raise ValueError(f"expected a finite matrix (C, C), got shape {between.shape}")
    value = (between + between.T) / 2
    row, column = np.triu_indices(len(value), 1)
    order = np.argsort(-np.abs(value[row, column]), kind="stable")[:n]
    return [(int(row[i]), int(column[i]), float(value[row[i], column[i]])) for i in order]


def head_html(between: Mapping[str, np.ndarray], channels: Sequence[str], positions: np.ndarray, title: str,
              k: int = 100) -> str:
    """The page. Of two conditions their difference (second − first) is a third one, orange where it is positive.

    Args:
        between: condition → attention from channel (row) to channel (column); NaN for channels that have none.
        positions: m; x right, y front, z up.
        k: connections shown at first; a slider goes from 0 to `MOST`.

    Shape: between `(C, C)` each, positions `(C, 3)`, NaN where unknown.
    Errors: ValueError without a condition, or for fewer than 4 channels with attention and a place.
    """
    matrices = dict(between)
    if not matrices:
        raise ValueError("no condition to draw: no segment is used")
    if len(matrices) == 2:
        first, second = matrices
        matrices[f"{second} − {first}"] = matrices[second] - matrices[first]
    keep = np.isfinite(positions).all(1) & np.all([np.isfinite(np.diagonal(x)) for x in matrices.values()], axis=0)
    if keep.sum() < 4:
        raise ValueError(f"{keep.sum()} of {len(keep)} channels have attention and a place on the head, expected at "
                         "least 4")
    place = positions[keep] - sphere_centre(positions[keep])
    place = place / np.linalg.norm(place, axis=1).mean()
    data = {"channels": [name for name, own in zip(channels, keep, strict=True) if own],
            "positions": place.round(4).tolist(), "k": k, "most": MOST,
            "conditions": [{"name": name, "pairs": [(i, j, float(f"{value:.5g}")) for i, j, value in strongest(
                x[np.ix_(keep, keep)])]} for name, x in matrices.items()]}
    left_out = [name for name, own in zip(channels, keep, strict=True) if not own]
    caption = f"{int(keep.sum())} electrodes" + (f" (without {', '.join(left_out)})." if left_out else ".")
    template = Path(__file__).with_name("head3d.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    return (template.replace("@TITLE@", html.escape(title)).replace("@CAPTION@", html.escape(caption))
            .replace("@DATA@", text))


def frame(page: str, height: int = 700) -> str:
    """A page as a part of another one, such as the output of a notebook, which holds all of it."""
    return (f'<div><iframe srcdoc="{html.escape(page)}" style="width:100%;height:{height}px;border:0"></iframe></div>')
