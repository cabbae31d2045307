"""Layers × latencies: responses that follow another layer in each window are given back to it."""
import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io
from safetensors.numpy import load_file

from bm.metrics.layers import best_layer
from bm.schema_parts import Latencies
from bm.solvers.test_layers import run
from bm.solvers.voxelwise import VoxelwiseSolver
from bm.studies.base import Signal
from bm.studies.natsounds import NatSounds, NatSoundsRecording
from bm.studies.natsounds.study import _channels
from bm.studies.natsounds.twin import make_twin

CODE = '''
import numpy as np


def network():
    """Three layers that have nothing in common."""
    def ask(audio):
        rng = np.random.default_rng(int(1e6 * np.abs(audio).sum()))
        return {f"layer{k}": rng.standard_normal(8) for k in range(3)}
    return ask
'''
SOUNDS, ELECTRODES, RATE = 60, 12, 25
WINDOWS = "encoding.latencies={start: 0.2, stop: 1.4, step: 0.4, width: 0.4}"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Overrides of an XP in which the response to a sound follows layer k from 0.2 + 0.4 k to 0.6 + 0.4 k s."""
    (tmp_path / "random_net_for_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(NatSounds, "manifest", make_twin(tmp_path / "twin", sounds=SOUNDS, electrodes=ELECTRODES))
    overrides = [f"study_paths.natsounds={tmp_path / 'twin'}", "dset.selections=[natsounds]",
                 "encoding.model='random_net_for_tests:network'", "encoding.rms=null", "encoding.n_splits=4"]
    solver, _ = run(tmp_path, *overrides, WINDOWS)
    solver.build()
    rng = np.random.default_rng(0)
    array = rng.standard_normal((SOUNDS, 75, ELECTRODES))
    for k, name in enumerate(solver.layers):
        answer = solver.features(name) @ rng.standard_normal((8, ELECTRODES))
        array[:, 5 + 10 * k:15 + 10 * k] += answer[:, None]
    signal = Signal.from_array(array.reshape(-1, ELECTRODES), RATE, _channels([f"e{i}" for i in range(ELECTRODES)],
                                                                              "ecog"))
    monkeypatch.setattr(NatSoundsRecording, "_ecog", lambda self: signal)
    yield overrides
    sys.modules.pop("random_net_for_tests", None)


def test_each_latency_is_given_back_to_its_layer(tmp_path, planted):
    solver, folder = run(tmp_path, *planted, WINDOWS, "encoding.predictions=true")
    metrics = solver.run()
    found = metrics["latencies"]
    assert [(name, one["best_name"]) for name, one in found.items()] == [
        ("0.4", "layer0"), ("0.8", "layer1"), ("1.2", "layer2")]
    assert all(one["r"] > 0.9 and one["independent_r"] > 0.9 for one in found.values())
    assert metrics["n_voxels"] == ELECTRODES
    table = pd.read_parquet(folder / "voxels.parquet")
    assert len(table) == 3 * ELECTRODES * 3 * 4
    median = table.groupby(["latency", "layer"])["r_test"].median().unstack()
    assert (np.diag(median) > 0.9).all() and (median.to_numpy()[~np.eye(3, dtype=bool)] < 0.4).all()
    with scipy.io.netcdf_file(folder / "scores.nc", mmap=False) as file:
        scores = file.variables["r_test"]
        assert scores.dimensions == ("layer", "voxel", "latency", "split") and scores.shape == (3, ELECTRODES, 3, 4)
        np.testing.assert_allclose(scores[:].ravel(), table["r_test"], rtol=1e-6)
        assert file.variables["latency"][:].tolist() == [0.4, 0.8, 1.2] and len(json.loads(file.voxel_voxel)) == 12
    assert load_file(folder / "responses.safetensors")["responses"].shape == (SOUNDS, 3 * ELECTRODES)
    assert pd.read_csv(folder / "stimuli.csv")["category"].nunique() == 3
    assert pd.read_csv(folder / "channels.csv")["voxel"].tolist() == [f"e{i}" for i in range(ELECTRODES)]


def test_similarity_finds_them_too(tmp_path, planted):
    solver, folder = run(tmp_path, *planted, WINDOWS, "task.type=rsa")
    found = solver.run()["latencies"]
    assert [one["best_name"] for one in found.values()] == ["layer0", "layer1", "layer2"]
    assert all(one["independent"] > 0.3 for one in found.values())
    table = pd.read_parquet(folder / "rsa.parquet")
    assert len(table) == (2 * 4 + 1) * 3 * 3 and sorted(table["latency"].unique()) == [0.4, 0.8, 1.2]
    assert "mean over subjects, 0.8 s" in load_file(folder / "rdms.safetensors")


def test_one_window_of_many_is_the_response_of_that_span(tmp_path, planted):
    many, one = (run(tmp_path, *planted, *more)[0] for more in (
        [WINDOWS], ["encoding.tmin=0.6", "encoding.tmax=1.0"]))
    many.build()
    one.build()
    np.testing.assert_array_equal(many.data.values[:, 1::3], one.data.values)


WRONG = [
    ([WINDOWS.replace("1.4", "3.4")], r"samples \[\d+, 45\d\d\) of 4500"),
    ([WINDOWS.replace("0.4}", "0.01}")], "give samples"),
    ([WINDOWS, "encoding.tmin=0.1"], "one span or many"),
    ([WINDOWS.replace("1.4", "0.5")], "no window of 0.4 s"),
    ([WINDOWS, "dset.selections=[natsounds_fmri]"], "one value per sound"),
]


def test_wrong_windows(tmp_path, planted):
    for overrides, message in WRONG:
        with pytest.raises((ValueError, SystemExit), match=message):
            run(tmp_path, *planted, *overrides)[0].build()


def test_windows():
    assert np.allclose(Latencies(start=0, stop=0.3, step=0.1, width=0.1).windows(), [(0, 0.1), (0.1, 0.2), (0.2, 0.3)])
    assert Latencies(start=-0.1, stop=0.05, step=0.1, width=0.1).windows() == [(-0.1, 0.0)]


def test_a_layer_that_predicts_nothing_is_not_the_best():
    """Layer b alone predicts anything, and nothing at the second latency; region B counts as not predicted."""
    voxels = pd.DataFrame({"subject": "s", "voxel": ["v", "v", "w", "w"], "region": ["A", "A", "B", "B"]})
    stub: Any = SimpleNamespace(layers=["a", "b"], latencies=[0.1, 0.3], data=SimpleNamespace(voxels=voxels))
    r = np.zeros((2, 4, 4))
    r[1, 0], r[1, 2] = 0.5, 0.1
    best = best_layer(r)
    found = VoxelwiseSolver._by_latency(stub, r, best)["latencies"]
    assert [one["best_name"] for one in found.values()] == ["b", "–"]
    table = VoxelwiseSolver.regions(stub, best.layer, best.score, np.array([True, False, False, False]))
    assert table["layer"].tolist() == ["b", "b", ""] and table["position"].tolist()[:2] == [1, 1]
    assert np.isnan(table["position"][2])
