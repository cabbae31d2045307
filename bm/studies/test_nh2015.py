"""On twins in the published formats; the data themselves are not here."""
import pickle

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from bm.store import file_sha256
from bm.studies import STUDIES
from bm.studies.convert import convert, load_restricted
from bm.studies.nh2015 import RESPONSES, TABLE
from bm.studies.twins import make_twin
from scripts.study import main


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return {name: make_twin(name, tmp_path_factory.mktemp(name) / "twin") for name in ("nh2015", "b2021")}


def recordings(name, folder, **options):
    return list(STUDIES[name](folder, n_sounds=12, **options).recordings())


def test_voxels_with_all_repetitions_in_the_published_order(twins):
    one, two = recordings("nh2015", twins["nh2015"])
    assert (one.subject, two.subject, one.uid) == ("1", "4", "subject01")
    signals = [recording.signal() for recording in (one, two)]
    assert [signal.shape for signal in signals] == [(36, 4), (36, 3)] and signals[0].rate is None
    assert signals[0].channels["name"].tolist() == ["voxel40", "voxel7", "voxel99", "voxel3"]
    assert signals[1].channels["region"].tolist() == ["Primary", "Lateral", ""]
    assert {"subj_idx", "hemi", "coord_id", "voxel_id"} <= set(signals[0].channels)
    raw = np.load(twins["nh2015"] / "data/neural/NH2015" / RESPONSES)
    np.testing.assert_array_equal(signals[1].read(), raw[:, [5, 7, 8]].transpose(2, 0, 1).reshape(36, 3))
    events = one.events()
    assert events["repetition"].tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert events["stimulus_id"][1] == events["stimulus_id"][13] == "stim10_noise_1" == one.names()[1]
    assert events["category"].tolist()[:4] == ["Music", "EngSpeech", "Nature", "Mechanical"]
    assert [r.subject for r in recordings("nh2015", twins["nh2015"], subjects=[4])] == ["4"]


def test_the_later_study_keeps_the_sounds_of_the_first(twins):
    one, two = recordings("b2021", twins["b2021"])
    assert [one.signal().shape, two.signal().shape] == [(36, 3), (36, 2)]
    raw = np.load(twins["b2021"] / "data/neural/B2021" / RESPONSES)
    assert len(raw) == 15
    np.testing.assert_array_equal(two.signal().read(), raw[:12, 3:].transpose(2, 0, 1).reshape(36, 2))


def test_components_come_in_the_order_of_the_sounds(twins):
    [group] = recordings("nh2015", twins["nh2015"], space="components")
    assert group.signal().channels["name"].tolist() == ["lowfreq", "highfreq", "speech"]
    values = group.signal().read()
    voxels = recordings("nh2015", twins["nh2015"])[0].signal().read()[:12]
    fit = np.linalg.lstsq(np.column_stack([values[:, :2], np.ones(12)]), voxels, rcond=None)[0]
    residual = voxels - np.column_stack([values[:, :2], np.ones(12)]) @ fit
    assert (residual.var(0) < 0.5 * voxels.var(0)).all()  # another order would explain little
    np.testing.assert_allclose(values[:, 2], values[:, :2].sum(1))


@pytest.mark.parametrize("name,fault,message", [
    ("nh2015", "missing_sound", "1 of 12 sounds are not there, the first is stim10_noise_1.wav"),
    ("nh2015", "missing_file", "no file .*neural_stim_meta.npy"),
    ("nh2015", "truncated_raw", "mmap length|Mmap|larger than|greater than"),
    ("nh2015", "transposed", r"has shape \(9, 12, 3\), but voxel_features_meta.npy has 9 voxels"),
    ("nh2015", "wrong_voxels", "7 voxels, which are not, in this order, the 7"),
    ("nh2015", "missing_value", "1 voxels of 3 repetitions have NaN"),
    ("b2021", "wrong_order", "the first that differs is number 0"),
    ("b2021", "transposed", r"has shape \(5, 15, 3\)"),
])
def test_what_is_wrong_is_said(name, fault, message, tmp_path):
    folder = make_twin(name, tmp_path / "twin", fault)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        [(recording.events(), recording.signal()) for recording in recordings(name, folder)]


def test_wrong_arguments(twins, tmp_path):
    cases = [({"spcae": "voxels"}, "did you mean 'space'"), ({"space": "electrodes"}, "expected voxels or components")]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            STUDIES["nh2015"](twins["nh2015"], **options)
    with pytest.raises(ValueError, match="names 12 sounds, 12 of them different: expected 165"):
        list(STUDIES["nh2015"](twins["nh2015"]).recordings())[0].events()
    with pytest.raises(ValueError, match="no subjects .'3'.; there are 1, 4"):
        recordings("nh2015", twins["nh2015"], subjects=[3])
    with pytest.raises(FileNotFoundError, match="no folder neural/NH2015"):
        list(STUDIES["nh2015"](tmp_path).recordings())


def test_a_pickle_is_read_only_where_it_is_trusted(tmp_path, capsys):
    folder = make_twin("nh2015", tmp_path / "twin", converted=False)
    pickled = folder / "data/neural/NH2015" / f"{TABLE}.pkl"
    with pytest.raises(FileNotFoundError, match="scripts.study convert --trust .*pkl --sha256"):
        recordings("nh2015", folder)
    assert main(["convert", "--trust", str(pickled), "--sha256", "0" * 64]) == 2
    assert "it is not the file that is trusted" in capsys.readouterr().err
    assert not pickled.with_suffix(".parquet").exists()
    assert main(["convert", "--trust", str(pickled), "--sha256", file_sha256(pickled)]) == 0
    table = pd.read_parquet(pickled.with_suffix(".parquet"))
    assert len(recordings("nh2015", folder)) == 2 and table["voxel_id"].tolist() == [40, 7, 99, 3, 55, 8, 70]
    assert table["roi_label_general"].isna().tolist() == [False] * 6 + [True]


class Harm:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("content", [Harm(), {"layer": Harm()}, pd.DataFrame({"a": [Harm()]}), np.array([Harm()])])
def test_a_pickle_runs_nothing(content, tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="builtins.exec, which is neither"):
        convert(path, file_sha256(path))
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pkl"]


def test_activations_become_safetensors(tmp_path):
    path, arrays = tmp_path / "sound.pkl", {"conv1": np.arange(5.0, dtype=np.float32), "fc": np.ones(3)}
    path.write_bytes(pickle.dumps(arrays))
    found = load_file(convert(path, file_sha256(path)))
    assert set(found) == set(arrays) and all((found[name] == arrays[name]).all() for name in arrays)
    for content, message in [([1, 2], "holds a list"), ({"a": "b"}, "holds a dict")]:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            convert(path, file_sha256(path))
    with pytest.raises(ValueError, match="cannot be read as a pickle"):
        load_restricted(b"hello", "x")
