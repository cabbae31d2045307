from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bm.analysis.plots.features import plot_features, tracks_of
from bm.batch import BatchSpec, FeatureSpec
from bm.data.tracks import Bank
from bm.features.audio import MelSpectrum

EVENTS = pd.DataFrame({"kind": ["word", "word", "phoneme", "sound"], "start": [0.9, 2.0, 2.0, 0.0],
                       "duration": [0.3, 0.5, 0.1, 9.0], "word": ["ferry", "left", None, None],
                       "phoneme": [None, None, "L", None]})


def test_one_panel_each_over_the_same_seconds():
    tracks = [("Mel", np.random.default_rng(0).standard_normal((400, 300)), 100.0), ("Level", np.ones((80, 1)), 20.0)]
    figure = plot_features(tracks, EVENTS, 1.0, 4.0)
    mel, level, words, phonemes = figure.axes
    assert mel.get_title(loc="left") == "Mel: 300 × 100 Hz"
    picture = mel.images[0]
    assert picture.get_array().shape == (256, 300) and list(picture.get_extent()) == [1.0, 4.0, 0, 300]
    assert level.lines[0].get_xdata()[[0, -1]].tolist() == [1.0, pytest.approx(3.95)]
    assert [text.get_text() for text in words.texts] == ["ferry", "left"]
    assert [text.get_text() for text in phonemes.texts] == ["L"]
    assert words.get_xlim() == (1.0, 4.0)


def test_without_events_or_features():
    assert len(plot_features([("Level", np.ones((80, 1)), 20.0)], EVENTS[:0], 0.0, 2.0).axes) == 1
    with pytest.raises(ValueError, match="at least one"):
        plot_features([], EVENTS, 0.0, 2.0)


def test_what_the_model_of_an_xp_is_given():
    rows = np.arange(240, dtype=np.float32).reshape(80, 3)
    bank = Bank(MelSpectrum(), rows, [np.arange(60, dtype=np.int32)])
    data = SimpleNamespace(
        spec=BatchSpec(4, 10, 10.0, 0.0, ("a",), (FeatureSpec("MelSpectrum", 3, 10.0),)), banks=[bank],
        blocks=pd.DataFrame({"recording": [0, 0], "start": [3.0, 2.0]}), events=[EVENTS],
        prepared=[SimpleNamespace(array=np.zeros((60, 4)))])
    [(name, found, rate)], events, start = tracks_of(data, start=1.0, seconds=2.0)
    assert (name, rate, start) == ("MelSpectrum", 10.0, 3.0) and events is EVENTS
    np.testing.assert_array_equal(found, rows[30:50])
    assert len(tracks_of(data, seconds=60.0)[0][0][1]) == 40  # no further than the recording
    with pytest.raises(ValueError, match="it has the features MelSpectrum, not Pitch"):
        tracks_of(data, ["Pitch"])
