"""What every feature must satisfy, in the spirit of scikit-learn's `check_estimator`."""
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bm.events import KINDS
from bm.features.audio import resample
from bm.features.base import FEATURES, EventFeature, Feature, SoundFeature, build_feature
from bm.features.check_time import time_agreement
from bm.studies.check import CheckError

#: s and Hz of the sound that features are tried on
SECONDS, RATE = 6.0, 16_000
_CHILD = """
import sys
from bm.features.check import _compute_here
_compute_here(sys.argv[1], sys.argv[2])
"""


def _require(true: bool, name: str, message: str) -> None:
    if not true:
        raise CheckError(f"{name}: {message}")


def speechlike(seconds: float = SECONDS, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Syllables of 0.25 s, noise and a voice that rises from 120 Hz in turn, `(samples,)` float32."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = np.convolve(rng.standard_normal(len(time)), np.ones(8) / 8, mode="same")
    phase = 2 * np.pi * (120 + 5 * time) * time
    voice = np.sin(np.arange(1, 9)[:, None] * phase).sum(0) / 8
    noise = np.where(time // 0.25 % 2 == 1, voice, noise)
    return (0.2 * noise * np.sin(np.pi * time / 0.25) ** 2).astype(np.float32)


def example_events() -> pd.DataFrame:
    """Words, phonemes and a sound, with the columns of `bm.studies.events_tsv`."""
    words = ["the", "old", "ferry", "don't", "null", "left", "The"]
    word = {"kind": "word", "word": words, "word_index": range(len(words)), "word_sequence": " ".join(words),
            "sequence_id": "0", "duration": 0.3}
    phonemes = {"kind": "phoneme", "phoneme": ["dh", "ah", "ow"], "word_index": [0, 0, 1], "sequence_id": "0",
                "duration": 0.1}
    tables = [pd.DataFrame(word), pd.DataFrame(phonemes), pd.DataFrame({"kind": ["sound"], "duration": 3.0})]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(start=0.4 * np.arange(len(table)), modality="audio", language="en", condition="sentence")


def check_feature(name: str, params: Mapping[str, Any] | None = None, variation: Mapping[str, Any] | None = None, *,
                  other_process: bool = True, tolerance: float = 1e-4) -> dict[str, float]:
    """Checks a feature against the contract of `bm/features/base.py`; gives what `time_agreement` measures of a sound.

    Args:
        name: registered.
        params: its parameters.
        variation: parameters that change its values; its identity must change with them.
        other_process: also compute it in another process (some seconds).
        tolerance: of comparisons, in standard deviations of the feature.

    Raises:
        CheckError: the first promise that is not kept.
    """
    params = dict(params or {})
    feature = build_feature(name, params)
    _check_declarations(feature)
    _check_identity(feature, name, params, variation)
    again = build_feature(name, params)
    measured: dict[str, float] = {}
    if isinstance(feature, EventFeature) and isinstance(again, EventFeature):
        _check_events(feature, again)
    elif isinstance(feature, SoundFeature) and isinstance(again, SoundFeature):
        _check_sound(feature, again, tolerance)
        measured = time_agreement(feature, speechlike(), RATE, tolerance)
    else:
        raise CheckError(f"{name}: a {type(feature).__bases__}, expected a SoundFeature or an EventFeature")
    if other_process:
        check_elsewhere({name: params}, tolerance)
    return measured


def _check_sound(feature: SoundFeature, again: SoundFeature, tolerance: float) -> None:
    audio, name = speechlike(), feature.name
    rows = _compute(feature, audio, RATE)
    n = SECONDS * feature.rate
    _require(abs(len(rows) - n) <= 2, name, f"{len(rows)} rows for {SECONDS:g} s at rate={feature.rate:g}, expected "
             f"about {n:g}")
    _same(feature, _compute(again, audio, RATE), rows, 0.0, "a second computation differs")
    _require(bool(rows.std(0).max() > 0), name, "its rows are all the same whatever is heard")
    many = feature.compute_many([(audio, RATE), (audio[:RATE], RATE)])
    for one, part in zip(many, (audio, audio[:RATE]), strict=True):
        _same(feature, one, feature.compute(part, RATE), tolerance * float(rows.std()), "compute_many differs from "
              "compute")
    _check_other_rate(feature, audio, len(rows))
    _check_short_and_silent(feature)
    _check_context(feature, audio, rows, tolerance * float(rows.std()))


def _check_events(feature: EventFeature, again: EventFeature) -> None:
    """A vector belongs to its event: it does not depend on what else is in the table, nor on the order."""
    name, events = feature.name, example_events()
    own = events[events["kind"] == feature.kind]
    missing = [column for column in feature.columns if column not in events]
    _require(not missing, name, f"columns {missing} are not in an events table: {list(events.columns)}")
    table = own[list(feature.columns)].reset_index(drop=True)
    before = table.copy()
    rows = _check_form(feature, feature.values(table), f"{len(table)} events")
    _require(table.equals(before), name, "values() changed the table it was given")
    _require(len(rows) == len(table), name, f"values() gives {len(rows)} vectors for {len(table)} events")
    _same(feature, again.values(table), rows, 0.0, "a second computation differs")
    _same(feature, again.values(table.iloc[::-1].reset_index(drop=True))[::-1], rows, 0.0,
          "vectors depend on the order of the events")
    _same(feature, again.values(table.iloc[1:2].reset_index(drop=True)), rows[1:2], 0.0,
          "a vector depends on the other events")
    pulse = feature.pulse_s
    _require(pulse is None or pulse > 0, name, f"pulse_s is {pulse!r}, expected None or seconds")


def _check_declarations(feature: Feature) -> None:
    name = feature.name
    _require(FEATURES.get(name) is type(feature), name, "it is not registered under its class name: use "
             "@register_feature")
    _require(feature.kind in KINDS, name, f"kind is {feature.kind!r}, expected one of {', '.join(KINDS)}")
    _require(isinstance(feature.dim, int) and feature.dim >= 1, name, f"dim is {feature.dim!r}, expected an int")
    _require(feature.dtype in ("float32", "float16"), name, f"dtype is {feature.dtype!r}, expected float32 or float16")
    if isinstance(feature, SoundFeature):
        _require(np.isfinite(feature.rate) and feature.rate > 0, name, f"rate is {feature.rate!r}, expected rows a "
                 "second")
        _require(feature.context_s >= 0, name, f"context_s is {feature.context_s!r}, expected seconds, 0 or more")
    _require(bool(np.isfinite(feature.default)), name, f"default is {feature.default!r}, expected a finite number")
    n = feature.n_classes
    _require(n is None or n >= 2, name, f"n_classes is {n!r}, expected None, or 2 or more")


def _check_identity(feature: Feature, name: str, params: dict[str, Any], variation: Mapping[str, Any] | None) -> None:
    identity = feature.identity()
    try:
        plain = json.loads(json.dumps(identity, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckError(f"{name}: identity() is not plain data ({error}): {identity}") from error
    _require(plain == identity, name, f"identity() does not survive JSON: {identity} became {plain}")
    _require(build_feature(name, params).identity() == identity, name, "two of the same parameters have different "
             "identities")
    _require(name in str(identity), name, f"identity() does not name the feature: {identity}")
    if variation:
        _require(build_feature(name, {**params, **variation}).identity() != identity, name,
                 f"identity() does not change with {dict(variation)}: the cache would return the old values")


def _compute(feature: SoundFeature, audio: np.ndarray, rate: int) -> np.ndarray:
    """The rows, checked for form; the audio must stay as it was."""
    before = audio.copy()
    rows = feature.compute(audio, rate)
    _require(np.array_equal(audio, before), feature.name, "compute() changed the audio it was given")
    return _check_form(feature, rows, f"{len(audio) / rate:g} s")


def _check_form(feature: Feature, rows: np.ndarray, what: str) -> np.ndarray:
    name = feature.name
    _require(isinstance(rows, np.ndarray) and rows.dtype == np.float32, name, "its rows are "
             f"{getattr(rows, 'dtype', type(rows))}, expected an array of float32")
    _require(rows.ndim == 2 and rows.shape[1] == feature.dim, name, f"its rows have shape {rows.shape}, expected "
             f"(n, dim={feature.dim})")
    _require(bool(np.isfinite(rows).all()), name, f"NaN or infinite values for {what}")
    if feature.n_classes:
        whole = bool((rows == np.round(rows)).all() and rows.min() >= 0 and rows.max() < feature.n_classes)
        _require(whole, name, f"classes must be whole numbers from 0 to {feature.n_classes - 1}")
    return rows


def _same(feature: Feature, got: np.ndarray, expected: np.ndarray, tolerance: float, message: str) -> None:
    _require(got.shape == expected.shape, feature.name, f"{message}: shapes {got.shape} and {expected.shape}")
    error = float(np.abs(got - expected).max(initial=0))
    _require(error <= tolerance, feature.name, f"{message}: by {error:.3g}")


def _check_other_rate(feature: SoundFeature, audio: np.ndarray, n: int) -> None:
    """The same seconds at other rates are as many rows, or a ValueError that says which rate is expected."""
    for rate in (8000, 44_100):
        try:
            rows = _compute(feature, resample(audio, RATE, rate), rate)
        except CheckError:
            raise
        except ValueError:
            continue
        _require(abs(len(rows) - n) <= 2, feature.name, f"{len(rows)} rows for the same sound at {rate} Hz, expected "
                 f"{n}, or a ValueError: is the argument `rate` used?")


def _check_short_and_silent(feature: SoundFeature) -> None:
    """Silence has finite rows; 1 ms has rows, or a ValueError."""
    _compute(feature, np.zeros(RATE, dtype=np.float32), RATE)
    try:
        _compute(feature, speechlike()[2000:2016], RATE)
    except CheckError:
        raise
    except ValueError as error:
        _require(len(str(error)) > 10, feature.name, f"1 ms of sound gives an error that says nothing: {error!r}")
    except Exception as error:
        raise CheckError(f"{feature.name}: 1 ms of sound fails with {type(error).__name__}: {error}; expected rows, or "
                         "a ValueError that says how much is needed") from error


def _check_context(feature: SoundFeature, audio: np.ndarray, rows: np.ndarray, tolerance: float) -> None:
    """Reversing the second half leaves the rows further than `context_s` before it, and the other way round.

    Mean and variance of the whole stay what they are: a feature may standardise its chunk.
    """
    half = len(audio) // 2
    time = np.arange(len(rows)) / feature.rate
    for first in (True, False):
        changed = audio.copy()
        part = slice(0, half) if first else slice(half, None)
        changed[part] = changed[part][::-1]
        away = time > SECONDS / 2 + feature.context_s if first else time < SECONDS / 2 - feature.context_s
        got = _compute(feature, changed, RATE)
        error = np.abs(got - rows)[away].max(initial=0)
        side = "before" if first else "after"
        _require(bool(error <= tolerance), feature.name, f"sound more than context_s={feature.context_s:g} s {side} a "
                 f"row changes it, by {error:.3g}: declare the context")
        _require(bool(np.abs(got - rows).max() > tolerance), feature.name, "another sound gives the same rows")


def check_elsewhere(features: Mapping[str, Mapping[str, Any]], tolerance: float = 1e-4) -> None:
    """Checks that another process computes the same values.

    Args:
        features: name → parameters; one process computes them all.
        tolerance: in standard deviations of each feature.

    Raises:
        CheckError: the first that differs, or cannot be computed there.
    """
    parts = [[FEATURES[name].__module__, name, dict(params)] for name, params in features.items()]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/rows.npz"
        done = subprocess.run([sys.executable, "-c", _CHILD, json.dumps(parts), file], capture_output=True, text=True,
                              check=False)
        _require(done.returncode == 0, ", ".join(features), f"cannot be computed in another process: "
                 f"{done.stderr[-500:]}")
        with np.load(file) as rows:
            for name, params in features.items():
                feature = build_feature(name, dict(params))
                here = _example_rows(feature)
                _same(feature, rows[name], here, tolerance * (float(here.std()) or 1.0),
                      "another process computes other values")


def _compute_here(parts: str, file: str) -> None:
    """What the other process does."""
    out: dict[str, Any] = {}
    for module, name, params in json.loads(parts):
        importlib.import_module(module)
        out[name] = _example_rows(build_feature(name, params))
    np.savez(file, **out)


def _example_rows(feature: Feature) -> np.ndarray:
    if isinstance(feature, SoundFeature):
        return feature.compute(speechlike(), RATE)
    events = example_events()
    assert isinstance(feature, EventFeature)
    return feature.values(events[events["kind"] == feature.kind][list(feature.columns)].reset_index(drop=True))
