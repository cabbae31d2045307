"""The study `bids` on real EEG and on datasets with every trap."""
import logging
import pickle
import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from mne_bids import BIDSPath, read_raw_bids, write_raw_bids

from bm.config import check_config, to_plain
from bm.data.assemble import assemble
from bm.studies.bids import Bids
from bm.studies.bids_files import entities_of, find_raws
from bm.studies.twins.bids import make_listening, write_brainvision


def write(raw: mne.io.BaseRaw, root: Path, subject: str = "01", task: str = "listen", **entities) -> BIDSPath:
    """Writes a recording as mne-bids does by default; in memory, as FIF."""
    raw.info["line_freq"] = 50
    path = BIDSPath(subject=subject, task=task, root=root, **entities)
    in_memory = {"allow_preload": True, "format": "FIF"} if raw.preload else {}
    return write_raw_bids(raw, path, overwrite=True, verbose="ERROR", **in_memory)


def only(root: Path, **selection):
    (recording,) = Bids(root, **selection).recordings()
    return recording


def eeg(folder: Path, names=("Fz", "Cz", "Pz", "C3", "C4", "EOG1"), rate: float = 128.0,
        seconds: float = 10) -> mne.io.BaseRaw:
    data = 1e-5 * np.random.default_rng(0).standard_normal((len(names), int(seconds * rate)))
    raw = mne.io.read_raw_brainvision(write_brainvision(folder / "source.vhdr", data, names, rate,
                                                          [(1, 0.5, "a"), (3, 0, "b")]), verbose="ERROR")
    raw.set_channel_types({name: "eog" for name in names if name.startswith("EOG")})
    return raw


def meg(n: int = 10, seconds: float = 10, rate: float = 128.0, first_samp: int = 0) -> mne.io.BaseRaw:
    names = mne.channels.read_layout("Vectorview-mag").names[:n]
    data = 1e-13 * np.random.default_rng(1).standard_normal((n, int(seconds * rate)))
    raw = mne.io.RawArray(data, mne.create_info(names, rate, "mag"), first_samp, verbose="ERROR")
    raw.set_meas_date(86_400 * 365)
    return raw.set_annotations(mne.Annotations([1.0, 2.0], [0.5, 0], ["a", "b"], orig_time=None))


# ---- real recordings

@pytest.fixture(scope="module")
def motor(shared_data, tmp_path_factory) -> tuple[Path, mne.io.BaseRaw]:
    """One run of real EEG as BIDS: EDF as it came, BrainVision, and FIF beside a magnetometer."""
    root = tmp_path_factory.mktemp("motor")
    raw = mne.io.read_raw_edf(shared_data("eegmmidb_motor") / "S001R03.edf", verbose="ERROR")
    write(raw, root, task="edf")
    notes = raw.annotations
    vhdr = write_brainvision(root / "x.vhdr", raw.get_data(), raw.ch_names, 160, list(zip(
        notes.onset, notes.duration, notes.description, strict=True)))
    write(mne.io.read_raw_brainvision(vhdr, verbose="ERROR"), root, task="brainvision")
    whole = raw.copy().load_data(verbose="ERROR")
    mag = mne.io.RawArray(np.zeros((1, raw.n_times)), mne.create_info(["MEG 0111"], 160, "mag"), verbose="ERROR")
    mag.set_meas_date(whole.info["meas_date"])
    whole.add_channels([mag], force_update_info=True)
    whole.save(root / "x_raw.fif", verbose="ERROR")
    write(mne.io.read_raw_fif(root / "x_raw.fif", verbose="ERROR"), root, task="fif", datatype="meg")
    return root, raw


@pytest.mark.parametrize("task", ["edf", "brainvision", "fif"])
def test_real_eeg_is_read_back(motor, task):
    root, raw = motor
    kind = {"datatype": "meg", "sensors": ["eeg"]} if task == "fif" else {"datatype": "eeg"}
    recording = only(root, tasks=task, **kind)
    signal, expected = recording.signal(), raw.get_data()
    assert signal.rate == 160 and signal.shape == (20_000, 64)
    assert list(signal.channels["name"]) == raw.ch_names and set(signal.channels["unit"]) == {"V"}
    # EDF: the same file; else float32
    assert np.abs(signal.read().T - expected).max() <= (0 if task == "edf" else 1e-7 * np.abs(expected).max())
    events = recording.events()
    events = events[events["name"] != "New Segment/"]
    assert list(events["name"].str.rpartition("/")[2]) == list(raw.annotations.description)
    assert np.abs(events["start"] - raw.annotations.onset).max() < 1e-6
    assert np.abs(events["duration"] - raw.annotations.duration).max() < 1e-5


def test_montage_by_name_fits_other_spellings(motor):
    root, raw = motor
    channels = only(root, tasks=["edf"], datatype="eeg", montage="standard_1005").signal().channels
    assert raw.ch_names[0] == channels["name"][0] == "Fc5."  # the montage has FC5
    expected = raw.copy().load_data(verbose="ERROR")
    mne.datasets.eegbci.standardize(expected)
    expected.set_montage("colin27_1005")
    assert np.allclose(channels[["x", "y", "z"]], [ch["loc"][:3] for ch in expected.info["chs"]], atol=1e-6)
    assert only(root, tasks=["edf"], datatype="eeg").signal().channels["x"].isna().all()


# ---- files, entities and options

@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """sub-01 BrainVision, sub-02 of two runs, sub-10, a resting run, a bad channel, positions, a participant lost."""
    tmp_path = tmp_path_factory.mktemp("written")
    raw = eeg(tmp_path)
    raw.set_montage("colin27_1005", on_missing="ignore", verbose="ERROR")
    raw.info["bads"] = ["Pz"]
    root = tmp_path / "bids"
    write(raw, root)
    for run in ("02", "10"):
        write(raw, root, "02", session="a", run=run)
    write(raw, root, "10")
    write(raw, root, "10", "rest")
    with open(root / "participants.tsv", "a") as file:
        file.write("sub-44" + "\tn/a" * 5 + "\n")
    return root


@pytest.fixture
def dataset(written, tmp_path) -> Path:
    """A copy to break."""
    return shutil.copytree(written, tmp_path / "bids")


def uids(root: Path, **selection) -> list[str]:
    return [recording.uid for recording in Bids(root, **selection).recordings()]


def test_recordings_are_found_sorted_and_selected(dataset, caplog):
    caplog.set_level(logging.INFO)
    runs = ["sub-02_ses-a_task-listen_run-02", "sub-02_ses-a_task-listen_run-10"]
    assert uids(dataset) == ["sub-01_task-listen", *runs, "sub-10_task-listen"]
    assert "1 participants have no folder: sub-44" in caplog.text and "4 of 5 recordings are selected" in caplog.text
    assert uids(dataset, subjects=[2]) == uids(dataset, subjects="02") == runs == uids(dataset, sessions="a")
    assert uids(dataset, runs=[10]) == runs[1:]
    assert uids(dataset, tasks=["rest"]) == ["sub-10_task-rest"]
    assert uids(dataset, exclude=["sub-02*", "*sub-10*"]) == ["sub-01_task-listen"]
    first = next(Bids(dataset.parent, dataset="bids").recordings())
    assert (first.name, first.subject, first.session) == ("bids-bids/sub-01_task-listen", "01", "")
    (dataset.parent / "study").mkdir()
    dataset.rename(dataset.parent / "study" / "download")
    assert len(uids(dataset.parent / "study")) == 4


@pytest.mark.parametrize("selection, message", [
    ({"subjets": 1}, r"unknown selection keys \['subjets'\], expected some of .*; did you mean 'subjects'"),
    ({"subjects": ["03"]}, r"subjects: no recording has '03', expected some of 01, 02, 10"),
    ({"runs": [3]}, r"runs: no recording has 3, expected some of \(none\), 02, 10"),
    ({"exclude": ["sub-99*"]}, r"exclude 'sub-99\*' fits no recording"),
    ({"subjects": [1], "tasks": ["rest"]}, "leaves none of 5 recordings"),
    ({"datatype": "meg"}, r"no recording in .*, expected files such as sub-01/meg/sub-01_task-listen_meg.fif"),
    ({"datatype": "fmri"}, "selection key datatype='fmri': input should be 'meg', 'eeg' or 'ieeg'"),
    ({"kinds": {"A": "wrod"}}, "selection key kinds=.*'wrod' is unknown, expected one of .*; did you mean 'word'"),
    ({"columns": {"text": "x"}}, "selection key columns=.*'text' is unknown, expected one of onset, .*word"),
    ({"columns": {"word": "x", "sound": "x"}}, "one column of the file cannot have two meanings"),
    ({"dataset": "nowhere"}, "no folder .*nowhere: put the dataset there, or mend study_paths.bids")])
def test_bad_selections_are_explained(dataset, selection, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list(Bids(dataset, **selection).recordings())


def test_channels_positions_and_bads(dataset):
    recording = pickle.loads(pickle.dumps(only(dataset, subjects="01")))
    channels = recording.signal().channels
    assert list(channels["name"]) == ["Fz", "Cz", "Pz", "C3", "C4"]
    assert list(channels["name"][channels["bad"]]) == ["Pz"]
    theirs = read_raw_bids(BIDSPath(subject="01", task="listen", root=dataset, datatype="eeg"), verbose="ERROR")
    assert np.allclose(channels[["x", "y", "z"]], [ch["loc"][:3] for ch in theirs.info["chs"][:5]], atol=1e-6)
    dropped = only(dataset, subjects="01", bads="drop").signal()
    assert list(dropped.channels["name"]) == ["Fz", "Cz", "C3", "C4"]
    mended = only(dataset, subjects="01", bads="interpolate").signal()
    assert not mended.channels["bad"].any()
    assert np.array_equal(mended.read()[:, [0, 1, 3, 4]], dropped.read())
    assert not np.allclose(mended.read()[:, 2], recording.signal().read()[:, 2])
    names = [path.name.removeprefix("sub-01_") for path in recording.source_files()]
    assert names == ["task-listen_eeg.vhdr", "task-listen_eeg.vmrk", "task-listen_eeg.eeg", "task-listen_channels.tsv",
                     "space-CapTrak_electrodes.tsv", "space-CapTrak_coordsystem.json"]
    remove(dataset, "electrodes")
    with pytest.raises(ValueError, match="unknown montage 'standard_105', .*did you mean 'standard_10.5'"):
        only(dataset, subjects="01", montage="standard_105").signal()
    assert only(dataset, subjects="01", montage="standard_1020").signal().channels["x"].notna().all()
    with pytest.raises(ValueError, match="bads=interpolate needs positions of all electrodes, but .'Fz'"):
        only(dataset, subjects="01", bads="interpolate").signal()
    with pytest.raises(ValueError, match="unplaced=drop leave no channel|no channel of kind"):
        only(dataset, subjects="01", unplaced="drop").signal()


def remove(root: Path, suffix: str) -> None:
    for path in root.rglob(f"*_{suffix}.tsv"):
        path.unlink()


def test_options_are_part_of_the_identity(dataset):
    plain, other = only(dataset, subjects="01"), only(dataset, subjects="01", montage="biosemi64", kinds={"a": "motor"})
    assert plain.signal_options() != other.signal_options() and plain.event_options() != other.event_options()


def test_side_cars_are_inherited(dataset):
    """A table higher up applies unless a nearer one exists; one for another task does not."""
    channels = next((dataset / "sub-01/eeg").glob("*_channels.tsv"))
    text = channels.read_text().replace("good", "bad")
    (dataset / "task-listen_channels.tsv").write_text(text)
    (dataset / "task-other_channels.tsv").write_text("nonsense")
    assert only(dataset, subjects="01").signal().channels["bad"].sum() == 1
    channels.unlink()
    recording = only(dataset, subjects="01")
    assert recording.signal().channels["bad"].all()
    assert dataset / "task-listen_channels.tsv" in recording.source_files()
    (dataset / "task-listen_eeg.json").write_text('{"RecordingType": "epoched"}')
    (dataset / "sub-01/eeg/sub-01_task-listen_eeg.json").write_text("{}")
    with pytest.raises(ValueError, match="RecordingType 'epoched', expected a continuous recording"):
        only(dataset, subjects="01").signal()


def test_faults_of_tables_name_file_line_and_column(dataset):
    folder = dataset / "sub-01/eeg"
    channels, electrodes = next(folder.glob("*_channels.tsv")), next(folder.glob("*_electrodes.tsv"))

    def broken(path: Path, old: str, new: str, message: str) -> None:
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            only(dataset, subjects="01").signal()
        path.write_text(text)

    broken(channels, "Cz\t", "Fz\t", "_channels.tsv, line 3, column name: got 'Fz', expected a name that no other")
    broken(channels, "good", "fine", "_channels.tsv, line 2, column status: got 'fine', expected good, bad or n/a")
    broken(channels, "name\t", "label\t", "_channels.tsv: no column 'name'")
    broken(electrodes, "Cz\t", "Cz\tx", "_electrodes.tsv, line 3, column x: got 'x.*', expected a number or n/a")
    broken(folder / "sub-01_task-listen_eeg.json", "{", "", "_eeg.json cannot be read as JSON")
    text = channels.read_text()
    for name in ("Fz", "Cz", "Pz", "C3", "C4", "EOG1"):
        text = text.replace(f"{name}\t", f"X{name}\t")
    channels.write_text(text)
    with pytest.raises(ValueError, match="none of its channels .'XFz'.* is in the file, which has .'Fz'"):
        only(dataset, subjects="01").signal()


def test_unknown_types_and_units_are_told(dataset, caplog):
    folder = dataset / "sub-01/eeg"
    channels = next(folder.glob("*_channels.tsv"))
    channels.write_text(channels.read_text().replace("\tEEG\t", "\tLFP\t", 1) + "ghost" + "\tEEG" + "\tn/a" * 7 + "\n")
    coordsystem = next(folder.glob("*_coordsystem.json"))
    coordsystem.write_text(coordsystem.read_text().replace('"EEGCoordinateUnits": "m"', '"EEGCoordinateUnits": "n/a"'))
    table = only(dataset, subjects="01").signal().channels
    assert list(table["name"]) == ["Cz", "Pz", "C3", "C4"] and table["x"].isna().all()
    assert "unknown types ['LFP'] of 1 channels, taken for misc" in caplog.text
    assert "1 of its channels are not in the file: ghost" in caplog.text
    assert "positions are not used, as the coordsystem.json beside it has the unit 'n/a'" in caplog.text


def test_units_and_axes_of_positions(dataset):
    folder = dataset / "sub-01/eeg"
    before = only(dataset, subjects="01").signal().channels[["x", "y", "z"]].to_numpy()
    electrodes, coordsystem = next(folder.glob("*_electrodes.tsv")), next(folder.glob("*_coordsystem.json"))
    rows = [f"{name}\t{1000 * y}\t{-1000 * x}\t{1000 * z}\n"
            for name, (x, y, z) in zip(["Fz", "Cz", "Pz", "C3", "C4"], before, strict=True)]
    electrodes.write_text("name\tx\ty\tz\n" + "".join(rows) + "EOG1\tn/a\tn/a\tn/a\n")
    coordsystem.write_text('{"EEGCoordinateSystem": "EEGLAB", "EEGCoordinateUnits": "mm"}')
    assert np.allclose(only(dataset, subjects="01").signal().channels[["x", "y", "z"]], before)


def test_two_files_for_one_recording(dataset):
    folder = dataset / "sub-01/eeg"
    (folder / "sub-01_task-listen_eeg.edf").write_bytes(b"x")
    with pytest.raises(ValueError, match="two raw files for one recording, .*_eeg.edf and .*_eeg.vhdr; expected one"):
        uids(dataset)


def test_an_unreadable_recording_fails_or_is_skipped(dataset, caplog):
    (dataset / "sub-02/ses-a/eeg/sub-02_ses-a_task-listen_run-02_eeg.vhdr").write_text("nonsense")
    with pytest.raises(ValueError, match="run-02_eeg.vhdr cannot be read by MNE .*on_error: skip"):
        only(dataset, subjects="02", runs=[2]).signal()
    assert uids(dataset, subjects="02", on_error="skip") == ["sub-02_ses-a_task-listen_run-10"]
    assert "run-02 is skipped (on_error: skip)" in caplog.text


def test_two_datatypes_need_a_choice(dataset):
    write(meg(), dataset, "03")
    with pytest.raises(ValueError, match="has recordings of meg, eeg: choose one with the selection's key `datatype`"):
        uids(dataset)
    assert uids(dataset, datatype="meg") == ["sub-03_task-listen"]


def test_split_fif_is_one_recording(tmp_path):
    raw = meg(60, 40, 1000)
    folder = tmp_path / "sub-01" / "meg"
    folder.mkdir(parents=True)
    raw.save(folder / "sub-01_task-listen_meg.fif", split_size="5MB", split_naming="bids", verbose="ERROR")
    recording = only(tmp_path)
    assert recording.uid == "sub-01_task-listen" and len(recording.source_files()) == 3
    assert [entities_of(path.name)["split"] for path in recording.source_files()] == ["01", "02", "03"]
    assert np.allclose(recording.signal().read(), raw.get_data().T, rtol=1e-6, atol=1e-20)
    recording.source_files()[0].unlink()
    with pytest.raises(ValueError, match="a later part of a split file whose first part is missing"):
        find_raws(tmp_path, "meg")


# ---- events

def test_events_of_another_dialect(dataset):
    (dataset / "stimuli").mkdir()
    soundfile.write(dataset / "stimuli/Story.WAV", np.zeros(16_000), 8000)
    (dataset / "sub-01/eeg/sub-01_task-listen_events.tsv").write_text(
        "time\tlength\tcondition\ttoken\tsample\tonset\n1.0\tn/a\tSTART\tn/a\t128\t9\n"
        "1.1\t0.2\tspoken\tnull\t141\t9\n1.5\t0.2\tspoken\tdon't\t300\t9\n2.0\t0\tclick\tn/a\tn/a\tn/a\n")
    columns = {"onset": "time", "duration": "length", "kind": "condition", "word": "token"}
    events = only(dataset, subjects="01", columns=columns, kinds={"Spoken": "word", "click": "motor"},
                  sounds={"start": "story.wav"}).events()
    assert list(events["kind"]) == ["sound", "word", "word", "motor"] and list(events["start"]) == [1, 1.1, 1.5, 2]
    assert list(events["word"].dropna()) == ["null", "don't"] and set(events["condition"].dropna()) == {"sentence"}
    assert Path(events["filepath"][0]).name == "Story.WAV" and events["duration"][0] == 2
    with pytest.raises(ValueError, match="_events.tsv: no column 'when', which `columns` names; it has .'time'"):
        only(dataset, subjects="01", columns={"onset": "when"}).events()
    with pytest.raises(FileNotFoundError, match="_events.tsv, line 2: no sound file 'lost.wav'"):
        only(dataset, subjects="01", columns=columns, sounds={"start": "lost.wav"}).events()


def test_onsets_that_disagree_with_samples_are_told(dataset, caplog):
    path = dataset / "sub-01/eeg/sub-01_task-listen_events.tsv"
    path.write_text("onset\tduration\ttrial_type\tsample\n1\t0\ta\t128\n3\t0\tb\t99\n4\t0\tb\tn/a\n")
    assert len(only(dataset, subjects="01").events()) == 3
    assert "`onset` and `sample` disagree in 1 rows, the most by 285 samples of 128 Hz; onsets are used" in caplog.text


@pytest.mark.parametrize("first_samp", [0, 1000])
def test_annotations_where_there_is_no_table(tmp_path, first_samp):
    """Onsets are from the first stored sample, whatever the file's own clock says."""
    write(meg(first_samp=first_samp), tmp_path)
    from_table = only(tmp_path, kinds={"a": "motor"}).events()
    assert list(from_table["start"]) == [1, 2] and list(from_table["kind"]) == ["motor", "special"]
    remove(tmp_path, "events")
    recording = only(tmp_path, kinds={"a": "motor"})
    events = recording.events()
    assert recording.event_files() == []
    assert np.allclose(events["start"], from_table["start"]) and list(events["kind"]) == list(from_table["kind"])


def test_triggers_where_there_is_nothing_else(tmp_path):
    raw = meg(3).set_annotations(None)
    code = np.zeros((1, raw.n_times))
    code[0, 128:140], code[0, 300:310] = 5, 7
    stim = mne.io.RawArray(code, mne.create_info(["STI 014"], 128, "stim"), verbose="ERROR")
    stim.set_meas_date(raw.info["meas_date"])
    write(raw.copy().add_channels([stim], force_update_info=True), tmp_path, "01")
    write(raw, tmp_path, "02")
    remove(tmp_path, "events")
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    events = only(tmp_path, subjects=[1], sounds={5: "a.wav"}).events()
    assert list(events["start"]) == [1, 300 / 128] and list(events["kind"]) == ["sound", "special"]
    assert events["name"][1] == "7"
    with pytest.raises(ValueError, match="no events: expected sub-02_task-listen_events.tsv beside .*, or annotations"):
        only(tmp_path, subjects=[2]).events()


def test_no_dataset_description(dataset, caplog):
    shutil.copytree(dataset, dataset.parent / "copy")
    (dataset.parent / "copy" / "dataset_description.json").unlink()
    uids(dataset.parent / "copy")
    assert "has no dataset_description.json" in caplog.text


def test_generated_dataset_becomes_segments(tmp_path):
    """From the files to everything that an XP reads."""
    root = make_listening(tmp_path / "bids")
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        plain = to_plain(compose("config", [
            "dset.selections=[bids]", f"study_paths.bids={root}", "dset.sample_rate=25", "dset.tmin=0", "dset.tmax=1.5",
            "dset.test_ratio=0.3", "dset.valid_ratio=0.3", "dset.split_assign_seed=1", "cache=cache"]))
    data = assemble(check_config(plain), tmp_path)
    assert data.spec.subjects == ("bids/01", "bids/02") and data.spec.channels == 8
    assert set(data.segments["split"]) == {"train", "valid", "test"} and set(data.segments["stimulus"]) != {""}
    assert (data.audit.table["stimulus_s"] == 0).all()
    assert data.montages.valid.sum() == 14  # Pz is bad in both
    recording = next(Bids(root).recordings())
    events = recording.events()
    assert dict(pd.Series(events["kind"]).value_counts()) == {"word": 240, "sound": 1}
    assert events["word_index"].max() == 7 and events.loc[events["kind"] == "word", "sequence_id"].nunique() == 30
