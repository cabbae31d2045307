"""Tables about networks from hand-made folders of XPs: every number is known beforehand."""
import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from bm.analysis import layer_tables, layers
from bm.analysis.plots.layers import plot_channel_latencies, plot_latencies
from bm.analysis.report.layers import comparison
from bm.analysis.report.layers import layers as section
from bm.analysis.xp import StoredXP
from bm.config import to_plain
from bm.test_config import CONF

LAYERS = ["low", "middle", "high"]
PEOPLE, REGIONS, SPLITS = ("a", "b", "c"), ("Primary", "Lateral"), 4


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", ["preset=layers", "dset.selections=[nh2015]"]))


@pytest.fixture
def outputs(tmp_path) -> Path:
    (tmp_path / "xps").mkdir()
    return tmp_path


def make(outputs: Path, plain: dict[str, Any], sig: str, model: str, scores: Any, task: str = "ridge",
         latencies: Any = None, people: tuple[str, ...] = PEOPLE, **own: Any) -> StoredXP:
    """A finished XP of `scores` `(layers, people, regions)`, of RSA also `(layers, people)`, the same in all splits."""
    folder = outputs / "xps" / sig
    folder.mkdir()
    config = copy.deepcopy(plain)
    config["task"]["type"] = task
    config["encoding"] |= {"model": model, **own}
    if latencies is not None:
        config["encoding"]["latencies"] = {"start": 0, "stop": 1, "step": 0.5, "width": 0.5}
    scores = np.asarray(scores, dtype=float)
    names = LAYERS[:len(scores)]
    if task == "ridge":
        rows = [{"layer": name, "subject": who, "voxel": f"v{r}", "region": region, "split": split,
                 **({} if latencies is None else {"latency": latency}), "r_test": scores[k, p, r] + 0.1 * n,
                 "r2_test": scores[k, p, r], "r2_test_c": np.nan, "y_test_std": 1.0, "pred_test_std": 0.5,
                 "reliability": np.nan, "reliability_hat": np.nan, "alphas": 10.0, "edge": 0, "constant_test": False}
                for k, name in enumerate(names) for p, who in enumerate(people) for r, region in enumerate(REGIONS)
                for n, latency in enumerate(latencies or [0.0]) for split in range(SPLITS)]
        pd.DataFrame(rows).to_parquet(folder / "voxels.parquet")
    else:
        whole = scores if scores.ndim == 3 else scores[..., None]
        sides = [*((split, side) for split in range(SPLITS) for side in ("train", "test")), (-1, "all")]
        rows = [{"split": split, "sounds": side, "subject": who, "region": region, "n_voxels": 5, "layer": name,
                 "similarity": whole[k, p].mean() if region == "all" else whole[k, p, r - 1]}
                for split, side in sides
                for r, region in enumerate(("all", *REGIONS)[:1 + whole.shape[2] * (whole.shape[2] > 1)])
                for p, who in enumerate(people) for k, name in enumerate(names)]
        pd.DataFrame(rows).to_parquet(folder / "rsa.parquet")
    best = int(scores.reshape(len(names), -1).mean(1).argmax())
    test = {"best_layer": best, "best_name": names[best],
            "dimensionality": {name: 2 * scores[k].mean() + 1 for k, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps({"epochs": 1, "best_epoch": 1, "best_loss": 0.5, "test": test}))
    return StoredXP(folder, outputs)


def deep(best: tuple[int, int], gain: float = 0.0) -> np.ndarray:
    """Scores of three people whose primary and lateral voxels have these best layers."""
    out = np.full((3, 3, 2), 0.1)
    for region, layer in enumerate(best):
        out[layer, :, region] = np.array([0.4, 0.5, 0.6]) + gain
    return out


def test_networks_are_compared(outputs, plain):
    make(outputs, plain, "s1", "org/good", deep((1, 2), 0.2))
    make(outputs, plain, "s2", "org/good", deep((0, 0), -0.2), permuted=True)
    make(outputs, plain, "s3", "spectrotemporal", deep((0, 0))[:1])
    xps = layers.find_layers(["s1", "s2", "s3"], outputs)
    table = layer_tables.network_table(xps).set_index("sig")
    np.testing.assert_allclose(table["score"], [0.7, 0.3, 0.5])
    np.testing.assert_allclose(table["sem"], 0, atol=1e-12)  # people differ by the same everywhere
    assert table["weights"].tolist() == ["trained", "permuted", "trained"]
    assert table.loc["s1", "median_position"] == 0.75
    assert table.loc["s1", "network"] == "good" and (table["metric"] == "R²").all() and (table["n_subjects"] == 3).all()
    pairs = layer_tables.pair_table(xps)
    assert pairs[["better", "worse"]].to_numpy().tolist() == [
        ["good trained", "good permuted"], ["good trained", "spectrotemporal trained"]]
    np.testing.assert_allclose(pairs["difference"], [0.4, 0.2])
    np.testing.assert_allclose(pairs["p_one_sided"], 1 / 10_001)
    np.testing.assert_allclose(pairs["p"], 2 / 2 ** 3)  # all of three people differ in the same direction
    assert (pairs["over"] == "people").all()
    curves = layer_tables.curve_table(xps)
    own = curves[(curves["network"] == "good") & (curves["weights"] == "trained")]
    np.testing.assert_allclose(own["score"], [0.1, 0.4, 0.4])
    assert own["position"].tolist() == [0, 0.5, 1]
    found = layer_tables.dimensionality_test(curves).set_index("weights")
    assert found.loc["all", "n"] == 6 and found.loc["all", "r2"] == pytest.approx(1) and found.loc["all", "p"] < 1e-4


def test_one_person_is_permuted_over_iterations(outputs, plain):
    rng = np.random.default_rng(0)
    for sig, model, level in [("s1", "one", 0.6), ("s2", "two", 0.2)]:
        make(outputs, plain, sig, model, level + 0.01 * rng.random((3, 1, 2)), people=("a",))
    pairs = layer_tables.pair_table(layers.find_layers(["s2", "s1"], outputs))
    assert pairs["over"].tolist() == ["iterations"] and pairs["p"][0] < 0.001 and pairs["better"][0] == "one trained"
    assert pairs["p"][0] == 2 * pairs["p_one_sided"][0]


def test_regions_and_wilcoxon(outputs, plain):
    best = [(0, 1), (0, 2), (1, 2), (0, 1), (0, 2), (1, 2)]
    for i, pair in enumerate(best):
        make(outputs, plain, f"s{i}", f"net{i}", deep(pair))
    xps = layers.find_layers([f"s{i}" for i in range(6)], outputs)
    regions = layer_tables.region_table(xps)
    assert regions["region"].tolist()[:2] == ["Lateral", "Primary"] and (regions["n_voxels"] == 3).all()
    np.testing.assert_allclose(regions["position"].to_numpy()[:4], [0.5, 0, 1, 0])
    primary = layer_tables.primary_table(xps)
    np.testing.assert_allclose(primary["non_primary"] - primary["primary"], [0.5, 1, 0.5, 0.5, 1, 0.5])
    test = layer_tables.primary_test(primary).iloc[0]
    assert test["n_networks"] == 6 and test["p"] == pytest.approx(2 / 2 ** 6) and test["effect"] == 1


def test_ridge_and_rsa_agree(outputs, plain):
    for i, gain in enumerate((0.0, 0.1, 0.3)):
        make(outputs, plain, f"r{i}", f"net{i}", deep((0, 2), gain))
        make(outputs, plain, f"q{i}", f"net{i}", deep((0, 2), gain)[..., 1] / 2, "rsa")
    names = [f"{kind}{i}" for kind in "rq" for i in range(3)]
    xps = layers.find_layers(names, outputs)
    table = layer_tables.network_table(xps)
    own = table[table["task"] == "rsa"]
    np.testing.assert_allclose(own["score"], [0.25, 0.3, 0.4])
    assert set(own["most_chosen"]) == {"high"} and (own["median_position"] == 1).all()
    both = layer_tables.consistency_table(table)
    assert len(both) == 3 and both["r2"][0] == pytest.approx(1)
    tables = layer_tables.all_tables(xps)
    page = comparison(xps, tables)
    assert set(page) == {"nh2015 voxels, ridge", "nh2015 voxels, rsa", "Consistency", "Baseline"}
    kinds = {part.title: type(part.content) for part in page["nh2015 voxels, ridge"]}
    assert kinds["Bars"] is Figure and kinds["Regions"] is Figure and kinds["Primary and other regions"] is str
    assert kinds["Primary and other regions: networks"] is Figure and kinds["Fits"] is str


def test_the_section_of_an_xp(outputs, plain):
    xp = make(outputs, plain, "s1", "org/good", deep((0, 2)), latencies=[0.25, 0.75])
    assert [part.title for part in section(xp)] == ["Layers", "Layers and latencies", "Best layer of each channel",
                                                    "Regions", "Best layer by region", "Fits", "Diagnostics"]
    latencies, values, best = layers.open_layers(xp).latency_map()
    assert latencies.tolist() == [0.25, 0.75] and best.shape == (6, 2) and best[:2].tolist() == [[0, 0], [2, 2]]
    np.testing.assert_allclose(values[:, 1] - values[:, 0], 0.1)
    pd.DataFrame({"sound": list("wxyz"), "category": ["s", "m", "s", "m"]}).to_csv(xp.folder / "stimuli.csv")
    pd.DataFrame({"voxel": range(6), "x_ras": range(6), "y_ras": range(6)}).to_csv(xp.folder / "channels.csv")
    rng = np.random.default_rng(0)
    estimates = rng.random((4, SPLITS, 12)).astype(np.float32)
    estimates[:2, :2] = np.nan
    save_file(dict.fromkeys(LAYERS, estimates), xp.folder / "predictions.safetensors")
    save_file({"responses": rng.random((4, 12))}, xp.folder / "responses.safetensors")
    save_file({name: rng.random((4, 4)) for name in [*LAYERS, "mean over subjects"]}, xp.folder / "rdms.safetensors")
    titles = {part.title: part for part in section(xp)}
    assert {"Dissimilarity of sounds", "Predicted and measured", "Where", "Within categories"} <= set(titles)
    assert "Regions among themselves" not in titles
    shown = titles["Predicted and measured"].content.axes[0].collections[0].get_offsets()
    rows = np.nanmean(estimates, 1)
    assert any(np.allclose(shown[:, 0], rows[:, k]) for k in range(12))
    xp.config["task"]["type"] = "decode"
    assert section(xp) == []


def test_p_over_people_is_calibrated():
    """Networks that do not differ, people who do: at most 5 % of p are below .05, the better one looked for or not."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        people = 3 * rng.standard_normal(8)
        own: list[Any] = [SimpleNamespace(
            group=("r", "ridge"), responses="r", task="ridge", network=name, model=name, weights="trained", sig=name,
            subjects=list("abcdefgh"), per_subject=people + rng.standard_normal(8)) for name in "mn"]
        found.append(layer_tables.pair_table(own)["p"][0])
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.08 and min(found) > 0


def test_other_settings_are_another_group(outputs, plain):
    make(outputs, plain, "q1", "one", deep((0, 2)), "rsa")
    make(outputs, plain, "q2", "two", deep((0, 2), 0.1), "rsa", rdm="crossnobis", noise="diagonal")
    make(outputs, plain, "r1", "one", deep((0, 2)))
    make(outputs, plain, "r2", "two", deep((0, 2)), rdm="spearman")  # which ridge does not use
    xps = layers.find_layers(["q1", "q2", "r1", "r2"], outputs)
    assert set(layers.groups(xps)) == {
        ("nh2015 voxels", "ridge"), ("nh2015 voxels (rdm=pearson, noise=null)", "rsa"),
        ("nh2015 voxels (rdm=crossnobis, noise=diagonal)", "rsa")}
    assert layer_tables.pair_table(xps)["task"].tolist() == ["ridge"]
    xp = make(outputs, plain, "r3", "three", deep((0, 2)))
    xp.config["selections"]["nh2015"]["n_sounds"] = 40
    (xp.folder / "config.json").write_text(json.dumps(xp.config))
    assert [one.responses for one in layers.find_layers(["r1", "r3"], outputs)] == [
        "nh2015 voxels (nh2015.n_sounds=40)", "nh2015 voxels (nh2015.n_sounds=null)"]


def test_errors_say_what_to_do(outputs, plain):
    xp = make(outputs, plain, "s1", "org/good", deep((0, 2)))
    make(outputs, plain, "s2", "other/good", deep((0, 2)))
    with pytest.raises(ValueError, match="s1 and s2 are both nh2015 voxels ridge good trained"):
        layers.find_layers(["s1", "s2"], outputs)
    with pytest.raises(FileNotFoundError, match="'s9' is neither a launched grid nor an XP"):
        layers.find_layers(["s9"], outputs)
    with pytest.raises(ValueError, match="no latencies"):
        layers.open_layers(xp).latency_map()
    make(outputs, plain, "s3", "third", deep((0, 2)), people=("a", "b", "d"))
    with pytest.raises(ValueError, match="XPs s1 and s3 have other people"):
        layer_tables.network_table(layers.find_layers(["s1", "s3"], outputs))
    (xp.folder / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="dora run -f s1"):
        layers.find_layers(["s1"], outputs)


@pytest.mark.parametrize("task", ["ridge", "rsa"])
def test_layers_that_predict_nothing_are_not_the_best(outputs, plain, task):
    """Of the first person's lateral voxels (RSA: region) no layer predicts anything; of a whole network nothing."""
    some, nothing = deep((1, 2)), np.zeros((3, 3, 2))
    some[:, 0, 1] = 0
    own = [layers.open_layers(make(outputs, plain, sig, sig, values, task))
           for sig, values in (("some", some), ("nothing", nothing))]
    found = own[0].positions(["Lateral"]).dropna()
    assert found.index.tolist() == ["b", "c"] and (found == 1).all() and own[1].positions(["Lateral"]).dropna().empty
    table = layer_tables.network_table(own).set_index("network")
    assert table.loc["some", "most_chosen"] in LAYERS and table.loc["some", "best_by_median"] in LAYERS
    assert table.loc["nothing", ["best_by_median", "most_chosen", "median_position"]].isna().all()
    shown = {part.title: part for part in section(own[1].xp)}
    assert "Best: none, as no layer is above 0" in shown["Layers"].caption


def test_no_best_layer_where_no_latency_is_predicted(outputs, plain):
    scores = deep((1, 2)) - 0.1
    scores[:, :, 1] = -0.5
    xp = make(outputs, plain, "s1", "net", scores, latencies=[0.25, 0.75])
    latencies, values, best = layers.open_layers(xp).latency_map()
    assert np.isnan(best[1::2, 0]).all() and (best[::2, 0] == 1).all() and best.shape == (6, 2)
    dots = plot_latencies(np.array([[0.0, 0.2], [-0.1, 0.1]]), latencies, ["a", "b"], "r").axes[0].lines[0]
    assert np.asarray(dots.get_xdata()).tolist() == [0.75] and np.asarray(dots.get_ydata()).tolist() == [0]
    shown = plot_channel_latencies(best, latencies, LAYERS).axes[0].images[0].get_array()
    assert np.ma.getmaskarray(shown).sum() == np.isnan(best).sum() > 0
