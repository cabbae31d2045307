"""Alignments made by the forced aligner Gentle (JSON) → events."""
import json
from pathlib import Path
from typing import Any

import pandas as pd

from bm.studies.arpabet import phoneme_id


def read_gentle(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The words that were found in the sound, in the order of the transcript, and how many were not.

    Each is a dict: `word`, `start`, `duration` (s in the sound), `recognised` (False where the aligner knew no
    pronunciation and aligned `<unk>`) and `phones`, a list of `(label, start, duration)` laid end to end.

    Raises:
        ValueError: no such JSON, or a found word without times; names file and entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["words"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected JSON of Gentle with a list `words` ({type(error).__name__}: {error}): "
                         "download it again") from error
    words = []
    for number, entry in enumerate(entries):
        if entry.get("case") != "success":
            continue
        try:
            start, stop = float(entry["start"]), float(entry["end"])
            phones, at = [], start
            for phone in entry.get("phones", []):
                phones.append((str(phone["phone"]), at, float(phone["duration"])))
                at += float(phone["duration"])
            words.append({"word": str(entry["word"]), "start": start, "duration": stop - start,
                          "recognised": entry.get("alignedWord") != "<unk>", "phones": phones})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, word {number} ({entry.get('word')!r}): {type(error).__name__}: {error}; "
                             "expected start and end in seconds, and a duration for each phone") from error
    return words, len(entries) - len(words)


def gentle_events(words: list[dict[str, Any]], sequences: pd.DataFrame) -> pd.DataFrame:
    """Events of kind word and phoneme; `sequences` has one row per word (see `assign_sentences`).

    Phonemes carry the columns of their word, and `phoneme_id`, their place in `bm.studies.arpabet.ARPABET`.
    """
    rows = []
    for word, sequence in zip(words, sequences.to_dict("records"), strict=True):
        phones = word["phones"]
        shared = sequence | {"recognised": word["recognised"]}
        rows.append(shared | {"kind": "word", "start": word["start"], "duration": word["duration"],
                              "word": word["word"]})
        rows += [shared | {"kind": "phoneme", "start": start, "duration": duration, "phoneme": label,
                           "phoneme_id": phoneme_id(label)} for label, start, duration in phones]
    return pd.DataFrame(rows)
