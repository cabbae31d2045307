"""Stimuli of MOUS (schoffelen2019): texts, sound files and TextGrids, found by their number."""
import logging
from collections import Counter
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from bm.studies.align import match_sequences
from bm.studies.textgrid import read_textgrid

logger = logging.getLogger(__name__)

#: phones of the aligner (SAMPA); the place is the identity
PHONES = tuple("d @ b A n s i E r x p o: y l E: Ei N e: O m t I G w k h v j a: u z Y f 9y S ui Au Z 9: 2: g J O:"  # noqa: SIM905
               .split())
#: identity of a phone that is not in the table
UNKNOWN = len(PHONES)
#: stimuli are known by so many letters of their text: some trials lost their last word
KEY_LENGTH = 45
WAV = "EQ_Ramp_Int2_Int1LPF"


def numbered_file(folder: Path, number: str, suffix: str) -> Path | None:
    """The file of a stimulus; its number may be padded with zeros or not, in the log and on disk."""
    names = dict.fromkeys(f"{WAV}{text}{suffix}" for text in (number, str(int(number)), f"{int(number):03d}"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


@lru_cache(maxsize=512)  # all who listen share them; the file's time makes a changed one be read again
def grid_events(path: Path | None, changed: int = 0) -> pd.DataFrame:
    """Words and phonemes of a TextGrid, seconds in its sound. A phone belongs to the word in which it starts.

    Without a path: a table with the same columns and no row.

    Raises:
        ValueError: no tier ORT-MAU (words).
    """
    tiers = read_textgrid(path) if path is not None else {
        name: pd.DataFrame({"start": [], "stop": [], "text": pd.Series([], dtype=str)}) for name in ("ORT-MAU", "MAU")}
    if "ORT-MAU" not in tiers:
        raise ValueError(f"{path}: tiers {sorted(tiers)}, expected ORT-MAU (words) and MAU (phones)")
    words, phones = (_spoken(tiers[name]) if name in tiers else tiers["ORT-MAU"][:0] for name in ("ORT-MAU", "MAU"))
    unknown = sorted(set(phones["text"]) - set(PHONES))
    if unknown:
        logger.warning("%s: phones %s are not in the table: they get the identity %d", path, unknown, UNKNOWN)
    of_word = np.searchsorted(words["start"], phones["start"] + 1e-6, side="right") - 1
    spoken = pd.DataFrame({"kind": "word", "start": words["start"], "duration": words["stop"] - words["start"],
                           "word": words["text"], "word_index": np.arange(len(words), dtype=float)})
    heard = pd.DataFrame({"kind": "phoneme", "start": phones["start"], "duration": phones["stop"] - phones["start"],
                          "phoneme": phones["text"], "word_index": np.where(of_word < 0, np.nan, of_word),
                          "phoneme_id": [float(PHONES.index(text) if text in PHONES else UNKNOWN)
                                         for text in phones["text"]]})
    return pd.concat([spoken, heard], ignore_index=True)


def _spoken(tier: pd.DataFrame) -> pd.DataFrame:
    """Without empty intervals and pauses."""
    return tier[~tier["text"].str.strip().isin(["", "<p:>"])].reset_index(drop=True)


def stimulus_uids(trials: pd.DataFrame, path: Path, name: str) -> dict[int, str]:
    """The number, as text, of the stimulus of each trial, by its words: the same for all who heard or read it.

    Where a text is not quite one of the list: the number of the sound, or the text that is closest; counted.

    Args:
        trials: the index is the trial; `text` (its words, NaN if not known) and `sound` (number as text, NaN if read).
        path: `stimuli.txt`.
        name: of the recording, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a text that is near to none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no {path}, expected the texts of the stimuli: complete the download")
    known = read_stimuli(path, path.stat().st_mtime_ns)
    uids: dict[int, str] = {}
    guessed = []
    for trial, text, sound in zip(trials.index.tolist(), trials["text"], trials["sound"], strict=True):
        key = text.lower()[:KEY_LENGTH] if isinstance(text, str) else ""
        if key not in known and isinstance(sound, str):
            uids[trial] = sound
        elif close := [key] if key in known else get_close_matches(key, known, 1, 0.8):
            uids[trial] = known[close[0]][0]
        else:
            raise ValueError(f"{name}: the text {text!r} is near to none of the {len(known)} in {path}: is this the "
                             "list of this experiment?")
        if key and key not in known:
            guessed.append(text)
    if guessed:
        logger.warning("%s: %d texts are not in %s as they are, the first is %r: taken for the number of the sound, or "
                       "for the closest", name, len(guessed), path, guessed[0])
    return uids


@lru_cache(maxsize=4)
def read_stimuli(path: Path, changed: int = 0) -> dict[str, tuple[str, str]]:
    """Start of each stimulus' text (lower case, `KEY_LENGTH` letters) → its number, as text, and the whole text.

    Raises:
        ValueError: a line that is not a number and words, or two texts that start alike; names file and line.
    """
    known: dict[str, tuple[str, str]] = {}
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        number, _, words = text.strip().partition(" ")
        if not text.strip():
            continue
        if not number.isdigit() or int(number) == 0 or not words.strip():
            raise ValueError(f"{path}, line {line}: {text[:60]!r}, expected the number of a stimulus (not 0) and its "
                             "words")
        stimulus = (str(int(number)), words.strip())
        key = stimulus[1].lower()[:KEY_LENGTH]
        if known.setdefault(key, stimulus)[0] != stimulus[0]:
            raise ValueError(f"{path}, line {line}: stimuli {known[key][0]} and {number} start with the same "
                             f"{KEY_LENGTH} letters {key!r}, expected texts that can be told apart")
    return known


def compare_words(words: pd.DataFrame, path: Path) -> dict[str, float]:
    """How the words of a recording differ from the texts of their stimuli, as shares of the words.

    Args:
        words: with `sequence_uid`, `word_sequence` and `word_index`; in order of time, each trial from its word 0 on.
        path: `stimuli.txt`.

    Returns:
        `missing_words`, `out_of_order` and `unmatched_words` (see `bm.studies.quality.LIMITS`); nothing if there are no
        words.
    """
    texts = dict(read_stimuli(path, path.stat().st_mtime_ns).values())
    counts = {"missing_words": 0, "out_of_order": 0, "unmatched_words": 0}
    for _, trial in words.groupby((words["word_index"] == 0).cumsum()):
        said = trial["word_sequence"].iloc[0].lower().split()
        text = texts[trial["sequence_uid"].iloc[0]].lower().split()
        i, j = match_sequences(said, text)
        extra, missing = Counter(np.delete(said, i).tolist()), Counter(np.delete(text, j).tolist())
        moved = (extra & missing).total()
        counts["out_of_order"] += moved
        counts["missing_words"] += missing.total() - moved
        counts["unmatched_words"] += extra.total() - moved
    return {name: count / len(words) for name, count in counts.items()} if len(words) else {}
