import dataclasses
import os

import numpy as np
import pandas as pd
import pytest

from bm.conftest import ToyRecording, channels_table
from bm.data.prepare import filter_length, prepare, prepare_all, prepare_signal, read_events
from bm.store import Store
from bm.studies.base import Signal


def test_golden_resampling_and_highpass():
    n = np.arange(3000)
    x = (np.sin(0.05 * n) + 0.01 * n).astype(np.float32)[:, None]
    signal = Signal.from_array(x, 1000, channels_table(1))
    y = prepare_signal(signal, 120, 0, "x")[:, 0]
    assert y.shape == (360,) and y.dtype == np.float32
    np.testing.assert_allclose(y[:4], [0.0533895, 0.4789791, 0.9119256, 1.1951077], atol=2e-5)
    assert y[180] == pytest.approx(14.6122236, abs=2e-5)
    z = prepare_signal(signal, 120, 0.5, "x")[:, 0]
    np.testing.assert_allclose(z[:3], [-1.0658048, -0.6836185, -0.2947472], atol=2e-5)
    assert z[180] == pytest.approx(-0.3992176, abs=2e-5)


def test_filter_length_covers_the_filters():
    # an impulse is felt no further than half the filters' length
    x = np.zeros((12_000, 1), np.float32)
    x[6000] = 1
    for highpass in (0, 1.0):
        y = prepare_signal(Signal.from_array(x, 1000, channels_table(1)), 100, highpass, "x")[:, 0]
        far = np.abs(np.arange(len(y)) / 100 - 6) > filter_length(100, highpass) + 0.011
        assert np.abs(y[far]).max() < 1e-6 < np.abs(y).max()


def test_bad_signals_are_refused():
    x = np.zeros((100, 3), np.float32)
    with pytest.raises(ValueError, match="choose 100 Hz or less"):
        prepare_signal(Signal.from_array(x, 100, channels_table(3)), 120, 0, "toy/r0")
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"toy/r0: 1 values that are not finite in channels MEG001"):
        prepare_signal(Signal.from_array(x, 200, channels_table(3)), 120, 0, "toy/r0")


def test_cached(recordings, tmp_path, monkeypatch):
    store = Store(tmp_path / "cache")
    first = prepare_all(recordings, store, 50, 0)
    assert [p.array.shape for p in first] == [(3000, 6)] * 3 and first[0].array.flags.c_contiguous
    assert list(first[0].channels["name"]) == [f"MEG{i:03d}" for i in range(6)]
    monkeypatch.setattr(type(recordings[0]), "signal", lambda self: pytest.fail("read again"))
    assert prepare(recordings[1], store, 50, 0).folder == first[1].folder


def test_events_are_kept_and_found_after_a_move(recordings, tmp_path, monkeypatch):
    store, home = Store(tmp_path / "cache"), tmp_path / "study"
    home.mkdir()
    (home / "events.txt").write_text("version 1")
    os.rename(tmp_path / "sound.wav", home / "sound.wav")
    one = dataclasses.replace(recordings[0], wav=home / "sound.wav")
    monkeypatch.setattr(ToyRecording, "event_files", lambda self: [self.wav.parent / "events.txt"])
    expected = read_events(one, store)
    pd.testing.assert_frame_equal(expected, one.events(), check_dtype=False)
    os.rename(home, tmp_path / "moved")
    moved = dataclasses.replace(one, wav=tmp_path / "moved/sound.wav")
    read = ToyRecording.events
    monkeypatch.setattr(ToyRecording, "events", lambda self: pytest.fail("read again"))
    assert read_events(moved, store)["filepath"][0] == str(tmp_path / "moved/sound.wav")
    monkeypatch.setattr(ToyRecording, "events", lambda self: read(self).iloc[:5])
    (tmp_path / "moved/events.txt").write_text("version 2")
    assert len(read_events(moved, store)) == 5


def test_not_measured_is_not_an_error():
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    x[2, 1] = np.nan  # the second neuron has no fourth repeat
    one_row_per_event = Signal.from_array(x, None, channels_table(3), missing="mask")
    np.testing.assert_array_equal(prepare_signal(one_row_per_event, 120, 0, "x"), x)
    sampled = Signal.from_array(x, 50, channels_table(3), missing="mask")
    np.testing.assert_array_equal(prepare_signal(sampled, 50, 0, "x"), x)
    with pytest.raises(ValueError, match="cannot be resampled or filtered: use dset.sample_rate=50"):
        prepare_signal(sampled, 25, 0, "x")
    with pytest.raises(ValueError, match="1 values that are not finite in channels MEG001, the first in row 2"):
        prepare_signal(Signal.from_array(x, None, channels_table(3)), 120, 0, "x")


def test_a_replaced_sound_is_read_again(recordings, tmp_path, wav, monkeypatch):
    store = Store(tmp_path / "cache")
    monkeypatch.setattr(ToyRecording, "event_files", lambda self: [tmp_path / "events.txt"])
    (tmp_path / "events.txt").write_text("1")
    read_events(recordings[0], store)
    calls, read = [], ToyRecording.events
    monkeypatch.setattr(ToyRecording, "events", lambda self: calls.append(1) or read(self))
    read_events(recordings[0], store)
    assert not calls
    wav.write_bytes(wav.read_bytes()[:-1000])
    read_events(recordings[0], store)
    assert calls


def test_low_pass_and_notch(tmp_path, recordings):
    """A sine below the cutoff stays, one above it and the mains (with its harmonic) go; each is another cache entry."""
    t = np.arange(4000) / 400
    def power(frequency, **filters):
        x = np.sin(2 * np.pi * frequency * t)[:, None].astype(np.float32)
        y = prepare_signal(Signal.from_array(x, 400, channels_table(1)), 400, 0, "x", **filters)
        return y[1000:3000].std() / x.std()
    assert power(10, lowpass=30.0) == pytest.approx(1, abs=0.02) and power(60, lowpass=30.0) < 0.01
    assert power(50, notch=50.0) < 0.01 and power(100, notch=50.0) < 0.01
    assert power(45, notch=50.0) == pytest.approx(1, abs=0.03)
    step = np.zeros((4000, 1), np.float32)
    step[2000] = 1
    for filters in ({"lowpass": 30.0}, {"notch": 50.0}):
        y = prepare_signal(Signal.from_array(step, 400, channels_table(1)), 400, 0, "x", **filters)[:, 0]
        far = np.abs(t - 5) > filter_length(400, 0, **filters)
        assert np.abs(y[far]).max() < 2e-3 * np.abs(y).max()
    store = Store(tmp_path)
    folders = {prepare(recordings[0], store, 50, 0, *filters).folder for filters in [(), (0, 0), (20, 0), (0, 20)]}
    assert len(folders) == 3
