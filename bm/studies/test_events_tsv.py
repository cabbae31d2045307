"""`read_events_tsv` on the traps that real tables hold."""
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bm.events import check_events
from bm.studies.events_tsv import read_events_tsv

HEADER = "onset\tduration\ttrial_type\tstim_file\tword\tsentence_id"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one sound of 4 s whose name differs in case from the tables'."""
    (tmp_path / "stimuli" / "audio").mkdir(parents=True)
    soundfile.write(tmp_path / "stimuli" / "audio" / "A.wav", np.zeros(4 * 8000), 8000)
    return tmp_path


def read(root: Path, rows: list[str], header: str = HEADER, **options):
    path = root / "x_events.tsv"
    path.write_bytes(("\ufeff" + "\r\n".join([header, *rows]) + "\r\n").encode())
    return read_events_tsv(path, [root / "stimuli", root], **options)


def test_kinds_ties_missing_values_and_drops(root, caplog):
    caplog.set_level(logging.INFO)
    events = read(root, [
        "1.0\t0.1\tmarker\tn/a\tn/a\t1", "1.0\t0.3\tWord\tn/a\tdon't\t1", "1.0\t0\tsound\taudio/a.wav\tn/a\tn/a",
        "1.5\tn/a\tn/a\tn/a\tnull\t1", "1.7\t0.2\tn/a\tn/a\tNA\t2", "2.0\t0.2\tword\tn/a\tNone\t2",
        "n/a\t0\tword\tn/a\tlost\t2", "3.0\t1\tBAD_jump\tn/a\tn/a\tn/a", "3.5\t0\tButtonBox\tn/a\tn/a\tn/a",
        '3.6\t0.2\tword\tn/a\t"quoted"\t3'], kinds={"marker": "special"})
    assert list(events["kind"]) == ["sound", "word", "special", "word", "word", "word", "special", "word"]
    assert list(events["word"].dropna()) == ["don't", "null", "NA", "None", '"quoted"']
    assert "dropped 1 bad spans and 1 rows without onset" in caplog.text
    sound = events.iloc[0]
    assert sound["duration"] == 4 and sound["filepath"] == str((root / "stimuli/audio/A.wav").resolve())
    words = events[events["kind"] == "word"]
    assert list(words["word_index"]) == [0, 1, 0, 1, 0]
    assert list(words["word_sequence"]) == ["don't null", "don't null", "NA None", "NA None", '"quoted"']
    assert words["duration"].iloc[1] == pytest.approx(0.2)  # n/a: until the next word
    assert events["filepath"].notna().sum() == 1
    assert set(events["modality"]) == {"audio"} and set(events["language"]) == {"en"}
    check_events(events, "test")


def test_dictionaries(root):
    rows = ["""0.5\t3.5\t{'kind': 'sound', 'start': 0.0, 'sound': 'audio/a.wav'}\t1""",
            """1\t0.2\t{'kind': 'word', 'start': 9.0, 'word': "it's", 'sequence_id': 1.0, 'word_index': 0.0}\t1""",
            """1\t0.1\t"{'kind': 'phoneme', 'phoneme': 'ih', 'sequence_id': 1, 'word_index': 0.0, 'w': ""it's""}"\t1""",
            """1.5\t0.2\t{"kind": "word", "word": "null", "sequence_id": 1.0, "word_index": null}/3\t3"""]
    events = read(root, rows, header="onset\tduration\ttrial_type\tvalue")
    assert list(events["kind"]) == ["sound", "word", "phoneme", "word"]
    assert list(events["start"]) == [0.5, 1, 1, 1.5]
    assert list(events["sequence_id"].iloc[1:]) == ["1", "1", "1"]
    assert list(events["word_index"].iloc[1:]) == [0, 0, 1]
    assert events["word_sequence"].iloc[3] == "it's null" and events["w"].iloc[2] == "it's"


def test_aliases_and_phonemes(root):
    events = read(root, ["word\t1\t.5\tone\tn/a\tvisual\td", "phone\t1.1\t.1\tn/a\tw\tn/a\tn/a",
                         "phone\t2.1\t.1\tn/a\tt\tn/a\tn/a",
                         "word\t2\t.5\ttwo words\tn/a\tn/a\td", "word\t3\t.5\tthree\tn/a\tn/a\td"],
                  header="event_type\tstart\tduration\ttext\tphone\tmodality\tsentence", language="nl")
    assert list(events["word"].dropna()) == ["one", "two words", "three"]
    assert list(events.loc[events["kind"] == "word", "word_index"]) == [0, 1, 3]  # two tokens count twice
    phonemes = events[events["kind"] == "phoneme"]
    assert list(phonemes["word_index"]) == [0, 1] and list(phonemes["sequence_id"]) == ["d", "d"]
    assert list(events["modality"]) == ["visual"] + ["audio"] * 4 and set(events["language"]) == {"nl"}


@pytest.mark.parametrize("rows, expected", [
    (["0\t2\tsentence\tn/a", "3\t1\tsentence\tn/a"], ["0", "0", "1"]),
    (["0\t2\tsound\taudio/a.wav", "3\t1\tsound\taudio/a.wav"], ["0", "0", "1"]),
    ([], ["0", "0", "1"])])
def test_sequences_are_derived(root, rows, expected):
    rows = [row + "\tn/a" for row in rows]
    words = ["0.5\t.3\tword\tn/a\ta", "1\t.3\tword\tn/a\tb", "3.5\t.3\tword\tn/a\tc"]
    events = read(root, [*rows, *words], header="onset\tduration\ttrial_type\tstim_file\tword")
    words = events[events["kind"] == "word"]
    assert list(words["sequence_id"]) == expected and list(words["word_index"]) == [0, 1, 0]
    assert "sentence" not in set(events["kind"])


@pytest.mark.parametrize("row, error, message", [
    ("soon\t0\tword\tn/a\ta\t1", ValueError, r"line 2: onset is 'soon', expected a finite number"),
    ("1\t-1\tword\tn/a\ta\t1", ValueError, r"line 2: duration -1.0 s, expected 0 or more"),
    ("1\t0\tsound\tn/a\tn/a\t1", ValueError, r"line 2: a sound without stim_file"),
    ("1\t0\tsound\tb.wav\tn/a\t1", FileNotFoundError, r"line 2: no sound file 'b.wav'"),
    ("1\t0\tword\tn/a\tn/a\t1", ValueError, r"line 2: a word row whose cell word is n/a"),
    ("1\t0\t{'kind': evil()}\tn/a\ta\t1", ValueError, r"line 2: trial_type .* cannot be read"),
    ("1\t0\tword", ValueError, r"line 2: 3 cells, expected 6")])
def test_errors_name_file_and_line(root, row, error, message):
    with pytest.raises(error, match=message):
        read(root, [row])


def test_sound_without_file_may_be_tolerated(root):
    events = read(root, ["1\t0\tsound\tn/a\tn/a\tn/a"], sounds_required=False)
    assert list(events["kind"]) == ["special"] and list(events["name"]) == ["sound"]


def test_sequence_ids_are_all_or_none(root):
    with pytest.raises(ValueError, match="line 3: the word 'b' has no sequence_id"):
        read(root, ["1\t0\tword\tn/a\ta\t1", "2\t0\tword\tn/a\tb\tn/a"])


def test_no_onset_column(root):
    with pytest.raises(ValueError, match="no column onset"):
        read(root, ["1"], header="duration")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_mixed_line_endings_and_byte_order_mark(root, mark):
    path = root / "x_events.tsv"
    rows = ["1\t.2\tword\tn/a\ta\t1", "", "2\t.2\tword\tn/a\tb\t1", "3\t.2\tword\tn/a\tc\t2"]
    path.write_bytes((mark + "".join(row + end for row, end in zip(
        [HEADER, *rows], ["\r\n", "\n", "\r", "\r\n", ""], strict=True))).encode())
    events = read_events_tsv(path)
    assert list(events["word"]) == ["a", "b", "c"] and list(events["start"]) == [1, 2, 3]
    path.write_bytes(path.read_bytes().replace(b"3\t.2", b"3\tlong"))
    with pytest.raises(ValueError, match="x_events.tsv, line 5: duration is 'long', expected a finite number or n/a"):
        read_events_tsv(path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_explained(root, encoding):
    path = root / "x_events.tsv"
    path.write_text(f"{HEADER}\n1\t.2\tword\tn/a\té\t1\n", encoding=encoding)
    with pytest.raises(ValueError, match="x_events.tsv: byte .* is not UTF-8, expected .*: save it as such"):
        read_events_tsv(path)
