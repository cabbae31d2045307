"""Every way to name a network, on tiny ones; what is kept, and whose weights they are."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.numpy import save_file
from torch import nn

from bm.features.activations import compute, level, read, study_sounds
from bm.features.networks import Weights, open_network, permute, reinitialise
from bm.features.test_speech import make
from bm.store import Store
from bm.studies import STUDIES
from bm.studies.twins import make_twin
from scripts.activations import main

CODE = '''
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    in_sampling = 8000

    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv1d(1, width, 80, stride=40)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.drop(self.act(self.norm(self.conv(x[:, None]))))
        return self.head(x.mean(-1))


def trained(width=4):
    torch.manual_seed(1)
    return Net(width).eval()


def plain():
    return lambda audio: {"power": np.array([np.mean(audio ** 2)]),
                          "frames": audio[:len(audio) // 100 * 100].reshape(-1, 100)}
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "tiny_net_for_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "tiny_net_for_tests:trained"
    sys.modules.pop("tiny_net_for_tests", None)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = make_twin("nh2015", tmp_path_factory.mktemp("nh") / "twin", sounds=5)
    return study_sounds(STUDIES["nh2015"](folder, n_sounds=5).recordings())


def test_sounds_of_a_study_are_heard_once(sounds):
    assert list(sounds) == [f"stim{7 * i + 3}_noise_{i}" for i in range(5)]


def test_every_module_is_heard_and_averaged(code, sounds, tmp_path):
    network = open_network(code, Path("none"))
    found = compute(Store(tmp_path / "cache"), network, sounds, rms=None)
    assert found.layers == ["conv", "norm", "act", "head"]  # dropout passes its input on
    assert network.timed == {"conv": True, "norm": True, "act": True, "head": False} and network.rate == 8000
    from bm.features.audio import read_audio, resample
    net = sys.modules["tiny_net_for_tests"].trained()
    with torch.no_grad():
        for row, path in enumerate(sounds.values()):
            audio = torch.from_numpy(resample(read_audio(path)[0], 16_000, 8000))
            np.testing.assert_allclose(found.layer("conv")[row], net.conv(audio[None, None])[0].mean(-1), atol=1e-6)
            np.testing.assert_allclose(found.layer("head")[row], net(audio[None])[0], atol=1e-6)
    kept = compute(Store(tmp_path / "cache"), network, sounds, time=True, rms=None)
    assert kept.layer("conv").shape == (5, 399, 4) and kept.file != found.file
    np.testing.assert_allclose(kept.layer("conv").mean(1), found.layer("conv"), atol=1e-6)
    some = open_network(code, Path("none"), layers="*o*")
    assert compute(Store(tmp_path / "cache"), some, sounds).layers == ["conv", "norm"]
    with pytest.raises(ValueError, match="matches no module; there are conv, act"):
        open_network(code, Path("none"), layers="conv9")


def test_what_is_computed_is_kept(code, sounds, tmp_path, monkeypatch):
    store = Store(tmp_path / "cache")
    one = compute(store, open_network(code, Path("none")), sounds)
    stamp = one.file.stat().st_mtime_ns
    assert compute(store, open_network(code, Path("none")), sounds).file.stat().st_mtime_ns == stamp
    index = json.loads((one.file.parent / "index.json").read_text())
    assert index["sounds"] == list(sounds) and index["layers"][0] == {"name": "conv", "shape": [5, 4]}
    files = {one.file}
    for weights in (Weights(permuted=True), Weights(permuted=True, seed=1), Weights(random=True)):
        files.add(compute(store, open_network(code, Path("none"), weights=weights), sounds).file)
    files.add(compute(store, open_network(code, Path("none"), options={"width": 6}), sounds).file)
    files.add(compute(store, open_network(code, Path("none")), sounds, rms=None).file)
    assert len(files) == 6


def test_permuted_weights_are_the_same_numbers_elsewhere():
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    one, two, kept = net(), net(), net()
    permute(one, 0)
    permute(two, 0)
    permute(kept, 0, ("0.*",))
    before = net().state_dict()
    for name, tensor in one.state_dict().items():
        np.testing.assert_array_equal(tensor.sort().values if tensor.ndim < 2 else tensor.flatten().sort().values,
                                      before[name].flatten().sort().values)
        assert torch.equal(tensor, two.state_dict()[name])
    assert not torch.equal(one[0].weight, before["0.weight"]) and torch.equal(kept[0].weight, before["0.weight"])
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    permute(tied, 3)
    assert torch.equal(tied["a"].weight, tied["b"].weight)


def test_untrained_weights_are_drawn_anew():
    one, two = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    state = torch.get_rng_state()
    reinitialise(one, 7)
    reinitialise(two, 7)
    assert torch.equal(one[0].weight, two[0].weight) and torch.equal(state, torch.get_rng_state())

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="Own 'own' has parameters, but no reset_parameters"):
        reinitialise(nn.ModuleDict({"own": Own()}), 0)


@pytest.mark.parametrize("kind,inside", [("wav2vec2", "encoder.layers.0.*"), ("whisper", "layers.0.*")])
def test_hidden_states_of_hugging_face(kind, inside, tmp_path):
    """Only the rows that are about the sound count, though Whisper hears a longer window."""
    make(kind, tmp_path / kind)
    network = open_network(str(tmp_path / kind), tmp_path)
    audio = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    found = network.hear(audio, 16_000)
    assert list(found)[:2] == ["embeddings", "layer1"] and all(network.timed.values())
    from bm.features import FeatureContext, build_feature
    feature = build_feature("SpeechModel", {"model": str(tmp_path / kind), "layers": [2]},
                            FeatureContext(tmp_path, "cpu"))
    track = feature.compute(audio, 16_000)
    rows = len(found["layer2"])
    np.testing.assert_allclose(found["layer2"], track[:rows], atol=2e-3)
    assert found["layer2"].shape[1] == 16 and rows in (len(track), len(track) - 1, len(track) - 2)
    other = open_network(str(tmp_path / kind), tmp_path, weights=Weights(permuted=True)).hear(audio, 16_000)
    random = open_network(str(tmp_path / kind), tmp_path, weights=Weights(random=True)).hear(audio, 16_000)
    assert np.abs(other["layer2"] - found["layer2"]).max() > 1e-3 < np.abs(random["layer2"] - found["layer2"]).max()
    inner = open_network(str(tmp_path / kind), tmp_path, layers=inside).hear(audio, 16_000)
    assert len(inner) > 3
    assert {len(value) for value in inner.values()} == {rows}


def test_torchaudio_bundles(monkeypatch, tmp_path):
    class Bundle:
        sample_rate = 16_000

        def get_model(self):
            torch.manual_seed(0)
            return torchaudio.models.wav2vec2_model(
                "group_norm", [(8, 10, 5), (8, 8, 64)], False, 16, 0.0, 3, 1, 2, 2, 0.0, 24, 0.0, 0.0, False, 0.0, None)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", Bundle(), raising=False)
    network = open_network("torchaudio:TINY", tmp_path, layers="encoder.transformer.layers.?")
    found = network.hear(np.random.default_rng(0).standard_normal(16_000), 16_000)
    assert list(found) == ["encoder.transformer.layers.0", "encoder.transformer.layers.1"]
    assert found["encoder.transformer.layers.1"].shape == (50, 16) and all(network.timed.values())
    with pytest.raises(ValueError, match="no bundle 'NONE'; it has .*HUBERT_BASE"):
        open_network("torchaudio:NONE", tmp_path)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.arange(1.0, 5.0))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        frames = x.unfold(1, 400, 400).std(2)
        return {"frames": frames.unsqueeze(2) * self.w, "whole": frames.mean(1, keepdim=True) * self.w}


def test_torchscript_gives_its_outputs(tmp_path, sounds):
    torch.jit.script(Two()).save(str(tmp_path / "two.pt"))
    network = open_network("two.pt", tmp_path)
    assert network.timed == {"frames": True, "whole": False}
    found = compute(Store(tmp_path / "cache"), network, sounds)
    np.testing.assert_allclose(found.layer("frames"), found.layer("whole"), rtol=1e-4)
    np.testing.assert_allclose(found.layer("whole")[:, 3], 4 * found.layer("whole")[:, 0], rtol=1e-4)
    with pytest.raises(ValueError, match="how its weights began: use permuted"):
        open_network("two.pt", tmp_path, weights=Weights(random=True))
    with pytest.raises(FileNotFoundError, match="no TorchScript file 'none.pt'"):
        open_network("none.pt", tmp_path)


def test_a_function_of_samples(code, tmp_path, sounds):
    found = compute(Store(tmp_path / "cache"), open_network("tiny_net_for_tests:plain", tmp_path), sounds, rms=0.1)
    assert found.layer("frames").shape == (5, 100)
    np.testing.assert_allclose(found.layer("power"), 0.01, rtol=0.02)
    with pytest.raises(ValueError, match="no weights that could be permuted"):
        open_network("tiny_net_for_tests:plain", tmp_path, weights=Weights(permuted=True))
    for name in ("tiny_net_for_tests:nothing", "no_such_module:x"):
        with pytest.raises(ValueError, match="expected a name or folder of Hugging Face"):
            open_network(name, tmp_path)
    with pytest.raises(ValueError, match="expected one of them at most"):
        Weights(permuted=True, random=True)


def test_the_baseline(tmp_path):
    network = open_network("spectrotemporal", tmp_path, layers="amp*")
    audio = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    found = network.hear(audio, 20_000)
    assert list(found) == ["amplitude"] and found["amplitude"].shape == (23_421,) and network.rate == 20_000
    with pytest.raises(ValueError, match="no weights that could be permuted"):
        open_network("spectrotemporal", tmp_path, weights=Weights(random=True))


def test_level():
    audio = np.random.default_rng(0).standard_normal(1000) + 3
    assert np.sqrt((level(audio, 0.1) ** 2).mean()) == pytest.approx(0.1) and abs(level(audio, 0.1).mean()) < 1e-7
    assert level(audio, None) is audio and (level(np.ones(10), 0.1) == 0).all()


def test_published_files(tmp_path):
    rng = np.random.default_rng(0)
    for sound in ("stim1_a", "stim2_b"):
        save_file({"conv": rng.random((2, 3)).astype(np.float32), "fc": rng.random(4)},
                  tmp_path / f"{sound}_activations.safetensors")
    found = read(tmp_path)
    assert found.sounds == ["stim1_a", "stim2_b"] and found.layer("conv").shape == (2, 6)
    assert found.rows(["stim2_b"]) == [1]
    with pytest.raises(ValueError, match="lacks 1 of 1 sounds, the first is 'x'"):
        found.rows(["x"])
    with pytest.raises(FileNotFoundError, match="has no activations"):
        read(tmp_path / "none")


def test_published_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra 'published'")
    with h5py.File(tmp_path / "natsound_activations.h5", "w") as file:
        file["layer_list"] = np.array([b"relu1", b"fc"])
        file["relu1"], file["fc"] = np.ones((165, 7), np.float32), np.zeros((165, 2), np.float32)
    found = read(tmp_path / "natsound_activations.h5")
    assert found.layers == ["relu1", "fc"] and found.layer("relu1").shape == (165, 7) and found.sounds == []


def test_the_command(code, tmp_path, capsys):
    folder = make_twin("nh2015", tmp_path / "twin", sounds=4)
    arguments = [f"model={code}", "study=nh2015", f"path={folder}", "selection.n_sounds=4",
                 f"cache={tmp_path / 'cache'}"]
    assert main([*arguments, "options.width=5"]) == 0
    said = capsys.readouterr().out
    assert "conv" in said and "4 × 5" in said and "4 layers, 4 sounds" in said
    assert main([*arguments, "permutd=true"]) == 2
    assert "unknown key 'permutd'" in capsys.readouterr().err
    assert main(["study=nh2015"]) == 2 and "model=… is missing" in capsys.readouterr().err
    assert main([]) == 0 and "permuted=true" in capsys.readouterr().out
