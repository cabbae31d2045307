"""A loaded decoder gives what the solver gave; an exported one does so alone, in a process that has no data."""
import copy
import json
import subprocess
import sys
from pathlib import Path

import mne
import numpy as np
import pytest
import torch
from dora.link import Link

import bm
from bm.analysis.conftest import tiny_config
from bm.analysis.load import WEIGHTS, export, load
from bm.analysis.trained import Trained
from bm.config import check_config
from bm.models.blocks.spatial import SpatialAttention
from bm.solvers import build_solver


@pytest.fixture(scope="module")
def decoder(trained) -> Trained:
    return load(trained.folder)


@pytest.fixture(scope="module")
def folder(decoder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "decoder"
    export(decoder, folder)
    return folder


@pytest.fixture(scope="module")
def test_windows(trained) -> tuple[mne.io.BaseRaw, np.ndarray, np.ndarray, np.ndarray]:
    """The raw file of a recording, with the ids and times of its test segments and what the solver makes of them."""
    solver = trained.restored()
    table = solver.data.segments.query("split == 'test' and recording == 1")
    with solver.use_best():
        estimates = torch.cat(list(solver.estimates(table.index.to_numpy()))).numpy()
    return solver.data.recordings[1].raw(), table.index.to_numpy(), table["time"].to_numpy(), estimates


def test_predictions_are_the_estimates_of_the_solver(trained, decoder, test_windows):
    raw, ids, times, expected = test_windows
    options = {"subject": "simulated/02", "recording": trained.restored().data.recordings[1].name}
    found = decoder.predict(raw, times, **options, batch_size=50)
    assert found.estimates.shape == expected.shape == (len(ids), decoder.outputs, 37)
    np.testing.assert_array_equal(found.times, times)
    np.testing.assert_allclose(found.estimates, expected, rtol=1e-4, atol=1e-5)
    # sensors in another order are the same sensors
    shuffled = raw.copy().load_data().reorder_channels(raw.ch_names[::-1])
    np.testing.assert_allclose(decoder.predict(shuffled, times, **options).estimates, expected, rtol=1e-4, atol=1e-5)
    # rows that the loss compares, and candidates to compare them with
    _, rows = decoder.embed(raw, times, **options)
    np.testing.assert_allclose(rows, expected.reshape(len(rows), -1), rtol=1e-4, atol=1e-5)
    batch = trained.restored().data.dataset("test").__getitems__(ids)
    torch.testing.assert_close(decoder.targets(batch.features), trained.restored().targets(ids))


def test_its_own_statistics_are_nearly_those_of_the_training(decoder, test_windows):
    raw, _, times, expected = test_windows
    found = decoder.predict(raw, times, subject="simulated/02").estimates
    assert not np.array_equal(found, expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    # scale and offset of a recording do not matter then
    louder = mne.io.RawArray(raw.get_data() * 1000, raw.info, verbose="ERROR")
    again = decoder.predict(louder, times, subject="simulated/02").estimates
    np.testing.assert_allclose(again, found, rtol=1e-3, atol=1e-4)


def test_windows_all_along(decoder, test_windows):
    raw = test_windows[0].copy().crop(10, 14.4)
    found = decoder.predict(raw, subject="simulated/01")
    assert found.rate == 25 and found.tmin == 0
    np.testing.assert_allclose(found.times, np.arange(len(found.times)) * 12 / 25)
    assert found.times[-1] + (39 + 12) / 25 > 4.4 >= found.times[-1] + 39 / 25
    assert len(decoder.predict(raw.copy().crop(0, 1.55), subject="simulated/01").times) == 1


def test_an_exported_model_loads_alone(decoder, folder, test_windows, tmp_path):
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, "config.json", "README.md"}
    raw, _, times, _ = test_windows
    expected = decoder.predict(raw, times, subject="simulated/02", recording=decoder.recordings[1]).estimates
    np.save(tmp_path / "times.npy", times)
    code = f"""
import sys, numpy as np, bm
assert "torch" not in sys.modules and "mne" not in sys.modules
decoder = bm.load({str(folder)!r})
assert not [m for m in sys.modules if m.startswith(("dora", "hydra", "bm.train", "bm.solvers.decode"))], sys.modules
import mne
raw = mne.io.read_raw_fif({str(raw.filenames[0])!r}, verbose="ERROR")
found = decoder.predict(raw, np.load("times.npy"), subject="simulated/02", recording={decoder.recordings[1]!r})
np.save("found.npy", found.estimates)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(Path(bm.__file__).parents[1]), "PATH": "", "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=1e-5, atol=1e-6)


def test_what_is_in_the_folder(trained, folder):
    about = (folder / "config.json").read_text()
    assert str(trained.root) not in about and json.loads(about)["spec"]["subjects"] == ["simulated/01", "simulated/02"]
    assert json.loads(about)["config"]["study_paths"] == {}
    page = (folder / "README.md").read_text()
    test = trained.test
    assert f"| top-10 | {test['top10']:.1%} | {test['top10_low']:.1%} to {test['top10_high']:.1%} |" in page
    assert f"{test['n']} held-out test segments, each among {test['n_candidates']}" in page
    assert 'predict(raw, subject="simulated/01")' in page and "{" not in page
    with pytest.raises(FileExistsError, match="exists: remove it"):
        export(load(folder), folder)


def test_sensors_that_are_missing_or_strange(decoder, test_windows, caplog):
    raw, _, times, expected = test_windows
    fewer = raw.copy().load_data().drop_channels(raw.ch_names[:3])
    options = {"subject": "simulated/02", "recording": decoder.recordings[1]}
    found = decoder.predict(fewer, times, **options).estimates
    assert "3 of the model's" in caplog.text and np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8
    marked = raw.copy()
    marked.info["bads"] = sorted({*raw.info["bads"], *raw.ch_names[:3]})
    np.testing.assert_allclose(decoder.predict(marked, times, **options).estimates, found, rtol=1e-4, atol=1e-5)
    renamed = raw.copy().rename_channels(lambda name: f"x{name}")
    with pytest.raises(ValueError, match="none of the sensors of the training .*are in no layout that MNE knows"):
        decoder.predict(renamed, times, subject="simulated/02")
    by_place = copy.copy(decoder)
    by_place.sensors = None
    np.testing.assert_allclose(by_place.predict(raw, times, **options).estimates, expected, rtol=1e-4, atol=1e-5)
    picky = load_without_attention(decoder)
    with pytest.raises(ValueError, match="one by one; the recording has xM?.*rename its channels"):
        picky.predict(renamed, times, subject="simulated/02")
    eeg = mne.io.RawArray(np.zeros((2, 5000)), mne.create_info(["Cz", "Pz"], 100, "eeg"), verbose="ERROR")
    with pytest.raises(ValueError, match=r"no channel of type mag, but \['eeg'\]"):
        decoder.predict(eeg, subject="simulated/02")


def load_without_attention(decoder: Trained) -> Trained:
    """The same decoder, whose model has no attention to places."""
    class Picky(Trained):
        model = torch.nn.Linear(1, 1)
    picky = Picky.__new__(Picky)
    picky.__dict__.update(vars(decoder))
    assert any(isinstance(module, SpatialAttention) for module in decoder.model.modules())
    type(picky).personal = False
    type(picky)._subject = lambda self, subject: 0
    return picky


def test_wrong_arguments(decoder, test_windows, tmp_path):
    raw = test_windows[0]
    for options, message in [
            ({}, r"subject=None: expected one of simulated/01, simulated/02; this model has weights for each"),
            ({"subject": "simulated/03"}, "subject='simulated/03': expected one of"),
            ({"subject": "simulated/01", "recording": "x"}, "recording='x' is none of the training"),
            ({"subject": "simulated/01", "times": [5.0, -1.0]}, r"1 of 2 are not, e.g. \[-1.0\]"),
            ({"subject": "simulated/01", "times": []}, "expected a list of times")]:
        with pytest.raises(ValueError, match=message):
            decoder.predict(raw, **options)
    with pytest.raises(ValueError, match="the recording has 1 s, windows have 1.56 s"):
        decoder.predict(raw.copy().crop(0, 1, include_tmax=False), subject="simulated/01")
    with pytest.raises(ValueError, match=r"features \['MelSpectrum'\] are missing"):
        decoder.targets({})
    with pytest.raises(FileNotFoundError, match="neither an exported model"):
        bm.load(tmp_path)


def test_an_export_of_another_time(folder, tmp_path):
    about = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "format": 99, "bm": "9.9"}))
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match="has format 99, this bm reads 1: use bm 9.9"):
        load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [
    ["feature_model=deep_mel", "feature_model_params.n_hidden_channels=8", "feature_model_params.n_out_channels=12",
     "feature_model_params.n_hidden_layers=3", "norm.clip=false", "norm.max_scale=100"],
    ["clip.linear=8", "clip.pool=true", "task.lowpass=5", "dset.highpass=2", "dset.apply_baseline=false"],
    ["model=decoder_convrnn", "convrnn.hidden.meg=16", "convrnn.lstm=1", "dset.test.tmin=0.2", "dset.test.tmax=1",
     "dset.apply_baseline=false", "dset.tmin=0.2", "dset.tmax=1"],
])
def test_every_part_comes_along(trained, tmp_path, overrides):
    plain = tiny_config(*overrides, "optim.epochs=1", "optim.max_batches=2", "eval_every=9", "test.n_boot=10",
                        "test.n_permutations=10")
    (tmp_path / "xp").mkdir()
    solver = build_solver(check_config(plain), tmp_path / "xp", trained.root, Link(tmp_path / "xp/history.json"))
    solver.run()
    export(Trained.of(solver, plain, "0a1b2c3d", None), tmp_path / "export")
    decoder = load(tmp_path / "export")
    table = solver.data.segments.query("split == 'test' and recording == 0").iloc[:40]
    ids, recording = table.index.to_numpy(), solver.data.recordings[0]
    with solver.use_best():
        expected, targets = torch.cat(list(solver.estimates(ids))).numpy(), solver.targets(ids)
        solver.scorer.eval()
        rows = solver.scorer.embed_estimates(torch.from_numpy(expected)).detach().numpy()
    options = {"subject": "simulated/01", "recording": recording.name}
    found = decoder.predict(recording.raw(), table["time"], **options).estimates
    assert found.shape[1] == decoder.outputs
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(decoder.embed(recording.raw(), table["time"], **options)[1], rows, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoder.targets(solver.data.dataset("test").__getitems__(ids).features), targets)
    assert "Its accuracy was not measured" in (tmp_path / "export/README.md").read_text()
