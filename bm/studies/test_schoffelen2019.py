import logging

import mne
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.data.assemble import assemble
from bm.data.prepare import read_events
from bm.events import check_events, make_blocks
from bm.store import Store
from bm.studies.check import check_study
from bm.studies.quality import quality_of
from bm.studies.schoffelen2019 import NUMBERS, Schoffelen2019, SchoffelenRecording, _match, subject_numbers
from bm.studies.schoffelen_log import read_log
from bm.studies.schoffelen_stimuli import PHONES, UNKNOWN, WAV, grid_events, numbered_file, read_stimuli, stimulus_uids
from bm.studies.test_schoffelen_log import log_text, write
from bm.studies.twins import make_twin, twin_faults
from bm.studies.twins.ctf import SCALE
from bm.studies.twins.schoffelen2019 import AHEAD, BLOCKS, SILENCE, WORD, WORD_LISTS
from bm.test_config import CONF


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return make_twin("schoffelen2019", tmp_path_factory.mktemp("schoffelen") / "study")


def first(path, modality, **selection):
    return next(iter(Schoffelen2019(path, modality=modality, **selection).recordings()))


def checked(recording):
    return check_events(recording.events(), recording.name, recording.signal().duration)


def test_lists_of_subjects_give_the_published_counts():
    for modality, expected in (("audio", 96), ("visual", 99)):
        numbers = subject_numbers(modality)
        assert len(numbers) == expected == Schoffelen2019("x", modality=modality).facts.subjects
        assert numbers == sorted(set(numbers)) and set(numbers) < set(NUMBERS[modality])
    assert subject_numbers("visual")[0] == 1001
    assert not {1006, 1018, 2011, 2012, 2123} & {*subject_numbers("visual"), *subject_numbers("audio")}


def test_recordings(twin, caplog):
    with caplog.at_level(logging.WARNING):
        audio = [r.uid for r in Schoffelen2019(twin).recordings()]
    assert audio == ["sub-A2002", "sub-A2003"]  # not A2012 and A2036, which are there
    assert "2 of 96 subjects (audio)" in caplog.text
    visual = list(Schoffelen2019(twin, modality="visual").recordings())
    assert [r.subject for r in visual] == ["V1001", "V1002"]
    assert [r.uid for r in Schoffelen2019(twin / "download").recordings()] == audio


@pytest.mark.parametrize("selection, message", [({"modality": "both"}, "modality is 'both'"),
                                                ({"context": "wordlist"}, "context is 'wordlist'"),
                                                ({"kontext": None}, "kontext")])
def test_wrong_keys(selection, message):
    with pytest.raises(ValueError, match=message):
        Schoffelen2019("x", **selection)
    with pytest.raises(FileNotFoundError, match="none of the 96 folders sub-A2002/meg"):
        list(Schoffelen2019("x").recordings())


def test_signal_is_the_gradiometers_of_ctf(twin):
    recording = first(twin, "audio")
    signal = recording.signal()
    assert signal.rate == 1200 and signal.shape[1] == len(signal.channels) == 24
    assert signal.channels["name"].iloc[0] == "MLC11" and (signal.channels["unit"] == "T").all()
    assert signal.channels[["layout_x", "layout_y"]].notna().all(axis=None)
    # the two files of the signal are one
    sizes = [path.stat().st_size - 8 for path in recording.source_files() if path.name.endswith("meg4")]
    assert len(sizes) == 2 and sum(sizes) == signal.shape[0] * 30 * 4
    assert signal.read(0, 4800).std() == pytest.approx(100 * SCALE, rel=0.02)


def test_what_was_heard(twin):
    recordings = list(Schoffelen2019(twin).recordings())
    tables = [checked(recording) for recording in recordings]
    events = tables[0]
    sounds, words, phonemes = (events[events["kind"] == kind] for kind in ("sound", "word", "phoneme"))
    stimuli = [number for block in BLOCKS for number in block]
    assert sounds["sequence_uid"].tolist() == [str(number) for number in stimuli]
    assert [path[-7:-4] for path in sounds["filepath"]] == [f"{number:03d}" for number in stimuli]
    log = read_log(recordings[0].log)
    onsets = log.loc[log["code"] == "1 Audio onset", "time"] + AHEAD["A2002"]
    np.testing.assert_allclose(sounds["start"], onsets, atol=1 / 1200)
    length = words.groupby("sequence_uid", sort=False).size().to_numpy()
    np.testing.assert_allclose(sounds["duration"], SILENCE + WORD * length)  # to the last word, not to the file's end
    assert len(phonemes) == 3 * len(words) and phonemes["phoneme"].head(3).tolist() == ["h", "E", "t"]
    assert phonemes["phoneme_id"].head(3).tolist() == [PHONES.index(p) for p in ("h", "E", "t")]
    # the last word of a sound keeps its phonemes
    counts = phonemes.groupby(["sequence_id", "word_index"]).size()
    assert (counts == 3).all() and len(counts) == len(words)
    assert set(events["language"]) == {"nl"} and set(events["modality"]) == {"audio"}
    lists = sounds["sequence_uid"].isin([str(number) for number in WORD_LISTS])
    assert sounds["context"].tolist() == np.where(lists, "word_list", "sentence").tolist()
    blocks = make_blocks(events, Schoffelen2019.blocks, recordings[0].signal().duration, "x")
    assert blocks["uid"].tolist() == sounds["sequence_uid"].tolist()
    # the log of the other is there twice, with a broken row and other names of the same sounds
    for column in ("kind", "word", "stimulus", "sequence_uid", "phoneme_id", "word_index"):
        assert tables[0][column].equals(tables[1][column])
    shift = tables[1]["start"] - tables[0]["start"]
    np.testing.assert_allclose(shift, AHEAD["A2003"] - AHEAD["A2002"], atol=2 / 1200)


def test_what_was_read(twin):
    recording = first(twin, "visual")
    events = checked(recording)
    assert set(events["kind"]) == {"word"} and set(events["modality"]) == {"visual"}
    log = read_log(recording.log)
    assert events["start"].iloc[0] == pytest.approx(
        log.loc[log["condition"] == "fix", "time"].iloc[0] + AHEAD["V1001"] + 2, abs=1 / 1200)
    np.testing.assert_allclose(events["duration"], 0.3)
    heard = checked(first(twin, "audio"))
    heard = heard[heard["kind"] == "word"]
    for column in ("word", "sequence_uid", "word_index", "word_sequence", "context"):
        assert events[column].tolist() == heard[column].tolist()
    blocks = make_blocks(events, Schoffelen2019.blocks, recording.signal().duration, "x")
    assert blocks["uid"].tolist() == heard["sequence_uid"].drop_duplicates().tolist()


def test_word_lists_alone(twin, tmp_path):
    everything, lists, sentences = (first(twin, "audio", context=c) for c in (None, "word_list", "sentence"))
    store = Store(tmp_path)
    tables = [read_events(recording, store) for recording in (everything, lists, sentences)]
    counts = tables[0]["context"].value_counts()
    assert [len(table) for table in tables[1:]] == counts[["word_list", "sentence"]].tolist()
    assert set(tables[1]["context"]) == {"word_list"} and set(tables[1]["kind"]) == {"sound", "word", "phoneme"}
    # the second block of lists is the last of all; the first ends with the announcement of the sentences after it
    log = read_log(lists.log)
    third = log.loc[log["new_context"], "time"].iloc[2] + AHEAD["A2002"]
    blocks = make_blocks(check_events(tables[1], "x"), Schoffelen2019.blocks, 1000.0, "x")
    assert blocks["uid"].tolist() == [str(number) for number in WORD_LISTS]
    assert blocks["stop"].iloc[1] == pytest.approx(third, abs=1 / 1200) and blocks["stop"].iloc[-1] == 1000
    read = first(twin, "visual", context="word_list").events()
    assert set(read["sequence_uid"]) == {str(number) for number in WORD_LISTS}


def test_without_textgrids_there_are_sounds_only(tmp_path, caplog):
    recording = first(make_twin("schoffelen2019", tmp_path / "x", textgrids=False, sensors=4), "audio")
    with caplog.at_level(logging.WARNING):
        events = checked(recording)
    assert set(events["kind"]) == {"sound"} and "12 of 12 sounds have no TextGrid" in caplog.text
    assert events["sequence_uid"].tolist() == [str(number) for block in BLOCKS for number in block]
    assert (events["duration"] > 2).all() and recording.measures() == {}


FOUND = {"missing_sound": "014.wav", "missing_file": "A2002", "truncated_raw": "whole trials",
         "lost_trigger": "missed_triggers", "spare_trigger": "spare_triggers", "drift": "drift_ppm",
         "missing_word": "missing_words", "doubled_word": "doubled_words", "outside_sound": "outside_sounds"}


@pytest.mark.parametrize("fault", twin_faults("schoffelen2019"))
def test_faults_are_found_and_named(tmp_path, twin, fault):
    path = make_twin("schoffelen2019", tmp_path / "x", fault, sensors=4)
    for modality in NUMBERS:
        recording = first(path, modality)
        if modality == "visual" and fault in ("missing_sound", "outside_sound"):
            continue
        quality = quality_of(recording)
        found = {finding.measure: finding.text for finding in quality.findings}
        expected = FOUND.get(fault, fault).replace("A2002", recording.subject)
        assert expected in found or expected in found.get("unreadable", "")
        if fault.endswith("_trigger") or fault.endswith("_word"):  # what is there is where it was
            ours, theirs = recording.events(), first(twin, modality).events()
            assert set(ours["sequence_uid"]) == set(theirs["sequence_uid"])
            opening = {uid: part["start"].iloc[0] for uid, part in theirs.groupby("sequence_uid")}
            for uid, part in ours.groupby("sequence_uid"):
                assert part["start"].iloc[0] == pytest.approx(opening[uid], abs=2 / 1200)


def test_without_faults_nothing_is_found(twin):
    for modality in NUMBERS:
        for recording in Schoffelen2019(twin, modality=modality).recordings():
            assert quality_of(recording).findings == ()


@pytest.mark.parametrize("modality", NUMBERS)
def test_study_keeps_its_promises(twin, modality):
    check_study(Schoffelen2019, twin, {"modality": modality})


@pytest.mark.parametrize("name", ["audio_mous", "audio_mous_wl", "visual_mous"])
def test_assemble(twin, tmp_path, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [f"dset.selections=[{name}]", "dset.tmin=-0.2", "dset.tmax=1.5",
                                                       f"study_paths.schoffelen2019={twin}"])))
    data = assemble(cfg, tmp_path)
    assert set(data.segments["split"]) == {"train", "valid", "test"}
    assert (data.audit.table[["brain_s", "stimulus_s"]] == 0).all(axis=None)
    uids = {str(number) for block in BLOCKS for number in block if name != "audio_mous_wl" or number in WORD_LISTS}
    assert set(data.blocks["uid"]) == uids and len(data.recordings) == 2


def make_recording(tmp_path, rows, name="A2002-MEG-MOUS-Aud.log"):
    recording = SchoffelenRecording(tmp_path, "A2002", "sub-A2002", "audio")
    home = tmp_path / "sourcedata" / "meg_task"
    home.mkdir(parents=True, exist_ok=True)
    write(tmp_path, log_text(rows)).rename(home / name)
    return recording


def test_files_that_are_not_as_they_should_be(tmp_path):
    recording = make_recording(tmp_path, [])
    with pytest.raises(FileNotFoundError, match=r"no .ds or .fif"):
        _ = recording.path
    for task in ("auditory", "rest"):
        (tmp_path / "sub-A2002" / "meg" / f"sub-A2002_task-{task}_meg.ds").mkdir(parents=True)
    assert recording.path.name == "sub-A2002_task-auditory_meg.ds"
    with pytest.raises(ValueError, match="cannot be read"):
        recording.raw()
    (tmp_path / "sub-A2002" / "meg" / "sub-A2002_task-auditory_run-2_meg.ds").mkdir()
    with pytest.raises(ValueError, match="2 files of the task"):
        _ = recording.path
    fif = tmp_path / "sub-A2002" / "meg" / "sub-A2002_task-auditory_meg.fif"
    info = mne.create_info(["STI101", "a"], 600.0, ["stim", "mag"])
    mne.io.RawArray(np.zeros((2, 1000)), info, verbose="ERROR").save(fif, verbose="ERROR")
    assert recording.path == fif
    with pytest.raises(ValueError, match="600 Hz, expected 1200"):
        recording.raw()
    recording.log.rename(recording.log.with_name("A2002-MEG-MOUS-Vis.log"))
    with pytest.raises(ValueError, match="expected one file with 'MEG-MOUS-Aud'"):
        _ = recording.log


def test_a_fif_is_read_from_its_first_sample_on(tmp_path):
    home = tmp_path / "sub-A2002" / "meg"
    home.mkdir(parents=True)
    data = np.zeros((2, 6000))
    data[0, 3000:3005], data[0, 30:33], data[1] = 20, 5, 1e-13
    raw = mne.io.RawArray(data, mne.create_info(["STI101", "a"], 1200.0, ["stim", "mag"]), 1234, verbose="ERROR")
    raw.save(home / "a_meg.fif", verbose="ERROR")
    recording = make_recording(tmp_path, [])
    times, codes = recording.triggers()
    assert times.tolist() == [0.025, 2.5] and codes.tolist() == [5, 20]
    with pytest.raises(ValueError, match="no trigger channel UPPT9"):
        SchoffelenRecording(tmp_path, "A2002", "sub-A2002", "audio", stim_channel="UPPT9").triggers()


def test_the_fixture_of_the_format(tmp_path, monkeypatch):
    """Log clock + 7 s = MEG clock; one trigger is lost; the rows after the last trigger have no place."""
    texts = {1: "het meisje slaapt", 2: "de jongen lacht", 3: "slaapt het meisje nu", 4: "lacht boom de"}
    rows = [("Picture", "ZINNEN", 1.0), *trial(3.0, 1), *trial(7.0, 2), ("Response", "1", 11.0),
            ("Picture", "WOORDEN", 12.0), *trial(14.0, 3), *trial(18.0, 4), ("Picture", "blank", 24.0)]
    recording = make_recording(tmp_path, [(kind, code, round(time * 10000)) for kind, code, time in rows])
    (tmp_path / "stimuli" / "audio_files").mkdir(parents=True)
    (tmp_path / "derivatives" / "phonemes").mkdir(parents=True)
    (tmp_path / "stimuli" / "stimuli.txt").write_text("".join(f"{n} {text}\n" for n, text in texts.items()))
    import soundfile
    for number, text in texts.items():
        soundfile.write(tmp_path / "stimuli" / "audio_files" / f"{WAV}{number:03d}.wav",
                        np.full(32000, number / 10), 16000)
        (tmp_path / "derivatives" / "phonemes" / f"{WAV}{number:03d}.TextGrid").write_text(grid(text.split()))
    marks = [(8.0, 10), (10.0, 20), (19.0, 10), (21.0, 20), (25.0, 20), (28.0, 15)]  # without 14.0, 20
    monkeypatch.setattr(SchoffelenRecording, "triggers",
                        lambda self: (np.array([time for time, _ in marks]), np.array([code for _, code in marks])))
    events = check_events(recording.events(), "x", 40.0)
    sounds, words = events[events["kind"] == "sound"], events[events["kind"] == "word"]
    np.testing.assert_allclose(sounds["start"], [11.55, 15.55, 22.55, 26.55])
    np.testing.assert_allclose(sounds["duration"], [0.95, 0.95, 1.25, 0.95])
    assert sounds["context"].tolist() == ["sentence"] * 2 + ["word_list"] * 2
    assert sounds["sequence_uid"].tolist() == ["1", "2", "3", "4"]
    assert len(words) == 13 and (events["kind"] == "phoneme").sum() == 39
    np.testing.assert_allclose(words["start"].head(4), [11.6, 11.9, 12.2, 15.6])
    only = SchoffelenRecording(tmp_path, "A2002", "sub-A2002", "audio", "word_list").events()["kind"].value_counts()
    assert only.to_dict() == {"sound": 2, "word": 7, "phoneme": 21}
    anchors = recording.anchors()
    assert len(anchors.events) == 5 and (anchors.n_events, anchors.n_recorded) == (6, 5)
    marks[3:] = [(21.0, 20), (22.4, 15)]  # the MEG ends before the third sound
    assert set(recording.events()["sequence_uid"]) == {"1", "2"}
    marks[3:] = [(21.0, 20), (25.0, 20), (28.0, 15)]
    for lost, message in ((-3, "4 rows 'Start File' but 3 'End of file'"), (-5, "not followed by 'Audio onset'")):
        kept = rows[:lost] + rows[lost + 1:]
        recording = make_recording(tmp_path, [(kind, code, round(time * 10000)) for kind, code, time in kept])
        with pytest.raises(ValueError, match=message):
            recording.events()


def trial(at, number):
    return [("Picture", "FIX", at), ("Sound", f"14 Start File {number:03d}.wav", at + 1.5),
            ("Nothing", "1 Audio onset", at + 1.55), ("Nothing", "2 target", at + 1.9),
            ("Nothing", "15 End of file", at + 3.0), ("Picture", "blank", at + 3.1)]


def grid(words):
    """Praat's short format, with 0.05 s of silence before the words."""
    spans = [(word, 0.05 + 0.3 * i) for i, word in enumerate(words)]
    end = spans[-1][1] + 0.3
    tiers = {"ORT-MAU": [(word, at, at + 0.3) for word, at in spans],
             "MAU": [(phone, at + 0.1 * k, at + 0.1 * k + 0.1) for _, at in spans for k, phone in enumerate("hEt")]}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", 0, end + 0.1, "<exists>", len(tiers)]
    for name, items in tiers.items():
        items = [("<p:>", 0, 0.05), *items, ("", end, end + 0.1)]
        lines += ['"IntervalTier"', f'"{name}"', 0, end + 0.1, len(items)]
        lines += [line for text, start, stop in items for line in (start, stop, f'"{text}"')]
    return "\n".join(map(str, lines))


def test_a_log_of_another_recording(tmp_path):
    rows = [(kind, code, round(time * 10000)) for kind, code, time in
            [("Picture", "ZINNEN", 1.0), *trial(3.0, 1), *trial(7.0, 2)]]
    log = read_log(write(tmp_path, log_text(rows)))
    with pytest.raises(ValueError, match="0 of the 3 cues"):
        _match(log, np.array([1.0, 2.0]), np.array([1, 15]), "x")
    with pytest.raises(ValueError, match="are log and MEG of one"):
        _match(log, np.array([2.0, 90.0]), np.array([20, 10]), "x")


def test_texts_of_the_stimuli(tmp_path, caplog):
    path = tmp_path / "stimuli.txt"
    long = "de " * 15 + "bakker"
    path.write_text(f"7 Het meisje slaapt\n\n12 {long}\n")
    assert read_stimuli(path)["het meisje slaapt"] == ("7", "Het meisje slaapt")
    trials = pd.DataFrame({"text": ["het MEISJE slaapt", long[:-6], "het meisj slaapt", np.nan, "boom"],
                           "sound": [np.nan, np.nan, np.nan, "12", "7"]})
    with caplog.at_level(logging.WARNING):
        assert stimulus_uids(trials, path, "x") == {0: "7", 1: "12", 2: "7", 3: "12", 4: "7"}
    assert "2 texts are not in" in caplog.text
    with pytest.raises(ValueError, match="near to none"):
        stimulus_uids(pd.DataFrame({"text": ["boom"], "sound": [np.nan]}), path, "x")
    with pytest.raises(FileNotFoundError, match=r"stimuli.txt"):
        stimulus_uids(trials, tmp_path / "a" / "stimuli.txt", "x")
    alike = f"1 {long}\n2 {long} om"
    for text, message in (("0 het", "line 1"), ("1 het\nhet meisje", "line 2"), (alike, "start with the same 45")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_stimuli.__wrapped__(path)


def test_words_and_phones_of_a_grid(tmp_path, caplog):
    path = tmp_path / f"{WAV}014.TextGrid"
    path.write_text(grid(["een", "null", "NA"]).replace('"E"', '"%"', 1))
    with caplog.at_level(logging.WARNING):
        items = grid_events(path, 0)
    assert items.loc[items["kind"] == "word", "word"].tolist() == ["een", "null", "NA"]
    phones = items[items["kind"] == "phoneme"]
    assert phones["word_index"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert phones["phoneme_id"].iloc[1] == UNKNOWN == 43 and "['%']" in caplog.text
    assert numbered_file(tmp_path, "14", ".TextGrid") == numbered_file(tmp_path, "014", ".TextGrid") == path
    assert numbered_file(tmp_path, "15", ".TextGrid") is None
    path.write_text(grid(["een"]).replace("ORT-MAU", "words"))
    with pytest.raises(ValueError, match="expected ORT-MAU"):
        grid_events(path, 1)


def test_a_real_ctf_folder(shared_data, tmp_path):
    """Of the same system: 273 gradiometers without the 28 references, all with a place in the layout."""
    real = shared_data("meg_io_fixtures") / "ctf" / "testdata_ctf_short_discontinuous.ds"
    folder = tmp_path / "sub-A2002" / "meg" / "sub-A2002_task-auditory_meg.ds"
    folder.mkdir(parents=True)
    for path in real.iterdir():
        (folder / path.name.replace(real.stem, folder.stem)).symlink_to(path)
    recording = make_recording(tmp_path, [])
    signal = recording.signal()
    channels = signal.channels
    assert signal.shape == (2402, 273) and signal.rate == 1200 and channels["name"].iloc[0] == "MLC11"
    assert (channels["unit"] == "T").all() and channels[["layout_x", "layout_y"]].notna().all(axis=None)
    assert np.linalg.norm(channels[["x", "y", "z"]], axis=1).min() > 0.05  # m
    assert np.linalg.norm(channels[["x", "y", "z"]], axis=1).max() < 0.25
    assert 1e-14 < np.abs(signal.read(0, 500)).max() < 1e-9
    assert recording.triggers()[0].size == 0  # UPPT001 is silent in these two seconds
    assert sorted(path.suffix for path in recording.source_files()) == [".meg4", ".res4"]


def test_a_signal_that_changed_makes_the_events_be_read_again(twin, tmp_path):
    recording = first(twin, "audio")
    options = recording.event_options()
    signal = recording.source_files()[0]
    assert signal.name.endswith("meg4")
    (tmp_path / "sub-A2002" / "meg" / recording.path.name).mkdir(parents=True)
    for path in recording.source_files():
        copy = tmp_path / "sub-A2002" / "meg" / recording.path.name / path.name
        copy.write_bytes(path.read_bytes() if path != signal else path.read_bytes()[:-4] + b"1234")
    other = SchoffelenRecording(tmp_path, "A2002", "sub-A2002", "audio").event_options()
    assert other["signal"][0] != options["signal"][0] and other["signal"][-1] == options["signal"][-1]
