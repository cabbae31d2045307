"""XPs that compare layers with the brain: on a twin, on a planted truth, and on real voxels."""
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.io
from dora.link import Link
from hydra import compose, initialize_config_dir
from safetensors.numpy import load_file, save_file

from bm.config import check_config, to_plain
from bm.linear.voxelwise import gram, random_splits, voxelwise
from bm.metrics.layers import best_layer
from bm.solvers import build_solver
from bm.solvers.layers import one_recording
from bm.studies.twins import make_twin

ROOT = Path(__file__).parents[2]
CODE = '''
import numpy as np


def network():
    """Two layers: the log power of each of two bands, which the twin's voxels follow, and noise made of the sound."""
    def ask(audio):
        spectrum = np.abs(np.fft.rfft(audio)) ** 2
        frequency = np.fft.rfftfreq(len(audio), 1 / 16000)
        bands = [spectrum[(frequency > low) & (frequency < high)].sum() for low, high in [(250, 350), (2900, 3100)]]
        rng = np.random.default_rng(int(1e6 * np.abs(audio).sum()))
        return {"noise": rng.standard_normal(20), "bands": np.log10(bands)}
    return ask
'''


def run(tmp_path, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [
            "preset=layers", "device=cpu", f"cache={tmp_path / 'cache'}", *overrides])))
    folder = tmp_path / "xp"
    folder.mkdir(exist_ok=True)
    return build_solver(cfg, folder, Path("."), Link(folder / "history.json")), folder


@pytest.fixture
def twin(tmp_path, monkeypatch):
    (tmp_path / "band_net_for_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = make_twin("nh2015", tmp_path / "twin", sounds=40)
    yield [f"study_paths.nh2015={folder}", "dset.selections=[nh2015]", "+selections.nh2015.n_sounds=40",
           "encoding.model='band_net_for_tests:network'", "encoding.rms=null", "encoding.n_splits=4"]
    sys.modules.pop("band_net_for_tests", None)


def test_the_layer_that_the_voxels_follow_is_found(tmp_path, twin):
    solver, folder = run(tmp_path, *twin, "encoding.predictions=true")
    metrics = solver.run()
    assert metrics["best_name"] == "bands" and metrics["layers_r"]["noise"] < 0.3 < 0.9 < metrics["r"]
    assert metrics["independent_r2"] > 0.9 and (metrics["n_voxels"], metrics["n_subjects"]) == (7, 2)
    assert set(metrics["regions"]) == {"all", "Primary", "Lateral", "Posterior", "Anterior"}
    assert metrics["regions"]["all"]["position"] == 1 and metrics["dimensionality"]["bands"] <= 2
    dimensions = pd.read_csv(folder / "dimensionality.csv")
    assert dimensions["source"].tolist()[:3] == ["noise", "bands", "responses"]
    responses = dimensions[dimensions["source"] == "responses"]
    assert (responses["n_units"] < 5).all() and responses["dimensionality"].isna().all()  # too few voxels to say
    assert metrics["responses_dimensionality"] == {}
    table = pd.read_parquet(folder / "voxels.parquet")
    assert len(table) == 2 * 7 * 4
    for name, of in {"largest_alpha": table["edge"] == 1, "smallest_alpha": table["edge"] == 2,
                     "above_one": table["r2_test_c"] > 1, "constant": table["constant_test"]}.items():
        assert metrics[name] == pytest.approx(of.mean())
    assert {"layer", "subject", "region", "voxel", "split", "r2_test_c", "alphas"} <= set(table)
    with scipy.io.netcdf_file(folder / "scores.nc", mmap=False) as file:
        assert json.loads(file.layers) == ["noise", "bands"] and file.variables["r_test"].shape == (2, 7, 4)
        np.testing.assert_allclose(file.variables["r2_test_c"][:].ravel(), table["r2_test_c"], rtol=1e-6)
        assert json.loads(file.voxel_subject) == ["1"] * 4 + ["4"] * 3
    predictions = load_file(folder / "predictions.safetensors")["bands"]
    assert predictions.shape == (40, 4, 7) and np.isfinite(predictions).mean() == 0.5
    regions = pd.read_csv(folder / "regions.csv")
    assert regions["layer"][0] == "bands" and regions["n_voxels"].tolist()[0] == 7
    assert solver.run() == json.loads((folder / "result.json").read_text())["test"]


def test_similarity_finds_it_too(tmp_path, twin):
    for kind in ("pearson", "crossnobis"):
        (tmp_path / kind).mkdir()
        solver, folder = run(tmp_path / kind, *twin, "task.type=rsa", f"encoding.rdm={kind}",
                             "encoding.standardise=false")
        metrics = solver.run()
        assert metrics["best_name"] == "bands" and metrics["p"] < 0.01
        assert metrics["layers"]["bands"] > metrics["layers"]["noise"] + 0.2
        assert metrics["ceiling_low"] < metrics["ceiling_high"] <= 1
        table = pd.read_parquet(folder / "rsa.parquet")
        assert len(table) == (2 * 4 + 1) * 2 * 2
        assert load_file(folder / "rdms.safetensors")["bands"].shape == (40, 40)


def test_components_and_published_activations(tmp_path, twin):
    published = tmp_path / "published"
    published.mkdir()
    rng = np.random.default_rng(0)
    solver, _ = run(tmp_path, *twin)
    solver.build()
    for sound in solver.data.sounds:
        save_file({"fc": rng.random(9).astype(np.float32)}, published / f"{sound}_activations.safetensors")
    solver, _ = run(tmp_path, *twin, "encoding.model=null", f"encoding.activations={published}",
                    "selections.nh2015.space=components")
    metrics = solver.run()
    assert metrics["n_voxels"] == 3 and metrics["best_name"] == "fc" and metrics["r"] < 0.5


def test_published_hdf5(tmp_path, twin):
    """One file, whose rows are the study's sounds in order and have no names (in-house networks of the paper)."""
    h5py = pytest.importorskip("h5py", reason="h5py comes with the extra `published`")
    solver, _ = run(tmp_path, *twin)
    solver.build()
    rng, bands = np.random.default_rng(0), solver.features("bands")
    for n in (40, 39):
        with h5py.File(tmp_path / f"{n}.h5", "w") as file:
            file["layer_list"] = [b"relu0", b"relu1"]
            file["relu0"], file["relu1"] = rng.random((n, 3, 2)).astype(np.float32), bands[:n]
    own = [*twin, "encoding.model=null"]
    metrics = run(tmp_path, *own, f"encoding.activations={tmp_path / '40.h5'}")[0].run()
    assert metrics["best_name"] == "relu1" and list(metrics["layers_r"]) == ["relu0", "relu1"] and metrics["r"] > 0.9
    (tmp_path / "short").mkdir()
    with pytest.raises(ValueError, match="relu0 has 39 sounds without names, the study 40"):
        run(tmp_path / "short", *own, f"encoding.activations={tmp_path / '39.h5'}")[0].run()


@pytest.mark.parametrize("form", ["files", "entry"])
def test_published_activations_are_put_into_the_order_of_the_study(tmp_path, twin, form):
    """Files by name and an entry from the last sound to the first: row i is that of the study's sound i."""
    published = tmp_path / "published"
    published.mkdir()
    solver, _ = run(tmp_path, *twin)
    solver.build()
    sounds = solver.data.sounds
    assert sorted(sounds) != sounds and len(sounds) == 40
    rows = np.arange(40, dtype=np.float32)[:, None, None] + np.float32([[0, 0.25], [0.5, 0.75]])
    if form == "files":
        for sound, row in zip(sounds, rows, strict=True):
            save_file({"fc": row}, published / f"{sound}_activations.safetensors")
    else:
        save_file({"fc": np.ascontiguousarray(rows[::-1])}, published / "activations.safetensors")
        (published / "index.json").write_text(json.dumps({"sounds": sounds[::-1], "layers": [{"name": "fc"}]}))
    solver, _ = run(tmp_path, *twin, "encoding.model=null", f"encoding.activations={published}")
    solver.build()
    np.testing.assert_array_equal(solver.features("fc"), rows.reshape(40, 4))
    if form == "files":
        (published / f"{sounds[3]}_activations.safetensors").unlink()
        solver, _ = run(tmp_path, *twin, "encoding.model=null", f"encoding.activations={published}")
        solver.build()
        with pytest.raises(ValueError, match=f"lacks 1 of 40 sounds, the first is '{sounds[3]}'"):
            solver.features("fc")


@pytest.mark.parametrize("overrides,message", [
    (["encoding.model=null"], "needs encoding.model"),
    (["encoding.permuted=true", "encoding.random=true"], "permuted and random"),
    (["encoding.n_train=39"], "10 splits of 40 sounds, 39 of them|4 splits of 40 sounds, 39 of them"),
])
def test_wrong_options(tmp_path, twin, overrides, message):
    def start():
        return run(tmp_path, *twin, *overrides)[0].run()
    with pytest.raises((ValueError, SystemExit), match=message):
        start()


def test_stories_are_for_words():
    story = SimpleNamespace(name="lab/sub-1", signal=lambda: None, events=lambda: pd.DataFrame({"kind": ["sound"]}))
    with pytest.raises(ValueError, match="lab/sub-1: its sounds have no stimulus_id: .*encoding.items=word"):
        one_recording(story, [], [])


def test_voxels_of_a_layer_are_given_back_to_it():
    """Responses made from layer k of a chain of layers: at least 95 % are assigned to k ± 1."""
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((165, 40)) @ rng.standard_normal((40, 120))]
    for _ in range(6):
        mixed = np.maximum(layers[-1] @ rng.standard_normal((120, 120)) / 120 ** 0.5, 0)
        layers.append(mixed - mixed.mean(0))
    truth = np.repeat(np.arange(7), 30)
    y = np.empty((165, len(truth), 3))
    for v, k in enumerate(truth):
        signal = layers[k] @ rng.standard_normal(120)
        y[:, v] = (signal / signal.std())[:, None] + 0.7 * rng.standard_normal((165, 3))
    scores = np.stack([voxelwise(gram(x), y, random_splits()).best_r2 for x in layers])
    found = best_layer(scores)
    chosen = np.median(found.layer, 0)
    assert (np.abs(chosen - truth) <= 1).mean() >= 0.95 and (chosen == truth).mean() > 0.7


MEL = """
import numpy as np

from bm.features.audio import MelSpectrum


def network():
    def ask(audio):
        mel = MelSpectrum(norm_audio=False, normalized=False).compute(audio, 16000)
        return {"mel": np.concatenate([mel.mean(0), mel.std(0), np.abs(np.diff(mel, axis=0)).mean(0)])}
    return ask
"""


def test_real_components_are_predicted_from_a_spectrum(shared_data, tmp_path, monkeypatch):
    """Six fMRI components of 165 sounds from level, spread and change in 40 bands: the acoustic ones best."""
    folder = tmp_path / "natsounds"
    folder.mkdir()
    for name in ("natsound165_neural", "natsound165_sounds"):
        (folder / name).symlink_to(shared_data(name))
    (tmp_path / "mel_net_for_tests.py").write_text(MEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    solver, xp = run(tmp_path, f"study_paths.natsounds={folder}", "selections.natsounds_fmri.space=components",
                     "encoding.model='mel_net_for_tests:network'")
    metrics = solver.run()
    table = pd.read_parquet(xp / "voxels.parquet").groupby("voxel", observed=True, sort=False)["r_test"].median()
    assert metrics["n_voxels"] == 6 and 0.35 < metrics["r"] < 0.8
    assert table.iloc[:3].min() > 0.5 > table.iloc[3:].min() > 0.1


@pytest.mark.slow
def test_whisper_is_like_auditory_cortex(shared_data, tmp_path):
    """The paper's protocol on real voxels: trained layers above .85, untrained ones far below."""
    folder = tmp_path / "natsounds"
    folder.mkdir()
    for name in ("natsound165_neural", "natsound165_sounds"):
        (folder / name).symlink_to(shared_data(name))
    own = [f"study_paths.natsounds={folder}", f"encoding.model={shared_data('whisper_tiny_en_encoder')}",
           "encoding.n_splits=5"]
    r = {}
    for name, more in [("trained", []), ("random", ["encoding.random=true"])]:
        (tmp_path / name).mkdir()
        r[name] = run(tmp_path / name, *own, *more)[0].run()["r"]
    assert r["trained"] >= 0.85 and r["random"] < 0.6


def test_repetitions_that_are_not_counted_from_0():
    """Every sound must have every repetition; nothing is left as it lay in memory."""
    def recording(repetition):
        events = pd.DataFrame({"kind": "sound", "stimulus_id": list("abab"), "start": 0.0, "duration": 1.0,
                               "repetition": repetition})
        return SimpleNamespace(name="r", events=lambda: events, signal=lambda: SimpleNamespace(
            rate=None, read=lambda: np.arange(8.0).reshape(4, 2)))
    values = one_recording(recording([0, 0, 1, 1]), ["a", "b"], [(0, None)])
    assert values.transpose(2, 0, 1).ravel().tolist() == list(range(8))
    for repetition in ([1, 1, 2, 2], [0, 0, 2, 1], [0, 0, 0, 1]):
        with pytest.raises(ValueError, match="expected 0 to 1 once per sound"):
            one_recording(recording(repetition), ["a", "b"], [(0, None)])
