"""The published files read back number by number; a tiny twin of them for what goes wrong."""
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.config import Config, check_config, to_plain
from bm.data.assemble import Data, assemble
from bm.data.prepare import prepare
from bm.events import check_events
from bm.solvers import build_solver
from bm.store import Store
from bm.studies.natsounds import FACTS, NatSounds
from bm.studies.natsounds.study import COMPONENTS, LABELS, RESPONSES, WEIGHTS
from bm.studies.natsounds.twin import make_twin

ROOT = Path(__file__).parents[3]


def config(folder: Path, cache: Path, *overrides: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check_config(to_plain(compose("config", [
            "preset=natsounds", "device=cpu", f"study_paths.natsounds={folder}", f"cache={cache}", *overrides])))


# the published data

@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory) -> Path:
    """A folder with links to where the data are; their layout and names are not those of the repositories."""
    folder = tmp_path_factory.mktemp("natsounds")
    for name in ("natsound165_neural", "natsound165_sounds"):
        (folder / name).symlink_to(shared_data(name))
    return folder


@pytest.fixture(scope="module")
def raw(shared_data):
    def load(name):
        return scipy.io.loadmat(shared_data("natsound165_neural") / f"{name}.mat", squeeze_me=True)
    return load


@pytest.fixture(scope="module")
def folds(published, tmp_path_factory) -> list[Data]:
    cache = tmp_path_factory.mktemp("cache")
    return [assemble(config(published, cache, f"dset.fold={fold}"), ROOT) for fold in range(5)]


def test_ecog_reads_back(published, raw):
    study = NatSounds(published)
    study.prepare()
    assert {path.name for path in published.iterdir()} == {"natsound165_neural", "natsound165_sounds"}
    (recording,) = study.recordings()
    signal, responses, weights = recording.signal(), raw("nh2022_ecog_component_responses"), \
        raw("nh2022_ecog_component_weights")
    array = signal.read()
    assert signal.rate == 25 and array.shape == (165 * 75, 272) and signal.duration == 495
    expected = np.einsum("stc,ce->ste", responses["R"].astype(float), weights["W"].astype(float))
    np.testing.assert_allclose(array.reshape(165, 75, 272), expected, rtol=0, atol=3e-6)
    assert np.linalg.matrix_rank(array) == 15
    table = signal.channels
    assert table["region"].nunique() == 15 and table["name"].is_unique
    assert [int(r[1:]) for r in table["region"]] == weights["subject_indices"].tolist()
    assert table[["x", "y", "z", "layout_x", "layout_y"]].isna().all(axis=None)
    assert (table["hemisphere"] == "left").sum() == 126
    np.testing.assert_array_equal(table[["x_infl", "y_infl", "z_infl"]], weights["elec_verts_ras"])
    (components,) = NatSounds(published, space="components").recordings()
    np.testing.assert_array_equal(components.signal().read().reshape(165, 75, 15), responses["R"])


def test_fmri_reads_back(published, raw, tmp_path):
    (recording,) = NatSounds(published, target="fmri").recordings()
    data = raw("nh2015_fmri_components")
    signal = recording.signal()
    assert signal.rate is None and signal.duration is None and signal.shape == (165, 11065)
    np.testing.assert_array_equal(signal.read(), data["R"] @ data["W"])
    (recording6,) = NatSounds(published, target="fmri", space="components").recordings()
    components = recording6.signal()
    np.testing.assert_array_equal(components.read(), data["R"])
    assert list(components.channels["name"]) == ["lowfreq", "highfreq", "envsounds", "pitch", "speech", "music"]
    prepared = prepare(recording, Store(tmp_path), 25, 0.0)
    assert prepared.sample_rate is None and prepared.array.dtype == np.float32
    np.testing.assert_allclose(prepared.array, data["R"] @ data["W"], rtol=1e-6)
    assert np.linalg.matrix_rank(prepared.array.astype(float), tol=1e-2) == 6
    assert recording.events()["stimulus_id"].tolist() == [str(name) for name in data["stim_names"]]


def test_events(published, raw):
    expected = {"ecog": [str(n)[:-4] for n in raw("nh2022_ecog_component_responses")["stim_names"]],
                "fmri": [str(n) for n in raw("nh2015_fmri_components")["stim_names"]]}
    categories = raw("nh2015_fmri_components")
    category = dict(zip(map(str, categories["stim_names"]), map(str, categories["category_labels"]), strict=True))
    assert expected["ecog"] != expected["fmri"] and sorted(expected["ecog"]) == sorted(expected["fmri"])
    for target, names in expected.items():
        (recording,) = NatSounds(published, target=target).recordings()
        events = check_events(recording.events(), recording.name, 495.0)
        assert events["stimulus_id"].tolist() == names
        assert [Path(path).stem for path in events["filepath"]] == names
        np.testing.assert_array_equal(events["start"], 3.0 * np.arange(165))
        assert (events["duration"] == 2.0).all() and (events["offset"] == 0).all()
        assert events["stimulus"].nunique() == 165  # no two files with the same content
        assert events["category"].tolist() == [category[name] for name in names]
        assert events["category"].nunique() == 11


def test_facts(published):
    for target, facts in FACTS.items():
        (recording,) = NatSounds(published, target=target).recordings()
        signal = recording.signal()
        assert (signal.shape[1], signal.rate) == (facts.sensors, facts.rate)
        assert "none stated" in facts.licence and "rank" in facts.notes
    assert NatSounds.facts is FACTS["ecog"]
    assert FACTS["ecog"].hours == pytest.approx(495 / 3600)
    assert FACTS["ecog"].subjects == NatSounds(published).recordings().__next__().signal().channels["region"].nunique()


def test_every_sound_is_one_segment(folds, raw):
    weights = raw("nh2022_ecog_component_weights")["W"]
    expected = raw("nh2022_ecog_component_responses")["R"] @ weights
    for data in folds:
        assert len(data.segments) == len(data.blocks) == 165
        assert data.segments["candidate"].nunique() == data.segments["block"].nunique() == 165
        assert data.spec.times == 75 and data.spec.channels == 272
        np.testing.assert_array_equal(data.segments["first"], 75 * np.arange(165))
        np.testing.assert_array_equal(data.blocks["stop"] - data.blocks["start"], np.full(165, 3.0))
    batch = folds[0].dataset("train").__getitems__(np.arange(165))
    np.testing.assert_allclose(batch.brain.transpose(1, 2), expected, rtol=0, atol=3e-6)
    mel = batch.features["MelSpectrum"].numpy()
    assert mel.shape == (165, 40, 75)
    assert (mel[:, :, 50:] == -5).all()  # silence after 2 s: log10(1e-5)
    assert (mel[:, :, :50].std(axis=2) > 0).all()


def test_folds_part_the_sounds(folds):
    tested = [set(data.segments["block"][data.ids("test")]) for data in folds]
    assert [len(t) for t in tested] == [33] * 5 and len(set.union(*tested)) == 165
    for data in folds:
        by_split = {split: set(data.segments["stimulus"][data.ids(split)]) for split in ("train", "valid", "test")}
        assert sum(map(len, by_split.values())) == len(set.union(*by_split.values())) == 165
        assert 10 <= len(by_split["valid"]) <= 25
        assert (data.audit.table[["brain_s", "stimulus_s"]] == 0).all(axis=None)


def test_fmri_is_no_signal_to_decode(published, tmp_path):
    with pytest.raises(ValueError, match="has one row per event"):
        assemble(config(published, tmp_path, "dset.selections=[natsounds_fmri]"), ROOT)


# the manifest and the tiny twin

def test_manifest_is_pinned():
    files = NatSounds.manifest.files
    assert len(files) == 169 and sum(file.path.endswith(".wav") for file in files) == 165
    commits = ("/natsound165-neuron2015/b41b99ff620d7997dbf278fc770f58566707726a/",
               "/song-ecog-current-biology/03bb41e95d04c191acd3b76b1c11d7185096f1f3/")
    for file in files:
        assert len(file.sha256) == 64 and file.size > 1000
        assert all(url.startswith("https://") and any(c in url for c in commits) for url in file.urls) and file.urls
    assert NatSounds(Path("x")).wanted().plan(Path("nowhere")).endswith("29.8 MB to download")
    shipped = (ROOT / "setup.py").read_text()
    assert '"bm.studies": ["*.json", "*/*.json"]' in shipped


@pytest.fixture
def twin(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(NatSounds, "manifest", make_twin(tmp_path / "twin"))
    return tmp_path / "twin"


def rewrite(study: NatSounds, name: str, **changes) -> None:
    """Changes variables of a file of the twin, and its checksum."""
    path = study.folder / name
    data = {key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("__")}
    scipy.io.savemat(path, data | changes)
    files = tuple(replace(f, size=None, sha256=None) if f.path == name else f for f in study.manifest.files)
    NatSounds.manifest = replace(study.manifest, files=files)


def test_twin_has_the_format(twin, tmp_path):
    for target, shape in {"ecog": (750, 6), "fmri": (10, 8)}.items():
        study = NatSounds(twin, target=target)
        study.prepare()
        (recording,) = study.recordings()
        copy = pickle.loads(pickle.dumps(recording))
        assert copy == recording and len(pickle.dumps(recording)) < 20_000
        assert copy.signal().read().shape == copy.signal().shape == shape
        events = check_events(copy.events(), copy.name)
        assert len(events) == 10 and set(events["category"]) == {"Music", "Speech", "Nature"}
    assert all(path.exists() for path in recording.source_files())


def test_twin_trains(twin, tmp_path):
    cfg = config(twin, tmp_path / "cache", "optim.epochs=2", "dset.valid_ratio=0.2", "simpleconv.hidden.meg=8",
                 "simpleconv.depth=1", "test.n_boot=20", "dset.split_assign_seed=1")
    (tmp_path / "xp").mkdir()
    build_solver(cfg, tmp_path / "xp", ROOT, Link(tmp_path / "xp/history.json")).run()
    result = json.loads((tmp_path / "xp/result.json").read_text())["test"]
    assert result["n"] == result["n_candidates"] == 2
    assert len(pd.read_parquet(tmp_path / "xp/test_segments.parquet")) == 2


def test_what_does_not_match_is_named(twin):
    study = NatSounds(twin)
    (recording,) = study.recordings()
    labels = twin / LABELS
    labels.write_text(labels.read_text().replace("stim10_tone_1,", "stim10_tune_1,"))
    with pytest.raises(ValueError, match=r"10 categories do not match the 10 stimuli.*stim10_tone_1"):
        recording.events()
    with pytest.raises(ValueError, match=r"category_labels.csv has SHA-256 .* remove it"):
        study.prepare()
    rewrite(study, RESPONSES, t=np.arange(75)[:, None] / 50)
    with pytest.raises(ValueError, match=r"at 0–1.48 s, expected .* fill 3 s"):
        recording.signal()


def test_missing_files(twin):
    (twin / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files are not in .*ecog_component_weights.mat: call prepare"):
        list(NatSounds(twin).recordings())
    with pytest.raises(FileNotFoundError, match=r"study natsounds: 1 of its 13 files.*study_paths.natsounds"):
        NatSounds(twin).prepare()
    NatSounds(twin, target="fmri").prepare()  # needs none of it
    assert (twin / COMPONENTS).exists()


@pytest.mark.parametrize("path, selection, message", [
    (Path("x"), {"targit": "ecog"}, "unknown selection keys .*did you mean 'target'"),
    (Path("x"), {"target": "eeg"}, "target='eeg', expected one of ecog, fmri"),
    (Path("x"), {"space": "voxels"}, "space='voxels', expected one of None, electrodes, components"),
    (None, {}, "no path"),
])
def test_bad_selections(path, selection, message):
    with pytest.raises(ValueError, match=message):
        NatSounds(path, **selection)
