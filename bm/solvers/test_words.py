"""Words as items, from the config to the report: a planted layer and latency are found, noise is not."""
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.io
import soundfile
from hydra import compose, initialize_config_dir
from safetensors.numpy import load_file

from bm.analysis.layers import open_layers
from bm.analysis.report.layers import layers as section
from bm.analysis.xp import StoredXP
from bm.config import ConfigError, check_config, to_plain
from bm.conftest import channels_table
from bm.features.test_speech import make
from bm.solvers.rsa import COUNTED
from bm.solvers.test_layers import run
from bm.studies.base import STUDIES, Recording, Signal, Study
from bm.test_config import CONF

SECONDS, RATE, CHANNELS, ONSETS = 160, 50, 8, (1.0, 2.7)
#: s after a word: when the planted response begins, 0.1 s long; and what it follows
PEAK, LAYER = 0.3, 2
CODE = """
import numpy as np


def network():
    # five layers: log power in 20 bands of frames of 20 ms, then random mixtures that are rectified
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((20, 20)) / 2 for _ in range(4)]

    def ask(audio):
        frames = audio[:len(audio) // 320 * 320].reshape(-1, 320)
        power = (np.abs(np.fft.rfft(frames * np.hanning(320)))[:, 1:] ** 2).reshape(len(frames), 20, 8).sum(2)
        layers = [np.log10(power + 1e-4)]
        for weight in weights:
            layers.append(np.maximum((layers[-1] - layers[-1].mean(1, keepdims=True)) @ weight, 0))
        return {f"layer{k}": layer.astype(np.float32) for k, layer in enumerate(layers)}
    return ask
"""


@dataclass(frozen=True, repr=False)
class SpokenRecording(Recording):
    """400 words of noise of many colours, in sentences of five; the brain is what lies in a file."""

    folder: Path
    uid: str
    subject: str
    onset: float
    session: str = "1"
    study: str = "spoken"

    def events(self) -> pd.DataFrame:
        rows = [{"kind": "sound", "start": self.onset, "duration": np.nan, "filepath": str(self.folder / "sound.wav")}]
        for sentence in range(SECONDS // 2):
            text = " ".join(f"w{sentence}x{i}" for i in range(5))
            rows += [{"kind": "word", "start": self.onset + 2 * sentence + 0.4 * i, "duration": 0.35,
                      "word": f"w{sentence}x{i}", "word_index": i, "word_sequence": text, "condition": "sentence"}
                     for i in range(5)]
        return pd.DataFrame(rows)

    def source_files(self) -> list[Path]:
        return [self.folder / f"{self.uid}.npy"]

    def signal(self) -> Signal:
        return Signal.from_array(np.load(self.source_files()[0]), RATE, channels_table(CHANNELS))


class SpokenStudy(Study):
    name = "spoken"
    recordings_: ClassVar[list[SpokenRecording]] = []

    def recordings(self):
        return iter(self.recordings_)


def speak(path: Path) -> None:
    rng, n = np.random.default_rng(0), SECONDS * 16_000
    t = np.arange(n) / 16_000
    audio = np.zeros(n)
    for word in range(SECONDS * 5 // 2):
        at = slice(int(word * 6400), int(word * 6400) + 5600)
        for frequency, size in zip(rng.uniform(100, 6000, 6), rng.uniform(0, 1, 6), strict=True):
            audio[at] += size * np.sin(2 * np.pi * frequency * t[at])
    soundfile.write(path, 0.05 * audio + 0.002 * rng.standard_normal(n), 16_000)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two people who heard the same; overrides of an XP. First both brains are noise."""
    speak(tmp_path / "sound.wav")
    (tmp_path / "chain_net_for_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [SpokenRecording(tmp_path, f"r{i}", f"p{i}", onset) for i, onset in enumerate(ONSETS)]
    monkeypatch.setitem(STUDIES, "spoken", SpokenStudy)
    monkeypatch.setattr(SpokenStudy, "recordings_", found)
    for i, recording in enumerate(found):
        np.save(recording.source_files()[0], np.random.default_rng(i).standard_normal((RATE * (SECONDS + 6), CHANNELS)))
    yield ["preset=layers_words", "+selections.spoken.study=spoken", "dset.selections=[spoken]",
           "encoding.model='chain_net_for_tests:network'", "encoding.context=4",
           "encoding.alphas={low: -6, high: 6, n: 13}", "dset.min_block_duration=16", "dset.purge=0",
           "dset.apply_baseline=false", "encoding.latencies={start: 0, stop: 0.6, step: 0.1, width: 0.1}",
           "encoding.n_splits=4"]
    sys.modules.pop("chain_net_for_tests", None)


def plant(solver, noise: float) -> None:
    """Each channel answers to a word, around `PEAK` s after it, with a direction of the planted layer."""
    x = solver.features(solver.layers[LAYER])
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    for i, recording in enumerate(SpokenStudy.recordings_):
        rng = np.random.default_rng(10 + i)
        array = noise * rng.standard_normal((RATE * (SECONDS + 6), CHANNELS))
        answer = x @ rng.standard_normal((x.shape[1], CHANNELS)) / x.shape[1] ** 0.5
        for start, row in zip(solver.data.items.table["start"], answer, strict=True):
            at = round((recording.onset + start + PEAK) * RATE)
            array[at:at + 5] += row
        np.save(recording.source_files()[0], array)


def test_the_planted_layer_and_latency_are_found(tmp_path, study, caplog):
    solver, _ = run(tmp_path, *study)
    solver.build()
    assert solver.layers == [f"layer{k}" for k in range(5)]
    plant(solver, 0.5)
    with caplog.at_level("INFO"):
        solver, folder = run(tmp_path, *study, "encoding.predictions=true")
        metrics = solver.run()
    assert "400 of 400 words are kept: all 2 subjects heard them (repetitions: 1)" in caplog.text
    assert "more were left out of train, whose responses overlap those of test items" in caplog.text
    found = {float(latency): one for latency, one in metrics["latencies"].items()}
    peak = max(found, key=lambda latency: found[latency]["r"])
    assert peak == pytest.approx(PEAK + 0.05) and found[peak]["r"] > 0.6
    assert solver.layers.index(found[peak]["best_name"]) in (LAYER - 1, LAYER, LAYER + 1)
    assert all(one["r"] < 0.35 for latency, one in found.items() if abs(latency - peak) > 0.11)
    assert (metrics["n_items"], metrics["n_subjects"], metrics["n_voxels"], metrics["n_groups"]) == (400, 2, 16, 9)
    table = pd.read_parquet(folder / "voxels.parquet")
    assert len(table) == 5 * 16 * 6 * 4 and sorted(table["latency"].unique()) == pytest.approx(
        [0.05, 0.15, 0.25, 0.35, 0.45, 0.55])
    with scipy.io.netcdf_file(folder / "scores.nc", mmap=False) as file:
        assert file.variables["r_test"].shape == (5, 16, 6, 4)
    stimuli = pd.read_csv(folder / "stimuli.csv")
    assert stimuli["label"][:2].tolist() == ["w0x0", "w0x1"] and stimuli["start"][5] == 2.0
    assert len(pd.read_csv(folder / "channels.csv")) == 16 and (folder / "regions.csv").exists()
    in_report(folder, solver)


def in_report(folder: Path, solver) -> None:
    """The report has the map of layers and latencies, of words."""
    (folder / "config.json").write_text(json.dumps(solver.cfg.model_dump(mode="json")))
    xp = StoredXP(folder, folder.parent)
    one = open_layers(xp)
    assert one.responses == "spoken words by latency"
    parts = {part.title: part.content for part in section(xp)}
    assert {"Layers", "Layers and latencies", "Best layer of each channel", "Predicted and measured"} <= set(parts)
    assert "s after the word's start" in parts["Layers and latencies"].axes[0].get_xlabel()


def test_noise_scores_nothing(tmp_path, study):
    """… with the layers of a tiny wav2vec 2.0."""
    make("wav2vec2", tmp_path / "tiny")
    metrics = run(tmp_path, *study, f"encoding.model={tmp_path / 'tiny'}", "encoding.n_splits=2")[0].run()
    assert metrics["n_layers"] == 5 and metrics["n_items"] == 400
    assert all(one["r"] < 0.1 for one in metrics["latencies"].values()) and metrics["independent_r"] < 0.1


def test_similarity(tmp_path, study, monkeypatch):
    """Of 400 words and two latencies; more would not fit."""
    solver, _ = run(tmp_path, *study)
    solver.build()
    plant(solver, 0.3)
    few = [*study, "task.type=rsa", "encoding.n_splits=2",
           "encoding.latencies={start: 0.1, stop: 0.4, step: 0.2, width: 0.1}"]
    solver, folder = run(tmp_path, *few)
    metrics = solver.run()
    early, late = metrics["latencies"].values()
    assert late["similarity"] > 0.1 > early["similarity"] and "p" not in metrics and metrics["n_items"] == 400
    assert metrics["ceiling_low"] < metrics["ceiling_high"]
    assert len(pd.read_parquet(folder / "rsa.parquet")) == (2 * 2 + 1) * 2 * 2 * 5
    np.testing.assert_array_equal(load_file(folder / "rdms.safetensors")[COUNTED], solver.data.items.apart())
    monkeypatch.setattr("bm.solvers.rsa.MAX_BYTES", 1e6)
    with pytest.raises(ValueError, match="matrices of 400 × 400 words, 0.0 GB for 4 latencies.*task.type=ridge"):
        run(tmp_path / "xp", *few, f"cache={tmp_path / 'cache'}")[0].run()


@pytest.mark.parametrize("overrides,message", [
    (["encoding.items=sentence"], "encoding.items.*'sound', 'word' or 'phoneme'"),
    (["encoding.context=0"], "encoding.context"),
    (["dset.n_subjects=1"], "task.type=ridge has no use for dset.n_subjects and n_subjects_test: take fewer people"),
    (["encoding.tmin=0.1", "encoding.tmax=0.4"], "one span is latencies={start: tmin, stop: tmax, step"),
    (["encoding.latencies=null"], "items=word needs latencies"),
    (["encoding.model=null", "encoding.activations=x"], "published activations are of whole sounds"),
])
def test_wrong_configs(overrides, message):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = to_plain(compose("config", ["preset=layers_words", *overrides]))
    with pytest.raises(ConfigError, match=message):
        check_config(plain)


def test_wrong_data(tmp_path, study, monkeypatch):
    with pytest.raises(ValueError, match=r"the window \(0.0, 0.005\) s has no sample at dset.sample_rate=50 Hz"):
        run(tmp_path, *study, "encoding.latencies={start: 0, stop: 0.6, step: 0.1, width: 0.005}")[0].build()
    with pytest.raises(ValueError, match="no event of this kind lies in a sound"):
        run(tmp_path, *study, "encoding.items=phoneme")[0].build()
    monkeypatch.setattr("bm.solvers.voxelwise.MAX_PREDICTIONS", 1e6)
    with pytest.raises(ValueError, match="encoding.predictions=true would keep 0.0 GB"):
        run(tmp_path, *study, "encoding.predictions=true")[0].run()
    with pytest.raises(ValueError, match="dset.purge"):
        run(tmp_path, *study, "dset.purge=40")[0].run()
