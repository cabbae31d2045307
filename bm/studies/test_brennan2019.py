import logging

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.data.assemble import assemble
from bm.events import check_events, make_blocks
from bm.studies.brennan2019 import EXCLUDED, STORY, WITHOUT_TRIALS, Brennan2019, read_story, strings
from bm.studies.check import check_study
from bm.studies.twins import make_twin
from bm.test_config import CONF

NAMES = [str(i) for i in range(1, 62) if i != 29]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_twin("brennan2019", tmp_path_factory.mktemp("brennan") / "twin")


@pytest.fixture(scope="module")
def recordings(folder):
    return {recording.subject: recording for recording in Brennan2019(folder).recordings()}


def test_check_study(folder):
    check_study(Brennan2019, folder)


def test_33_of_49_subjects_are_used(tmp_path):
    """The subjects of the real release, as their files are there."""
    everybody = [f"S{i:02d}" for i in range(1, 50)]
    (tmp_path / "proc").mkdir()
    for subject in reversed(everybody):
        if subject not in WITHOUT_TRIALS:
            (tmp_path / "proc" / f"{subject}.mat").touch()
    (tmp_path / "proc" / "Summary.mat").touch()
    used = [recording.subject for recording in Brennan2019(tmp_path).recordings()]
    assert len(set(EXCLUDED)) == 9 and len(set(WITHOUT_TRIALS)) == 7 and len(used) == 33 == Brennan2019.facts.recordings
    assert used == sorted(used) and used == ["S01", *(f"S{i:02d}" for i in range(3, 24)), "S25",
                                             *(f"S{i:02d}" for i in range(37, 46)), "S48"]
    assert len(list(Brennan2019(tmp_path, exclude=[]).recordings())) == 42


def test_subjects(folder, recordings, caplog):
    with caplog.at_level(logging.INFO):
        assert [r.subject for r in Brennan2019(folder).recordings()] == ["S01", "S03", "S04", "S06", "S07"]
    assert "1 subjects are left out: S02" in caplog.text
    assert [r.subject for r in Brennan2019(folder, subjects=["S04", "S01"]).recordings()] == ["S04", "S01"]
    for wrong in ("S02", "S28", "S99"):  # excluded, without trials, unknown
        with pytest.raises(ValueError, match=f"{wrong}.*no trial table or are excluded"):
            list(Brennan2019(folder, subjects=[wrong]).recordings())
    with pytest.raises(FileNotFoundError, match="proc or timelock-preprocessing"):
        list(Brennan2019(folder / "download/audio").recordings())


@pytest.mark.parametrize("subject", ["S01", "S03", "S04", "S06", "S07"])
def test_signal(recordings, subject):
    """61 or 62 channels, MAT or BrainVision: always the same 60, in V, with positions."""
    signal = recordings[subject].signal()
    assert signal.shape == (12_500, 60) and signal.rate == 500
    assert list(signal.channels["name"]) == NAMES
    assert signal.channels[["x", "y", "z", "layout_x", "layout_y"]].notna().all(axis=None)
    assert 0.9e-5 < signal.read(0, 5000).std() < 1.1e-5


def test_bad_channels(folder, recordings):
    bads = {subject: list(table["name"][table["bad"]]) for subject, table in
            ((r.subject, r.signal().channels) for r in recordings.values())}
    assert bads == {"S01": ["7", "12", "45"], "S03": ["12"], "S04": [], "S06": [], "S07": []}
    assert not next(iter(Brennan2019(folder, bads=False).recordings())).signal().channels["bad"].any()


def test_squeezed_cells_of_strings():
    assert strings("12") == ["12"] and strings("") == strings(np.array([])) == []
    assert strings(np.array(["7", "12"])) == strings(["7", "12"]) == ["7", "12"]


def test_events(recordings):
    events = recordings["S01"].events()
    words, sounds = (events[events["kind"] == kind].reset_index(drop=True) for kind in ("word", "sound"))
    assert len(words) == 32 and len(sounds) == 2 and set(events["kind"]) == {"word", "sound"}
    # trial 1 begins at sample 501 (from 1), 150 samples before the word; which is 3 s into its sound
    assert words["start"].iloc[:2].tolist() == pytest.approx([1.3, 1.8])
    assert sounds["start"].tolist() == pytest.approx([-1.7, 14.1])
    assert sounds["filepath"].str.endswith("DownTheRabbitHoleFinal_SoundFile1.wav").tolist() == [True, False]
    assert words["duration"].tolist() == pytest.approx([0.4] * 32)
    assert {"null", "None"} <= set(words["word"])
    assert words["word_index"].tolist() == [0, 1, 2, 3] * 8
    assert words["word_sequence"].iloc[9] == "a null had come"
    blocks = make_blocks(check_events(events, "b", 25.0), "sentence", 25.0, "b")
    assert len(blocks) == 8 and blocks["uid"].iloc[3] == "None of them knew" and (blocks["stimulus"] != "").all()


def test_onsets_as_published(folder, recordings):
    """At the beginning of the trial: words and sounds as much early as the trial is."""
    published = next(iter(Brennan2019(folder, onset_from_offset=False).recordings()))
    events = published.events()
    assert events.loc[events["kind"] == "word", "start"].iloc[:2].tolist() == pytest.approx([1.002, 2.002 - 0.5])
    assert events["start"].iloc[0] == pytest.approx(-1.998)
    assert published.event_options() != recordings["S01"].event_options()


def test_every_recording_hears_the_same(recordings):
    tables = [recording.events() for recording in recordings.values()]
    for table in tables[1:]:  # also S06, which names all columns of its trial table
        pd.testing.assert_frame_equal(table, tables[0])


def test_the_sound_channel_tells_which_onset_is_right(folder):
    """AUD in S03, Aux5 in S04; the twin's sound was played where FieldTrip's definition says."""
    right = {r.subject: r.measures() for r in Brennan2019(folder).recordings()}
    assert right["S03"]["audio_lag_ms"] == pytest.approx(0, abs=4) and right["S04"]["audio_r"] > 0.9
    assert "audio_r" not in right["S01"] and "audio_lag_ms" not in right["S07"]  # no channel; a channel of noise
    early = next(r for r in Brennan2019(folder, onset_from_offset=False).recordings() if r.subject == "S03")
    assert early.measures()["audio_lag_ms"] == pytest.approx(298, abs=4)


def test_story(tmp_path):
    path = tmp_path / STORY
    good = "Word,Segment,Onset,offset,Position,SENTENCE,extra\nNA,1,0.5,0.9,1,1,x\n\"a,b\",1,1.0,1.4,2,1,\n"
    path.write_text("\ufeff" + good, encoding="utf-8")
    story = read_story(path)
    assert story["Word"].tolist() == ["NA", "a,b"] and story["onset"].tolist() == [0.5, 1.0]
    path.write_text(good.replace("1.0,1.4", "late,1.4"))
    with pytest.raises(ValueError, match="line 3, column onset: got 'late'"):
        read_story(path)
    path.write_text(good.replace("Segment", "Part"))
    with pytest.raises(ValueError, match=r"no column \['Segment'\]"):
        read_story(path)
    with pytest.raises(FileNotFoundError, match="scripts.study download brennan2019"):
        read_story(tmp_path / "nothing.csv")


def test_broken_files_are_named(tmp_path):
    folder = make_twin("brennan2019", tmp_path / "twin", subjects=("S01",))
    recording = next(iter(Brennan2019(folder).recordings()))
    path = folder / "download/proc/S01.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    with pytest.raises(ValueError, match="S01.mat cannot be read.*Download it again"):
        recording.events()
    from scipy.io import savemat
    savemat(path, {"other": 1})
    with pytest.raises(ValueError, match="no struct 'proc'"):
        recording.events()
    savemat(path, {"proc": {"trl": np.ones((32, 6)), "varnames": ["a", "b"], "tot_trials": 32.0}})
    with pytest.raises(ValueError, match="6 columns in trl, but names for 5"):
        recording.events()
    savemat(path, {"proc": {"trl": np.ones((32, 6)), "varnames": ["a", "b", "c"], "tot_trials": 31.0}})
    with pytest.raises(ValueError, match="tot_trials is 31, but trl has 32"):
        recording.events()


def test_assemble(folder, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [
            "dset.selections=[brennan2019]", f"study_paths.brennan2019={folder}", "dset.tmin=0", "dset.tmax=1",
            "dset.test_ratio=0.4", "dset.valid_ratio=0.3", "dset.min_block_duration=1", "dset.purge=0"])))
    data = assemble(cfg, tmp_path)
    assert len(data.recordings) == 5 and data.spec.channels == 60
    assert set(data.segments["split"]) == {"train", "valid", "test"}
    assert (data.audit.table[["brain_s", "stimulus_s", "texts"]] == 0).all(axis=None)
    assert set(data.segments.loc[data.segments["split"] == "test", "recording"]) == set(range(5))
    batch = data.dataset("test").__getitems__(data.ids("test")[:4])
    assert batch.brain.shape == (4, 60, data.spec.times)
    # the first sound began before the EEG: what is heard then is cut out of the middle of it
    first = data.segments[data.segments["start"] < 10]
    assert (first["stimulus_start"] - first["start"]).to_numpy() == pytest.approx(1.7, abs=0.02)
