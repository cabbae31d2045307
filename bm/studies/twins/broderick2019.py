"""The twin of `broderick2019`: 2 subjects, runs 1, 2 and 10 of 20 s, with the folder's usual litter.

Its runs have a contraction, quotes, a title, a word without time, an unknown one, one without phones, words that the
text has not (within a sentence, and in run 2 before the first and after the last).
"""
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

#: fault → what is wrong then; always with run 2 of subject 1, or with what all hear in run 2
FAULTS = {
    "missing_sound": "the sound is not there",
    "missing_file": "the alignment is not there",
    "truncated_raw": "the MAT file ends early",
    "wrong_rate": "the EEG has 512 Hz",
    "transposed": "the EEG is channels × samples",
    "wrong_text": "the text is that of another book",
    "doubled_word": "a word is there twice, at the same time",
    "out_of_order": "two words have changed places in time",
    "outside_sound": "the last word lies in the silence after the sound",
    "gap": "more than ten seconds of the sound have no word",
}
SUBJECTS = (1, 2)
RATE = 128
TEXTS = {
    1: "The ferry was late again that morning. \"I don't mind,\" the boy said. He counted the gulls on the pier. "
       "Nobody else was waiting there.",
    2: "Mr. Perez came down with his dog. \"Is it late?\" he asked them. The boy showed him the empty water. They sat "
       "down on a dry rope. He threw a flat stone and it sank.",
    10: "At noon a white sail came round the point. The dog barked at it twice. \"That isn't ours,\" said the old man. "
        "So they waited on and shared his bread.",
}
STRANGE = "Quarterly results exceeded all forecasts. Analysts remain cautious regarding interest rates next year."


def make(folder: Path, fault: str | None = None, seconds: float = 20.0, zipped: bool = False, seed: int = 0) -> None:
    """Writes the twin.

    Args:
        folder: the study's root.
        fault: one of `FAULTS`.
        seconds: of each run.
        zipped: the EEG is only in the archive of Dryad, with archives in it, as after a download by hand.
        seed: of noise and sounds.
    """
    from scipy.io import savemat

    rng = np.random.default_rng(seed)
    download = folder / "download"
    eeg = download / "Natural Speech" / "EEG"
    for subject in SUBJECTS:
        (eeg / f"Subject{subject}").mkdir(parents=True)
        for run in TEXTS:
            bad = fault if (subject, run) == (1, 2) else None
            samples = round(seconds * RATE)
            data = 10 * rng.standard_normal((samples, 128))
            path = eeg / f"Subject{subject}" / f"Subject{subject}_Run{run}.mat"
            savemat(path, {"eegData": data.T if bad == "transposed" else data,
                           "mastoids": 10 * rng.standard_normal((samples, 2)),
                           "fs": 512.0 if bad == "wrong_rate" else float(RATE)})
            if bad == "truncated_raw":
                path.write_bytes(path.read_bytes()[:-samples * 128 * 4])
    (eeg / "Subject1" / ".DS_Store").write_bytes(b"\0" * 8)
    (eeg / "Subject1" / "Subject1_Run1_old.mat").write_bytes(b"")
    (eeg / "Subject list.txt").write_text("who was who")
    _make_private(download / "private", fault, seconds, rng)
    if zipped:
        _zip(download)
    (folder / "twin.json").write_text(json.dumps({"study": "broderick2019", "subjects": 2, "recordings": 6,
                                                  "hours": 6 * seconds / 3600, "sensors": 128, "rate": RATE}))


def _make_private(folder: Path, fault: str | None, seconds: float, rng: np.random.Generator) -> None:
    import soundfile

    folder.mkdir()
    for run, text in TEXTS.items():
        bad = fault if run == 2 else None
        step = (seconds - 2) / 40  # 24 to 37 words a run
        entries = _align(text, run, step / 4 if bad == "gap" else step, bad)
        end = seconds - 1.5 if bad == "outside_sound" else seconds
        if bad == "outside_sound":
            entries[-1] |= {"start": seconds - 1, "end": seconds - 0.6}
        if bad != "missing_file":
            (folder / f"align{run}.json").write_text(json.dumps({"transcript": text, "words": entries}))
        (folder / f"oldman_run{run}.txt").write_text(STRANGE if bad == "wrong_text" else text, encoding="utf-8")
        if bad != "missing_sound":
            wave = 0.1 * rng.standard_normal(round(end * 22050))
            soundfile.write(folder / f"audio{run}.wav", wave, 22050, subtype="PCM_16")


def _align(text: str, run: int, step: float, fault: str | None) -> list[dict[str, Any]]:
    """What Gentle would say: a word every `step` seconds from 0.5 s on."""
    tokens = [(found.group(), found.start()) for found in re.finditer(r"\w+(?:'\w+)*", text)]
    if run == 2:  # words that are spoken but not written
        tokens = [("two", -1), *tokens[:5], ("uh", -1), *tokens[5:], ("end", -1)]
    entries = []
    for number, (word, place) in enumerate(tokens):
        start = round(0.5 + step * number, 3)
        duration = round(0.8 * step, 3)
        entry = {"case": "success", "word": word, "alignedWord": word.lower(), "start": start,
                 "end": round(start + duration, 3), "startOffset": place, "endOffset": place + len(word),
                 "phones": [{"phone": f"{phone}_{end}", "duration": round(duration / 2, 4)}
                            for phone, end in (("dh", "B"), ("ah", "E"))]}
        if number == 3:  # not found in the sound
            entry = {key: entry[key] for key in ("word", "startOffset", "endOffset")} | {"case": "not-found-in-audio"}
        if number == 8:  # of unknown pronunciation
            entry |= {"alignedWord": "<unk>", "phones": [{"phone": "oov_S", "duration": duration}]}
        if number == 9:
            entry["phones"] = []
        entries.append(entry)
    if fault == "doubled_word":
        entries.insert(12, entries[11])
    if fault == "out_of_order":
        for key in ("start", "end"):
            entries[11][key], entries[14][key] = entries[14][key], entries[11][key]
    return entries


def _zip(download: Path) -> None:
    """Puts `Natural Speech` into an archive within the archive, beside another study's, and removes the folder."""
    import shutil

    inner = download / "Natural Speech.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((download / "Natural Speech").rglob("*")):
            archive.write(path, path.relative_to(download))
    with zipfile.ZipFile(download / "doi_10.5061_dryad.070jc__v3.zip", "w") as archive:
        archive.write(inner, inner.name)
        archive.writestr("N400.zip", b"PK\5\6" + bytes(18))
    inner.unlink()
    shutil.rmtree(download / "Natural Speech")
