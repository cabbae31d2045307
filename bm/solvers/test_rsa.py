"""RSA of layers and people against a slow way that does one person, region, split and layer at a time."""
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy.stats import rankdata, spearmanr

from bm.config import ConfigError
from bm.linear.voxelwise import random_splits
from bm.metrics.rdm import estimate_noise
from bm.solvers.layers import Responses
from bm.solvers.regions import LEAST_VOXELS, groups_of, response_dimensionality
from bm.solvers.rsa import CONCATENATED
from bm.solvers.test_layers import run

N, N_SPLITS, LAYERS = 26, 3, ("first", "second", "third")
#: voxels of each person in each region; the last has too few
SIZES = {"Primary": (8, 6, 9), "Lateral": (7, 3, 6)}


def planted(tmp_path, *overrides):
    """An XP of three layers and people whose voxels follow two of them."""
    solver, folder = run(tmp_path, "task.type=rsa", f"encoding.n_splits={N_SPLITS}", *overrides)
    return solver, folder, *give(solver)


def give(solver, seed=0, noise_only=False, people=3, n_layers=3):
    """Lets people hear 26 sounds three times; returns features, responses and what is known of voxels."""
    rng = np.random.default_rng(seed)
    names = [*LAYERS, *(f"layer{k}" for k in range(3, n_layers))]
    # units of very different sizes, and outliers among sounds: it matters which sounds z-scores are made of
    features = {name: rng.standard_normal((N, 12)) * np.exp(rng.standard_normal(12))
                * np.exp(rng.standard_normal((N, 1))) for name in names}
    voxels, columns = [], []
    for person in range(people):
        for region, sizes in SIZES.items():
            for v in range(sizes[person]):
                voxels.append((f"p{person}", f"v{v}", region))
                drive = sum(features[name] @ rng.standard_normal(12) for name in LAYERS[:2])
                columns.append(0 * drive if noise_only else drive / drive.std())
    values = np.stack(columns, 1)[..., None] + 2 * rng.standard_normal((N, len(columns), 3))
    table = pd.DataFrame(voxels, columns=["subject", "voxel", "region"])
    solver.data = Responses([f"s{i}" for i in range(N)], values, table, {}, table, pd.DataFrame())
    solver.n_train, solver.layers, solver.features = N // 2, names, features.__getitem__
    return features, values, table


def matrix(x, train, rows):
    """1 − Pearson of sounds whose units have mean 0 and variance 1 over `train`."""
    z = (x - x[train].mean(0)) / x[train].std(0)
    return 1 - np.corrcoef(z[rows])


def flat(matrix):
    return matrix[np.triu_indices(len(matrix), 1)]


def by_hand(features, brain, splits):
    """Of one person: the similarity of every layer `(splits, 2, layers)`, and of the chosen one on test sounds."""
    scores = [[[spearmanr(flat(matrix(x, train, rows)), flat(matrix(brain, train, rows))).statistic
                for x in features.values()] for rows in (train, test)] for train, test in splits]
    chosen = [scores[s][1][int(np.argmax(scores[s][0]))] for s in range(len(splits))]
    return np.array(scores), float(np.median(chosen))


def ceiling_by_hand(brains, splits, reference=False):
    """Lower bound: medians over splits of each person against the mean of the others, on test sounds."""
    bounds = []
    for train, test in splits:
        each = [flat(matrix(brain, train, test)) for brain in brains]
        each = each if reference else [rankdata(values) for values in each]
        bounds.append([np.corrcoef(each[k], np.mean([v for j, v in enumerate(each) if j != k], 0))[0, 1]
                       for k in range(len(each))])
    return float(np.median(bounds, 0).mean())


def test_it_is_the_obvious_way(tmp_path, caplog):
    solver, folder, features, values, table = planted(tmp_path, "encoding.concatenated=true")
    with caplog.at_level("WARNING"):
        solver.compare()
    metrics = solver.test()
    splits, person, region = random_splits(N, N // 2, N_SPLITS), table["subject"], table["region"]
    found = pd.read_parquet(folder / "rsa.parquet")
    groups = [("all", ["p0", "p1", "p2"]), ("Lateral", ["p0", "p2"]), ("Primary", ["p0", "p1", "p2"])]
    for name, people in groups:
        own = {who: values.mean(2)[:, ((person == who) & ((region == name) | (name == "all"))).to_numpy()]
               for who in people}
        chosen = []
        for who in people:
            scores, best = by_hand(features, own[who], splits)
            chosen.append(best)
            rows = found[(found["subject"] == who) & (found["region"] == name) & (found["layer"] != CONCATENATED)]
            sides = rows[rows["sounds"] != "all"].sort_values(["split", "sounds"], ascending=[True, False],
                                                             kind="stable")
            np.testing.assert_allclose(sides["similarity"], scores.ravel(), atol=1e-10)
            assert (rows["n_voxels"] == own[who].shape[1]).all()
        assert metrics["regions"][name]["score"] == pytest.approx(np.mean(chosen), abs=1e-10)
        table_row = solver.region_table().set_index("region").loc[name]
        assert table_row["ceiling_low"] == pytest.approx(ceiling_by_hand(own.values(), splits), abs=1e-10)
        assert table_row["n_subjects"] == len(people)
    assert metrics["similarity"] == metrics["regions"]["all"]["score"]
    # choosing on test sounds, or scaling by all of them, gives other numbers here
    whole = {who: values.mean(2)[:, (person == who).to_numpy()] for who in ("p0", "p1", "p2")}
    parts = [by_hand(features, brain, splits)[0] for brain in whole.values()]
    assert metrics["similarity"] < np.mean([np.median(scores[:, 1].max(1)) for scores in parts]) - 1e-3
    assert f"fewer than {LEAST_VOXELS} voxels are left out: Lateral of p1: 3" in caplog.text
    everything = np.arange(N)
    joined = matrix(np.concatenate([*features.values()], 1), everything, everything)
    expected = [spearmanr(flat(joined), flat(matrix(brain, everything, everything))).statistic
                for brain in whole.values()]
    last = found[(found["layer"] == CONCATENATED) & (found["region"] == "all") & (found["sounds"] == "all")]
    np.testing.assert_allclose(last["similarity"], expected, atol=1e-10)
    assert "concatenated" in metrics and CONCATENATED not in metrics["layers"]
    matrices = load_file(folder / "rdms.safetensors")
    assert {"region Primary", "region Lateral", CONCATENATED, "mean over subjects", *LAYERS} == set(matrices)
    dimensions = pd.read_csv(folder / "dimensionality.csv")
    own = dimensions[(dimensions["region"] == "Primary") & (dimensions["subject"] == "p1")].iloc[0]
    y = values.mean(2)[:, ((person == "p1") & (region == "Primary")).to_numpy()]
    eigenvalues = np.linalg.eigvalsh(np.cov((y - y.mean(0)) / y.std(0)))
    assert own["dimensionality"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues ** 2).sum())
    assert set(metrics["responses_dimensionality"]) == {"all", "Primary", "Lateral"}


def test_reference_has_pearsons_ceiling(tmp_path):
    solver, _, _, values, table = planted(tmp_path, "encoding.compat=reference")
    solver.compare()
    brains = [values.mean(2)[:, (table["subject"] == who).to_numpy()] for who in ("p0", "p1", "p2")]
    expected = ceiling_by_hand(brains, random_splits(N, N // 2, N_SPLITS), reference=True)
    assert solver.test()["ceiling_low"] == pytest.approx(expected, abs=1e-10)


def test_p_counts_the_choice_among_layers(tmp_path):
    """13 layers and people that have nothing in common: p is uniform, though the best layer is looked at."""
    solver, *_ = planted(tmp_path)
    found = []
    for seed in range(40):
        give(solver, seed, noise_only=True, people=1, n_layers=13)
        solver.compare()
        found.append(solver.result["p"])
    assert np.mean(np.array(found) <= 0.05) <= 0.15 and 0.38 < np.mean(found) < 0.62


@pytest.mark.parametrize("kind", ["diagonal", "shrinkage"])
def test_crossnobis_divides_by_the_noise_of_train_sounds(tmp_path, kind):
    solver, _, _, values, _ = planted(tmp_path, "encoding.rdm=crossnobis", f"encoding.noise={kind}",
                                      "encoding.standardise=false")
    train, test = random_splits(N, N // 2, 1)[0]
    found, y = solver.brain(values[:, :9], train, test), values[:, :9]
    noise = estimate_noise(y[train], kind)
    inverse = np.linalg.inv(np.diag(noise) if kind == "diagonal" else noise)
    pairs = [(k, m) for k in range(3) for m in range(3) if k != m]
    d = y[test[2]] - y[test[5]]
    assert found[2, 5] == pytest.approx(np.mean([d[:, k] @ inverse @ d[:, m] / 9 for k, m in pairs]))
    with pytest.raises((ConfigError, ValueError), match="divides the distances of rdm=crossnobis"):
        planted(tmp_path, f"encoding.noise={kind}")


@pytest.mark.parametrize("standardise", ["true", "false"])
def test_crossnobis_with_a_constant_voxel(tmp_path, standardise):
    """A dead voxel changes nothing but the number of voxels that distances are divided by."""
    solver, _, _, values, _ = planted(tmp_path, "encoding.rdm=crossnobis", "encoding.noise=diagonal",
                                      f"encoding.standardise={standardise}")
    train, test = random_splits(N, N // 2, 1)[0]
    y = values[:, :9].copy()
    y[:, 3] = 0.1
    expected = solver.brain(np.delete(y, 3, 1), train, test)
    np.testing.assert_allclose(solver.brain(y, train, test) * 9 / 8, expected, rtol=1e-6, atol=1e-9)


def test_people_and_regions_of_few_voxels(tmp_path):
    solver, _, _, _, table = planted(tmp_path)
    solver.data.voxels["subject"] = ["p9", *table["subject"][1:]]
    with pytest.raises(ValueError, match="p9 has one; leave these recordings out"):
        solver.compare()
    y = np.random.default_rng(0).standard_normal((N, 14, 2))
    y[:, 6] = 0.1
    voxels = pd.DataFrame({"subject": ["a"] * 10 + ["b"] * 4, "region": ["x"] * 7 + ["y"] * 7})
    found = response_dimensionality(y, voxels, True).set_index(["region", "subject"])["dimensionality"]
    assert found.isna().to_dict() == {("all", "a"): False, ("all", "b"): True, ("x", "a"): False, ("y", "a"): True,
                                      ("y", "b"): True}
    assert found["x", "a"] == pytest.approx(response_dimensionality(
        y * (np.arange(14) != 6)[:, None], voxels, True)["dimensionality"][2])
    assert found["x", "a"] > 3
    with pytest.raises(ValueError, match="a region of b is named 'all'"):
        groups_of(voxels.assign(region=["x"] * 13 + ["all"]), 5)
