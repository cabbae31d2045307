"""Networks of one's own; CREPE with its published weights."""
import sys

import numpy as np
import pytest
import torch

from bm.features import FeatureContext, build_feature
from bm.features.audio import read_audio
from bm.features.check import check_feature
from bm.features.crepe import Crepe, frames_of, frequency, load
from bm.features.pitch import Pitch

TINY = """
import numpy as np

class Net:
    in_sampling, rate, dim, context_s = 8000, 100.0, 2, 0.01

    def __init__(self, weight, power):
        self.weight, self.power = weight, power

    def __call__(self, audio):
        loud = np.abs(audio[:len(audio) // 80 * 80]).reshape(-1, 80).max(1) ** self.power
        return np.stack([loud, self.weight * loud], 1).astype(np.float32)

def net(checkpoint, device, power=1):
    return Net(float(checkpoint.read_text()), power)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Parameters of a network in a module and a checkpoint of its own."""
    (tmp_path / "my_own_net.py").write_text(TINY)
    (tmp_path / "weight.txt").write_text("-2")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_net", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {"function": "my_own_net:net", "checkpoint": str(tmp_path / "weight.txt")}


def test_contract(own):
    check_feature("AudioNet", own, {"options": {"power": 2}}, other_process=False)


def test_identity_is_of_checkpoint_and_source(own, tmp_path):
    feature = build_feature("AudioNet", {**own, "checkpoint": "weight.txt"}, FeatureContext(tmp_path))
    first, audio = feature.identity(), np.ones(8000, np.float32)
    assert feature.compute(audio, 8000)[0].tolist() == [1, -2]
    (tmp_path / "weight.txt").write_text("-30")
    assert feature.identity() != first and feature.compute(audio, 8000)[0].tolist() == [1, -30]
    second = feature.identity()
    (tmp_path / "my_own_net.py").write_text(TINY + "\n# changed\n")
    assert feature.identity() != second


def test_what_is_not_there_is_said(own, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint 'x.pth'"):
        build_feature("AudioNet", {**own, "checkpoint": "x.pth"})
    for function in ("my_own_net:nett", "nowhere.at.all:net", "my_own_net"):
        with pytest.raises(ValueError, match="expected module:function"):
            build_feature("AudioNet", {**own, "function": function})


def test_crepe_finds_tones_and_the_voice(shared_data):
    """Median f0 of this clip's voiced frames: 103.8 Hz with the published code. YIN hears the same."""
    net = load(shared_data("crepe_tiny") / "tiny.pth")
    assert sum(p.numel() for p in net.parameters()) == 486_552
    t = np.arange(8000) / 16_000
    audio, rate = read_audio(shared_data("librivox_aligned") / "sense_and_sensibility_01_austen_64kb-0870.wav")
    with torch.inference_mode():
        for f0 in (110.0, 220.0, 440.0):
            heard = frequency(net(frames_of(np.sin(2 * np.pi * f0 * t))))
            assert float(heard[10:-10].median()) == pytest.approx(f0, rel=0.01)
        assert len(frames_of(audio)) == 711
        probability = net(frames_of(audio)[::2])  # a row every 20 ms
    f0, voiced = frequency(probability).numpy(), probability.max(1).values.numpy() > 0.5
    assert voiced.sum() > 100 and np.median(f0[voiced]) == pytest.approx(103.8, rel=0.04)
    yin = Pitch(min_f0=70, frame=512).compute(audio, rate)[::5, 0]
    both = voiced[:len(yin)] & (yin > 0)
    assert both.sum() > 100
    assert np.median(np.abs(yin / f0[:len(yin)] - 1)[both]) < 0.03
    assert (np.abs(yin / f0[:len(yin)] - 1)[both] < 0.1).mean() > 0.8


def test_crepe_as_a_feature(shared_data):
    path = shared_data("crepe_tiny") / "tiny.pth"
    feature = build_feature("AudioNet", {"function": "bm.features.crepe:embedding", "checkpoint": str(path)})
    audio, rate = read_audio(shared_data("librivox_aligned") / "sense_and_sensibility_01_austen_64kb-0930.wav")
    rows = feature.compute(audio[:rate], rate)
    assert rows.shape == (101, 256) and feature.rate == 100
    with torch.inference_mode():
        frames = frames_of(audio[:rate])
        assert Crepe().eval()(frames[:2]).shape == (2, 360)
        np.testing.assert_allclose(rows[40].reshape(8, 32), load(path).embed(frames[40:41])[0].numpy(), atol=1e-4)
