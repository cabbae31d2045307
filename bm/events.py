"""The events table: what was heard when. One schema, checked once at the door.

One row per event; `start` and `duration` are seconds from the recording's first sample. Kinds and their columns
follow the table in the specification of the studies (`sound`, `word`, `phoneme`, …); other columns are kept untouched.
"""
import logging
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bm.store import file_sha256

logger = logging.getLogger(__name__)

#: kind → rank among events that start together
KINDS = {"block": 0, "sound": 1, "multiple_words": 2, "word": 3, "phoneme": 4, "motor": 5, "special": 6}
REQUIRED = {
    "sound": ["filepath"],
    "word": ["word", "word_index", "word_sequence"],
    "phoneme": ["phoneme"],
    "multiple_words": ["words"],
    "special": ["name"],
    "motor": [],
    "block": ["uid"],
}
#: conditions whose words make the text of a block
TEXT_CONDITIONS = ("sentence", "context", "question", "fixation", "word_list")
#: blocks start at: words that open a sequence, sounds, sounds and visual words that open a sequence, or are events of
#: their own (a study without a stimulus says which spans belong together)
BLOCK_RULES = ("sentence", "sound", "sentence_or_sound", "block")
#: s; a word annotated this much before its sound still belongs to it
MARGIN = 0.1
#: s; a sound that is annotated longer than its file, or into the next sound, by less than this is only rounded
ROUNDING = 1e-3
_MEND = "mend the events file or the study's reader"


class EventsError(ValueError):
    """A fault in an events table: names recording, row, column, value, what was expected and what to do."""


def _fail(where: str, events: pd.DataFrame, rows: np.ndarray, column: str, expected: str, cure: str) -> None:
    """Raises for the first of `rows` (their numbers, or a mask of them); does nothing if there is none."""
    bad = np.flatnonzero(rows) if rows.dtype == bool else rows
    if len(bad) == 0:
        return
    row = events.iloc[bad[0]]
    value = row[column] if column in events else "nothing"
    value = value.item() if isinstance(value, np.generic) else value
    more = f" (and {len(bad) - 1} more rows)" if len(bad) > 1 else ""
    raise EventsError(f"{where}, events row {events.index[bad[0]]} ({row.get('kind')} at {row.get('start')} s), column "
                      f"{column!r}: got {value!r}, expected {expected}{more}; {cure}")


def check_events(events: pd.DataFrame, where: str, duration: float | None = None) -> pd.DataFrame:
    """Checks an events table and returns it sorted, with the columns every later stage relies on.

    Sounds get `stimulus` (the first 16 hex digits of the SHA-256 of the file: who hears the same sound has the same
    stimulus), `offset` (s into the file) and a duration that ends with the file, or where the next sound begins, at
    the latest; what is cut off is counted and logged once. Events may start before the recording or end after it.

    Args:
        events: one row per event.
        where: `study/recording`, for messages.
        duration: of the recording in seconds; events that start after its end are an error.

    Raises:
        EventsError: the first fault found.
    """
    events = events.reset_index(drop=True).copy()
    for column in ("start", "duration", "kind"):
        if column not in events:
            raise EventsError(f"{where}: the events table has no column {column!r}; it has {list(events.columns)}")
    for column in ("start", "duration"):
        seconds, bad = _numbers(events, column)
        _fail(where, events, bad, column, "seconds", _MEND)
        events[column] = seconds
    start = events["start"].to_numpy()
    rank = ranks(events["kind"])
    _fail(where, events, rank < 0, "kind", f"one of {', '.join(KINDS)}", "map the study's own names to these")
    _fail(where, events, ~np.isfinite(start), "start", "a finite time in seconds",
          "drop events without a time in the loader and count them")
    _fail(where, events, events["duration"].to_numpy() < 0, "duration", "0 or more", _MEND)
    for kind, columns in REQUIRED.items():
        of_kind = rank == KINDS[kind]
        for column in columns if of_kind.any() else []:
            missing = of_kind if column not in events else of_kind & events[column].isna().to_numpy()
            _fail(where, events, missing, column, f"a value for every {kind}", _MEND)
    _check_sounds(events, np.flatnonzero(rank == KINDS["sound"]), where)
    _fail(where, events, ~np.isfinite(events["duration"].to_numpy()), "duration", "a finite duration",
          "only a sound may leave it out")
    if duration is not None:
        _fail(where, events, start > duration, "start", f"a time within the recording of {duration:g} s",
              "check the clock of the events")
    for column, default in {"modality": "audio", "language": "en"}.items():
        events[column] = events[column].fillna(default) if column in events else default
    order = np.lexsort((rank, start))
    events = events.iloc[order].reset_index(drop=True)
    _part_sounds(events, np.flatnonzero(rank[order] == KINDS["sound"]), where)
    return events


def _numbers(events: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as floats, NaN where it is missing, and a mask of what is no number."""
    numbers = pd.to_numeric(events[column], errors="coerce").astype(float).to_numpy()
    return numbers, np.isnan(numbers) & events[column].notna().to_numpy()


def ranks(kinds: pd.Series) -> np.ndarray:
    """The number in `KINDS` of each kind, -1 for what is none."""
    code, names = pd.factorize(kinds)
    return np.array([*(KINDS.get(name, -1) for name in names), -1])[code]  # the code of a missing kind is -1


def _check_sounds(events: pd.DataFrame, sounds: np.ndarray, where: str) -> None:
    """Fills stimulus, offset and duration of the rows `sounds` from the header and content of each file, read once."""
    import soundfile
    if "offset" not in events:
        events["offset"] = 0.0
    numbers, bad = _numbers(events, "offset")
    bad |= numbers < 0
    _fail(where, events, sounds[bad[sounds]], "offset", "seconds into the sound file, 0 or more", _MEND)
    events["offset"] = np.where(np.isnan(numbers), 0.0, numbers)
    paths = events["filepath"].iloc[sounds].to_numpy() if len(sounds) else np.array([])
    _fail(where, events, sounds[[not isinstance(path, str | os.PathLike) for path in paths]],
          "filepath", "the path of a sound file", _MEND)
    stimulus, duration = np.full(len(events), "", dtype=object), events["duration"].to_numpy().copy()
    wanted, offset, short = duration[sounds], events["offset"].to_numpy()[sounds], np.zeros(len(sounds))
    for path in dict.fromkeys(paths):
        own = paths == path
        rows = sounds[own]
        try:
            available = soundfile.info(path).duration
        except (OSError, soundfile.LibsndfileError):
            _fail(where, events, rows, "filepath", "a readable sound file", "check the path and the study's download")
            raise
        stimulus[rows] = file_sha256(path)[:16]
        left = available - offset[own]
        _fail(where, events, rows[left <= 0], "offset", f"less than the file's {available:g} s",
              f"check {path}: is it whole, and the file that was played?")
        unset = ~(wanted[own] > 0)  # 0 and NaN
        duration[rows] = np.where(unset, left, np.minimum(wanted[own], left))
        short[own] = np.where(unset, 0, wanted[own] - left)
    events["stimulus"], events["duration"] = pd.Series(stimulus, events.index, dtype=str), duration
    if (short > ROUNDING).any():
        i = int(np.argmax(short))
        logger.warning("%s: %d of %d sounds are annotated longer than their file and end with it; the most: events row "
                       "%s, %s at %g s, asked for %g s from %g s on, has %g s less. Is it the file that was played?",
                       where, (short > ROUNDING).sum(), len(sounds), sounds[i], paths[i],
                       events["start"][sounds[i]], wanted[i], offset[i], short[i])


def _part_sounds(events: pd.DataFrame, sounds: np.ndarray, where: str) -> None:
    """Ends each of the rows `sounds` where the next begins, counted; a sound inside another is an error."""
    start, duration = (events[column].to_numpy()[sounds] for column in ("start", "duration"))
    over = start[:-1] + duration[:-1] - start[1:]
    left = duration[:-1] - over
    inside = (over > ROUNDING) & ((over > duration[1:] + MARGIN) | (left < MARGIN))
    _fail(where, events, sounds[1:][inside], "start", "a sound after the one before it, " + "".join(
        f"which lasts from {start[i]:g} to {start[i] + duration[i]:g} s" for i in np.flatnonzero(inside)[:1]),
        "two sounds at once have no one stimulus: keep the one that was attended, or mix them into one file")
    if (over > ROUNDING).any():
        i = int(np.argmax(over))
        logger.warning("%s: %d of %d sounds last into the next one and are taken to end where it begins; the most: "
                       "%s at %g s by %g s. Check starts and durations", where, (over > ROUNDING).sum(), len(sounds),
                       events["filepath"][sounds[i]], start[i], over[i])
    if (over > 0).any():
        events.loc[sounds[:-1][over > 0], "duration"] = left[over > 0]


def sounds_of(events: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The sounds in the checked events of all recordings, in order, with a column `recording` (index)."""
    lengths = [len(table) for table in events]
    everything = pd.concat(events, ignore_index=True).assign(recording=np.repeat(np.arange(len(events)), lengths))
    return everything[everything["kind"] == "sound"].reset_index(drop=True)


def make_blocks(events: pd.DataFrame, rule: str, duration: float, where: str) -> pd.DataFrame:
    """The blocks of one recording: the smallest spans that go to one split as a whole.

    A block starts at each first word of a sequence ("sentence"), each sound ("sound"), or each sound and each visual
    first word ("sentence_or_sound"); it ends where the next starts, the last one with the recording; or earlier, at
    `until` (s) of the event that starts it, where a study has that column. By the rule "block" the events of that kind
    are the blocks, with their own `uid` and end.

    Args:
        events: checked events.
        rule: one of `BLOCK_RULES`.
        duration: of the recording, seconds.
        where: for messages.

    Returns:
        A table with `start`, `stop` (s), `uid` (the text, or the sound: the same for all who hear it), `stimulus` (of
        the sound playing at its start, "" if none) and `offset` (s into that sound).
    """
    if rule not in BLOCK_RULES:
        raise ValueError(f"block rule {rule!r}: expected one of {', '.join(BLOCK_RULES)}")
    kind = events["kind"].to_numpy()
    first_word = (kind == "word") & (events.get("word_index", pd.Series(-1, events.index)) == 0).to_numpy(bool)
    starts_block = {"sentence": first_word, "sound": kind == "sound",
                    "sentence_or_sound": (kind == "sound") | (first_word & (events["modality"] == "visual").to_numpy()),
                    "block": kind == "block"}
    openers = np.flatnonzero(starts_block[rule])
    if len(openers) == 0:
        names = "special (" + events.get("name", events["kind"]).astype(str) + ")"
        kinds = events["kind"].where(kind != "special", names)
        found = ", ".join(f"{n} {name}" for name, n in kinds.value_counts().head(8).items()) or "none"
        raise EventsError(f"{where}: no event starts a block by the rule {rule!r}; expected "
                          f"words with word_index 0 (sentence) or sounds (sound), but its events are: {found}. What is "
                          "decoded is what was heard or read: tell which events are words or sounds (for study bids, "
                          "with the selection's keys `kinds`, `columns` and `sounds`; or `blocks: sound` where there "
                          "are sounds but no words)")
    event_start, event_duration = events["start"].to_numpy(), events["duration"].to_numpy()
    start = event_start[openers]
    _fail(where, events, openers[1:][np.diff(start) <= 0], "start", "a later start than the block before it",
          "blocks may not overlap: check word_index and the order of the events")
    stop = np.r_[start[1:], max(duration, start[-1])]
    if "until" in events:  # what follows was left out by the selection, and is no silence
        stop = np.fmin(stop, events["until"].to_numpy(float)[openers])
    if rule == "block":
        stop = np.minimum(stop, start + event_duration[openers])
    # members of a block lie wholly inside it; the last block has no end for this purpose
    member_of = np.searchsorted(start, event_start, side="right") - 1
    limit = np.r_[start[1:], np.inf]
    inside = (member_of >= 0) & (event_start + event_duration < limit[member_of])
    stimulus, offset = playing(events, kind == "sound", start)
    if rule == "block":
        uid = [str(value) for value in events["uid"].to_numpy()[openers]]
    else:
        uid = _block_uids(events, kind == "word", member_of, inside, [f"{s}@{round(o * 1000)}" if s else ""
                                                                     for s, o in zip(stimulus, offset, strict=True)])
    blocks = pd.DataFrame({"start": start, "stop": stop, "uid": uid, "stimulus": stimulus, "offset": offset})
    if "" in uid:
        _fail(where, blocks.assign(kind="block"), (blocks["uid"] == "").to_numpy(), "uid",
              "words or a sound in the block", "give the block's words a `condition`, or name the sound it plays")
    return blocks


def _block_uids(events: pd.DataFrame, words: np.ndarray, member_of: np.ndarray, inside: np.ndarray,
                fallback: list[str]) -> list[str]:
    """Rule of the spec: the one `sequence_uid` of the members, else their words, else the sound."""
    uid = list(fallback)
    if "condition" in events:
        text = inside & words & events["condition"].isin(TEXT_CONDITIONS).to_numpy()
        for block, texts in _texts(events["word"], member_of, text).items():
            uid[block] = " ".join(texts)
    if "sequence_uid" in events:
        known = inside & events["sequence_uid"].notna().to_numpy()
        for block, uids in _texts(events["sequence_uid"], member_of, known).items():
            uid[block] = uids[0] if len(set(uids)) == 1 else uid[block]
    return uid


def _texts(column: pd.Series, member_of: np.ndarray, rows: np.ndarray) -> dict[int, list[str]]:
    """Block → the texts of its members, where the mask `rows` is True."""
    texts: dict[int, list[str]] = {}
    for block, text in zip(member_of[rows].tolist(), column.to_numpy()[rows], strict=True):
        texts.setdefault(block, []).append(str(text))
    return texts


def playing(events: pd.DataFrame, sounds: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stimulus and offset (s) of the one of `sounds` (a mask) that plays at each time; "" and 0 where none does."""
    if not sounds.any():
        return np.full(len(times), ""), np.zeros(len(times))
    start, duration, offset = (events[column].to_numpy()[sounds] for column in ("start", "duration", "offset"))
    last = np.searchsorted(start, times + MARGIN, side="right") - 1
    playing = (last >= 0) & (times < start[last] + duration[last])
    stimulus = events["stimulus"].to_numpy()[sounds].astype(str)
    place = np.maximum(times - start[last], 0) + offset[last]
    return np.where(playing, stimulus[last], ""), np.where(playing, place, 0.0)
