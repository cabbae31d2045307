import logging

import mne
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.data.assemble import assemble
from bm.events import check_events, make_blocks
from bm.studies.arpabet import ARPABET, UNKNOWN
from bm.studies.check import check_study
from bm.studies.events_tsv import read_tsv
from bm.studies.gwilliams2022 import Gwilliams2022, _check_whole, _dictionary, _sound_file
from bm.studies.quality import quality_of, word_measures
from bm.studies.twins import make_twin, twin_faults
from bm.studies.twins.kit import SCALE, write_kit
from bm.test_config import CONF


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return make_twin("gwilliams2022", tmp_path_factory.mktemp("gwilliams") / "study")


@pytest.fixture(scope="module")
def recordings(twin):
    return list(Gwilliams2022(twin).recordings())


def test_recordings_are_those_that_have_a_file(twin, caplog):
    (twin / "download" / "sub-77" / "ses-0").mkdir(parents=True, exist_ok=True)
    with caplog.at_level(logging.INFO):
        recordings = list(Gwilliams2022(twin).recordings())
    assert [r.uid for r in recordings] == ["01_session0_story0", "01_session0_story1", "01_session1_story0",
                                           "02_session0_story0", "02_session0_story1"]
    assert [(r.subject, r.session) for r in recordings][2:4] == [("01", "1"), ("02", "0")]
    assert "1 of 3 participants have no recording (99); 1 folders are of none (77)" in caplog.text
    assert "19 sessions and stories were not recorded" in caplog.text  # 3 × 2 × 4 − 5
    # a study that is kept without `download/`
    assert [r.uid for r in Gwilliams2022(twin / "download").recordings()] == [r.uid for r in recordings]


def test_signal_is_the_208_sensors_of_kit(recordings):
    signal = recordings[0].signal()
    channels = signal.channels
    assert signal.shape[1] == 208 and signal.rate == 200
    assert channels["name"].tolist() == [f"MEG {i:03d}" for i in range(1, 209)]
    assert (channels["unit"] == "T").all() and channels[["layout_x", "layout_y"]].notna().all(axis=None)
    np.testing.assert_allclose(np.linalg.norm(channels[["x", "y", "z"]], axis=1), 0.12)  # m, in the device's frame
    assert 5e-14 < signal.read(0, 2000).std() < 2e-13


def test_events(recordings, twin):
    recording = recordings[0]
    events = check_events(recording.events(), recording.name, recording.signal().duration)
    counts = events["kind"].value_counts()
    assert counts["sound"] == 2 and counts["word"] > 10 and counts["phoneme"] > counts["word"]
    assert set(events["language"]) == {"en"} and set(events["modality"]) == {"audio"}
    # as written: LW1_0.0.wav; on disk: lw1_0.wav, without a duration in the table
    sounds = events[events["kind"] == "sound"]
    assert [path.rsplit("/", 1)[1] for path in sounds["filepath"]] == ["lw1_0.wav", "lw1_1.wav"]
    assert (sounds["duration"] > 10).all() and sounds["start"].iloc[0] == 1.5
    words = events[events["kind"] == "word"]
    assert {"null", "brother's"} <= set(words["word"])
    assert words["word_sequence"].str.split().str.len().eq(words.groupby("sequence_id")["word"].transform("size")).all()
    assert set(words["condition"]) == {"sentence", "word_list"}
    phonemes = events[events["kind"] == "phoneme"]
    label, identity = phonemes["phoneme"].iloc[0], phonemes["phoneme_id"].iloc[0]
    assert label == "hh_B" and ARPABET[int(identity)] == "hh" and phonemes["phoneme_id"].lt(UNKNOWN).all()
    # where they start together, the word stands before its phoneme although the table has it after
    tie = events["start"].eq(words["start"].iloc[0])
    assert events.loc[tie, "kind"].tolist() == ["word", "phoneme"]
    blocks = make_blocks(events, Gwilliams2022.blocks, recording.signal().duration, recording.name)
    assert len(blocks) == words["sequence_id"].nunique() == 12
    assert blocks["uid"].tolist() == words.drop_duplicates("sequence_id")["word_sequence"].tolist()
    raw = read_tsv(recording.event_files()[0])
    assert len(events) == len(raw) - 2  # an n/a and a BAD_ACQ_SKIP
    quoted = recordings[1].event_files()[0].read_text()
    assert '"{' in quoted and '"{' not in recording.event_files()[0].read_text()


def test_everybody_hears_the_same(recordings):
    def said(recording):
        events = check_events(recording.events(), recording.name)
        onset = events.loc[events["kind"] == "sound", "start"].iloc[0]
        return [events[c].tolist() for c in ("kind", "word", "stimulus", "word_sequence", "phoneme_id")], \
            (events["start"] - onset).round(3).tolist()[:200], onset
    first, other_session, other_subject = said(recordings[0]), said(recordings[2]), said(recordings[3])
    for other in (other_session, other_subject):
        np.testing.assert_array_equal(pd.DataFrame(first[0]).fillna("-"), pd.DataFrame(other[0]).fillna("-"))
        np.testing.assert_allclose(first[1], other[1], atol=2e-3)
        assert first[2] != other[2]


def test_a_fif_is_read_as_well_and_its_first_sample_is_time_0(recordings, tmp_path):
    """mne-bids would shift the events by `first_samp` where a file has a date."""
    recording = recordings[0]
    raw = recording.raw().load_data()
    for name in ("participants.tsv", "stimuli", "sub-01/ses-0/meg/sub-01_ses-0_task-0_events.tsv"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(recording.folder / name)
    raw.crop(1.0).save(tmp_path / "sub-01/ses-0/meg/sub-01_ses-0_task-0_meg.fif", verbose="ERROR")
    again, = Gwilliams2022(tmp_path).recordings()
    assert again.raw().first_samp == 200 and again.raw().info["meas_date"] is not None
    assert again.events()["start"].equals(recording.events()["start"])
    pd.testing.assert_frame_equal(again.signal().channels, recording.signal().channels, rtol=1e-5)  # float32 in FIF
    (tmp_path / "sub-01/ses-0/meg/sub-01_ses-0_task-0_meg.sqd").write_bytes(b"")
    with pytest.raises(ValueError, match="expected one raw file"):
        list(Gwilliams2022(tmp_path).recordings())


EXPECTED = {"missing_sound": "lw1_1.wav", "missing_file": "events.tsv", "truncated_raw": "not whole"}


@pytest.mark.parametrize("fault", twin_faults("gwilliams2022"))
def test_faults_are_found_and_named(tmp_path, fault):
    recording, = Gwilliams2022(make_twin("gwilliams2022", tmp_path / "x", fault, recordings=1)).recordings()
    quality = quality_of(recording)
    found = {finding.measure: finding.text for finding in quality.findings}
    if fault in EXPECTED:
        assert quality.level == "fail" and EXPECTED[fault] in found["unreadable"]
    else:
        measure = {"drift": "drift_ppm", "missing_word": "missing_words", "doubled_word": "doubled_words",
                   "outside_sound": "outside_sounds", "gap": "gap_s"}.get(fault, fault)
        assert measure in found


def test_without_faults_nothing_is_found(recordings):
    for recording in recordings[:2]:
        quality = quality_of(recording)
        assert quality.findings == () and quality.measures["drift_ppm"] == pytest.approx(0, abs=1)


def test_study_keeps_its_promises(twin):
    check_study(Gwilliams2022, twin)
    with pytest.raises(FileNotFoundError, match=r"participants.tsv.*scripts.study download gwilliams2022"):
        list(Gwilliams2022(twin / "nowhere").recordings())
    facts = Gwilliams2022.facts
    assert (facts.sensors, facts.subjects, facts.recordings, facts.language) == (208, 27, 196, "en")


def test_assemble(twin, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", ["dset.selections=[gwilliams2022]", "dset.n_subjects=1",
                                                       f"study_paths.gwilliams2022={twin}"])))
    data = assemble(cfg, tmp_path)
    assert set(data.segments["split"]) == {"train", "valid", "test"}
    assert (data.audit.table[["brain_s", "stimulus_s"]] == 0).all(axis=None)
    assert data.spec.channels == 208 and data.spec.subjects == ("gwilliams2022/01", "gwilliams2022/02")
    # a sentence is in one split for all five recordings
    assert (data.blocks.groupby("uid")["split"].nunique() == 1).all()
    train = data.segments[data.segments["split"] == "train"]
    assert {data.recordings[i].subject for i in train["recording"]} == {"01"}


def test_dictionaries_are_read_without_being_run(tmp_path):
    text = "{'kind': 'word', 'word': \"don't\", 'sequence_id': 3.0, 'speech_rate': nan, 'start': -inf}/7"
    assert _dictionary(text, tmp_path, 1) == {"kind": "word", "word": "don't", "sequence_id": "3",
                                              "speech_rate": np.nan, "start": np.nan}
    assert _dictionary('{"kind": "word", "word": "nan"}', tmp_path, 1)["word"] == "nan"
    with pytest.raises(ValueError, match="line 9"):
        _dictionary("{'kind': __import__('os').getcwd()}", tmp_path, 9)


def test_names_of_sounds(tmp_path):
    for name in ("lw1_0.wav", "a.b_1.wav"):
        (tmp_path / name).write_bytes(b"")
    assert _sound_file("LW1_0.0.wav", tmp_path).name == _sound_file("lw1_0.wav", tmp_path).name == "lw1_0.wav"
    assert _sound_file("A.b_1.wav", tmp_path).name == _sound_file("a.b_1.1.WAV", tmp_path).name == "a.b_1.wav"
    with pytest.raises(FileNotFoundError, match="lw2_0.wav"):
        _sound_file("LW2_0.0.wav", tmp_path)


def test_kit_files_hold_what_was_written(tmp_path):
    counts = np.arange(12, dtype=np.int16).reshape(3, 4)
    write_kit(tmp_path / "a.con", counts, 100.0, 2, 1)
    raw = mne.io.read_raw_kit(tmp_path / "a.con", stim=None, verbose="ERROR")
    assert raw.get_channel_types() == ["mag", "mag", "ref_meg", "misc"] and raw.info["sfreq"] == 100
    np.testing.assert_allclose(raw.get_data()[:2], counts[:, :2].T * SCALE, rtol=1e-6)


def test_a_real_kit_file(shared_data, tmp_path):
    """Of another system of the same maker, with 157 gradiometers."""
    home = tmp_path / "sub-01" / "ses-0" / "meg"
    home.mkdir(parents=True)
    (home / "sub-01_ses-0_task-0_meg.sqd").symlink_to(shared_data("meg_io_fixtures") / "kit" / "test.sqd")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    recording, = Gwilliams2022(tmp_path).recordings()
    signal = recording.signal()
    assert signal.shape == (2000, 157) and signal.rate == 1000
    assert signal.channels[["x", "y", "z", "layout_x", "layout_y"]].notna().all(axis=None)
    assert np.linalg.norm(signal.channels[["x", "y", "z"]], axis=1).min() > 0.05  # m
    assert 1e-14 < np.abs(signal.read(0, 2000)).max() < 1e-8
    with pytest.raises(FileNotFoundError, match=r"no events .*events.tsv"):
        recording.events()


def test_real_kit_files_are_whole_until_they_are_cut(shared_data, tmp_path):
    for name in ("test.sqd", "test_umd-raw.sqd"):
        path = shared_data("meg_io_fixtures") / "kit" / name
        _check_whole(path)
        cut = tmp_path / name
        samples = np.fromfile(path, "<u4", 40)[36]
        cut.write_bytes(path.read_bytes()[:samples + 1000])
        with pytest.raises(ValueError, match="not whole"):
            _check_whole(cut)


def test_the_real_table_of_a_story(shared_data, tmp_path):
    """Its rows, written as the events of a recording, come back as they were."""
    import soundfile

    source = shared_data("megmasc_annotations") / "cable_spool_fort_annotations.csv"
    real = pd.read_csv(source, keep_default_na=False, dtype=str)
    home = tmp_path / "sub-01" / "ses-0" / "meg"
    home.mkdir(parents=True)
    numbers = {"story_uid", "sound_id", "start", "sequence_id", "word_index", "speech_rate", "pronounced"}
    lines = ["onset\tduration\ttrial_type\tvalue\tsample"]
    for row in real.to_dict("records"):
        about = {key: float(value) if key in numbers else value for key, value in row.items()
                 if value != "" and key not in ("onset", "duration", "orig_time", "extras")}
        lines.append(f"{row['onset']}\t{row['duration']}\t{about}\t1\t1")
    (home / "sub-01_ses-0_task-1_events.tsv").write_text("\n".join(lines))
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    (tmp_path / "stimuli" / "audio").mkdir(parents=True)
    onsets = [*real.loc[real["kind"] == "sound", "onset"].astype(float), 725.0]
    for i, seconds in enumerate(np.diff(onsets)):
        noise = np.random.default_rng(i).normal(0, 0.1, int(1000 * seconds))
        soundfile.write(tmp_path / "stimuli" / "audio" / f"cable_spool_fort_{i}.wav", noise, 1000)
    write_kit(home / "sub-01_ses-0_task-1_meg.con", np.zeros((750 * 10, 208), np.int16), 10.0, 208, 0)
    recording, = Gwilliams2022(tmp_path).recordings()
    events = recording.events()
    assert events["kind"].value_counts().to_dict() == real["kind"].value_counts().to_dict() \
        == {"phoneme": 5113, "word": 1503, "sound": 6}
    for kind, column in (("word", "word"), ("phoneme", "phoneme")):
        ours, theirs = events[events["kind"] == kind], real[real["kind"] == kind]
        assert ours[column].tolist() == theirs[column].tolist()
        np.testing.assert_allclose(ours["start"], theirs["onset"].astype(float))
        np.testing.assert_allclose(ours["word_index"], theirs["word_index"].astype(float))
    phonemes = events[events["kind"] == "phoneme"]
    assert phonemes["phoneme_id"].lt(UNKNOWN).all() and phonemes["phoneme_id"].nunique() == 38
    # the published times are those of the sound, shifted by its onset
    anchors = recording.anchors()
    np.testing.assert_allclose(anchors.events, anchors.recorded, atol=1e-5)
    checked = check_events(events, "real", 750.0)
    measures = word_measures(checked, 750.0)
    # the aligner did not find every word
    words = real[real["kind"] == "word"].assign(index=lambda t: t["word_index"].astype(float))
    last = words.groupby("sequence_id")["index"].agg(["max", "size"])
    assert measures["missing_words"] * 1503 == pytest.approx((last["max"] + 1 - last["size"]).sum())
    blocks = make_blocks(checked, "sentence", 750.0, "real")
    assert len(blocks) == (words.groupby("sequence_id")["index"].min() == 0).sum()
