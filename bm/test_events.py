import numpy as np
import pandas as pd
import pytest

from bm.events import EventsError, check_events, make_blocks


def test_good_events_are_sorted_and_completed(recordings, wav):
    events = check_events(recordings[0].events().iloc[::-1], "toy/r0", 60)
    assert list(events["kind"].unique()) == ["sound", "word"]
    sound = events.iloc[0]
    assert sound["duration"] == pytest.approx(50) and sound["offset"] == 0 and len(sound["stimulus"]) == 16
    assert (events["start"].diff().dropna() >= 0).all()


def test_sound_before_word_before_phoneme(recordings):
    table = recordings[0].events()
    first = table[table["kind"] == "word"].iloc[:1]
    phoneme = first.assign(kind="phoneme", phoneme="t")
    events = check_events(pd.concat([phoneme, first, table.iloc[:1].assign(start=first["start"].iloc[0])]), "x")
    assert list(events["kind"]) == ["sound", "word", "phoneme"]


@pytest.mark.parametrize("change, message", [
    ({"start": np.nan}, r"toy/r0, events row 2 .*'start': got nan, expected a finite time"),
    ({"start": "soon"}, "expected seconds"),
    ({"duration": -0.1}, r"'duration': got -0.1, expected 0 or more"),
    ({"duration": np.nan}, "expected a finite duration"),
    ({"kind": "wrod"}, "got 'wrod', expected one of block, sound"),
    ({"word": None}, "'word': got .*expected a value for every word"),
    ({"start": 61.0}, "expected a time within the recording of 60 s"),
])
def test_faults_are_named(recordings, change, message):
    events = recordings[0].events().astype({"start": object, "duration": object})
    for column, value in change.items():
        events.loc[2, column] = value
    with pytest.raises(EventsError, match=message):
        check_events(events, "toy/r0", 60)


def test_words_that_look_like_nothing_survive(recordings):
    events = recordings[0].events()
    events.loc[1:3, "word"] = ["null", "NA", "None"]
    assert list(check_events(events, "x")["word"][1:4]) == ["null", "NA", "None"]


def test_missing_sound(recordings, tmp_path):
    events = recordings[0].events().assign(filepath=str(tmp_path / "no.wav"))
    with pytest.raises(EventsError, match="expected a readable sound file"):
        check_events(events, "x")


def test_sound_ends_with_its_file(recordings):
    events = recordings[0].events()
    events.loc[0, ["offset", "duration"]] = 10.0, 100.0
    assert check_events(events, "x").loc[0, "duration"] == pytest.approx(40)
    events.loc[0, "offset"] = 51.0
    with pytest.raises(EventsError, match="less than the file's 50 s"):
        check_events(events, "x")


def test_blocks(recordings):
    events = check_events(recordings[0].events(), "x")
    blocks = make_blocks(events, "sentence", 60, "x")
    assert len(blocks) == 14
    np.testing.assert_allclose(blocks["start"], 1 + 3.5 * np.arange(14))
    np.testing.assert_allclose(blocks["stop"], np.r_[blocks["start"][1:], 60])
    np.testing.assert_allclose(blocks["offset"], 3.5 * np.arange(14), atol=1e-9)
    # words whose end touches the block's stop are members only if they end before it
    assert blocks["uid"][3] == " ".join(events[(events["kind"] == "word")]["word"].iloc[24:32])
    silent = make_blocks(events.drop(columns="condition"), "sound", 60, "x")
    assert silent["uid"][0] == f"{events['stimulus'][0]}@0"
    uids = make_blocks(events.assign(sequence_uid="one"), "sentence", 60, "x")["uid"]
    assert set(uids) == {"one"}
    with pytest.raises(EventsError, match="no event starts a block"):
        make_blocks(events[events["kind"] == "sound"], "sentence", 60, "x")


def test_overlapping_blocks_are_an_error(recordings):
    events = check_events(recordings[0].events(), "x")
    double = check_events(pd.concat([events, events[events["kind"] == "word"].iloc[:1]]), "x")
    with pytest.raises(EventsError, match="blocks may not overlap"):
        make_blocks(double, "sentence", 60, "x")
