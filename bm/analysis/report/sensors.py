"""Which sensors the model listens to."""
import numpy as np
import torch
from torch import Tensor

from bm.analysis.plots.sensors import plot_topomaps
from bm.analysis.report.parts import Part, note
from bm.analysis.xp import NotRestorable, StoredXP
from bm.models.blocks.spatial import Montages, SpatialAttention

TITLE = "Spatial attention"
N_CHANNELS = 5


def attention_weights(merger: SpatialAttention, layout: np.ndarray) -> np.ndarray:
    """Weights of each virtual channel over the sensors of one montage, the mean over subjects if each has its own.

    Shape: layout `(C, 2)`, finite → `(O, C)`, rows sum to 1.
    """
    subjects = len(merger.heads) if merger.per_subject else 1
    place = torch.from_numpy(np.asarray(layout, dtype=np.float32)).expand(subjects, -1, -1)
    montages = Montages(place, torch.ones(place.shape[:2], dtype=torch.bool), torch.arange(subjects),
                        torch.arange(subjects))
    with torch.no_grad():
        weights: Tensor = merger.eval().weights(montages)
    return weights.mean(0).numpy()


def most_concentrated(weights: np.ndarray, n: int) -> np.ndarray:
    """Indices of the `n` virtual channels whose weights `(O, C)` have the lowest entropy, lowest first."""
    entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(1)
    return np.argsort(entropy, kind="stable")[:n]


def spatial_attention(xp: StoredXP) -> list[Part]:
    """Maps of the spatial attention: its mean and the most concentrated virtual channels."""
    if xp.get("task.type") != "decode":
        return []
    try:
        solver = xp.restored()
    except NotRestorable as error:
        return [note(TITLE, f"No map: the model cannot be restored, because {error}.")]
    merger = next((m for m in solver.model.modules() if isinstance(m, SpatialAttention)), None)
    if merger is None:
        return [note(TITLE, f"No map: this {xp.get('model_name')} has no spatial attention (merger), so it has no "
                            "weights with a place on the head.")]
    layouts, valid = solver.data.montages.layout, solver.data.montages.valid
    known = valid & np.isfinite(layouts).all(-1)
    places = [len(np.unique(layout[ok], axis=0)) for layout, ok in zip(layouts, known, strict=True)]
    first = int(np.argmax(np.array(places) >= 4))
    if places[first] < 4:
        return [note(TITLE, "No map: no recording has a 2-D sensor layout of at least 4 places (layout_x, layout_y of "
                            "its channels are unknown).")]
    layout = layouts[first][known[first]]
    with solver.use_best():
        weights = attention_weights(merger, layout)
    same = sum(np.array_equal(other, layouts[first], equal_nan=True) for other in layouts)
    chosen = most_concentrated(weights, N_CHANNELS)
    maps = np.concatenate([weights.mean(0, keepdims=True), weights[chosen]]) * len(layout)
    titles = [f"mean of {len(weights)}", *(f"virtual channel {i}" for i in chosen)]
    figure = plot_topomaps(maps, layout, titles, "weight × sensors")
    caption = (f"Softmax weight of each of {len(layout)} good sensors times their number: 1 is a sensor that counts "
               f"as much as the average one. The mean over the {len(weights)} virtual channels, then the "
               f"{len(chosen)} most concentrated ones (lowest entropy). State of the best epoch. Layout of "
               f"{solver.data.recordings[first].name}, the same in {same} of {len(layouts)} recordings; the outline of "
               "the head is only for orientation.")
    if merger.per_subject:
        caption += f" Weights are the mean over the {len(merger.heads)} subjects, each with its own."
    return [Part(TITLE, figure, caption)]
