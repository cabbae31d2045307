import re

import pytest

from bm.studies.base import STUDIES
from bm.studies.facts import Facts
from bm.studies.twins import make_twin, twin_faults
from scripts.study import main

#: study → fault → what `check` says of it (a pattern)
NAMED = {
    "broderick2019": {
        "missing_sound": "unreadable: FileNotFoundError: no file 'audio2.wav'",
        "missing_file": "unreadable: FileNotFoundError: no file 'align2.json'",
        "truncated_raw": "unreadable: ValueError: .*Subject1_Run2.mat cannot be read",
        "wrong_rate": r"unreadable: ValueError: .*fs is \[512.0\], expected 128",
        "transposed": r"unreadable: ValueError: .*shape \(128, 2560\), expected \(samples, 128\)",
        "wrong_text": "unreadable: ValueError: .*oldman_run2.txt: only 0 of the",
        "doubled_word": "doubled_words", "out_of_order": "out_of_order", "outside_sound": "outside_sounds",
        "gap": "gap_s: longest time without a word",
    },
    "brennan2019": {
        "missing_sound": "unreadable: FileNotFoundError: no file 'audio/DownTheRabbitHoleFinal_SoundFile2.wav'",
        "missing_file": "unreadable: FileNotFoundError: no file .*AliceChapterOne-EEG.csv",
        "truncated_raw": "unreadable: ValueError: .*S03.mat: the header promises 62 channels of 12500 samples",
        "lost_trigger": "unreadable: ValueError: .*S03.mat: 31 trials, but .* has 32 words",
        "missing_word": "unreadable: ValueError: .*S03.mat: 32 trials, but .* has 31 words",
        "drift": "drift_ppm", "lag": "audio_lag_ms: .*: 30. ", "wrong_rows": "table_mismatch",
        "doubled_word": "doubled_words", "out_of_order": "out_of_order", "outside_sound": "outside_sounds",
        "gap": "gap_s: longest time without a word",
    },
}
CASES = [(name, fault) for name, faults in NAMED.items() for fault in faults]


def test_every_fault_has_a_case():
    assert {name: set(faults) for name, faults in NAMED.items()} == {name: set(twin_faults(name)) for name in NAMED}


@pytest.mark.parametrize("name", ["gwilliams2022", "schoffelen2019", *NAMED])
def test_a_twin_is_green(name, tmp_path, capsys):
    assert main(["twin", name, str(tmp_path / "twin")]) == 0
    assert main(["check", name, "--path", str(tmp_path / "twin"), "--strict"]) == 0
    said = capsys.readouterr().out
    assert "(a twin)" in said and "0 with warnings, 0 failed; 0 of the facts differ" in said
    assert re.search(r"vocabulary +\d\d", said) and "FAIL" not in said


@pytest.mark.parametrize("name, fault", CASES)
def test_a_fault_is_named(name, fault, tmp_path, capsys):
    make_twin(name, tmp_path / "twin", fault, **({"subjects": ("S03",)} if name == "brennan2019" else {}))
    level = "warn" if fault == "gap" else "fail"
    assert main(["check", name, "--path", str(tmp_path / "twin")]) == int(level == "fail")
    said = capsys.readouterr().out
    assert re.search(rf"^{level}: {name}/(S03|._run2): {NAMED[name][fault]}", said, re.MULTILINE), said
    if fault == "gap":
        assert main(["check", name, "--path", str(tmp_path / "twin"), "--strict"]) == 1


#: fault → what is said of it, in the studies whose own tests look closer
MEASURED = {"missing_sound": "unreadable", "missing_file": "unreadable", "truncated_raw": "unreadable",
            "lost_trigger": "missed_triggers", "spare_trigger": "spare_triggers", "drift": "drift_ppm",
            "missing_word": "missing_words", "doubled_word": "doubled_words", "out_of_order": "out_of_order",
            "outside_sound": "outside_sounds", "gap": "gap_s"}


@pytest.mark.slow
@pytest.mark.parametrize("name, fault", [(name, fault) for name in ("gwilliams2022", "schoffelen2019")
                                         for fault in twin_faults(name)])
def test_a_fault_of_the_meg_twins_is_named(name, fault, tmp_path, capsys):
    make_twin(name, tmp_path / "twin", fault)
    assert main(["check", name, "--path", str(tmp_path / "twin"), "--strict"]) == 1
    assert re.search(rf"^(warn|fail): {name}/\S+: {MEASURED[fault]}: ", capsys.readouterr().out, re.MULTILINE)


def test_options_change_the_selection(tmp_path, capsys):
    """The twin's sound channel shows that the published onsets are early."""
    make_twin("brennan2019", tmp_path / "twin", subjects=("S03",))
    assert main(["check", "brennan2019", "--path", str(tmp_path / "twin"), "--set", "onset_from_offset=false"]) == 1
    assert re.search("audio_lag_ms: .*: 299 ", capsys.readouterr().out)
    assert main(["check", "brennan2019", "--path", str(tmp_path / "twin"), "--set", "onset=1"]) == 2
    assert "unknown selection keys ['onset']" in capsys.readouterr().err


def test_a_part_of_a_study(tmp_path, capsys, monkeypatch):
    make_twin("brennan2019", tmp_path / "twin", subjects=("S01",))
    (tmp_path / "twin" / "twin.json").unlink()  # now it passes for the real study
    arguments = ["check", "brennan2019", "--path", str(tmp_path / "twin")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    absent = "not here (or not in this selection): 32 of 33 subjects, 32 of 33 recordings, 6.693 of 6.7 hours"
    assert f"\n{absent}\n" in said and "0 of the facts differ" in said and "fail" not in said.lower().split("ok, ")[0]
    assert main([*arguments, "--whole"]) == 1
    assert f"\nfail: {absent}\n" in capsys.readouterr().out
    facts = STUDIES["brennan2019"].facts
    monkeypatch.setattr(STUDIES["brennan2019"], "facts", Facts(**vars(facts) | {"sensors": 61, "recordings": 1}))
    assert main(arguments) == 1  # all recordings are here, so that fewer people and hours are faults
    said = capsys.readouterr().out
    assert "fail: subjects: 1, expected 33" in said and "fail: hours: 0.0069, expected 6.7" in said
    assert "fail: sensors: 60, expected 61" in said and "not here" not in said


def test_some_people_of_eegmmidb(tmp_path, capsys):
    make_twin("eegmmidb", tmp_path / "twin")
    (tmp_path / "twin/twin.json").unlink()
    assert main(["check", "eegmmidb", "--path", str(tmp_path / "twin"), "--strict"]) == 0
    said = capsys.readouterr().out
    assert "of 106 subjects" in said and "of 1484 recordings" in said
    assert "interrupted" not in said
    file = next((tmp_path / "twin").rglob("*.edf"))
    (tmp_path / "twin/.unfinished").touch()
    file.write_bytes(file.read_bytes()[:-1000])
    assert main(["check", "eegmmidb", "--path", str(tmp_path / "twin")]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^fail: eegmmidb/S\d+R\d+: unreadable: .*it is not whole", said, re.MULTILINE)
    assert "interrupted: `python -m scripts.study download eegmmidb` goes on" in said
    assert main(["check", "eegmmidb_imagery", "--path", str(tmp_path / "twin"), "--set", "runs=[14]"]) == 1
    assert re.search(r"of \d+ files in .* none is of this selection \(runs \[14\]", capsys.readouterr().out)


def test_an_empty_folder_and_unknown_names(tmp_path, capsys, monkeypatch):
    assert main(["check", "broderick2019", "--path", str(tmp_path)]) == 1
    assert "fail: study broderick2019: no folder" in capsys.readouterr().out
    assert main(["check", "nobody2020"]) == 2
    assert "unknown study or selection 'nobody2020'; known: audio_mous" in capsys.readouterr().err
    monkeypatch.setenv("BM_DATA", str(tmp_path))
    assert main(["check", "audio_mous_wl"]) == 1  # a selection, where BM_DATA says
    assert str(tmp_path / "schoffelen2019") in capsys.readouterr().out
    assert main(["twin", "brennan2019", str(tmp_path), "--fault", "transposed"]) == 2
    assert "cannot have the fault 'transposed'" in capsys.readouterr().err


def test_download_says_how(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DONDERS_USER", raising=False)
    assert main(["download", "visual_mous", "--path", str(tmp_path / "mous"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "data use agreement" in said and "not listed" in said and not (tmp_path / "mous").exists()
    monkeypatch.delenv("DRYAD_TOKEN", raising=False)
    assert main(["download", "broderick2019", "--path", str(tmp_path / "sea"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 files are missing" in said and "private.zip" in said and str(tmp_path / "sea") in said
    assert main(["download", "broderick2019", "--path", str(tmp_path / "sea")]) == 2
    assert "DRYAD_TOKEN not set" in capsys.readouterr().err
