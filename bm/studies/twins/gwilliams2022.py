"""Twin of MEG-MASC: a BIDS tree with KIT files, events told by dictionaries, and sounds.

sub-01 has session 0 with tasks 0 and 1 and session 1 with task 0, sub-02 session 0 with both tasks; sub-99 is in
participants.tsv only. Each task plays two sounds of five sentences and a word list. The table of task 0 is written
plainly, that of task 1 with the quotes of pandas. Faults are in the first recording, `01_session0_story0`.
"""
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.studies.twins import FAULT_KINDS
from bm.studies.twins.kit import IDLE, PULSE, write_kit
from bm.studies.twins.speech import sentences, word_lists, write_sound

#: fault → what is wrong then
FAULTS = {name: FAULT_KINDS[name] for name in (
    "missing_sound", "missing_file", "truncated_raw", "drift", "missing_word", "doubled_word",
    "out_of_order", "outside_sound", "gap")}
RECORDINGS = (("01", "0", "0"), ("01", "0", "1"), ("01", "1", "0"), ("02", "0", "0"), ("02", "0", "1"))
SENSORS, REFERENCES, TRIGGERS = 208, 3, 8
#: file names of the stories of tasks 0 and 1, as the tables spell them
STORIES = ("LW1", "cable_spool_fort")
SOUNDS = 2
#: s, of a word and of the silence after a sequence and at both ends of a sound
WORD, PAUSE, EDGE = 0.35, 0.5, 0.4
#: letter → phoneme
_PHONES = {letter: letter for letter in "bdfgklmnprstvwyz"} | {
    "a": "ae", "c": "k", "e": "eh", "h": "hh", "i": "ih", "j": "jh", "o": "aa", "q": "k", "u": "ah", "x": "k"}


def make(folder: Path, fault: str | None = None, rate: float = 200.0, seed: int = 3,
         recordings: int = len(RECORDINGS)) -> None:
    """Writes the twin below `folder/download`.

    Args:
        rate: Hz (the real one has 1000).
        seed: of text and noise.
        recordings: how many of `RECORDINGS` to write.
    """
    root = folder / "download"
    stories = [[_sequences(seed + 10 * task + sound, first=6 * sound) for sound in range(SOUNDS)] for task in (0, 1)]
    lengths = [[_write_wav(root, task, sound, sequences) for sound, sequences in enumerate(sounds)]
               for task, sounds in enumerate(stories)]
    seconds = 0.0
    for number, (subject, session, task) in enumerate(RECORDINGS[:recordings]):
        home = root / f"sub-{subject}" / f"ses-{session}" / "meg"
        home.mkdir(parents=True, exist_ok=True)
        stem = f"sub-{subject}_ses-{session}_task-{task}"
        begin = 1.5 + 0.137 * number
        onsets = [begin, begin + lengths[int(task)][0] + 1.3]
        rows = [row for sound, onset in enumerate(onsets)
                for row in _rows(int(task), sound, onset, stories[int(task)][sound])]
        if number == 0 and fault is not None:
            rows = _spoil(rows, fault, onsets, lengths[0])
        _write_table(home / f"{stem}_events.tsv", rows, quoted=task == "1")
        stop = onsets[1] + lengths[int(task)][1] + 1.0
        write_kit(home / f"{stem}_meg.con", _counts(stop, rate, onsets, seed + number), rate, SENSORS, REFERENCES)
        seconds += stop
    made = RECORDINGS[:recordings]
    (folder / "twin.json").write_text(json.dumps({
        "study": "gwilliams2022", "subjects": len({subject for subject, _, _ in made}), "recordings": len(made),
        "hours": seconds / 3600, "sensors": SENSORS, "rate": rate}))
    ids = pd.DataFrame({"participant_id": ["sub-01", "sub-02", "sub-99"]})
    ids.to_csv(root / "participants.tsv", sep="\t", index=False)
    (root / "dataset_description.json").write_text('{"Name": "Twin of MEG-MASC", "BIDSVersion": "1.8.0"}\n')
    first = root / "sub-01" / "ses-0" / "meg" / "sub-01_ses-0_task-0_meg.con"
    if fault == "missing_sound":
        (root / "stimuli" / "audio" / "lw1_1.wav").unlink()
    elif fault == "missing_file":
        (first.parent / "sub-01_ses-0_task-0_events.tsv").unlink()
    elif fault == "truncated_raw":
        first.write_bytes(first.read_bytes()[:first.stat().st_size // 2])


def _sequences(seed: int, first: int) -> list[dict[str, Any]]:
    """The sequences of a sound: number, condition, and words with their start (s in the sound)."""
    texts = [(words, "sentence") for words in sentences(5, "en", seed)]
    texts.insert(3, (word_lists(1, "en", seed)[0], "word_list"))
    made, at = [], EDGE
    for number, (words, condition) in enumerate(texts, first):
        starts = [round(at + WORD * i, 3) for i in range(len(words))]
        made.append({"sequence_id": float(number), "condition": condition, "words": words, "starts": starts})
        at = starts[-1] + WORD + PAUSE
    return made


def _write_wav(root: Path, task: int, sound: int, sequences: list[dict[str, Any]]) -> float:
    """Returns the seconds of the sound; it lies on disk in lower case."""
    words = [(word, start, start + WORD) for sequence in sequences
             for word, start in zip(sequence["words"], sequence["starts"], strict=True)]
    seconds = words[-1][2] + EDGE
    write_sound(root / "stimuli" / "audio" / f"{STORIES[task].lower()}_{sound}.wav", words, seconds)
    return seconds


def _rows(task: int, sound: int, onset: float, sequences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The dictionaries of a sound, with `onset` and `duration` in the MEG."""
    name = f"stimuli/audio/{STORIES[task]}_{sound}"
    shared = {"story": STORIES[task].lower(), "story_uid": float(task), "sound_id": float(sound)}
    rows: list[dict[str, Any]] = [{"onset": onset, "duration": 0.0, **shared, "kind": "sound", "start": 0.0,
                                   "sound": f"{name}.{sound}.wav"}]
    for sequence in sequences:
        for index, (word, start) in enumerate(zip(sequence["words"], sequence["starts"], strict=True)):
            about = {**shared, "sound": f"{name}.wav", "sequence_id": sequence["sequence_id"],
                     "condition": sequence["condition"], "word_index": float(index), "speech_rate": 160.0,
                     "voice": "Twin", "pronounced": 1.0}
            letters = [letter for letter in word.lower() if letter in _PHONES]
            for i, letter in enumerate(letters):  # a phoneme stands before the word that starts with it
                place = "S" if len(letters) == 1 else "B" if i == 0 else "E" if i == len(letters) - 1 else "I"
                at = start + i * WORD / len(letters)
                rows.append({"onset": onset + at, "duration": WORD / len(letters), **about, "kind": "phoneme",
                             "start": at, "phoneme": f"{_PHONES[letter]}_{place}"})
            rows.append({"onset": onset + start, "duration": WORD, **about, "kind": "word", "start": start,
                         "word": word})
    return sorted(rows, key=lambda row: row["onset"])


def _spoil(rows: list[dict[str, Any]], fault: str, onsets: list[float], lengths: list[float]) -> list[dict[str, Any]]:
    """Plants a fault in the table."""
    words = [row for row in rows if row["kind"] == "word"]
    if fault == "missing_word":
        rows = [row for row in rows if (row.get("sequence_id"), row.get("word_index")) != (1.0, 2.0)]
    elif fault == "doubled_word":
        rows.insert(rows.index(words[5]), dict(words[5]))
    elif fault == "out_of_order":
        for key in ("onset", "start"):
            words[3][key], words[4][key] = words[4][key], words[3][key]
    elif fault == "outside_sound":
        words[-1]["onset"] = onsets[1] + lengths[1] + 0.5
    elif fault == "gap":
        rows = [row for row in rows if not 1 <= row.get("sequence_id", 0) <= 4]
    elif fault == "drift":
        for row in rows:
            row["onset"] += 0.01 * row["start"]
    return rows


def _write_table(path: Path, rows: list[dict[str, Any]], quoted: bool) -> None:
    """The columns of mne-bids, with rows that are no dictionary, and one dictionary with a number behind it."""
    cells = [{"onset": 0.2, "duration": 0.0, "trial_type": "n/a", "value": 0, "sample": 0},
             {"onset": 0.4, "duration": 0.1, "trial_type": "BAD_ACQ_SKIP", "value": 0, "sample": 0}]
    for value, row in enumerate(sorted(rows, key=lambda row: row["onset"])):
        text = str({key: cell for key, cell in row.items() if key not in ("onset", "duration")})
        cells.append({"onset": round(row["onset"], 4), "duration": round(row["duration"], 4),
                      "trial_type": f"{text}/{value}" if value == 2 else text, "value": value, "sample": value})
    table = pd.DataFrame(cells)
    if quoted:
        table["trial_type"] = ['"' + text.replace('"', '""') + '"' if '"' in text else text
                               for text in table["trial_type"]]  # an apostrophe makes Python write double quotes
    lines = ["\t".join(table.columns), *("\t".join(map(str, row)) for row in table.itertuples(index=False))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _counts(seconds: float, rate: float, onsets: list[float], seed: int) -> np.ndarray:
    """Noise in the sensors, and a pulse in the first trigger channel at each sound; the file's integers."""
    rng = np.random.default_rng(zlib.crc32(f"{seed}".encode()))
    counts = np.full((round(seconds * rate), SENSORS + REFERENCES + TRIGGERS), IDLE, dtype=np.int16)
    counts[:, :SENSORS + REFERENCES] = 600 * rng.standard_normal((len(counts), SENSORS + REFERENCES), np.float32)
    for onset in onsets:
        first = round(onset * rate)
        counts[first:first + max(round(0.01 * rate), 1), SENSORS + REFERENCES] = PULSE
    return counts
