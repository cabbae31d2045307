"""EEGMMIDB: codes, names, blocks, odd files; the twin, and real recordings."""
import shutil

import numpy as np
import pytest

from bm.data.prepare import prepare
from bm.events import check_events, make_blocks
from bm.store import Store, file_sha256
from bm.studies.download import Manifest
from bm.studies.eegmmidb import CODES, UNFINISHED, Eegmmidb, channel_name, checksums, manifest
from bm.studies.quality import quality_of
from bm.studies.twins import make_twin, twin_faults


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return make_twin("eegmmidb", tmp_path_factory.mktemp("eegmmidb"))


def by_uid(path, **selection):
    return {recording.uid: recording for recording in Eegmmidb(path, **selection).recordings()}


def test_codes_and_names():
    assert CODES[3]["T1"] == CODES[11]["T1"] == "left_fist" and CODES[5]["T2"] == CODES[13]["T2"] == "both_feet"
    assert CODES[4]["T2"] == "imagined_right_fist" and CODES[14]["T1"] == "imagined_both_fists"
    assert {len(codes) for codes in CODES.values()} == {3} and len(CODES) == 12
    labels = ("Cp5.", "Fcz.", "Fp1.", "Afz.", "Iz..")
    assert [channel_name(label) for label in labels] == ["CP5", "FCz", "Fp1", "AFz", "Iz"]


def test_the_published_files():
    files = manifest().files
    assert len(files) == 109 * 14 and all(file.sha256 and file.urls[0].startswith("https://") for file in files)
    assert checksums()["S001/S001R03.edf"] == "3427c8d01bff1380bc9ab9f27a35ece2af5dfadf3e291bbc05eb66e4dadbfe2e"


def test_the_twin(twin):
    found = by_uid(twin)
    assert list(found) == [*(f"S001R0{run}" for run in range(1, 7)), "S002R01", "S003R03"]
    signal = found["S001R01"].signal()
    assert signal.shape == (25 * 160, 64) and signal.rate == 160
    names = signal.channels["name"].tolist()
    assert names[14] == "CP5" and [names[i] for i in (3, 21, 26, 42, 63)] == ["FCz", "Fp1", "AFz", "T9", "Iz"]
    assert signal.channels[["x", "layout_x"]].notna().all().all()
    assert signal.read().std() == pytest.approx(2e-5, rel=0.05)  # 20 µV: neither clipped nor in other units


def test_events(twin):
    found = by_uid(twin)
    events = {uid: recording.events() for uid, recording in found.items() if uid != "S002R01"}
    trial = {uid: table[table["code"] == "T1"] for uid, table in events.items()}
    assert set(trial["S001R03"]["condition"]) == {"left_fist"} and set(trial["S001R05"]["condition"]) == {"both_fists"}
    assert set(trial["S001R04"]["condition"]) == {"imagined_left_fist"}
    motor = events["S001R03"].query("kind == 'motor'")
    np.testing.assert_allclose(motor["start"], [0, 4.2, 8.3, 12.5, 16.6, 20.8, 24.9])
    np.testing.assert_allclose(motor["duration"], [4.2, 4.1, 4.2, 4.1, 4.2, 4.1, 0.1])
    clipped = events["S003R03"].query("kind == 'motor'").iloc[-1]
    assert clipped["start"] + clipped["duration"] == pytest.approx(25)
    assert events["S001R02"].query("kind == 'special'")["condition"].tolist() == ["eyes_closed"]


def test_blocks(twin):
    found = by_uid(twin, block_s=8.0)
    for uid, start in {"S001R01": [0, 8, 16], "S001R03": [0, 8.3, 16.6, 24.9]}.items():
        blocks = make_blocks(check_events(found[uid].events(), uid, 25.0), "block", 25.0, uid)
        np.testing.assert_allclose(blocks["start"], start)
        np.testing.assert_allclose(blocks["stop"], [*start[1:], 25])
        assert blocks["uid"].is_unique and blocks["uid"].str.startswith(uid).all()


def test_an_odd_rest_has_no_conditions(twin, caplog):
    events = by_uid(twin)["S002R01"].events()
    assert set(events["kind"]) == {"block"} and "expected one T0" in caplog.text


def test_which_recordings(twin):
    assert "S088R03" not in by_uid(twin)
    kept = by_uid(twin, exclude=[])["S088R03"]
    assert kept.signal().rate == 128
    assert list(by_uid(twin, subjects=[1], runs=[2, 3])) == ["S001R02", "S001R03"]
    assert list(by_uid(twin, runs=[1])) == ["S001R01", "S002R01"]
    with pytest.raises(FileNotFoundError, match="1 of 2 files are not in .* S002/S002R02.edf"):
        by_uid(twin, subjects=[2], runs=[1, 2])
    for selection, message in [({"runs": [15]}, r"runs=\[15\]"), ({"block_s": 0}, "block_s=0"), ({"run": 1}, "'run'"),
                               ({"subjects": [110]}, "from 1 to 109")]:
        with pytest.raises(ValueError, match=message):
            Eegmmidb(twin, **selection)
    with pytest.raises(ValueError, match="no path"):
        Eegmmidb(None)


def test_a_folder_with_files_is_used_as_it_is(twin, tmp_path, monkeypatch):
    monkeypatch.setattr(Manifest, "fetch", lambda self, folder: pytest.fail("downloads"))
    Eegmmidb(twin).prepare()
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in twin.glob("S00*/*.edf"):
        shutil.copy(path, flat)
    assert list(by_uid(flat)) == [uid for uid in by_uid(twin) if uid != "S003R03"]


def test_what_is_missing_is_downloaded(twin, tmp_path, monkeypatch):
    def fetch(self, folder):
        asked.append([file.path for file in self.files])
        assert (folder / UNFINISHED).exists()
        raise FileNotFoundError("offline")
    asked: list[list[str]] = []
    monkeypatch.setattr(Manifest, "fetch", fetch)
    for path, selection, number in [(tmp_path / "no", {}, 106 * 14), (tmp_path / "none", {"runs": [1, 2]}, 212),
                                    (make_twin("eegmmidb", tmp_path / "cut", "missing_file"), {}, 106 * 14 - 7)]:
        with pytest.raises(FileNotFoundError, match="offline"):
            Eegmmidb(path, **selection).prepare()
        assert len(asked[-1]) == number
    assert "S001/S001R02.edf" in asked[-1]


@pytest.mark.parametrize("fault", twin_faults("eegmmidb"))
def test_each_fault_is_noticed(fault, twin, tmp_path):
    folder = make_twin("eegmmidb", tmp_path / "twin", fault)
    found, right = by_uid(folder), by_uid(twin)
    if fault == "missing_file":
        assert set(right) - set(found) == {"S001R02"}
        return
    broken, store = found["S001R03"], Store(tmp_path / "cache")
    if fault == "truncated_raw":
        with pytest.raises(ValueError, match="its header promises .* not whole"):
            prepare(broken, store, 160, 0)
    elif fault == "wrong_rate":
        with pytest.raises(ValueError, match="has 128 Hz; choose 128 Hz or less"):
            prepare(broken, store, 160, 0)
    elif fault == "spare_trigger":
        with pytest.raises(ValueError, match=r"annotations \['T0', 'T1', 'T2', 'T3'\], expected"):
            broken.events()
    else:  # nobody can know that there was a trial: its rest is a block of its own
        assert len(broken.events()) == len(right["S001R03"].events()) - 1
        assert (broken.events()["kind"] == "block").sum() == 4


def test_no_edf(tmp_path):
    (tmp_path / "S001R01.edf").write_bytes(b"<html>" + b" " * 300)
    with pytest.raises(ValueError, match="is no EDF file"):
        by_uid(tmp_path)["S001R01"].signal()


def test_quality_has_nothing_to_object(twin):
    assert quality_of(by_uid(twin)["S001R03"]).level == "ok"


def test_real_recordings(shared_data):
    rest, motor = by_uid(shared_data("eegmmidb_rest")), by_uid(shared_data("eegmmidb_motor"))
    assert len(rest) == 12 and [recording.run for recording in motor.values()] == [3, 4, 6, 7, 8, 10, 11, 12, 14]
    assert file_sha256(rest["S001R01"].path) == checksums()["S001/S001R01.edf"]
    signal, events = motor["S001R03"].signal(), motor["S001R03"].events()
    assert signal.rate == 160 and signal.shape[1] == 64 and 1e-5 < signal.read().std() < 1e-4
    count = events[events["kind"] == "motor"]["condition"].value_counts().to_dict()
    assert count == {"rest": 15, "left_fist": 8, "right_fist": 7} or count == {"rest": 15, "left_fist": 7,
                                                                               "right_fist": 8}
    one = rest["S001R02"]
    assert one.signal().shape == (9760, 64)
    assert one.events().query("kind == 'special'")["condition"].tolist() == ["eyes_closed"]
    power = {uid: np.abs(np.fft.rfft(rest[uid].signal().read()[:9600, 60:63], axis=0)[480:720]).mean()
             for uid in ("S001R01", "S001R02")}
    assert power["S001R02"] > 1.5 * power["S001R01"]  # 8–12 Hz over the back of the head
