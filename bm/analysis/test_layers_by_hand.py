"""Scores of networks where splits, sides and voxels differ, against answers worked out by hand."""
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from bm.analysis.layer_tables import curve_table, network_table
from bm.analysis.layers import LayersXP, open_layers
from bm.analysis.xp import StoredXP
from bm.config import to_plain
from bm.metrics.layers import best_layer
from bm.test_config import CONF

#: corrected R² of layers "low" and "high": voxels 0, 1, 2 of person a and 0 of b in four splits, and their medians
LOW = [[0.1, 0.2, 0.3, 0.8], [0.8, 1.4, 0.8, 1.4], [0.4, 0.5, 0.6, 0.9], [0.1, 0.3, 0.5, 0.7]]  # .25, 1.1, .55, .4
HIGH = [[0.0, 0.0, 0.1, 0.9], [2.0, 3.0, 1.5, 4.0], [0.2, 0.2, 0.4, 0.9], [0.6, 1.6, 0.4, 1.8]]  # .05, 2.5, .3, 1.1


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", ["preset=layers", "dset.selections=[nh2015]"]))


@pytest.fixture
def make(plain, tmp_path):
    """`make(task, rows)`: a finished XP of a network "net" with this table."""
    def write(task: str, rows: list[dict[str, Any]], sig: str = "x", **own: Any) -> LayersXP:
        folder: Path = tmp_path / "xps" / sig
        folder.mkdir(parents=True)
        config = copy.deepcopy(plain)
        config["task"]["type"] = task
        config["encoding"] |= {"model": f"org/{sig}", **own}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "result.json").write_text(json.dumps({"epochs": 1, "best_epoch": 1, "best_loss": 0.5,
                                                        "test": {"best_name": "low"}}))
        pd.DataFrame(rows).to_parquet(folder / ("voxels.parquet" if task == "ridge" else "rsa.parquet"))
        return open_layers(StoredXP(folder, tmp_path))
    return write


def voxels(low: list[list[float]], high: list[list[float]], column: str = "r2_test_c") -> list[dict[str, Any]]:
    """Rows of two layers with scores `(voxels, splits)` of person a, but for the last voxel, which is of b."""
    others = {"r_test": 0.01, "r2_test": 0.02, "r2_test_c": np.nan}
    return [{"layer": layer, "subject": "ab"[voxel == len(low) - 1], "region": "", "voxel": f"v{voxel}", "split": split,
             **others, column: value} for layer, scores in (("low", low), ("high", high))
            for voxel, own in enumerate(scores) for split, value in enumerate(own)]


@pytest.mark.parametrize("column, metric", [("r2_test_c", "R² (corrected for noise)"), ("r2_test", "R²")])
def test_the_curve_over_layers(make, column, metric):
    """Medians over splits, then at most 1, then medians over a person's voxels: .25, 1, .55 and .05, 1, .3 of a, .4 and
    1 of b."""
    one = make("ridge", voxels(LOW, HIGH, column))
    np.testing.assert_allclose(one.layer_scores(), [[0.55, 0.3], [0.4, 1]])
    table = curve_table([one])
    np.testing.assert_allclose(table["score"], [0.475, 0.65])
    # about each person's mean over layers, .425 and .7: ±.125 of a and ∓.3 of b, so a deviation of .2125 over √1
    np.testing.assert_allclose(table["sem"], 0.2125)
    assert network_table([one])["metric"].tolist() == [metric]


@pytest.mark.parametrize("compat", [None, "reference"])
def test_a_layer_is_read_where_it_was_not_chosen(make, compat):
    """In voxel 0 each layer is the best in one of two splits: what is chosen in one has .2 or .1 in the other. Voxel 1
    is above 1 in both, voxel 2 is .6, the last is below 0."""
    one = make("ridge", voxels([[0.9, 0.2], [1.8, 1.3], [0.5, 0.6], [-0.3, -0.4]],
                               [[0.1, 0.8], [0.3, 0.2], [0.1, 0.1], [-0.6, -0.5]]), compat=compat)
    layer, score = one.best.layer, one.best.score
    assert layer.shape == (10, 4) and 0 < layer[:, 0].mean() < 1 and not layer[:, 1:].any()
    if compat is None:
        np.testing.assert_allclose(score[:, 0], np.where(layer[:, 0] == 0, 0.2, 0.1))
    np.testing.assert_allclose(score[:, 1], 1)
    assert set(score[:, 2]) == {0.5, 0.6} and set(score[:, 3]) == {-0.3, -0.4}
    np.testing.assert_array_equal(score, best_layer(one.scores, compat=compat).score)
    expected = np.stack([np.median(score[:, :3], 1), score[:, 3]], 1)
    np.testing.assert_allclose(one.repeats, expected)
    np.testing.assert_allclose(one.per_subject, expected.mean(0))
    assert (np.abs(expected.mean(0) - np.median(expected, 0)) > 0.01).all()  # the mean over iterations, not the median
    assert network_table([one])["score"][0] == pytest.approx(expected.mean())


#: similarity of layers "low" and "high" on train and on test sounds, in three splits, of persons a and b
TRAIN = {"a": [(0.5, 0.2), (0.1, 0.6), (0.2, 0.9)], "b": [(0.1, 0.3), (0.4, 0.2), (0.8, 0.7)]}
TEST = {"a": [(0.15, 0.95), (0.8, 0.3), (0.9, 0.7)], "b": [(0.9, 0.5), (0.7, 0.9), (0.0, 0.4)]}


@pytest.mark.parametrize("regions", [False, True])
def test_similarity_is_read_on_the_test_sounds(make, regions):
    """Chosen on train sounds: high, but in the first split, for a, who then has .15, .3 and .7; high, low and low for
    b, who has .5, .7 and 0. Regions and all layers side by side, where they are in the table, do not count."""
    rows = []
    for split, side, scores in [*[(k, side, table) for k in range(3) for side, table in
                                  (("train", TRAIN), ("test", TEST))], (-1, "all", None)]:
        for region in ("all", "Primary") if regions else ("all",):
            for who in "ab":
                values = (0.5, 0.6) if scores is None else scores[who][split]
                values = values if region == "all" else (1 - values[0], 1 - values[1])
                more = {"region": region, "n_voxels": 9} if regions else {}
                rows += [{"split": split, "sounds": side, "subject": who, **more, "layer": layer, "similarity": value}
                         for layer, value in zip(("low", "high"), values, strict=True)]
                if regions:
                    rows.append({**rows[-1], "layer": "all layers", "similarity": 0.99})
    one = make("rsa", rows)
    assert one.layers == ["low", "high"] and one.best.layer.tolist() == [[0, 1], [1, 0], [1, 0]]
    np.testing.assert_allclose(one.repeats, [[0.15, 0.5], [0.3, 0.7], [0.7, 0.0]])
    np.testing.assert_allclose(one.per_subject, [0.3, 0.5])
    assert one.position.tolist() == [1, 0]
    np.testing.assert_allclose(one.layer_scores(), [[0.8, 0.7], [0.7, 0.5]])
    table = network_table([one]).iloc[0]
    assert table["score"] == pytest.approx(0.4) and table["median_position"] == 0.5 and table["metric"] == "similarity"


def test_networks_of_the_same_people(make):
    """Standard errors leave out what people differ by in all networks: those of a are .3 and .5, of b .4 and .8."""
    scores = {"one": (0.3, 0.4), "two": (0.5, 0.8)}
    xps = [make("ridge", voxels([[a] * 2, [b] * 2], [[0.0] * 2, [0.1] * 2]), sig) for sig, (a, b) in scores.items()]
    table = network_table(xps)
    np.testing.assert_allclose(table["score"], [0.35, 0.65])
    # ±.1 about the mean of a, ±.2 about that of b: a deviation of .05 over √1
    np.testing.assert_allclose(table["sem"], 0.05)
    assert table["most_chosen"].tolist() == ["low", "low"] and table["n_subjects"].tolist() == [2, 2]
