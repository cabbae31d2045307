import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.data.audit import audit, sentences_heard, shared_seconds
from bm.data.segments import Window, segment_table
from bm.events import check_events
from bm.splits import LeakError, SplitRule
from bm.test_splits import plan

WINDOWS = {"train": Window(-0.5, 2.5, 0.5), "valid": Window(-0.5, 2.5, 0.5), "test": Window(-0.5, 2.5, "word")}


def test_361_samples():
    assert Window(-0.5, 2.5, "word").samples(120) == 361


def make(recordings, rate=50, rule=None):
    blocks = plan(recordings, rule or SplitRule(0.3, 0.2))
    events = [check_events(r.events(), r.name, r.seconds) for r in recordings]
    lengths = [round(r.seconds * rate) for r in recordings]
    return segment_table(events, blocks, lengths, WINDOWS, rate, [r.name for r in recordings]), blocks


def test_every_segment_lies_in_one_block_of_its_split(recordings):
    segments, blocks = make(recordings)
    assert set(segments["split"]) == {"train", "valid", "test"}
    for row in segments.itertuples():
        own = blocks[(blocks["recording"] == row.recording) & (blocks["start"] <= row.start + 1e-9)].iloc[-1]
        assert own["split"] == row.split and row.stop <= own["stop"] + 1 / 50
    test = segments[segments["split"] == "test"]
    assert (test["word"] != "").all() and (segments["first"] >= 0).all()
    # the same word of the same sentence is one candidate for all three subjects
    assert (test.groupby("candidate")["recording"].nunique() == 3).mean() > 0.8
    assert (test.groupby("candidate")["word"].nunique() == 1).all()


@settings(max_examples=50, deadline=None)
@given(edges=st.lists(st.floats(0.5, 9), min_size=2, max_size=8), rate=st.sampled_from([40, 50, 120]),
       seed=st.integers(0, 100))
def test_no_sample_is_shared(edges, rate, seed):
    stops = np.cumsum(edges)
    uids = [f"b{i}" for i in range(len(stops))]
    blocks = pd.DataFrame({"start": np.r_[0.013, stops[:-1]], "stop": stops, "uid": uids,
                           "split": np.random.default_rng(seed).choice(["train", "valid", "test"], len(stops)),
                           "stimulus": "", "chunk_start": 0.0, "chunk_stop": 0.0, "chunk_time": 0.0})
    windows = dict.fromkeys(WINDOWS, Window(-0.5, 1.0, 0.1))
    table = segment_table([pd.DataFrame({"kind": []})], blocks.assign(recording=0), [int(stops[-1] * rate)], windows,
                          rate, ["x"])
    owner = {}
    for row in table.itertuples():
        for sample in range(row.first, row.first + Window(-0.5, 1.0, 0.1).samples(rate)):
            assert owner.setdefault(sample, row.block) == row.block
    report = audit(table, [0], [pd.DataFrame({"kind": []})])
    assert (report.table["brain_s"] == 0).all()


def test_shared_seconds():
    a, b = np.array([[0, 2], [5, 7.0]]), np.array([[1.5, 5.5], [1.6, 3]])
    assert shared_seconds(*a.T, *b.T) == pytest.approx(1.0)
    assert shared_seconds(*a.T, np.array([2.0]), np.array([5.0])) == 0


@pytest.mark.parametrize("leak", ["brain", "stimulus", "text", "subject"])
def test_planted_leaks_are_caught(recordings, leak):
    segments, _ = make(recordings)
    events = [check_events(r.events(), r.name, r.seconds) for r in recordings]
    clean = audit(segments, [0, 1, 2], events)
    clean.check()
    assert (clean.table["texts"] == 0).all()
    if leak == "subject":
        with pytest.raises(LeakError, match="splits share subjects"):
            clean.check(shared_subjects=False)
        return
    train, test = (segments.index[segments["split"] == split][0] for split in ("train", "test"))
    if leak == "brain":
        segments.loc[train, ["start", "stop", "recording"]] = segments.loc[test, ["start", "stop", "recording"]]
    elif leak == "stimulus":
        columns = ["stimulus_start", "stimulus_stop"]
        segments.loc[train, columns] = segments.loc[test, columns]
    else:
        heard = {split: sorted(texts) for split, texts in sentences_heard(segments, events).items()}
        assert all(len(texts) > 1 for texts in heard.values())
        renamed = {heard["test"][0]: heard["train"][0]}  # the same words, spoken at another place
        events[1] = events[1].assign(word_sequence=events[1]["word_sequence"].replace(renamed))
    report = audit(segments, [0, 1, 2], events)
    assert report.table["texts"].any() == (leak != "stimulus")  # who hears the other's second hears its words
    with pytest.raises(LeakError, match="share data" if leak != "text" else "strict_text"):
        report.check(strict_text=True)
    if leak == "text":
        report.check()


def test_unknown_trigger(recordings):
    with pytest.raises(ValueError, match="no event of kind 'phoneme'.*change dset.condition"):
        segment_table([check_events(recordings[0].events(), "x")], plan(recordings[:1]), [3000],
                      {"test": Window(0, 1, "phoneme")}, 50, ["x"])


def test_what_has_no_words_is_known_by_its_place(recordings):
    windows = dict.fromkeys(WINDOWS, Window(0, 1.5, "phoneme"))
    events = []
    for r in recordings:
        table = check_events(r.events(), r.name, r.seconds)
        words = table[table["kind"] == "word"].iloc[:60]
        phonemes = words.assign(kind="phoneme", phoneme="t", word=None, word_index=np.nan, word_sequence=None)
        events.append(check_events(pd.concat([table, phonemes]), r.name, r.seconds))
    segments = segment_table(events, plan(recordings), [3000] * 3, windows, 50, [r.name for r in recordings])
    assert set(segments["sentence"]) == {""} and (segments["word_index"] == -1).all()
    # each place is another candidate, and the same one for all three, to within the sample triggers are rounded to
    assert segments[segments["recording"] == 0]["candidate"].is_unique
    assert len(segments) / 3 <= segments["candidate"].nunique() <= len(segments)
