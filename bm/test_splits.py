import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bm.conftest import SENTENCES
from bm.events import check_events, make_blocks
from bm.splits import SplitRule, assign_splits, hold_out_subjects, merge_groups, plan_blocks, split_score


@pytest.mark.parametrize("uid, score", [
    ("ceci est", 0.8149709067146149), ("un test", 0.017616799174733133), ("block0", 0.4032319732170301),
    ("block2", 0.9983259650384768), ("61", 0.09397122810163017), ("", 0.6660298637811382)])
def test_scores_of_the_reference(uid, score):
    assert split_score(uid) == score


def test_splits_of_the_reference():
    rule = SplitRule(0.2, 0.1)
    assert list(assign_splits(list("abcde"), rule)) == ["test", "train", "train", "test", "test"]
    removed = assign_splits(list("abcde"), dataclasses.replace(rule, remove_ratio=0.3))
    assert list(removed) == ["test", "train", "removed", "test", "test"]
    with pytest.raises(ValueError, match="'train' has 2 blocks, expected at least 3"):
        assign_splits(list("abcde"), dataclasses.replace(rule, min_n_blocks_per_split=3))


def test_merging_of_the_reference():
    start, stop = np.array([1, 3, 7, 8, 13]), np.array([3, 7, 8, 13, 14])
    assert list(merge_groups(start, stop, 6, first=0)) == [0, 0, 1, 1, 1]
    assert list(merge_groups(start, stop, 3, first=0)) == [0, 0, 1, 1, 2]
    assert list(merge_groups(start, stop, 0)) == [0, 1, 2, 3, 4]


def plan(recordings, rule=None):
    events = [check_events(r.events(), r.name, r.seconds) for r in recordings]
    base = pd.concat([make_blocks(e, "sentence", r.seconds, r.name).assign(recording=i)
                      for i, (e, r) in enumerate(zip(events, recordings, strict=True))], ignore_index=True)
    sounds = pd.concat([e[e["kind"] == "sound"].assign(recording=i) for i, e in enumerate(events)], ignore_index=True)
    return plan_blocks(base, sounds, [r.seconds for r in recordings], rule or SplitRule())


def test_the_same_for_every_recording(recordings):
    blocks = plan(recordings)
    for i in range(3):
        own = blocks[blocks["recording"] == i].reset_index(drop=True)
        first = blocks[blocks["recording"] == 0].reset_index(drop=True)
        assert list(own["uid"]) == list(first["uid"]) and list(own["split"]) == list(first["split"])
        np.testing.assert_allclose(own["start"] - first["start"], 0.37 * i, atol=2e-3)
        assert (own["stop"].iloc[-1], own["start"].iloc[0]) == (60.0, pytest.approx(1 + 0.37 * i))
        # sentences of 3.5 s are merged by two; blocks follow each other without a gap
        np.testing.assert_allclose(own["start"][1:], own["stop"][:-1])
        assert (own["uid"].str.count(",") == 1).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(missing=st.sets(st.integers(0, 13), max_size=5), jitter=st.floats(-0.03, 0.03),
       seed=st.integers(0, 10_000), n=st.integers(2, 3))
def test_a_missing_sentence_or_jitter_moves_nothing(recordings, missing, jitter, seed, n):
    rule = SplitRule(0.3, 0.2, split_assign_seed=seed)
    odd = dataclasses.replace(recordings[0], jitter=jitter,
                              sentences=tuple(s for i, s in enumerate(SENTENCES) if i not in missing))
    blocks = plan([odd, *recordings[1:n]], rule)
    split_at = []
    for i, recording in enumerate([odd, *recordings[1:n]]):
        own = blocks[blocks["recording"] == i]
        times = recording.onset + np.arange(0, 50, 0.01)  # the split of every instant of the sound
        at = np.searchsorted(own["start"].to_numpy() - 1e-3, times, side="right") - 1
        split_at.append(np.where(at >= 0, own["split"].to_numpy()[at], "none"))
    later = split_at[0] != "none"  # before the first block nothing is used
    for other in split_at[1:]:
        assert (split_at[0] == other)[later & (other != "none")].mean() > 0.9995
    # and no sentence that is heard is in two splits
    assert (blocks.groupby("uid")["split"].nunique() == 1).all()


def test_purge_trims_train_then_valid_never_test(recordings):
    rule = SplitRule(0.3, 0.3, split_assign_seed=3)
    before, after = plan(recordings[:1], rule), plan(recordings[:1], dataclasses.replace(rule, purge=0.5))
    rank = {"train": 0, "valid": 1, "test": 2}
    cut = 0
    for i in range(1, len(after)):
        left, right = after.iloc[i - 1], after.iloc[i]
        if left["split"] != right["split"]:
            cut += 1
            assert right["start"] - left["stop"] == pytest.approx(0.5)
            loser = i - 1 if rank[left["split"]] < rank[right["split"]] else i
            changed = [not np.isclose(before.iloc[j]["start"], after.iloc[j]["start"])
                       or not np.isclose(before.iloc[j]["stop"], after.iloc[j]["stop"]) for j in (i - 1, i)]
            assert changed[0 if loser == i - 1 else 1]
    assert cut >= 2
    tests = after["split"] == "test"
    pd.testing.assert_frame_equal(before[tests], after[tests])


def test_blocks_without_a_sound(recordings):
    events = check_events(recordings[0].events().query("kind == 'word'").assign(modality="visual"), "x")
    base = make_blocks(events, "sentence_or_sound", 60, "x").assign(recording=0)
    sounds = pd.DataFrame({"recording": [], "start": [], "duration": [], "offset": [], "stimulus": []})
    blocks = plan_blocks(base, sounds, [60.0], SplitRule())
    assert len(blocks) == 14 and (blocks["stimulus"] == "").all()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(5, 60), n_folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_folds_are_balanced_and_cover_everything_once(n, n_folds, seed):
    uids = [f"block {i}" for i in range(n)]
    splits = [assign_splits(uids, SplitRule(0.2, 0.1, split_assign_seed=seed, fold=fold, n_folds=n_folds,
                                            min_n_blocks_per_split=0)) for fold in range(n_folds)]
    tested = np.stack([split == "test" for split in splits])
    assert (tested.sum(0) == 1).all() and np.ptp(tested.sum(1)) <= 1
    shuffled = assign_splits(uids[::-1], SplitRule(split_assign_seed=seed, n_folds=n_folds, min_n_blocks_per_split=0))
    assert list(shuffled[::-1]) == list(splits[0])


def test_33_of_165_sounds_in_each_of_5_folds():
    uids = [f"sound{i}" for i in range(165)]
    for fold in range(5):
        split = assign_splits(uids, SplitRule(valid_ratio=0.1, fold=fold, n_folds=5))
        assert (split == "test").sum() == 33 and 5 < (split == "valid").sum() < 30


def test_held_out_subjects(recordings):
    rule = SplitRule(0.3, 0.3, split_assign_seed=3, split_by="subject", n_folds=3, min_n_blocks_per_split=0)
    everyone = []
    for fold in range(3):
        rule = dataclasses.replace(rule, fold=fold)
        blocks = hold_out_subjects(plan(recordings, rule), ["p0", "p1", "p2"], rule)
        kept = blocks[blocks["split"] != "removed"]
        assert (kept.groupby("recording")["split"].nunique() == 1).all()
        assert (kept.groupby("uid")["split"].nunique() == 1).all()
        everyone += kept.loc[kept["split"] == "test", "recording"].unique().tolist()
    assert sorted(everyone) == [0, 1, 2]


def test_a_handful_of_subjects_is_divided_by_whole_people():
    """Six people without a stimulus, one left out at a time: each is tested once, and one of the others validates."""
    names = [f"s{i}" for i in range(6)]
    base = pd.DataFrame({"recording": np.repeat(range(6), 2), "start": [0.0, 10.0] * 6, "stop": [10.0, 20.0] * 6,
                         "uid": [f"{name} {i}" for name in names for i in range(2)], "stimulus": "", "offset": 0.0})
    nothing = pd.DataFrame({"recording": [], "stimulus": [], "start": [], "offset": [], "duration": []})
    tested = []
    for fold in range(6):
        rule = SplitRule(valid_ratio=0.17, n_folds=6, fold=fold, split_by="subject", purge=1.0)
        blocks = hold_out_subjects(plan_blocks(base, nothing, [20.0] * 6, rule), names, rule)
        counts = blocks.groupby("split")["recording"].nunique().to_dict()
        assert counts == {"test": 1, "train": 4, "valid": 1}
        assert (blocks["stop"] - blocks["start"] == 10).all()  # nothing touches another split: nothing is trimmed
        tested += blocks.loc[blocks["split"] == "test", "recording"].unique().tolist()
    assert sorted(tested) == list(range(6))
    with pytest.raises(ValueError, match="n_folds=7, but there are 6 subjects"):
        hold_out_subjects(base, names, dataclasses.replace(rule, n_folds=7))
