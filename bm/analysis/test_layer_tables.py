"""Seeds, components, regions of RSA, dimensionality of responses and diagnostics of fits, from hand-made XPs."""
# ruff: noqa: F811 (fixtures are imported)
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from bm.analysis import layer_tables, layers
from bm.analysis.plots import layer_details
from bm.analysis.plots.layers import plot_components, plot_consistency
from bm.analysis.report.layers import comparison
from bm.analysis.report.layers import layers as section
from bm.analysis.test_layers import LAYERS, deep, make, outputs, plain  # noqa: F401
from bm.solvers.rsa import COUNTED


def test_regions_of_rsa(outputs, plain):
    for i, best in enumerate([(0, 1), (0, 2), (1, 2)]):
        xp = make(outputs, plain, f"q{i}", f"net{i}", deep(best), "rsa")
    xps = layers.find_layers(["q0", "q1", "q2"], outputs)
    table = layer_tables.region_table(xps)
    assert table["region"].tolist() == ["Lateral", "Primary"] * 3 and (table["n_voxels"] == 15).all()
    np.testing.assert_allclose(table["position"], [0.5, 0, 1, 0, 1, 0.5])
    primary = layer_tables.primary_table(xps)
    np.testing.assert_allclose(primary["primary"], [0, 0, 0.5])
    np.testing.assert_allclose(primary["non_primary"], [0.5, 1, 1])
    assert xps[0].scores.shape == (3, 3, 4) and layer_tables.primary_test(primary)["n_networks"].tolist() == [3]
    axes = layer_details.plot_primary(primary).axes[0]
    np.testing.assert_allclose(np.stack(axes.lines[1].get_data(), 1), primary[["primary", "non_primary"]])
    rng = np.random.default_rng(0)
    matrices = {f"region {name}": 1 - np.corrcoef(rng.random((6, 9))) for name in ("Lateral", "Primary")}
    save_file({**dict.fromkeys(["mean over subjects", *LAYERS], matrices["region Primary"]), **matrices},
              xp.folder / "rdms.safetensors")
    titles = {part.title: part.content for part in section(xp)}
    shown = titles["Regions among themselves"].axes[0]
    flat = [values[np.triu_indices(6, 1)] for values in matrices.values()]
    rho = pd.Series(flat[0]).corr(pd.Series(flat[1]), method="spearman")
    assert [text.get_text() for text in shown.texts] == ["1.00", f"{rho:.2f}", f"{rho:.2f}", "1.00"]
    counts = np.abs(np.subtract.outer(np.arange(6), np.arange(6))) > 2  # words: near pairs do not count
    save_file({**dict.fromkeys(["mean over subjects", *LAYERS], matrices["region Primary"]), **matrices,
               COUNTED: counts.astype(np.uint8)}, xp.folder / "rdms.safetensors")
    xp.config["encoding"] |= {"rdm": "crossnobis", "noise": "diagonal"}
    parts = {part.title: part for part in section(xp)}
    flat = [values[np.triu_indices(6, 3)] for values in matrices.values()]
    rho = pd.Series(flat[0]).corr(pd.Series(flat[1]), method="spearman")
    assert parts["Regions among themselves"].content.axes[0].texts[1].get_text() == f"{rho:.2f}"
    assert "do not count" in parts["Regions among themselves"].caption
    assert "crossnobis distance (noise: diagonal)" in parts["Dissimilarity of sounds"].caption


def test_seeds(outputs, plain):
    gains = {"CochWordSeed1": 0.0, "CochWordSeed2": 0.1, "CochSpeechSeed1": 0.2, "CochSpeechSeed2": 0.25, "Other": 0.3}
    for i, (name, gain) in enumerate(gains.items()):
        make(outputs, plain, f"s{i}", f"org/{name}", deep((0, 1), gain))
    for seed in (0, 1):
        make(outputs, plain, f"c{seed}", "org/Other", deep((0, 1), -0.1 * (1 + seed)), permuted=True, weights_seed=seed)
    xps = layers.find_layers([f"s{i}" for i in range(5)] + ["c0", "c1"], outputs)
    table = layer_tables.seed_table(xps)
    assert table[["network", "weights", "one", "other"]].to_numpy().tolist() == [
        ["CochWord", "trained", "seed 1", "seed 2"], ["CochSpeech", "trained", "seed 1", "seed 2"],
        ["Other", "permuted", "weights seed 0", "weights seed 1"]]
    np.testing.assert_allclose(table["x"], [0.5, 0.7, 0.4])
    np.testing.assert_allclose(table["y"], [0.6, 0.75, 0.3])
    assert isinstance(plot_consistency(table[table["one"] == "seed 1"]), Figure)
    titles = [part.title for part in comparison(xps, layer_tables.all_tables(xps))["nh2015 voxels, ridge"]]
    assert "seed 1 and seed 2" in titles and "weights seed 0 and weights seed 1" in titles


def test_controls_keep_both_seeds(outputs, plain):
    for i, name in enumerate(("netSeed1", "netSeed2")):
        make(outputs, plain, f"t{i}", name, deep((0, 1), 0.2))
        for seed in (0, 1):
            make(outputs, plain, f"c{i}{seed}", name, deep((0, 1), -0.1 * i - 0.2 * seed), permuted=True,
                 weights_seed=seed)
    xps = layers.find_layers(["t0", "t1", "c00", "c01", "c10", "c11"], outputs)
    pairs = layer_tables.pair_table(xps)[["better", "worse"]].to_numpy().tolist()
    assert ["netSeed1 trained", "netSeed1 weights seed 1 permuted"] in pairs and len(pairs) == 5
    table = layer_tables.seed_table(xps).set_index(["network", "weights", "one"])
    assert table.index.tolist() == [
        ("net", "trained", "seed 1"), ("net", "permuted", "seed 1"), ("net weights seed 1", "permuted", "seed 1"),
        ("netSeed1", "permuted", "weights seed 0"), ("netSeed2", "permuted", "weights seed 0")]
    np.testing.assert_allclose(table["x"], [0.7, 0.5, 0.3, 0.5, 0.4])
    np.testing.assert_allclose(table["y"], [0.7, 0.4, 0.2, 0.3, 0.2])
    make(outputs, plain, "t2", "net_seed1", deep((0, 1)))
    with pytest.raises(ValueError, match="XPs t0 and t2 are both net trained, seed 1"):
        layer_tables.seed_table(layers.find_layers(["t0", "t2"], outputs))


def test_r2_is_of_one_kind_of_weights():
    """Trained networks and controls are two clouds: within neither do two seeds agree."""
    x = np.array([0.0, 1, 2, 3, 10, 11, 12, 13])
    y = np.array([1.0, -1, -1, 1, 11, 9, 9, 11])
    rows = [{"responses": "r", "task": task, "network": f"n{k % 4}", "weights": "trained" if k > 3 else "permuted",
             "score": score[k]} for task, score in (("ridge", x), ("rsa", y)) for k in range(8)]
    table = layer_tables.consistency_table(pd.DataFrame(rows))
    assert np.corrcoef(x, y)[0, 1] ** 2 > 0.9 and table["n"].tolist() == [4] * 8
    np.testing.assert_allclose(table["r2"], 0, atol=1e-12)
    legend = plot_consistency(table).axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == [
        "permuted, n = 4, r² = 0.00", "trained, n = 4, r² = 0.00"]


def test_components(outputs, plain):
    for i, (name, gain) in enumerate([("good", 0.2), ("spectrotemporal", 0.0)]):
        xp = make(outputs, plain, f"s{i}", name, deep((1, 2), gain), people=("group",))
        xp.config["selections"]["nh2015"]["space"] = "components"
        (xp.folder / "config.json").write_text(json.dumps(xp.config))
    xps = layers.find_layers(["s0", "s1"], outputs)
    table = layer_tables.component_table(xps)
    assert table["component"].tolist() == ["v0", "v1"] * 2 and (table["sem"] < 1e-9).all()
    np.testing.assert_allclose(table["score"], [0.6, 0.6, 0.4, 0.4])
    figure = layer_details.plot_component_bars(table)
    assert [axes.get_title() for axes in figure.axes] == ["v0", "v1"]
    assert figure.axes[0].patches[0].get_height() == pytest.approx(0.6)
    assert layer_tables.component_table(layers.find_layers([], outputs)).empty


def test_correlations_within_categories():
    rng = np.random.default_rng(0)
    categories = ["speech"] * 20 + ["music"] * 20 + ["bark"] * 2
    predicted = rng.standard_normal((42, 1)) + np.repeat([5.0, 0.0, -5.0], [20, 20, 2])[:, None]
    actual = predicted + rng.standard_normal((42, 1))
    predicted[0] = np.nan
    table = layer_tables.category_table(predicted, actual, ["pitch"], categories).set_index("category")
    assert table["n"].to_dict() == {"speech": 19, "music": 20, "bark": 2} and np.isnan(table.loc["bark", "r"])
    assert table.loc["music", "r"] == pytest.approx(np.corrcoef(predicted[20:40, 0], actual[20:40, 0])[0, 1])
    mean = table["r"].mean()
    assert f"within 2 categories: mean r = {mean:.2f}" in plot_components(
        predicted, actual, ["pitch"], categories).axes[0].get_title()


def test_diagnostics(outputs, plain):
    xp = make(outputs, plain, "s0", "net", deep((0, 1)))
    rows = pd.read_parquet(xp.folder / "voxels.parquet")
    rng = np.random.default_rng(0)
    rows["reliability"] = rng.uniform(0.2, 1, len(rows))
    rows["alphas"] = 10 ** np.round(3 - 4 * rows["reliability"])
    rows["r2_test_c"] = np.where(np.arange(len(rows)) % 6 == 0, 1.2, 0.5)
    rows["edge"] = np.where(np.arange(len(rows)) % 8 == 1, 1, np.where(np.arange(len(rows)) % 8 == 2, 2, 0))
    rows.to_parquet(xp.folder / "voxels.parquet")
    table = layer_tables.diagnostics_table(layers.find_layers(["s0"], outputs))
    counts = table[["n_fits", "largest_alpha", "smallest_alpha", "above_one"]]
    assert (counts == [24, 3, 3, 4]).all().all() and (table["rho"] < -0.5).all() and (table["constant"] == 0).all()
    figure = layer_details.plot_diagnostics(layer_tables.fit_arrays(layers.open_layers(xp), 0))
    assert [axes.get_title() for axes in figure.axes] == [
        "24 fits: 3 at the largest penalty, 3 at the smallest", *["6 targets, medians over splits"] * 2,
        "4 of 24 above 1"]


def test_dimensionality_of_responses(outputs, plain):
    xp = make(outputs, plain, "s0", "net", deep((0, 1)))
    xps = layers.find_layers(["s0"], outputs)
    assert layer_tables.response_table(xps).empty
    pd.DataFrame({"source": ["low", *["responses"] * 4], "dimensionality": [1.5, 2.0, 4.0, 3.0, 3.0],
                  "subject": [None, "a", "b", "a", "b"], "region": [None, "all", "all", "Primary", "Primary"],
                  "n_units": [np.nan, 10, 20, 5, 5]}).to_csv(xp.folder / "dimensionality.csv", index=False)
    table = layer_tables.response_table(xps)
    assert table.drop(columns=["responses", "task"]).to_numpy().tolist() == [
        ["all", 2, 15.0, 3.0, 2.0, 4.0], ["Primary", 2, 5.0, 3.0, 3.0, 3.0]]
    assert "Dimensionality of responses" in [part.title for part in section(xp)]
