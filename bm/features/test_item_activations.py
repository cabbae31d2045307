"""Activations of words against the slow way: the network on each word's own window, and the mean over its frames."""
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from bm.features.activations import level
from bm.features.audio import read_audio
from bm.features.item_activations import compute_items
from bm.features.networks import Network, _returned, open_network
from bm.features.test_speech import make
from bm.store import Store
from bm.studies.twins import make_twin
from scripts.activations import main

RATE = 16_000


def sound(path: Path, seconds: float = 9.0, seed: int = 0) -> Path:
    """Noise whose loudness changes."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    soundfile.write(path, 0.1 * rng.standard_normal(len(t)) * (1.2 + np.sin(3 * t + seed)), RATE)
    return path


def items(path: Path, spans: list[tuple[float, float]]) -> pd.DataFrame:
    return pd.DataFrame({"item": [f"{path.stem}@{start:.3f}" for start, _ in spans], "path": str(path),
                         "start": [start for start, _ in spans], "duration": [length for _, length in spans]})


def running(seconds: float, identity: str = "running") -> Network:
    """Causal frames of 10 ms: the mean square of the last `seconds` of sound; and how many samples were heard."""
    def ask(audio: np.ndarray) -> dict[str, np.ndarray]:
        total = np.concatenate([[0], np.cumsum(audio.astype(float) ** 2)])
        ends = np.arange(160, len(audio) + 1, 160)
        starts = np.maximum(ends - int(seconds * RATE), 0)
        power = (total[ends] - total[starts]) / (ends - starts)
        return {"power": power[:, None], "heard": np.full((len(ends), 1), len(audio) / RATE)}
    grid = (80.0, 160.0)
    return Network(RATE, {"model": identity}, ask, {"power": True, "heard": True}, {"power": grid, "heard": grid})


SPANS = [(0.0, 0.3), (1.93, 0.2), (2.0, 0.35), (3.7, 0.004), (3.98, 0.5), (8.2, 0.31), (8.7, 0.4)]


def slowly(network: Network, path: Path, start: float, duration: float, context: float, end: float) -> dict:
    """One item: its window from the start of the block of `context` s before its own, up to `end`."""
    audio = level(read_audio(path)[0], 0.1)
    begin = max(int(start // context) - 1, 0) * context
    heard = audio[round(begin * RATE):round(end * RATE)]
    out = {}
    for name, frames in network.ask(heard).items():
        first, hop = network.frames[name]
        middle = begin + (first + hop * np.arange(len(frames))) / RATE
        inside = [row for row, at in zip(frames, middle, strict=True) if start <= at < min(start + duration, 9.0)]
        out[name] = np.mean(inside, 0) if inside else frames[np.abs(middle - start - duration / 2).argmin()]
    return out


@pytest.mark.parametrize("kind,checked", [("wav2vec2", (0, 1, 2, 3, 4, 5, 6)), ("whisper", (1, 3))])
def test_as_the_slow_way(kind, checked, tmp_path):
    """Whisper hears a padded window of 30 s, wav2vec 2.0 normalises each; both mix all instants."""
    make(kind, tmp_path / kind)
    network, path = open_network(str(tmp_path / kind), tmp_path), sound(tmp_path / "one.wav")
    found = compute_items(Store(tmp_path / "cache"), network, items(path, SPANS), 2.0)
    assert found.layers == ["embeddings", "layer1", "layer2", "layer3", "layer4"] and len(found.sounds) == 7
    ends = [2.13, 2.13, 4.48, 4.48, 4.48, 10.0, 10.0]  # a last word that goes on makes its window longer
    for row in checked:
        expected = slowly(network, path, *SPANS[row], 2.0, ends[row])
        for name in found.layers:
            np.testing.assert_allclose(found.layer(name)[row], expected[name], atol=2e-4 * np.abs(expected[name]).max())


def test_no_less_than_the_context_is_heard(tmp_path):
    """A network that remembers as long as the context says of every word what it says of the whole sound."""
    path = sound(tmp_path / "one.wav", 30.0)
    starts = np.sort(np.random.default_rng(1).uniform(0, 29.5, 60)).round(3)
    table = items(path, [(start, 0.3) for start in starts])
    whole = compute_items(Store(tmp_path / "a"), running(3.0), table, 100.0)
    windows = compute_items(Store(tmp_path / "b"), running(3.0), table, 3.0)
    np.testing.assert_allclose(windows.layer("power"), whole.layer("power"), rtol=1e-5)
    assert windows.layer("heard").max() < 6.4 and (whole.layer("heard") == 30).all()
    short = compute_items(Store(tmp_path / "c"), running(3.0), table, 1.0)
    assert np.abs(short.layer("power") / whole.layer("power") - 1).max() > 0.01


def test_each_sound_is_kept_once(tmp_path):
    one, two = sound(tmp_path / "one.wav"), sound(tmp_path / "two.wav", seed=1)
    asked: list[int] = []
    network = running(1.0)
    ask = network.ask
    network.ask = lambda audio: asked.append(len(audio)) or ask(audio)
    store = Store(tmp_path / "cache")
    first = compute_items(store, network, items(one, SPANS), 2.0)
    assert len(asked) == 3  # blocks of 2 s in which a word begins
    both = compute_items(store, network, pd.concat([items(two, SPANS[:2]), items(one, SPANS)]), 2.0)
    assert len(asked) == 4 and both.sounds[:2] == ["two@0.000", "two@1.930"]
    np.testing.assert_array_equal(both.layer("power")[2:], first.layer("power"))
    assert both.rows(["one@2.000"]) == [4]
    index = json.loads((first.file.parent / "index.json").read_text())
    assert index["context"] == 2.0 and index["layers"][0] == {"name": "power", "shape": [7, 1]}
    compute_items(store, network, items(one, SPANS), 4.0)
    assert len(asked) == 6  # another context is another entry


CODE_OF_CONVOLUTIONS = """
import torch
from torch import nn


def network(hop, kernel, padding=0):
    # layer 0: the mean of each window; layer 1: twice as many rows
    net = nn.Sequential(nn.Conv1d(1, 1, kernel, hop, padding, bias=False), nn.Upsample(scale_factor=2))
    with torch.no_grad():
        net[0].weight.fill_(1 / kernel)

    class Listens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = net

        def forward(self, x):
            return self.layer(x[:, None])
    return Listens()
"""


@pytest.mark.parametrize("hop,kernel,padding,middle", [
    (1024, 1024, 0, 512), (320, 400, 0, 200), (160, 401, 200, 0.5), (2048, 2048, 0, 1024), (12000, 12000, 0, 6000)])
def test_items_are_read_where_they_are(hop, kernel, padding, middle, tmp_path, monkeypatch):
    """A sound whose samples say the time: means over a word are its middle, to half a frame, also after 25 s."""
    (tmp_path / "convolutions_for_tests.py").write_text(CODE_OF_CONVOLUTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = open_network("convolutions_for_tests:network", tmp_path, device="cpu", layers="layer.*",
                           options={"hop": hop, "kernel": kernel, "padding": padding})
    sys.modules.pop("convolutions_for_tests")
    assert network.grid("layer.0") == (middle, hop)
    assert network.grid("layer.1") == (pytest.approx(max(middle - hop / 4, 0), abs=1), hop / 2)
    path = tmp_path / "ramp.wav"
    soundfile.write(path, (np.arange(40 * RATE) / RATE / 100).astype(np.float32), RATE, subtype="FLOAT")
    starts = np.arange(1.3, 38, 3.7)
    found = compute_items(Store(tmp_path / "cache"), network, items(path, [(start, 0.3) for start in starts]), 14.0,
                          rms=None)
    for layer in found.layers:
        error = found.layer(layer)[:, 0] * 100 - (starts + 0.15)
        assert np.abs(error).max() <= hop / 2 / RATE + 1e-3 and (hop > 2000 or abs(error.mean()) < 0.006)


def test_a_layer_that_does_not_grow_is_named():
    network = _returned(lambda audio: np.ones((1 + (len(audio) > RATE), 2)), RATE, "*", {})
    with pytest.raises(ValueError, match="layer output: has 2 frames for 1.00006 s and for 32 s"):
        network.grid("output")


@pytest.mark.parametrize("kind,layer", [("wav2vec2", "feature_extractor.conv_layers.6"), ("whisper", "embeddings")])
def test_frames_of_hugging_face(kind, layer, tmp_path):
    """A click changes most the frame in which it is heard."""
    make(kind, tmp_path / kind)
    network = open_network(str(tmp_path / kind), tmp_path, layers=layer)
    audio, at = 0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32), 8000
    click = audio + np.where(np.abs(np.arange(RATE) - at) < 20, 0.5, 0).astype(np.float32)
    change = np.linalg.norm(network.ask(click)[layer] - network.ask(audio)[layer], axis=1)
    first, hop = network.grid(layer)
    assert abs(first + hop * change.argmax() - at) <= hop


def test_what_else_decides_is_another_entry(tmp_path):
    """As many items elsewhere, and another level."""
    path, store = sound(tmp_path / "one.wav"), Store(tmp_path / "cache")
    first = compute_items(store, running(1.0), items(path, SPANS[:2]), 2.0)
    other = compute_items(store, running(1.0), items(path, SPANS[4:6]), 2.0)
    loud = compute_items(store, running(1.0), items(path, SPANS[:2]), 2.0, rms=0.2)
    assert len({found.parts[0].file for found in (first, other, loud)}) == 3
    np.testing.assert_allclose(loud.layer("power"), 4 * first.layer("power"), rtol=1e-5)
    assert not np.allclose(other.layer("power"), first.layer("power"), rtol=0.01)


def test_a_word_at_the_very_end(tmp_path):
    """Its start is rounded to the millisecond, maybe beyond the end: it has the last frame."""
    path = sound(tmp_path / "one.wav", 8.9995)
    found = compute_items(Store(tmp_path / "cache"), running(0.01), items(path, [(8.985, 0.1), (9.0, 0.3)]), 2.0)
    np.testing.assert_array_equal(*found.layer("power"))


def test_bad_input(tmp_path):
    path, store = sound(tmp_path / "one.wav"), Store(tmp_path / "cache")
    flat = Network(RATE, {"model": "flat"}, lambda audio: {"head": audio[:3]}, {"head": False})
    brief = Network(RATE, {"model": "brief"}, lambda audio: {"x": audio[:3 * RATE].reshape(-1, 160)}, {"x": True},
                    {"x": (80.0, 160.0)})
    holes = Network(RATE, {"model": "nan"}, lambda audio: {"x": np.full((len(audio) // 160, 2), np.nan)}, {"x": True},
                    {"x": (80.0, 160.0)})
    for network, spans, message in [(flat, SPANS, r"layers \['head'\] have no axis of time"),
                                    (running(1.0), [(9.5, 0.1)], "has 9.000 s, but item one@9.500"),
                                    (brief, [(7.0, 0.1)], "300 frames for a window of .*make it smaller"),
                                    (holes, SPANS, "layer x gives NaN"), (running(1.0), [], "no item")]:
        with pytest.raises(ValueError, match=message):
            compute_items(store, network, items(path, spans), 4.0)


CODE = """
import numpy as np

def network():
    return lambda audio: {"frames": audio[:len(audio) // 160 * 160].reshape(-1, 160)[:, :3]}
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "frames_net_for_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["model=frames_net_for_tests:network", "study=broderick2019", f"cache={tmp_path / 'cache'}",
                 f"path={make_twin('broderick2019', tmp_path / 'twin')}"]
    assert main([*arguments, "items=word", "context=3"]) == 0
    said = capsys.readouterr().out
    assert "90 × 3" in said and "1 layers, 90 words" in said
    assert main([*arguments, "items=word", "time=true"]) == 2 and "only sounds may keep" in capsys.readouterr().err
    sys.modules.pop("frames_net_for_tests", None)
