"""People whom the model never saw: what stands in for their weights, and what calibration is worth."""
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from dora.link import Link
from torch import nn

from bm.analysis.calibrate import Calibration, CalibrationData, curve
from bm.analysis.conftest import tiny_config
from bm.analysis.evaluate import Evaluation, evaluate
from bm.analysis.report.people import calibration
from bm.analysis.unseen import nearest_subjects, people, place_subjects
from bm.analysis.xp import StoredXP
from bm.config import check_config
from bm.data.loader import Montages
from bm.data.noise import Altered
from bm.models.blocks.spatial import SpatialAttention
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers
from bm.models.personal import personal_weights, replace_weights
from bm.solvers import build_solver


def test_weights_of_each_subject():
    network = nn.ModuleDict({"a": SubjectLayers(4, 3, 5), "b": SubjectEmbedding(5, 2), "d": nn.Linear(2, 2),
                             "c": SpatialAttention(3, 8, n_subjects=5), "e": SpatialAttention(3, 8)})
    names = personal_weights(network)
    assert names == ["a.weight", "b.embedding.weight", "c.heads"]
    weights = dict(network.named_parameters())
    before = {name: value.detach().clone() for name, value in weights.items()}
    replace_weights(weights, names, {1: [0, 2], 4: [3]})
    for name, value in weights.items():
        expected = before[name]
        if name in names:
            expected = expected.clone()
            expected[1], expected[4] = before[name][[0, 2]].mean(0), before[name][3]
        torch.testing.assert_close(value, expected)


def test_the_nearest_subject_varies_alike(caplog):
    """Of three people with sources of their own, the new one has those of the second, and one sensor is off."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((3, 6, 6))
    arrays = [rng.standard_normal((3000, 6)) @ m for m in (*mixing, mixing[1] + 0.1 * rng.standard_normal((6, 6)))]
    tables = [pd.DataFrame({"name": list("abcdef"), "bad": [False] * 5 + [i == 3]}) for i in range(4)]
    layout = np.zeros((4, 6, 2))
    scaler = SimpleNamespace(center=torch.zeros(4, 6), scale=torch.ones(4, 6))
    data = SimpleNamespace(
        subjects=[0, 1, 2, 3], montages=Montages(np.stack([~t["bad"].to_numpy() for t in tables]), layout, layout),
        prepared=[SimpleNamespace(array=a, channels=t) for a, t in zip(arrays, tables, strict=True)],
        spec=SimpleNamespace(subjects=("s0", "s1", "s2", "s3")))
    solver = SimpleNamespace(data=data, finish=SimpleNamespace(scalers=SimpleNamespace(brain=scaler), max_scale=20.0))
    with caplog.at_level("INFO"):
        assert nearest_subjects(solver, np.array([3]), np.array([0, 1, 2])) == {3: 1}
    assert "s3: nearest of 3 trained subjects is s1" in caplog.text
    tables[3]["name"] = list("ghijkl")
    with pytest.raises(ValueError, match="no trained subject has the sensors of s3: use subject_layer=average"):
        nearest_subjects(solver, np.array([3]), np.array([0, 1, 2]))


def test_nobody_is_unseen(trained):
    solver = trained.restored()
    assert people(solver.data)[0].tolist() == [0, 1] and not len(people(solver.data)[1])
    with pytest.raises(ValueError, match="every test subject was trained.*dset.split_by=subject.*train one"):
        place_subjects(solver, "average")
    with pytest.raises(ValueError, match="subject_layer=avrage: .*did you mean 'average'"):
        place_subjects(solver, "avrage")
    with pytest.raises(ValueError, match="each larger than the last"):
        Calibration((1, 0))
    assert Evaluation(subject_layer="nearest").folder(Path("a")) == Path("a/subject_layer_nearest")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> StoredXP:
    """Trained on three of five people; one validates, one is tested."""
    root = tmp_path_factory.mktemp("strangers")
    folder = root / "outputs/xps/0a1b2c3e"
    folder.mkdir(parents=True)
    plain = tiny_config("dset.split_by=subject", "selections.simulated.subjects=5", "selections.simulated.minutes=4",
                        "dset.n_folds=5", "dset.valid_ratio=0.2", "optim.epochs=8")
    (folder / "config.json").write_text(json.dumps(plain))
    build_solver(check_config(plain), folder, root, Link(folder / "history.json")).run()
    return StoredXP(folder, root)


@pytest.mark.slow
def test_a_new_person_is_decoded(strangers, tmp_path):
    """With the mean of the others' weights, or the nearest's, far above chance; with weights as drawn, far below."""
    assert strangers.test["top10_low"] > 3 * strangers.test["top10_chance"]
    assert strangers.result["best_epoch"] > 1  # validated on somebody unseen too
    accuracy = {}
    for how in ("own", "average", "nearest"):
        (folder,) = evaluate(strangers, Evaluation(device="cpu", subject_layer=how), tmp_path, progress=False)
        accuracy[how] = pd.read_csv(folder / "acc.csv")["acc_segment"][2]
    assert accuracy["own"] == accuracy["average"] == pytest.approx(strangers.test["top10"])
    solver = strangers.restore()
    fresh = strangers.restore()
    fresh.build_model()
    (name,) = personal_weights(solver.modules)
    solver.best_state[name][people(solver.data)[1]] = fresh.modules.state_dict()[name][people(solver.data)[1]]
    with solver.use_best():
        drawn = solver.retrieval()[0].values["top10"].mean()
    assert drawn < min(accuracy.values()) - 0.2


@pytest.mark.slow
def test_more_minutes_are_worth_more(strangers):
    """A person whose sensors are all wired the wrong way round: the layer of that person must learn the sign."""
    solver = strangers.restore()
    (stranger,) = people(solver.data)[1]
    solver.data = replace(solver.data, prepared=[
        Altered.of(p, -np.asarray(p.array)) if subject == stranger else p
        for p, subject in zip(solver.data.prepared, solver.data.subjects, strict=True)])
    table = curve(solver, Calibration((0, 0.5, 2)))
    top10 = table[(table["subject"] == "all") & (table["topk"] == 10)].set_index("minutes")
    accuracy = top10["accuracy"].to_numpy()
    assert (np.diff(accuracy) > -0.03).all() and accuracy[-1] > accuracy[0] + 0.2
    assert top10["low"].iloc[-1] > top10["chance"].iloc[-1] and list(top10["used"]) == [0, 0.5, 2]
    assert (np.diff(top10["segments"]) > 0).all()
    data = CalibrationData(solver, int(stranger))
    train, valid = data.split(1, 0.2)
    assert not set(data.block[train]) & set(data.block[valid]) and data.known[train].max() <= 1
    tested = set(solver.data.segments.loc[solver.data.segments["split"] == "test", "candidate"])
    assert not tested & set(data.table["candidate"])
    with pytest.raises(ValueError, match="0.01 minutes have 0 segments in 0 blocks: at least two"):
        data.split(0.01, 0.2)
    home = strangers.folder.parents[1] / "eval/signatures" / strangers.sig
    assert calibration(strangers) == []
    home.mkdir(parents=True, exist_ok=True)
    table.to_csv(home / "calibration.csv", index=False)
    figure, numbers = calibration(strangers)
    assert "outside of the test" in figure.caption and f"{100 * accuracy[-1]:.1f} %" in numbers.content
