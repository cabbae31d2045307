"""Words as items: who heard which, what was measured after them, and splits through which nothing leaks."""
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bm.config import check_config, to_plain
from bm.conftest import SENTENCES, ToyRecording
from bm.data.assemble import find_sources
from bm.data.items import Items, find_items, item_responses, list_items
from bm.data.scaling import robust_center_scale
from bm.events import check_events
from bm.linear.kernel import Design
from bm.linear.voxelwise import gram, random_splits, voxelwise
from bm.studies.base import STUDIES, Study
from bm.studies.twins import make_twin
from bm.test_config import CONF

RATE = 50


class ToyStudy(Study):
    name = "toy"
    listed: ClassVar[list[ToyRecording]] = []

    def recordings(self):
        return iter(self.listed)


def sources_of(recordings, tmp_path: Path, monkeypatch, *overrides: str):
    monkeypatch.setitem(STUDIES, "toy", ToyStudy)
    monkeypatch.setattr(ToyStudy, "listed", recordings)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", ["+selections.toy.study=toy", "dset.selections=[toy]",
                                                       "dset.features=[]", *overrides])))
    return find_sources(cfg, tmp_path), cfg.dset


def heard(groups: np.ndarray, triggers: list[np.ndarray], window: tuple[int, int] = (-5, 20), gap: int = 0) -> Items:
    """Items of groups, heard at these samples in each recording."""
    n = len(groups)
    table = pd.DataFrame({"item": [f"w{i}" for i in range(n)], "group": groups})
    parts = [pd.DataFrame({"item": np.arange(n), "recording": r, "trigger": trigger}) for r, trigger in
             enumerate(triggers)]
    return Items("word", table, pd.concat(parts, ignore_index=True), *window, gap, table)


def test_jitter_makes_no_new_item(recordings):
    moved = [replace(recording, jitter=0.01 * i) for i, recording in enumerate(recordings)]
    table, presented = list_items([check_events(r.events(), r.name, 60.0) for r in moved], "word")
    assert len(table) == 14 * 8 and len(presented) == 3 * 14 * 8 and table["item"].is_unique
    np.testing.assert_allclose(table["start"], [3.51 + 3.5 * s + 0.4 * w - 3.5 for s in range(14) for w in range(8)],
                               atol=1e-3)
    assert (np.diff(table["start"]) > 0).all() and set(table["duration"]) == {0.3}
    far = [replace(recording, jitter=0.2 * i) for i, recording in enumerate(recordings)]
    assert len(list_items([check_events(r.events(), r.name, 60.0) for r in far], "word")[0]) == 3 * 14 * 8
    with pytest.raises(ValueError, match="encoding.items=phoneme: no event of this kind lies in a sound"):
        list_items([check_events(moved[0].events(), "r", 60.0)], "phoneme")


def test_what_all_heard_is_kept(recordings, tmp_path, monkeypatch, caplog):
    """One subject heard the last four sentences never, another all of it twice."""
    shorter = replace(recordings[1], sentences=SENTENCES[:10])
    sources, dset = sources_of([recordings[0], shorter], tmp_path, monkeypatch)
    with caplog.at_level("INFO"):
        items = find_items(sources, dset, "word", -5, 50)
    assert len(items.table) == 80 and items.table["group"].tolist() == np.repeat(range(5), 16).tolist()
    assert len(items.every) == 112
    assert "80 of 112 words are kept: all 2 subjects heard them (repetitions: 1). Left out: 32 that not" in caplog.text
    caplog.set_level("INFO")
    twice = [recordings[0], replace(recordings[0], uid="again", onset=3.3), recordings[1]]
    sources, dset = sources_of(twice, tmp_path, monkeypatch)
    items = find_items(sources, dset, "word", 0, 50)  # as many sessions as the subject with the fewest
    assert len(items.table) == 112 and items.heard.groupby("recording")["repetition"].unique().to_dict() == {0: 0, 2: 0}
    assert "of those kept 112 further presentations" in caplog.text
    sources, dset = sources_of(twice[:2], tmp_path, monkeypatch)
    items = find_items(sources, dset, "word", 0, 50)
    assert len(items.table) == 112 and items.heard.groupby("recording")["repetition"].unique().tolist() == [[0], [1]]
    late = replace(twice[1], sentences=SENTENCES[2:])
    sources, dset = sources_of([twice[0], late, recordings[1], replace(recordings[1], uid="b")], tmp_path, monkeypatch)
    caplog.clear()
    assert len(find_items(sources, dset, "word", 0, 50).table) == 96  # most are heard twice by both
    assert "(repetitions: 2). Left out: 0 that not all of them heard, 16 that some heard less often" in caplog.text


def test_who_has_no_such_event_is_named(recordings, tmp_path, monkeypatch):
    silent = replace(recordings[1], sentences=())
    sources, dset = sources_of([recordings[0], silent], tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"0 of 112 words were heard by all 2 subjects.*{'p0': 112, 'p1': 0}"):
        find_items(sources, dset, "word", 0, 50)


def test_doubles_and_clocks_that_differ(recordings, caplog):
    """What one recording has twice is one presentation; a sound that plays again is another."""
    events = check_events(recordings[0].events(), "r", 60.0)
    words = events[events["kind"] == "word"]
    doubled = pd.concat([events, words[:5].assign(start=words["start"][:5] + 0.02)]).sort_values("start")
    table, presented = list_items([doubled.reset_index(drop=True), events], "word")
    assert len(table) == 112 and presented["recording"].value_counts().to_dict() == {0: 112, 1: 112}
    assert "5 words have the label of another less than 0.05 s before them in the same recording" in caplog.text
    np.testing.assert_allclose(presented["time"][:112], words["start"])
    again = pd.concat([events, events.assign(start=events["start"] + 100)], ignore_index=True)
    assert len(list_items([again], "word")[1]) == 224 and "clocks" not in caplog.text
    drift = events.assign(start=events["start"].where(events["kind"] == "sound", 1 + (events["start"] - 1) * 1.002))
    list_items([events, drift], "word")
    assert "words are more than 0.05 s, but less than 0.5 s, from one of the same label that only" in caplog.text


def test_every_item_has_a_group(recordings, tmp_path, monkeypatch, wav):
    """Also in a sound in which no sentence begins, and a moment before its block; few blocks are no error."""
    short = tmp_path / "short.wav"
    soundfile.write(short, np.random.default_rng(0).uniform(-1, 1, 8000 * 5), 8000)
    rows = [{"kind": "sound", "start": 52.0, "duration": np.nan, "filepath": str(short)}]
    rows += [{"kind": "word", "start": 52.2 + 0.4 * i, "duration": 0.3, "word": f"z{i}", "word_index": 8 + i,
              "word_sequence": "x", "condition": "sentence"} for i in range(8)]
    sources, dset = sources_of([replace(recordings[0], extra=rows)], tmp_path, monkeypatch,
                               "dset.min_n_blocks_per_split=9")
    group = find_items(sources, dset, "word", 0, 5).table["group"].to_numpy()
    assert group.tolist() == np.repeat(range(8), [16] * 7 + [8]).tolist()
    rows = [{"kind": "phoneme", "start": recordings[0].onset + start - 0.02, "duration": 0.1, "phoneme": "a"}
            for start, _, _ in SENTENCES]  # annotated a little before the words that they open
    sources, dset = sources_of([replace(recordings[0], extra=rows)], tmp_path, monkeypatch)
    group = find_items(sources, dset, "phoneme", 0, 5).table["group"].to_numpy()
    assert group.tolist() == np.repeat(range(7), 2).tolist()


def test_a_published_study(tmp_path):
    """Phonemes of The Old Man and the Sea, in its twin."""
    folder = make_twin("broderick2019", tmp_path / "twin")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [
            "dset.selections=[broderick2019]", f"study_paths.broderick2019={folder}", "dset.features=[]"])))
    sources = find_sources(cfg, tmp_path)
    items = find_items(sources, cfg.dset, "phoneme", 0, 25)
    assert (len(items.table), len(items.every), items.heard["subject"].nunique()) == (171, 171, 2)
    values, channels = item_responses(items, sources, [(0, 10), (10, 25)], None, 20.0)
    assert values.shape == (171, 2 * len(channels), 1) and np.isfinite(values).all()


def test_one_text_is_in_one_group(recordings, tmp_path, monkeypatch):
    again = list(SENTENCES)
    again[12] = (*again[12][:2], "s1")  # the second sentence once more
    sources, dset = sources_of([replace(recordings[0], sentences=tuple(again))], tmp_path, monkeypatch)
    group = find_items(sources, dset, "word", 0, 5).table["group"].to_numpy().reshape(14, 8)[:, 0]
    assert group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0]  # two sentences a block


def test_responses_are_those_of_the_prepared_recording(recordings, tmp_path, monkeypatch, caplog):
    """Filtered, scaled by the recording, relative to the baseline, clamped, averaged; without bad channels."""
    own = [replace(recordings[0], bad=(2,)), replace(recordings[0], uid="again", onset=3.3, seed=5, channels=5)]
    sources, dset = sources_of(own, tmp_path, monkeypatch, "dset.highpass=1", "dset.sample_rate=50")
    items = find_items(sources, dset, "word", -25, 30)
    values, channels = item_responses(items, sources, [(0, 10), (10, 30)], (-25, 1), 1.5)
    assert values.shape == (112, 2 * 4, 2) and "2 of 6 channels are bad or missing" in caplog.text
    assert channels["name"].tolist() == ["MEG000", "MEG001", "MEG003", "MEG004"]
    array = sources.prepared[1].array.astype(float)
    _, scale = robust_center_scale(array[:, 3:4])
    word = items.table["start"].to_numpy().searchsorted(7.4)
    trigger = round((3.3 + items.table["start"][word]) * RATE)
    response = array[trigger - 25:trigger + 30, 3]
    response = np.clip((response - response[:26].mean()) / scale, -1.5, 1.5)
    np.testing.assert_allclose(values[word, 4:6, 1], [response[25:35].mean(), response[35:].mean()], rtol=1e-4)
    plain, _ = item_responses(items, sources, [(0, 10)], None, None)
    center, scale = robust_center_scale(array[:, 3:4])  # without a baseline: of the whole recording
    response = (array[trigger:trigger + 10, 3] - center) / scale
    np.testing.assert_allclose(plain[word, 2, 1], response.mean(), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 12), st.integers(0, 40))
def test_no_response_is_on_both_sides(seed, n_groups, gap):
    """Every sample of brain of a train item is `gap` away from those of test items, in all recordings."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(8, 30, n_groups))
    triggers = [np.cumsum(rng.integers(5, 60, len(groups))), rng.permutation(40 * len(groups))[:len(groups)] * 5]
    items = heard(groups, triggers[:1 + (seed % 2)], gap=gap)
    try:
        splits = items.splits(len(groups) // 2, 3)
    except ValueError as error:
        assume("dset.purge" not in str(error))  # too little is left
        raise
    apart = items.apart()
    for train, test in splits:
        assert not set(train) & set(test) and not set(groups[train]) & set(groups[test])
        whole = np.isin(groups, np.setdiff1d(groups, groups[test]))
        for trigger in triggers[:1 + (seed % 2)]:
            begin = trigger - 5
            a, b = begin[train][:, None], begin[test]
            assert not ((a < b + 25 + gap) & (b < a + 25 + gap)).any()
        left_out = np.setdiff1d(np.flatnonzero(whole), train)  # no more than need be
        assert all(any((np.abs(trigger[i] - trigger[test]) < 25 + gap).any() for trigger in triggers[:1 + (seed % 2)])
                   for i in left_out)
        assert apart[np.ix_(train, test)].all()
    assert not apart[groups[:, None] == groups].any() and (apart == apart.T).all()


def test_splits_are_seeded_halves_and_need_groups():
    items = heard(np.repeat(np.arange(20), 10), [np.arange(200) * 100])
    one, two = items.splits(100, 5), items.splits(100, 5)
    assert all((a[0] == b[0]).all() for a, b in zip(one, two, strict=True))
    assert all(len(train) == len(test) == 100 for train, test in one)
    assert len({tuple(train) for train, _ in one}) == 5 and len(items.splits(30, 1)[0][0]) == 30
    with pytest.raises(ValueError, match=r"at least four of them: .*the largest of 3 groups has 50 of 110 words"):
        heard(np.repeat([0, 1, 2], [50, 30, 30]), [np.arange(110) * 100]).splits(55, 2)
    with pytest.raises(ValueError, match=r"0 words are left to train on, of .*dset.purge \(5000 samples\)"):
        heard(np.repeat(np.arange(8), 10), [np.arange(80) * 50], gap=5000).splits(40, 2)


def test_slow_noise_does_not_leak():
    """Noise that forgets itself within seconds, and features that say when a word was said: neighbours tell of each
    other, so that random words score, and blocks with a gap do not."""
    rng, rate = np.random.default_rng(0), 10
    noise = np.zeros((400 * rate, 40))
    for i in range(1, len(noise)):
        noise[i] = np.exp(-1 / rate) * noise[i - 1] + rng.standard_normal(40)
    start = np.arange(1, 396, 0.8)
    y = noise[np.rint(start * rate).astype(int)]
    x = np.exp(-((start[:, None] - np.arange(0, 400, 4.0)) / 3) ** 2)
    groups = (start // 30).astype(int)
    items = heard(groups, [np.rint(start * rate).astype(int)], (0, 8), gap=3 * rate)
    alphas = np.logspace(-6, 6, 13)
    blocks = voxelwise(Design(x), y, items.splits(len(y) // 2, 3), alphas, groups=groups)
    words = voxelwise(gram(x), y, random_splits(len(y), len(y) // 2, 1), alphas)
    r = blocks.r_prior_zero.mean(1)
    assert words.r_prior_zero.mean() > 0.25 and abs(r.mean()) < 3 * r.std() / 40 ** 0.5 + 0.01 and abs(r.mean()) < 0.03
