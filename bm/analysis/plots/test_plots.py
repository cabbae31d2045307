import numpy as np
import pandas as pd
import pytest

from bm.analysis.plots.retrieval import plot_ranks, plot_subjects
from bm.analysis.plots.sensors import plot_topomaps
from bm.analysis.plots.training import curve_names, plot_curves

HISTORY = [{"train": {"loss": 3.0, "duration": 1.0}, "valid": {"loss": 3.1, "duration": 0.1, "best": 3.1}},
           {"train": {"loss": 2.0, "duration": 1.0}, "valid": {"loss": 2.5, "duration": 0.1, "best": 2.5}}]


def test_curves_are_those_of_the_history():
    figure = plot_curves(HISTORY, best_epoch=2)
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["train"] == [[1, 3.0], [2, 2.0]] and drawn["valid"] == [[1, 3.1], [2, 2.5]]
    assert drawn["best epoch: 2"][0][0] == 2
    assert axes.get_xlabel() == "epoch" and axes.get_ylabel() == "loss"


def test_a_metric_of_one_stage_or_of_some_epochs():
    history = [*HISTORY, {"train": {"loss": 1.0, "grad_norm": 0.5}}]
    assert curve_names(history) == ["loss", "grad_norm"]
    figure = plot_curves(history)
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    with pytest.raises(ValueError, match="no number"):
        plot_curves([{"test": {"top1": 0.1}}])


def test_ranks_beside_chance():
    (axes,) = plot_ranks(np.array([1, 1, 2, 10]), 10).axes
    decoder, chance = (line.get_ydata() for line in axes.lines)
    assert decoder.tolist() == [50, 75, 75, 75, 75, 75, 75, 75, 75, 100]
    np.testing.assert_allclose(chance, np.arange(10, 101, 10))
    assert axes.get_title() == "4 test segments"
    with pytest.raises(ValueError, match=r"\[1, 9\].* in \[1, 10\]"):
        plot_ranks(np.array([1, 10]), 9)


def test_subjects_with_and_without_interval():
    table = pd.DataFrame({"subject": ["a", "b"], "n": [10, 4], "top1": [0.5, 0.25], "top1_low": [0.3, np.nan],
                          "top1_high": [0.8, np.nan]})
    (axes,) = plot_subjects(table, [1], {1: 0.1}).axes
    assert [bar.get_width() for bar in axes.patches] == [50, 25]
    (interval,) = (c for c in axes.collections)
    np.testing.assert_allclose(interval.get_segments()[0], [[30, 0], [80, 0]])
    assert axes.lines[-1].get_xdata()[0] == 10 and axes.lines[-1].get_label() == "chance"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (n=10)", "b (n=4)"]


def test_topomaps_average_sensors_at_one_place():
    rng = np.random.default_rng(0)
    layout = rng.random((20, 2))
    values = rng.random((2, 20))
    twice = plot_topomaps(np.tile(values, 2), np.tile(layout, (2, 1)), ["one", "two"], "unit")
    once = plot_topomaps(values, layout, ["one", "two"], "unit")
    for a, b in zip(once.axes, twice.axes, strict=True):
        for image, other in zip(a.images, b.images, strict=True):
            np.testing.assert_allclose(image.get_array().filled(0), other.get_array().filled(0))
    assert [axes.get_title() for axes in once.axes][:2] == ["one", "two"]
    with pytest.raises(ValueError, match="at least 4 sensors"):
        plot_topomaps(values[:, :3], layout[:3], ["one", "two"], "unit")
