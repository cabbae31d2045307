import numpy as np
import pytest

from bm.features.base import SoundFeature
from bm.features.check import RATE, speechlike
from bm.features.check_time import time_agreement
from bm.studies.check import CheckError


class Level(SoundFeature):
    """Mean level of 10 ms, in units of the whole chunk's where `relative`."""

    dim, rate, default, context_s = 1, 100.0, 0.0, 0.01

    def __init__(self, relative, equivariant):
        self.relative, self.shift_equivariant = relative, equivariant

    def identity(self):
        return {"feature": "Level"}

    def compute(self, audio, rate):
        level = np.abs(audio).reshape(-1, rate // 100).mean(1, keepdims=True)
        return level / level[-50:].mean() if self.relative else level


def test_a_local_feature_is_the_same_anywhere():
    assert time_agreement(Level(False, True), speechlike(), RATE, 1e-4) == {"pieces": 1.0, "shift": 1.0}


def test_what_depends_on_its_chunk_is_measured():
    audio = speechlike()
    audio[:RATE] *= 5
    measured = time_agreement(Level(True, False), audio, RATE, 1e-4)
    assert measured["shift"] > 0.999 > measured["pieces"]


def test_a_false_promise_is_found():
    audio = speechlike()
    audio[:RATE] *= 5
    with pytest.raises(CheckError, match="it says shift_equivariant, but pieces of a sound differ"):
        time_agreement(Level(True, True), audio, RATE, 1e-4)


def test_rates_that_share_no_instant_with_the_samples_are_left_out():
    feature = Level(False, True)
    feature.rate = 33.7
    assert time_agreement(feature, speechlike(), RATE, 1e-4) == {}
