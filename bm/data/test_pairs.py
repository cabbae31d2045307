"""Wrong pairs: never one's own sound, the same for all epochs, and nothing of it in the test."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from bm.data.pairs import shuffled_pairs
from bm.data.resident import ResidentDataset
from bm.data.test_assemble import data  # noqa: F401  a fixture
from bm.data.test_segments import make
from bm.solvers.test_decode import config
from bm.splits import SplitRule


@pytest.fixture
def segments(recordings) -> pd.DataFrame:
    return make(recordings, rule=SplitRule(0.2, 0.35, min_block_duration=4.0))[0]


def test_no_segment_keeps_its_sound(segments):
    heard = shuffled_pairs(segments, seed=3)
    for split, own in segments.groupby("split"):
        other = segments.loc[heard[own.index]].set_axis(own.index)
        assert (other["split"] == split).all()
        if split == "test":
            assert (heard[own.index] == own.index).all()
            continue
        apart = (own["stimulus_start"] >= other["stimulus_stop"]) | (other["stimulus_start"] >= own["stimulus_stop"])
        assert (apart | (own["stimulus"] != other["stimulus"])).all() and len(own) > 10
        assert (own["candidate"] != other["candidate"]).all()
    train = segments[segments["split"] == "train"]
    same = segments.loc[heard[train.index], "recording"].to_numpy() == train["recording"]
    assert same.all()
    # a rotation: neighbours stay neighbours, and every segment is used once
    of_one = train.index[train["recording"] == 0]
    place = np.searchsorted(of_one, heard[of_one])
    assert sorted(heard[of_one]) == list(of_one) and (np.diff(place) == 1).sum() == len(of_one) - 2
    shifts = {r: int(np.flatnonzero(own.index == heard[own.index[0]])[0]) for r, own in train.groupby("recording")}
    assert len(set(shifts.values())) > 1
    np.testing.assert_array_equal(heard, shuffled_pairs(segments, seed=3))
    assert (heard != shuffled_pairs(segments, seed=4)).any()


def test_where_a_recording_has_one_sound_alone(segments, caplog):
    """One block in each recording: partners come from another one; if all hear the same there is no wrong pair."""
    train = segments[segments["split"] == "train"]
    block = {0: train["block"].iloc[0], 1: train["block"].iloc[-1]}
    few = train[train["recording"].isin(block) & (train["block"] == train["recording"].map(block))].reset_index(
        drop=True)
    heard = shuffled_pairs(few, seed=0)
    assert (few.loc[heard, "recording"].to_numpy() != few["recording"]).any() and "no other sound" in caplog.text
    with pytest.raises(ValueError, match="no wrong pair.*dset.valid_ratio"):
        shuffled_pairs(few[few["recording"] == 0].reset_index(drop=True).iloc[:2], seed=0)


def test_a_batch_has_its_brain_and_anothers_words(data):  # noqa: F811
    right, wrong = data(), data("task.shuffle_pairs=true")
    for split in ("train", "test"):
        ids = right.ids(split)[[0, 7, -1]]
        one, other = (found.dataset(split).__getitems__(ids) for found in (right, wrong))
        partner = right.dataset(split).__getitems__(wrong.heard[ids])
        for field in dataclasses.fields(one):
            mine, theirs, right_ones = (getattr(batch, field.name) for batch in (one, other, partner))
            if field.name in ("features", "masks"):
                assert all(torch.equal(theirs[name], right_ones[name]) for name in mine)
            elif isinstance(mine, torch.Tensor):
                assert torch.equal(mine, theirs) or mine.isnan().any(), field.name
        assert torch.equal(one.features["MelSpectrum"], other.features["MelSpectrum"]) == (split == "test")
        there = ResidentDataset(wrong.dataset(split), "cpu").__getitems__(ids)
        assert torch.equal(there.features["MelSpectrum"], other.features["MelSpectrum"])
        assert torch.equal(there.masks["word"], other.masks["word"]) and torch.equal(there.brain, other.brain)


def test_only_where_there_are_pairs():
    with pytest.raises(ValueError, match="task.shuffle_pairs has no use in task.type=rsa"):
        config("task.shuffle_pairs=true", "task.type=rsa", "encoding.model=spectrotemporal")
