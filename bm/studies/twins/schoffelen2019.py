"""Twin of MOUS: CTF folders, logs of Presentation, sounds, TextGrids and the texts of the stimuli.

A2002 and A2003 listen, V1001 and V1002 read the same eight sentences and four word lists, in four blocks; A2012, A2036
and V1006 are there as well but are absent or unusable by the study's lists. What is peculiar about each log:

- A2002: nothing. A "rest" recording lies beside its task; its signal is in two files.
- A2003: the whole log is there twice, a row is broken after a full stop, and the numbers of sounds are not padded.
- V1001: the first row has a negative time.

Faults are in the first recording of each task, A2002 and V1001; "outside_sound" needs sounds. The word that readers
miss is the last one, which does not matter to the first 45 letters by which a text is known.
"""
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bm.studies.twins import FAULT_KINDS
from bm.studies.twins.ctf import CLOCK, REFERENCE, SENSOR, STIM, write_ctf
from bm.studies.twins.speech import sentences, word_lists, write_sound

#: fault → what is wrong then
FAULTS = {name: FAULT_KINDS[name] for name in (
    "missing_sound", "missing_file", "truncated_raw", "lost_trigger", "spare_trigger", "drift",
    "missing_word", "doubled_word", "out_of_order", "outside_sound")}
RATE = 1200
LISTENERS, READERS = ("A2002", "A2003"), ("V1001", "V1002")
SKIPPED = ("A2012", "A2036", "V1006")
#: numbers of the stimuli of each block, so that each split has sentences and word lists
BLOCKS = ((7, 14, 186, 61), (102, 127), (3, 22, 5, 40), (101, 104))
WORD_LISTS = BLOCKS[1] + BLOCKS[3]
#: s: silence before a sound's first word, a word of it, a word on the screen and the pause after it
SILENCE, WORD, SHOWN, ISI = 0.05, 0.3, 0.3, 0.3
#: s that the MEG runs ahead of the log
AHEAD = {"A2002": 7.0, "A2003": 9.25, "V1001": 6.5, "V1002": 8.0}
#: phones of each word
PHONES = ("h", "E", "t")
_WAV = "EQ_Ramp_Int2_Int1LPF"


@dataclass
class _Log:
    """Rows `(type, code, time, duration)` of a log in s, and triggers `(time, code)`, on the log's clock."""

    rows: list[tuple[str, str, float, float | None]] = field(default_factory=list)
    triggers: list[tuple[float, int]] = field(default_factory=list)

    def add(self, kind: str, code: str, time: float, duration: float | None = None, trigger: int | None = None) -> None:
        self.rows.append((kind, code, time, duration))
        if trigger is not None:
            self.triggers.append((time, trigger))


def make(folder: Path, fault: str | None = None, sensors: int = 24, textgrids: bool = True, seed: int = 1) -> None:
    """Writes the twin below `folder/download`.

    Args:
        sensors: gradiometers, at most 275 (the real ones have 273).
        textgrids: False leaves them out, as the collection does.
        seed: of texts and noise.
    """
    root = folder / "download"
    texts = _texts(seed)
    (root / "stimuli").mkdir(parents=True)
    lines = [f"{number} {' '.join(words)}" for number, words in sorted(texts.items())]
    (root / "stimuli" / "stimuli.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, words in texts.items():
        spans = [(word, SILENCE + WORD * i, SILENCE + WORD * (i + 1)) for i, word in enumerate(words)]
        write_sound(root / "stimuli" / "audio_files" / f"{_WAV}{number:03d}.wav", spans, spans[-1][2] + 0.1)
        if textgrids:
            wrong = fault if number == BLOCKS[0][1] else None
            grid = root / "derivatives" / "phonemes" / f"{_WAV}{number:03d}.TextGrid"
            grid.parent.mkdir(parents=True, exist_ok=True)
            grid.write_text(_textgrid(spans, wrong), encoding="utf-8")
    logs = root / "sourcedata" / "meg_task"
    logs.mkdir(parents=True)
    for subject in (*LISTENERS, *READERS):
        wrong = fault if subject in (LISTENERS[0], READERS[0]) else None
        log = _listening(texts, padded=subject != "A2003") if subject in LISTENERS else _reading(texts, subject, wrong)
        text = _log_text(log, subject, 1 / 1.01 if wrong == "drift" else 1.0)
        if wrong != "missing_file":
            name = "Aud" if subject in LISTENERS else "Vis"
            (logs / f"{subject}-MEG-MOUS-{name}.log").write_bytes(text.encode("cp1252"))
        _write_meg(root, subject, log, sensors, seed, wrong)
    (folder / "twin.json").write_text(json.dumps({  # of each of the two tasks
        "study": "schoffelen2019", "subjects": len(LISTENERS), "recordings": len(LISTENERS), "sensors": sensors,
        "rate": RATE}))
    for subject in SKIPPED:
        (root / f"sub-{subject}" / "meg" / f"sub-{subject}_task-auditory_meg.ds").mkdir(parents=True)
    (root / f"sub-{LISTENERS[0]}" / "meg" / f"sub-{LISTENERS[0]}_task-rest_meg.ds").mkdir()
    if fault == "missing_sound":
        (root / "stimuli" / "audio_files" / f"{_WAV}014.wav").unlink()


def _texts(seed: int) -> dict[int, list[str]]:
    numbers = [number for block in BLOCKS for number in block]
    spoken = [number for number in numbers if number not in WORD_LISTS]
    return dict(zip(spoken, sentences(len(spoken), "nl", seed), strict=True)) | dict(
        zip(WORD_LISTS, word_lists(len(WORD_LISTS), "nl", seed + 1), strict=True))


def _start_block(log: _Log, block: tuple[int, ...], at: float) -> None:
    log.add("Picture", "WOORDEN" if block[0] in WORD_LISTS else "ZINNEN", at, 1.5, trigger=10)


def _listening(texts: dict[int, list[str]], padded: bool) -> _Log:
    """Each trial: cross, start of the file, 46 ms later its sound, a target word, its end."""
    log, at = _Log(), 1.0
    for block in BLOCKS:
        _start_block(log, block, at)
        at += 2.0
        for number in block:
            log.add("Picture", "20 FIX", at, 1.2, trigger=20)
            file = f"{number:03d}" if padded else str(number)
            log.add("Sound", f"14 Start File {file}.wav", at + 1.2, trigger=14)
            onset = at + 1.246
            log.add("Nothing", "1 Audio onset", onset, trigger=1)
            end = onset + SILENCE + WORD * len(texts[number]) + 0.1
            log.add("Nothing", "2 target", onset + 0.5, trigger=2)
            log.add("Nothing", "15 End of file", end, trigger=15)
            log.add("Picture", "blank", end + 0.05, 0.4)
            at = end + 0.5 + 0.1 * (number % 3)
        if block[0] == BLOCKS[0][0]:
            log.add("Picture", "QUESTION Was het een bakker.", at, 2.0)
            log.add("Response", "1", at + 0.8)
            at += 2.0
    log.add("Picture", "blank", at + 1.0, 1.0)  # after the last trigger
    log.add("Quit", "", at + 2.0)
    return log


def _reading(texts: dict[int, list[str]], subject: str, fault: str | None) -> _Log:
    """Each trial: cross, then word by word; digits stand before or behind a word."""
    log, at = _Log(), 1.0
    log.add("Picture", "PULSE MODE", -0.65 if subject == "V1001" else 0.2, 0.3)
    for block in BLOCKS:
        _start_block(log, block, at)
        at += 2.0
        for number in block:
            log.add("Picture", "FIX 20", at, 2.0, trigger=20)
            at += 2.0
            words = list(enumerate(texts[number], 1))
            if number == BLOCKS[0][1]:
                words = {"missing_word": words[:-1], "doubled_word": [*words[:3], *words[2:]]}.get(fault or "", words)
            first = len(log.rows)
            for place, word in words:
                time = at + (place - 1) * (SHOWN + ISI)
                log.add("Picture", f"{word} {place}" if place % 2 else f"{place} {word}", time, SHOWN, trigger=1)
                log.add("Picture", "ISI", time + SHOWN, ISI)
            if fault == "out_of_order" and number == BLOCKS[0][1]:
                a, b = log.rows[first + 2], log.rows[first + 4]
                log.rows[first + 2], log.rows[first + 4] = (*a[:2], b[2], a[3]), (*b[:2], a[2], b[3])
            at += len(texts[number]) * (SHOWN + ISI) + 0.3 + 0.1 * (number % 3)
        log.add("Picture", "QUESTION Was er een bakker?", at, 2.0)
        log.add("Response", "2", at + 1.1)
        at += 2.2
    log.triggers.append((at, 15))
    log.add("Quit", "", at + 2.0)
    return log


def _log_text(log: _Log, subject: str, speed: float) -> str:
    """The log with its two tables; times are whole numbers of 0.1 ms, lines end as in Windows."""
    header = ["Subject", "Trial", "Event Type", "Code", "Time", "TTime", "Uncertainty", "Duration", "Uncertainty",
              "ReqTime", "ReqDur", "Stim Type", "Pair Index"]
    second = ["Event Type", "Code", "Type", "Response", "RT", "RT Uncertainty", "Time", "Uncertainty", "Duration",
              "Uncertainty", "ReqTime", "ReqDur"]

    def ticks(seconds: float | None) -> str:
        return "" if seconds is None else str(round(seconds * speed * 10_000))

    rows, again = [], []
    for trial, (kind, code, time, duration) in enumerate(log.rows, 1):
        cells = [subject, str(trial), kind, code, ticks(time), "0"]
        rows.append(cells if kind == "Quit" else [*cells, "1", ticks(duration), "2", "0", "next", "other", "0"])
        if kind in ("Picture", "Sound", "Nothing"):
            again.append([kind, code, "other", "0", "0", "0", ticks(time), "1", ticks(duration), "2", "0", "next"])
    lines = [f"Scenario - MOUS {subject}", "Logfile written - 01/01/2010 12:00:00", "", "\t".join(header), "",
             *map("\t".join, rows), "", "", "\t".join(second), "", *map("\t".join, again)]
    text = "\r\n".join(lines) + "\r\n"
    if subject == "A2003":
        text = text.replace("bakker.\t", "bakker.\r\n\t", 1) * 2
    return text


def _write_meg(root: Path, subject: str, log: _Log, sensors: int, seed: int, fault: str | None) -> None:
    from mne.channels import read_layout

    layout = read_layout("CTF-275").names
    names = [str(layout[i]) for i in np.linspace(0, len(layout) - 1, sensors).astype(int)]
    kinds = [REFERENCE] * 3 + [SENSOR] * sensors + [STIM, STIM, CLOCK]
    names = ["BG1-4408", "BG2-4408", "BG3-4408", *names, "UPPT001", "UPPT002", "SCLK01-177"]
    triggers = list(log.triggers)
    crosses = [i for i, (_, code) in enumerate(triggers) if code == 20]
    if fault == "lost_trigger":
        del triggers[crosses[1]]
    elif fault == "spare_trigger":
        triggers.insert(crosses[1], (triggers[crosses[1]][0] - 0.3, 20))
    n_times = round((AHEAD[subject] + triggers[-1][0] + 2.5) * RATE)
    counts = np.zeros((len(names), n_times), dtype=np.int32)
    rng = np.random.default_rng([seed, int(subject[1:])])
    counts[:-3] = 100 * rng.standard_normal((len(names) - 3, n_times), np.float32)
    for time, code in triggers:
        first = round((AHEAD[subject] + time) * RATE)
        counts[-3, first:first + 12] = code
    counts[-2, 600:612] = 4  # a button
    counts[-1] = np.arange(1, n_times + 1)
    task = "auditory" if subject in LISTENERS else "visual"
    folder = root / f"sub-{subject}" / "meg" / f"sub-{subject}_task-{task}_meg.ds"
    write_ctf(folder, counts, RATE, names, kinds, trial=2 * RATE, parts=2 if subject == "A2002" else 1)
    if fault == "truncated_raw":
        last = sorted(folder.glob("*meg4"))[-1]
        last.write_bytes(last.read_bytes()[:-1000])


def _textgrid(words: list[tuple[str, float, float]], fault: str | None) -> str:
    """The long format of Praat with the three tiers of WebMAUS."""
    if fault == "missing_word":
        words = [*words[:2], *words[3:]]
    elif fault == "doubled_word":
        words = [*words[:3], *words[2:]]
    elif fault == "out_of_order":
        words = [*words[:2], (words[3][0], *words[2][1:]), (words[2][0], *words[3][1:]), *words[4:]]
    elif fault == "outside_sound":
        words = [*words[:-1], (words[-1][0], words[-1][1] + 1.5, words[-1][2] + 1.5)]
    end = words[-1][2] + 0.1
    phones = [(phone, start + k * WORD / 3, start + (k + 1) * WORD / 3)
              for _, start, _ in words for k, phone in enumerate(PHONES)]
    tiers = {"ORT-MAU": words, "KAN-MAU": [("h E t", start, stop) for _, start, stop in words], "MAU": phones}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.4f}",
             "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, items) in enumerate(tiers.items(), 1):
        silence = "<p:>" if name == "MAU" else ""
        items = [(silence, 0.0, items[0][1]), *items, (silence, items[-1][2], end)]
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
                  "        xmin = 0", f"        xmax = {end:.4f}", f"        intervals: size = {len(items)}"]
        for k, (text, start, stop) in enumerate(items, 1):
            lines += [f"        intervals [{k}]:", f"            xmin = {start:.4f}",
                      f"            xmax = {stop:.4f}{'k' if (name, k) == ('MAU', 2) else ''}",  # seen in the real ones
                      f'            text = "{text}"']
    return "\n".join(lines) + "\n"
