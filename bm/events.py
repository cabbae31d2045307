"""The events table: what was heard when. One schema, checked once at the door.

One row per event; `start` and `duration` are seconds from the recording's first sample. Kinds and their columns
follow the table in the specification of the studies (`sound`, `word`, `phoneme`, …); other columns are kept untouched.
"""
import logging
import os

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
#: blocks start at: words that open a sequence, sounds, or sounds and visual words that open a sequence
BLOCK_RULES = ("sentence", "sound", "sentence_or_sound")
#: s; a word annotated this much before its sound still belongs to it
MARGIN = 0.1
#: s; a sound that is annotated longer than its file, or into the next sound, by less than this is only rounded
ROUNDING = 1e-3
_MEND = "mend the events file or the study's reader"


class EventsError(ValueError):
    """A fault in an events table: names recording, row, column, value, what was expected and what to do."""


def _fail(where: str, events: pd.DataFrame, rows: np.ndarray, column: str, expected: str, cure: str) -> None:
    """Raises for the first of the rows where the mask `rows` is True; does nothing if there is none."""
    bad = np.flatnonzero(rows)
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
        numbers = pd.to_numeric(events[column], errors="coerce")
        _fail(where, events, (numbers.isna() & events[column].notna()).to_numpy(), column, "seconds", _MEND)
        events[column] = numbers.astype(float)
    _fail(where, events, ~events["kind"].isin(KINDS).to_numpy(), "kind", f"one of {', '.join(KINDS)}",
          "map the study's own names to these")
    _fail(where, events, ~np.isfinite(events["start"].to_numpy()), "start", "a finite time in seconds",
          "drop events without a time in the loader and count them")
    _fail(where, events, (events["duration"] < 0).to_numpy(), "duration", "0 or more", _MEND)
    for kind, columns in REQUIRED.items():
        of_kind = (events["kind"] == kind).to_numpy()
        for column in columns if of_kind.any() else []:
            missing = of_kind if column not in events else of_kind & events[column].isna().to_numpy()
            _fail(where, events, missing, column, f"a value for every {kind}", _MEND)
    events = _check_sounds(events, where)
    _fail(where, events, ~np.isfinite(events["duration"].to_numpy()), "duration", "a finite duration",
          "only a sound may leave it out")
    if duration is not None:
        _fail(where, events, (events["start"] > duration).to_numpy(), "start",
              f"a time within the recording of {duration:g} s", "check the clock of the events")
    for column, default in {"modality": "audio", "language": "en"}.items():
        events[column] = events[column].fillna(default) if column in events else default
    rank = events["kind"].map(KINDS)
    return _part_sounds(events.iloc[np.lexsort((rank, events["start"]))].reset_index(drop=True), where)


def _check_sounds(events: pd.DataFrame, where: str) -> pd.DataFrame:
    """Fills stimulus, offset and duration of the sounds, from the header and content of each file (read once)."""
    import soundfile
    sounds = (events["kind"] == "sound").to_numpy()
    offset = events["offset"] if "offset" in events else pd.Series(np.nan, index=events.index)
    numbers = pd.to_numeric(offset, errors="coerce")
    _fail(where, events, (sounds & ((numbers.isna() & offset.notna()) | (numbers < 0))).to_numpy(), "offset",
          "seconds into the sound file, 0 or more", _MEND)
    events["offset"] = numbers.astype(float).fillna(0.0)
    paths = events["filepath"] if "filepath" in events else pd.Series("", index=events.index)
    _fail(where, events, sounds & ~paths.map(lambda path: isinstance(path, str | os.PathLike)).to_numpy(bool),
          "filepath", "the path of a sound file", _MEND)
    events["stimulus"] = ""
    wanted, short = events["duration"].to_numpy().copy(), np.zeros(len(events))
    for path in paths[sounds].unique():
        rows = sounds & (paths == path).to_numpy()
        try:
            available = soundfile.info(path).duration
        except (OSError, soundfile.LibsndfileError):
            _fail(where, events, rows, "filepath", "a readable sound file", "check the path and the study's download")
            raise
        events.loc[rows, "stimulus"] = file_sha256(path)[:16]
        left = available - events["offset"].to_numpy()
        _fail(where, events, rows & (left <= 0), "offset", f"less than the file's {available:g} s",
              f"check {path}: is it whole, and the file that was played?")
        unset = ~(wanted > 0)  # 0 and NaN
        events.loc[rows, "duration"] = np.where(unset, left, np.minimum(wanted, left))[rows]
        short[rows] = np.where(unset, 0, wanted - left)[rows]
    if (short > ROUNDING).any():
        i = int(np.argmax(short))
        logger.warning("%s: %d of %d sounds are annotated longer than their file and end with it; the most: events row "
                       "%s, %s at %g s, asked for %g s from %g s on, has %g s less. Is it the file that was played?",
                       where, (short > ROUNDING).sum(), sounds.sum(), events.index[i], events["filepath"][i],
                       events["start"][i], wanted[i], events["offset"][i], short[i])
    return events


def _part_sounds(events: pd.DataFrame, where: str) -> pd.DataFrame:
    """Ends each sound where the next one begins, counted; a sound inside another is an error. `events` are sorted."""
    rows = np.flatnonzero(events["kind"] == "sound")
    start, duration = (events[column].to_numpy()[rows] for column in ("start", "duration"))
    over = start[:-1] + duration[:-1] - start[1:]
    left = duration[:-1] - over
    inside = (over > ROUNDING) & ((over > duration[1:] + MARGIN) | (left < MARGIN))
    fault = np.zeros(len(events), dtype=bool)
    fault[rows[1:][inside]] = True
    before = rows[:-1][inside][:1]
    _fail(where, events, fault, "start", "a sound after the one before it, " + "".join(
        f"which lasts from {events['start'][i]:g} to {events['start'][i] + events['duration'][i]:g} s" for i in before),
        "two sounds at once have no one stimulus: keep the one that was attended, or mix them into one file")
    cut = over > ROUNDING
    if cut.any():
        i = int(np.argmax(over))
        logger.warning("%s: %d of %d sounds last into the next one and are taken to end where it begins; the most: "
                       "%s at %g s by %g s. Check starts and durations", where, cut.sum(), len(rows),
                       events["filepath"][rows[i]], start[i], over[i])
    events.loc[rows[:-1][over > 0], "duration"] = left[over > 0]
    return events


def make_blocks(events: pd.DataFrame, rule: str, duration: float, where: str) -> pd.DataFrame:
    """The blocks of one recording: the smallest spans that go to one split as a whole.

    A block starts at each first word of a sequence ("sentence"), each sound ("sound"), or each sound and each visual
    first word ("sentence_or_sound"); it ends where the next starts, the last one with the recording.

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
                    "sentence_or_sound": (kind == "sound") | (first_word & (events["modality"] == "visual").to_numpy())}
    openers = events[starts_block[rule]]
    if len(openers) == 0:
        raise EventsError(f"{where}: no event starts a block by the rule {rule!r}; expected "
                          "words with word_index 0 (sentence) or sounds (sound)")
    start = openers["start"].to_numpy()
    _fail(where, openers, np.r_[False, np.diff(start) <= 0], "start", "a later start than the block before it",
          "blocks may not overlap: check word_index and the order of the events")
    stop = np.r_[start[1:], max(duration, start[-1])]
    # members of a block lie wholly inside it; the last block has no end for this purpose
    event_start, event_stop = events["start"].to_numpy(), (events["start"] + events["duration"]).to_numpy()
    member_of = np.searchsorted(start, event_start, side="right") - 1
    limit = np.r_[start[1:], np.inf]
    inside = (member_of >= 0) & (event_stop < limit[member_of])
    stimulus, offset = _playing(events, start)
    uid = _block_uids(events, member_of, inside, len(start), [f"{s}@{round(o * 1000)}" if s else ""
                                                            for s, o in zip(stimulus, offset, strict=True)])
    blocks = pd.DataFrame({"start": start, "stop": stop, "uid": uid, "stimulus": stimulus, "offset": offset})
    _fail(where, blocks.assign(kind="block"), (blocks["uid"] == "").to_numpy(), "uid", "words or a sound in the block",
          "give the block's words a `condition`, or name the sound it plays")
    return blocks


def _block_uids(events: pd.DataFrame, member_of: np.ndarray, inside: np.ndarray, n: int, fallback: list[str]
                ) -> list[str]:
    """Rule of the spec: the one `sequence_uid` of the members, else their words, else the sound."""
    uid = list(fallback)
    if "condition" in events:
        text = inside & events["condition"].isin(TEXT_CONDITIONS).to_numpy() & (events["kind"] == "word").to_numpy()
        for block, words in events["word"][text].astype(str).groupby(member_of[text]):
            uid[block] = " ".join(words)
    if "sequence_uid" in events:
        known = inside & events["sequence_uid"].notna().to_numpy()
        for block, uids in events["sequence_uid"][known].astype(str).groupby(member_of[known]):
            if uids.nunique() == 1:
                uid[block] = uids.iloc[0]
    return uid


def _playing(events: pd.DataFrame, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stimulus and offset (s) of the sound that plays at each time; "" and 0 where none does."""
    sounds = events[events["kind"] == "sound"]
    if len(sounds) == 0:
        return np.full(len(times), ""), np.zeros(len(times))
    start = sounds["start"].to_numpy()
    last = np.searchsorted(start, times + MARGIN, side="right") - 1
    playing = (last >= 0) & (times < start[last] + sounds["duration"].to_numpy()[last])
    offset = np.maximum(times - start[last], 0) + sounds["offset"].to_numpy()[last]
    return np.where(playing, sounds["stimulus"].to_numpy(dtype=str)[last], ""), np.where(playing, offset, 0.0)
