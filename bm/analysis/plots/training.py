"""How training went."""
from typing import Any

from matplotlib.figure import Figure

from bm.analysis.plots import BLUE, GREY, ORANGE, new_figure

#: bookkeeping of the solver, not curves
_NOT_CURVES = {"duration", "best"}


def curve_names(history: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Numbers that the train or valid stage of some epoch has."""
    stages = [epoch.get(stage, {}) for epoch in history for stage in ("train", "valid")]
    return list(dict.fromkeys(name for metrics in stages for name, value in metrics.items()
                              if isinstance(value, (int, float)) and name not in _NOT_CURVES))


def plot_curves(history: list[dict[str, dict[str, Any]]], best_epoch: int | None = None) -> Figure:
    """Each metric of train and valid over epochs, one panel a metric; a dotted line at the best epoch.

    Errors: ValueError if there is nothing to draw.
    """
    names = curve_names(history)
    if not names:
        raise ValueError(f"a history of {len(history)} epochs has no number of a train or valid stage")
    figure = new_figure(6.5, 3.2 * len(names))
    for axes, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        for stage, color, marker in [("train", BLUE, "o"), ("valid", ORANGE, "s")]:
            points = [(i, epoch[stage][name]) for i, epoch in enumerate(history, 1) if name in epoch.get(stage, {})]
            if points:
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3, label=stage)
        if best_epoch:
            axes.axvline(best_epoch, color=GREY, linestyle=":", label=f"best epoch: {best_epoch}")
        axes.set(xlabel="epoch", ylabel=name, title=f"{name}, {len(history)} epochs")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    return figure
