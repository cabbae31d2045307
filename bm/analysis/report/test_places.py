"""Maps of sensors where not every sensor has a score."""
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bm.analysis.plots.sensors import plot_topomaps
from bm.analysis.report.places import places


@dataclass
class Scored:
    """What the maps read of a finished XP of ridge: 30 sensors, three layers."""

    xp: SimpleNamespace
    score: np.ndarray
    task: str = "ridge"
    metric: str = "R²"

    def __post_init__(self) -> None:
        n = len(self.score)
        self.layers = ["a", "b", "c"]
        self.targets = pd.DataFrame({"subject": "p", "voxel": range(n)})
        self.best, self.position = SimpleNamespace(score=np.stack([self.score] * 2)), np.linspace(0, 1, n)


@pytest.mark.parametrize("lost,said", [(0, "30 sensors; "), (1, "29 sensors; .* 1 more have no finite score"),
                                       (27, "3 of 30 sensors have finite scores: too few for a map")])
def test_a_sensor_without_a_score(tmp_path: Path, lost, said):
    rng = np.random.default_rng(0)
    pd.DataFrame({"subject": "p", "voxel": range(30), "layout_x": rng.random(30), "layout_y": rng.random(30)}).to_csv(
        tmp_path / "channels.csv", index=False)
    score = rng.random(30)
    score[:lost] = np.nan
    parts = places(Scored(SimpleNamespace(folder=tmp_path), score))  # type: ignore[arg-type]
    assert [part.title for part in parts] == (["Sensors"] if lost == 27 else ["Sensors: scores", "Sensors: best layer"])
    for part in parts:
        assert re.search(said, f"{part.content} {part.caption}")


def test_sensors_without_a_value_are_left_out_of_a_map():
    layout, values = np.random.default_rng(0).random((12, 2)), np.ones((2, 12))
    values[0, :5], values[1, :9] = np.nan, np.nan
    first, second = plot_topomaps(values, layout, ["one", "two"], "r", 2, limits=(0, 1)).axes[:2]
    assert 7 in [len(dots.get_offsets()) for dots in first.collections] and first.images
    assert second.get_title() == "two\n3 values" and not second.images
