"""Everything that is registered passes its check. A new study, feature or model adds one line to its table here."""
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bm.features
import bm.models
import bm.studies
from bm.batch import BatchSpec, FeatureSpec
from bm.features.base import FEATURES, SoundFeature
from bm.features.check import check_elsewhere, check_feature
from bm.models import build_model
from bm.models.check import check_model
from bm.studies.base import STUDIES, Signal
from bm.studies.check import CheckError, check_study

Make = Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]


def _bids(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    from bm.studies.twins.bids import make_listening
    make_listening(folder, seconds=30)
    return {}


def _natsounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from bm.studies.natsounds.twin import make_twin
    monkeypatch.setattr(STUDIES["natsounds"], "manifest", make_twin(folder))
    return {}


def _strflab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from bm.studies.twins.strflab import make_twin
    monkeypatch.setattr(STUDIES["strflab"], "manifest", make_twin(folder))
    return {"test_songs": [17, 18, 19, 20]}


def _twin(name: str, **selection: Any) -> Make:
    def make(folder: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
        from bm.studies.twins import make_twin
        make_twin(name, folder)
        return selection
    return make


def _wav2vec(folder: Path, _: Callable) -> dict[str, Any]:
    from bm.features.test_speech import make
    if not (folder / "wav2vec2").exists():
        make("wav2vec2", folder / "wav2vec2")
    return {"model": str(folder / "wav2vec2")}


def _text_model(kind: str, **params: Any) -> Callable:
    def make(folder: Path, _: Callable) -> dict[str, Any]:
        from bm.features.text_twins import make_text_model
        if not (folder / kind).exists():
            make_text_model(folder / kind, kind)
        return {"model": str(folder / kind), **params}
    return make


def _pipeline(folder: Path, _: Callable) -> dict[str, Any]:
    from bm.features.text_twins import make_pipeline
    if not (folder / "spacy").exists():
        make_pipeline(folder / "spacy")
    return {"model": str(folder / "spacy"), "lang": "en"}


#: study → a function that makes a tiny dataset in a folder and returns the arguments of a selection of it
STUDY_EXAMPLES: dict[str, Make] = {
    "b2021": _twin("b2021", n_sounds=12),
    "bids": _bids,
    "brennan2019": _twin("brennan2019"),
    "broderick2019": _twin("broderick2019"),
    "eegmmidb": _twin("eegmmidb"),
    "gwilliams2022": _twin("gwilliams2022"),
    "natsounds": _natsounds,
    "nh2015": _twin("nh2015", n_sounds=12),
    "ns1": _twin("ns1", test_clips=[3, 6, 9, 19]),
    "schoffelen2019": _twin("schoffelen2019"),
    "simulated": lambda folder, _: {"subjects": 2, "sessions": 1, "minutes": 0.4, "rate": 100},
    "simulated_neurons": lambda folder, _: {"clips": 3, "seconds": 1.0, "repeats": 2},
    "strflab": _strflab,
}
#: feature → its parameters (or a function that makes what they name in a folder, and returns them), and a change of
#: them that changes its values; a third item names a package that it needs
FEATURE_EXAMPLES: dict[str, tuple] = {
    "Articulation": ({}, None),
    "AudioNet": (lambda folder, shared: {"function": "bm.features.crepe:embedding",
                                         "checkpoint": str(shared("crepe_tiny") / "tiny.pth")}, None),
    "BertEmbedding": (_text_model("bert", layers=[1, 2]), {"tokens": "mean"}),
    "Envelope": ({}, {"method": "hilbert"}),
    "Gammatone": ({}, {"n_bands": 16}),
    "MelSpectrum": ({}, {"n_mels": 20}),
    "Modality": ({}, None),
    "OnsetEnvelope": ({}, {"compression": 0.3}),
    "PartOfSpeech": (_pipeline, None, "spacy"),
    "Phoneme": ({}, {"notation": "ipa"}),
    "PhonemePulse": ({}, {"duration_ms": 32.0}),
    "Pitch": ({}, {"min_f0": 80.0}),
    "SpeechModel": (_wav2vec, {"layers": [1]}),
    "Surprisal": (_text_model("gpt2"), {"random": True}),
    "TextModel": (_text_model("roberta"), {"layers": [0]}),
    "Wav2VecChunk": ({}, {"normalized": False}),
    "Waveform": ({}, {"rate": 8000}),
    "Wav2VecConvolution": (_wav2vec, {"normalized": False}),
    "Wav2VecTransformer": (lambda folder, shared: {**_wav2vec(folder, shared), "layers": [1, 2]}, {"layers": [3]}),
    "WordEmbedding": (_pipeline, None, "spacy"),
    "WordEmbeddingSmall": (_pipeline, None, "spacy"),
    "WordFrequency": ({}, None, "wordfreq"),
    "WordHash": ({}, {"buckets": 1000}),
    "WordIndex": ({}, None),
    "WordLength": ({}, None),
    "WordPulse": ({}, {"duration_ms": 100.0}),
    "WordSegment": ({}, None),
    "XlmEmbedding": (_text_model("roberta"), {"contextual": True}),
}
#: features that load transformers, spaCy or a network of full size
SLOW = {"AudioNet", "BertEmbedding", "PartOfSpeech", "SpeechModel", "Surprisal", "TextModel", "Wav2VecConvolution",
        "Wav2VecTransformer", "WordEmbedding", "WordEmbeddingSmall", "XlmEmbedding"}
_SMALL = {"hidden": {"meg": 8}, "depth": 2, "kernel_size": 3}
#: model → its options
MODEL_EXAMPLES: dict[str, dict[str, Any]] = {
    "simpleconv": {**_SMALL, "subject_dim": 0, "merger": True, "merger_channels": 5, "merger_pos_dim": 32},
    "convrnn": {**_SMALL, "subject_dim": 4, "lstm": 1},
    "eeg_transformer": {"dim": 16, "layers": 2, "heads": 4, "tokens": 2, "ignore_channels": [1]},
    "braindecode": {"name": "EEGNet", "params": {"kernel_length": 16}},
    "deep_mel": {"n_hidden_channels": 8, "n_hidden_layers": 2},
}


def _ours(registry: dict[str, type]) -> list[str]:
    """Names of what `bm` itself registers (tests register parts of their own)."""
    return sorted(name for name, cls in registry.items() if "test_" not in cls.__module__)


def example(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        pytest.fail(f"the {what} {name!r} is registered but not checked: add a line to {what.upper()}_EXAMPLES in "
                    "bm/test_checks.py")
    return table[name]


@pytest.mark.parametrize("name", _ours(STUDIES))
def test_study(name, tmp_path, monkeypatch):
    folder = tmp_path / name
    selection = example(STUDY_EXAMPLES, name, "study")(folder, monkeypatch)
    check_study(STUDIES[name], folder, selection)


@pytest.fixture(scope="module")
def parameters(tmp_path_factory, shared_data) -> Callable[[str], tuple[dict, dict | None]]:
    """Parameters and variation of a feature; skips (in CI: fails) where its package or data is missing."""
    folder = tmp_path_factory.mktemp("models")

    def get(name: str) -> tuple[dict, dict | None]:
        params, variation, *needs = example(FEATURE_EXAMPLES, name, "feature")
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            (pytest.fail if os.environ.get("BM_REQUIRE_ALL") == "1" else pytest.skip)(f"{name} needs {missing[0]}")
        return (params(folder, shared_data) if callable(params) else params), variation
    return get


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
                                  for name in _ours(FEATURES)])
def test_feature(name, parameters):
    check_feature(name, *parameters(name), other_process=False, tolerance=1e-3)


@pytest.mark.slow
def test_features_in_another_process(parameters):
    """One process computes all, as it costs seconds to start."""
    ready = {}
    for name in sorted(set(FEATURE_EXAMPLES) - {"AudioNet"}):
        try:
            ready[name] = parameters(name)[0]
        except pytest.skip.Exception:  # `test_feature` tells
            continue
    check_elsewhere(ready, tolerance=1e-3)


# wav2vec2 takes sound at a rate of its own: see bm/solvers/test_wav2vec2.py
@pytest.mark.parametrize("name", [name for name in _ours(bm.models._MODELS) if name != "wav2vec2"])
def test_model(name):
    options = example(MODEL_EXAMPLES, name, "model")
    spec = BatchSpec(6, 40, 100.0, -0.5, ("a", "b"), (FeatureSpec("mel", 4, 100.0),))

    def call(model, batch):
        return model(batch) if isinstance(model, bm.models.BrainModel) else model(batch.features["mel"])

    check_model(lambda spec: build_model(name, spec, 3, **options), spec, out_channels=3, call=call,
                pooled=getattr(bm.models._MODELS[name], "pooled", False))


# ---- the checks notice what they are for

@pytest.fixture
def listening(tmp_path):
    from bm.studies.twins.bids import make_listening
    return make_listening(tmp_path / "bids", seconds=12)


def broken_signal(**changes) -> Callable:
    def signal(self):
        from dataclasses import replace
        return replace(original(self), **{key: change(original(self)) for key, change in changes.items()})
    original = bm.studies.bids.BidsRecording.signal
    return signal


def other_file(self) -> Signal:
    other = self.file.path.with_name(self.file.path.name.replace("01", "02"))
    Path(str(other).replace("sub-01", "sub-02")).read_bytes()
    return original_signal(self)


original_signal = bm.studies.bids.BidsRecording.signal


@pytest.mark.parametrize("method, change, message", [
    ("signal", broken_signal(shape=lambda s: (s.shape[0] + 5, s.shape[1])), "does shape tell the length|rows .* asked"),
    ("signal", broken_signal(channels=lambda s: s.channels.assign(x=s.channels["x"] * 1000)), "expected metres"),
    ("signal", broken_signal(channels=lambda s: s.channels.assign(layout_x=2.0)), r"layout_y must be in \[0, 1\]"),
    ("signal", broken_signal(channels=lambda s: s.channels.assign(name="x")), "channel names must be unique"),
    ("signal", broken_signal(reader=lambda s: lambda start, stop: s.read(0, stop - start)), "differs from these rows"),
    ("signal", other_file, "reading it opens .* of bids/sub-02"),
    ("source_files", lambda self: [self.file.path], "source_files does not list"),
    ("events", lambda self: original_events(self).assign(start=-100.0), "end before the recording begins|blocks may"),
    ("events", lambda self: original_events(self).assign(x=np.random.default_rng().random()), "a second events"),
    ("events", lambda self: original_events(self).drop(columns="word_index"), "column 'word_index': got 'nothing'"),
])
def test_faults_of_a_study_are_found(listening, monkeypatch, method, change, message):
    monkeypatch.setattr(bm.studies.bids.BidsRecording, method, change)
    with pytest.raises((CheckError, ValueError), match=message):
        check_study(bm.studies.bids.Bids, listening)


original_events = bm.studies.bids.BidsRecording.events


class Level(SoundFeature):
    """Mean level of 10 ms, with faults."""

    dim, rate, default, context_s = 1, 100.0, 0.0, 0.01
    fault = ""

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def identity(self):
        return {"feature": "Level", "gain": 0.0 if self.fault == "identity" else self.gain,
                **({"path": Path("x")} if self.fault == "plain" else {})}

    def compute(self, audio, rate):
        step = 160 if self.fault == "rate" else rate // 100
        if self.fault == "short":
            audio[step]
        audio = np.pad(np.abs(audio), (0, -len(audio) % step))
        rows = self.gain * audio.reshape(-1, step).mean(1, keepdims=True)
        rows = {"context": rows + rows[-50:].mean() * np.arange(len(rows))[:, None], "nan": rows / rows.max(),
                "random": rows + np.random.default_rng().random(), "same": 0 * rows}.get(self.fault, rows)
        return rows.astype(np.float64 if self.fault == "dtype" else np.float32)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("fault, message", [
    ("", None), ("identity", "does not change with"), ("plain", "not plain data"), ("rate", "is the argument `rate`"),
    ("short", "1 ms of sound fails with IndexError"), ("context", "declare the context"), ("nan", "NaN or infinite"),
    ("random", "a second computation differs"), ("same", "its rows are all the same"), ("dtype", "float64, expected")])
def test_faults_of_a_feature_are_found(monkeypatch, fault, message):
    monkeypatch.setitem(FEATURES, "Level", Level)
    monkeypatch.setattr(Level, "fault", fault)
    if message is None:
        check_feature("Level", {}, {"gain": 2.0}, other_process=False)
        return
    with pytest.raises(CheckError, match=message):
        check_feature("Level", {}, {"gain": 2.0}, other_process=False)


def test_a_part_without_a_line_is_told():
    with pytest.raises(pytest.fail.Exception, match="'new' is registered but not checked: add a line to STUDY_EXAMPLE"):
        example(STUDY_EXAMPLES, "new", "study")
