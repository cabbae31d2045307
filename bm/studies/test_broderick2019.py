import logging
import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.data.assemble import assemble
from bm.events import check_events, make_blocks
from bm.studies.arpabet import ARPABET
from bm.studies.broderick2019 import Broderick2019
from bm.studies.check import check_study
from bm.studies.twins import make_twin
from bm.test_config import CONF


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_twin("broderick2019", tmp_path_factory.mktemp("broderick") / "twin")


@pytest.fixture(scope="module")
def recordings(folder):
    return {recording.uid: recording for recording in Broderick2019(folder).recordings()}


def test_check_study(folder):
    check_study(Broderick2019, folder)


def test_order_is_numerical(recordings):
    assert list(recordings) == ["1_run1", "1_run2", "1_run10", "2_run1", "2_run2", "2_run10"]
    assert [r.subject for r in recordings.values()] == ["1", "1", "1", "2", "2", "2"]


def test_signal(recordings):
    signal = recordings["2_run10"].signal()
    names = list(signal.channels["name"])
    assert signal.shape == (2560, 128) and signal.rate == 128
    assert names[:2] == ["A1", "A2"] and names[32] == "B1" and names[-1] == "D32"
    assert 0.9e-5 < signal.read().std() < 1.1e-5  # 10 µV
    assert signal.channels[["x", "y", "z", "layout_x", "layout_y"]].notna().all(axis=None)
    assert (signal.channels["unit"] == "V").all()


def test_events(recordings):
    events = recordings["1_run1"].events()
    words, phonemes = (events[events["kind"] == kind] for kind in ("word", "phoneme"))
    assert len(words) == 24 and "late" not in set(words["word"])  # 25 in the text; one was not found in the sound
    sound = events[events["kind"] == "sound"].iloc[0]
    assert sound["start"] == 0 and sound["filepath"].endswith("private/audio1.wav")
    assert words["start"].iloc[1] == pytest.approx(0.95) and words["duration"].iloc[1] == pytest.approx(0.36)
    of_second = phonemes[(phonemes["word_index"] == 1) & (phonemes["sequence_id"] == 0)]
    assert of_second["start"].tolist() == pytest.approx([0.95, 0.95 + 0.18])
    assert of_second["phoneme"].tolist() == ["dh_B", "ah_E"]
    assert of_second["phoneme_id"].tolist() == [ARPABET.index("dh"), ARPABET.index("ah")]
    unknown = words[~words["recognised"].astype(bool)]
    assert len(unknown) == 1 and unknown["word"].item() == "don't"
    assert set(events["language"]) == {"en"} and set(events["condition"]) == {"sentence"}
    first = words[words["sequence_id"] == 0]
    assert first["word_index"].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(first["word_sequence"]) == {"The ferry was again that morning"}
    assert set(first["sequence_uid"]) == {"The ferry was late again that morning."}


def test_words_without_a_place_in_the_text(recordings):
    """In run 2 somebody says more than is written: before, in and after the text."""
    events = recordings["1_run2"].events()
    words = events[events["kind"] == "word"].reset_index(drop=True)
    assert words["word_index"].tolist()[0] == words["word_index"].tolist()[-1] == -1
    assert words["sequence_id"].isna().tolist() == [True] + 35 * [False] + [True]
    spoken = words[words["word"] == "uh"].iloc[0]
    assert spoken["sequence_id"] == 0 and spoken["word_sequence"] == "Mr Perez down with uh his dog"
    blocks = make_blocks(check_events(events, "b", 20.0), "sentence", 20.0, "b")
    assert blocks["uid"].tolist() == [
        "Mr. Perez came down with his dog.", '"Is it late?" he asked them.', "The boy showed him the empty water.",
        "They sat down on a dry rope.", "He threw a flat stone and it sank."]


def test_all_subjects_hear_the_same(recordings):
    one, other = recordings["1_run2"].events(), recordings["2_run2"].events()
    assert one.equals(other) and one is not other
    one["start"] = 0.0
    assert not recordings["1_run2"].events().equals(one)  # nobody can change what is remembered


def test_a_changed_alignment_is_read_again(tmp_path):
    folder = make_twin("broderick2019", tmp_path / "twin")
    recording = next(iter(Broderick2019(folder).recordings()))
    before = recording.events()
    path = folder / "download/private/align1.json"
    path.write_text(path.read_text().replace('"start": 0.5', '"start": 0.55'))
    assert recording.events()["start"].iloc[1] == pytest.approx(0.55) != before["start"].iloc[1]


def test_events_after_the_end_of_the_eeg_are_dropped(tmp_path, caplog):
    from scipy.io import savemat
    folder = make_twin("broderick2019", tmp_path / "twin")
    recording = next(iter(Broderick2019(folder).recordings()))
    words = (recording.events()["kind"] == "word").sum()
    savemat(recording.path, {"eegData": np.zeros((10 * 128, 128)), "fs": 128})
    with caplog.at_level(logging.WARNING):
        events = recording.events()
    assert events["start"].max() <= 10 and (events["kind"] == "word").sum() < words
    assert "start after the end of the EEG (10 s): dropped" in caplog.text


def test_selection(folder, recordings):
    some = list(Broderick2019(folder, subjects=[2], runs=[10, 1]).recordings())
    assert [recording.uid for recording in some] == ["2_run10", "2_run1"]
    volts = next(iter(Broderick2019(folder, unit="V").recordings()))
    assert volts.signal().read(0, 10) == pytest.approx(1e6 * recordings["1_run1"].signal().read(0, 10))
    assert volts.signal_options() != recordings["1_run1"].signal_options()
    assert [r.uid for r in Broderick2019(folder / "download").recordings()] == list(recordings)  # without download/
    for wrong, message in (({"unit": "mV"}, "unit is 'mV', expected one of uV, V"), ({"subject": 1}, "subject"),
                           ({"sentences": "guess"}, "punctuation, spacy")):
        with pytest.raises(ValueError, match=message):
            Broderick2019(folder, **wrong)
    with pytest.raises(FileNotFoundError, match=r"\[7\].*Subject1"):
        list(Broderick2019(folder, subjects=[7]).recordings())


def test_run_15_can_be_cut(tmp_path):
    folder = make_twin("broderick2019", tmp_path / "twin")
    for old in sorted((folder / "download").rglob("*10.*")):
        old.rename(old.with_name(old.name.replace("10.", "15.")))
    for until, last in ((None, 13.7), (5.0, 5.0)):
        study = Broderick2019(folder, subjects=[1], runs=[15], run15_until=until)
        events = next(iter(study.recordings())).events()
        assert events["start"].max() == pytest.approx(last, abs=0.5) and (events["kind"] == "sound").sum() == 1


def test_missing_recordings_are_counted(tmp_path, caplog):
    folder = make_twin("broderick2019", tmp_path / "twin")
    (folder / "download/Natural Speech/EEG/Subject2/Subject2_Run10.mat").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(list(Broderick2019(folder).recordings())) == 5
    assert "1 of 6 recordings are missing" in caplog.text and "2_run10" in caplog.text


def test_spacy_is_only_asked_for_when_wanted(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    recording = next(iter(Broderick2019(folder, sentences="spacy").recordings()))
    with pytest.raises(ValueError, match="pip install spacy"):
        recording.events()


def test_an_archive_put_there_by_hand_is_unpacked(tmp_path, recordings):
    folder = make_twin("broderick2019", tmp_path / "twin", zipped=True)
    (folder / "twin.json").unlink()
    study = Broderick2019(folder)
    study.prepare()
    assert [recording.uid for recording in study.recordings()] == list(recordings)
    left = {path.name for path in (folder / "download").iterdir()}
    assert left - {".fetch.lock"} == {"Natural Speech", "private", "doi_10.5061_dryad.070jc__v3.zip"}


def test_assemble(folder, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [
            "dset.selections=[broderick2019]", f"study_paths.broderick2019={folder}", "dset.tmin=0", "dset.tmax=1",
            "dset.test_ratio=0.3", "dset.valid_ratio=0.3", "dset.min_block_duration=2", "dset.purge=0"])))
    data = assemble(cfg, tmp_path)
    assert len(data.recordings) == 6 and data.spec.channels == 128
    assert set(data.segments["split"]) == {"train", "valid", "test"}
    assert (data.audit.table[["brain_s", "stimulus_s", "texts"]] == 0).all(axis=None)
    words = data.segments[data.segments["word"] != ""]
    assert (words.groupby("sentence")["split"].nunique() == 1).all() and words["sentence"].nunique() >= 2
    batch = data.dataset("test").__getitems__(data.ids("test")[:4])
    assert batch.brain.shape == (4, 128, data.spec.times)
