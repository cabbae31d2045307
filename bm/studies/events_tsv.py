"""Reads a BIDS `events.tsv` into an events table (`bm/events.py`).

The file is parsed here and not with pandas' or mne-bids' readers: those drop rows whose `trial_type` is n/a, rename
some types, and take words such as "null", "NA" and "None" for missing values. Only "n/a" and an empty cell are missing.
"""
import ast
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from bm.events import KINDS

logger = logging.getLogger(__name__)

#: our name of a column → other names it is known by, the first that a file has is taken
ALIASES: dict[str, tuple[str, ...]] = {
    "onset": ("start",),
    "trial_type": ("kind", "type", "event_type"),
    "stim_file": ("sound", "filepath", "audio"),
    "stim_offset": ("offset",),
    "word": ("text", "stimulus", "string"),
    "phoneme": ("phone",),
    "sequence_id": ("sentence_id", "sentence", "sequence"),
    "word_index": ("word_id", "position"),
}
#: lower-cased trial type → kind; "sentence" marks a sequence of words and is no event
KIND_MAP: dict[str, str] = {
    "sound": "sound", "audio": "sound", "wav": "sound", "stimulus": "sound", "word": "word", "words": "word",
    "phoneme": "phoneme", "phone": "phoneme", "sentence": "sentence", "button": "motor", "response": "motor",
    "motor": "motor", "multiple_words": "multiple_words", "special": "special",
}
#: columns every table has, in this order; what else the file holds follows
COLUMNS = ["start", "duration", "kind", "modality", "language", "filepath", "offset", "word", "word_index",
           "word_sequence", "sequence_id", "phoneme"]
#: s; a word of unknown duration lasts until the next one, but no longer than this
MAX_WORD = 1.0


def read_events_tsv(path: Path, stimuli: Sequence[Path] = (), *, language: str = "en", modality: str = "audio",
                    kinds: Mapping[str, str] | None = None, max_gap: float = 1.0,
                    sounds_required: bool = True) -> pd.DataFrame:
    """The events of one recording, in seconds from its first stored sample, sorted by (start, rank of the kind).

    Args:
        path: the `events.tsv`.
        stimuli: folders to look for sound files in, in order (`<root>/stimuli`, `<root>`), before that of `path`.
        language: where a row has none.
        modality: where a row has none.
        kinds: more trial types (lower case) → kinds, over `KIND_MAP`.
        max_gap: s without a word that end a sequence, where the file tells nothing of sequences.
        sounds_required: a sound without a file is an error; if False it becomes a `special` event.

    Returns:
        A table with the columns `COLUMNS` and then those of the file that have no meaning here. `filepath` is absolute
        and set for sounds only; `word_index` is a float, NaN where there is no word.

    Raises:
        ValueError: a fault in the table; the message names file and line, what was got and what was expected.
        FileNotFoundError: the table, or a sound file it names.
    """
    kind_map = {**KIND_MAP, **(kinds or {})}
    unknown = sorted(set(kind_map.values()) - set(KINDS) - {"sentence"})
    if unknown:
        raise ValueError(f"unknown kinds {unknown} in `kinds`, expected some of {sorted(set(KINDS) | {'sentence'})}")
    table = _expand(_rename(_parse(path)), path)
    table = _drop_rows(table, path)
    table = _set_kinds(table, path, kind_map, sounds_required)
    table["filepath"] = _find_sounds(table, path, [*stimuli, path.parent])
    table = table.sort_values("start", kind="stable")
    table["duration"] = _durations(table, path)
    table = _sequences(table, path, max_gap)
    for column, default in {"modality": modality, "language": language}.items():
        table[column] = table.get(column, pd.Series(np.nan, table.index, dtype=object)).fillna(default)
    table = table[table["kind"] != "sentence"]
    table = table.iloc[np.lexsort((table["kind"].map(KINDS), table["start"]))].reset_index(drop=True)
    for column in COLUMNS:
        if column not in table:
            table[column] = np.nan
    return table[COLUMNS + [c for c in table.columns if c not in COLUMNS]].infer_objects()


def _fail(path: Path, line: Any, message: str) -> NoReturn:
    raise ValueError(f"{path}, line {line}: {message}")


def _parse(path: Path) -> pd.DataFrame:
    """All cells as text or NaN; the index is the line in the file, from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # drops a byte-order mark; all line ends become \n
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8, expected a text file in UTF-8: save it as such "
                         "(spreadsheets may write UTF-16 or Latin-1)") from error
    lines = [(number, line.split("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty, expected a header with at least onset and duration")
    header = [cell.strip() for cell in lines[0][1]]
    if len(set(header)) < len(header):
        _fail(path, lines[0][0], f"columns must have different names, got {header}")
    for number, row in lines[1:]:
        if len(row) != len(header):
            _fail(path, number, f"{len(row)} cells, expected {len(header)} as in the header (separated by tabs)")
    cells = [[np.nan if cell.strip() in ("", "n/a") else cell.strip() for cell in row] for _, row in lines[1:]]
    return pd.DataFrame(cells, columns=header, index=[number for number, _ in lines[1:]], dtype=object)


def _alias(names: Sequence[str]) -> dict[str, str]:
    """Which of these names to change, and to what."""
    out = {}
    for ours, others in ALIASES.items():
        found = [other for other in others if other in names]
        if ours not in names and found:
            out[found[0]] = ours
    return out


def _rename(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns=_alias(list(table.columns)))


def _expand(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Turns trial types that are the text of a dictionary into columns."""
    if "trial_type" not in table:
        table["trial_type"] = pd.Series(np.nan, index=table.index, dtype=object)
    cells = table["trial_type"].map(_unquote, na_action="ignore")
    cells = cells[cells.str.startswith("{").fillna(False).astype(bool)] if cells.notna().any() else cells.dropna()
    rows: dict[Any, dict[str, Any]] = {}
    for line, cell in cells.items():
        values = _literal(cell, path, line)
        names = _alias([*values, "onset"])  # a start inside the dictionary is one inside the sound, never our onset
        values = {names.get(key, key): value for key, value in values.items()}
        values.setdefault("trial_type", np.nan)
        rows[line] = {key: _cell(value) for key, value in values.items() if key not in ("start", "onset", "duration")}
    if not rows:
        return table
    extra = pd.DataFrame.from_dict(rows, orient="index", dtype=object)
    for column in extra:
        if column not in table:
            table[column] = pd.Series(np.nan, index=table.index, dtype=object)
        keep = extra[column].notna() | (column == "trial_type")
        table.loc[extra.index[keep], column] = extra[column][keep]
    return table


def _unquote(cell: str) -> str:
    """Undoes the quotes that pandas writes around a cell with quotes in it, for dictionaries only."""
    return cell[1:-1].replace('""', '"') if cell.startswith('"{') and cell.endswith('"') else cell


def _literal(cell: str, path: Path, line: Any) -> dict[str, Any]:
    """The dictionary a cell spells, in Python's or JSON's notation; never evaluated. mne-bids may append "/value"."""
    text = cell[:cell.rfind("}") + 1] or cell
    for parse in (ast.literal_eval, json.loads):
        try:
            values = parse(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(values, dict):
            return {str(key): value for key, value in values.items()}
    _fail(path, line, f"trial_type {cell[:80]!r} starts like a dictionary but cannot be read as one (Python or JSON)")


def _cell(value: Any) -> Any:
    """A value out of a dictionary as the text it would be in a cell: 3.0 and 3 are the same sequence."""
    if value is None or value == "n/a" or (isinstance(value, float) and np.isnan(value)):
        return np.nan
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column as floats, NaN where n/a or where the file has no such column."""
    if column not in table:
        return pd.Series(np.nan, index=table.index)
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    wrong = table.index[(numbers.isna() | np.isinf(numbers)) & table[column].notna()]
    if len(wrong):
        _fail(path, wrong[0], f"{column} is {table.at[wrong[0], column]!r}, expected a finite number or n/a")
    return numbers


def _drop_rows(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Without bad spans and without rows that have no onset, both counted; `start` and `offset` as floats."""
    if "onset" not in table:
        raise ValueError(f"{path}: no column onset (or start), expected one in seconds; it has {list(table.columns)}")
    table["onset"], table["offset"] = _numbers(table, "onset", path), _numbers(table, "stim_offset", path)
    bad = table["trial_type"].str.lower().str.startswith("bad_").fillna(False).astype(bool) \
        if table["trial_type"].notna().any() else pd.Series(False, index=table.index)
    untimed = table["onset"].isna() & ~bad
    if bad.any() or untimed.any():
        logger.info("%s: dropped %d bad spans and %d rows without onset", path, bad.sum(), untimed.sum())
    return table[~bad & ~untimed].rename(columns={"onset": "start"}).drop(columns="stim_offset", errors="ignore")


def _set_kinds(table: pd.DataFrame, path: Path, kind_map: Mapping[str, str], sounds_required: bool) -> pd.DataFrame:
    """Adds `kind`, and `name` for what has no kind here. A row without type takes that of its only filled cell."""
    for column in ("word", "phoneme", "stim_file"):
        if column not in table:
            table[column] = pd.Series(np.nan, index=table.index, dtype=object)
    kind = table["trial_type"].map(lambda text: kind_map.get(text.strip().lower(), "special"), na_action="ignore")
    filled = table[["word", "phoneme", "stim_file"]].notna()
    only = filled.sum(axis=1) == 1
    for column, of_column in {"word": "word", "phoneme": "phoneme", "stim_file": "sound"}.items():
        kind = kind.mask(kind.isna() & only & filled[column], of_column)
    kind = kind.fillna("special")
    silent = (kind == "sound") & table["stim_file"].isna()
    if silent.any() and sounds_required:
        _fail(path, table.index[silent][0], "a sound without stim_file, expected the name of a sound file")
    table["kind"] = kind.mask(silent, "special")
    for column in ("word", "phoneme"):
        empty = table.index[(kind == column) & table[column].isna()]
        if len(empty):
            _fail(path, empty[0], f"a {column} row whose cell {column} is n/a, expected its text")
        table[column] = table[column].where(table["kind"] == column)
    special = table["kind"] == "special"
    if special.any():
        name = table["name"] if "name" in table else pd.Series(np.nan, index=table.index, dtype=object)
        table["name"] = name.where(~special | name.notna(), table["trial_type"].fillna("n/a"))
    return table.drop(columns="trial_type")


def _find_sounds(table: pd.DataFrame, path: Path, folders: list[Path]) -> pd.Series:
    """Absolute paths of the sounds, NaN elsewhere."""
    names = table["stim_file"][table["kind"] == "sound"]
    found: dict[str, str] = {}
    for line, name in names.items():
        if name not in found:
            file = _resolve(name, folders)
            if file is None:
                raise FileNotFoundError(f"{path}, line {line}: no sound file {name!r} (nor with letters of other case) "
                                        f"in {[str(f) for f in folders]}: add the file, or mend stim_file")
            found[name] = str(file.resolve())
    return names.map(found).reindex(table.index)


def _resolve(name: str, folders: list[Path]) -> Path | None:
    """The file `name` in the first folder that has it, else with letters of other case; absolute names as are."""
    for folder in folders:  # an absolute name replaces the folder
        if (folder / name).is_file():
            return folder / name
    for folder in folders:
        candidates = [folder]
        for part in Path(name).parts:
            candidates = [entry for parent in candidates if parent.is_dir() for entry in sorted(parent.iterdir())
                          if entry.name.lower() == part.lower()]
        files = [entry for entry in candidates if entry.is_file()]
        if files:
            return files[0]
    return None


def _durations(table: pd.DataFrame, path: Path) -> pd.Series:
    """Given durations; else the rest of a sound file, the time to the next word (up to `MAX_WORD`), or 0."""
    import soundfile

    duration = _numbers(table, "duration", path)
    negative = table.index[duration < 0]
    if len(negative):
        _fail(path, negative[0], f"duration {duration[negative[0]]} s, expected 0 or more, or n/a")
    unset = (table["kind"] == "sound") & ~(duration > 0)
    length = table["filepath"][unset].map(lambda file: soundfile.info(file).duration).astype(float)
    duration[unset] = length - table["offset"][unset].fillna(0)
    words = table["kind"] == "word"
    to_next = (-table["start"][words].diff(-1)).clip(0, MAX_WORD).fillna(MAX_WORD)
    return duration.fillna(to_next).mask(table["kind"] == "sentence", duration).where(
        lambda filled: filled.notna() | (table["kind"] == "sentence"), 0.0)


def _sequences(table: pd.DataFrame, path: Path, max_gap: float) -> pd.DataFrame:
    """Fills `sequence_id`, `word_index` and `word_sequence` of the words, and hands the first two to the phonemes."""
    for column in ("sequence_id", "word_sequence"):
        if column not in table:
            table[column] = pd.Series(np.nan, index=table.index, dtype=object)
    table["word_index"] = _numbers(table, "word_index", path)
    words = table[table["kind"] == "word"]
    if words["sequence_id"].isna().all() and len(words):
        table.loc[words.index, "sequence_id"] = _derive_sequences(table, words, path, max_gap)
        words = table[table["kind"] == "word"]
    missing = words.index[words["sequence_id"].isna()]
    if len(missing):
        _fail(path, missing[0], f"the word {words.at[missing[0], 'word']!r} has no sequence_id though others have one: "
              "fill it in, or leave the column out to have sequences derived")
    groups = words.groupby("sequence_id", sort=False)
    tokens = words["word"].map(lambda text: len(text.split())).astype(int)
    counted = tokens.groupby(words["sequence_id"], sort=False).cumsum() - tokens
    incomplete = words["word_index"].isna().groupby(words["sequence_id"]).transform("any")
    table.loc[words.index, "word_index"] = words["word_index"].mask(incomplete, counted)
    joined = groups["word"].transform(" ".join) if len(words) else words["word"]
    table.loc[words.index, "word_sequence"] = words["word_sequence"].fillna(joined)
    return _phoneme_words(table)


def _phoneme_words(table: pd.DataFrame) -> pd.DataFrame:
    """A phoneme that does not name its word belongs to the last one that started."""
    words, phonemes = table[table["kind"] == "word"], table[table["kind"] == "phoneme"]
    last = np.searchsorted(words["start"], phonemes["start"] + 1e-6, side="right") - 1
    for column in ("sequence_id", "word_index"):
        empty = phonemes[column].isna().to_numpy() & (last >= 0)
        table.loc[phonemes.index[empty], column] = words[column].to_numpy()[last[empty]]
    return table


def _derive_sequences(table: pd.DataFrame, words: pd.DataFrame, path: Path, max_gap: float) -> np.ndarray:
    """A sequence for each word: the sentence it is in, else the sound, else what lies between two silences."""
    start = words["start"].to_numpy()
    for kind in ("sentence", "sound"):
        spans = table[table["kind"] == kind]
        if not len(spans):
            continue
        number = np.searchsorted(spans["start"], start, side="right") - 1
        stop = (spans["start"] + spans["duration"].where(spans["duration"] > 0, np.inf)).to_numpy()
        outside = int(((number < 0) | (start > stop[number])).sum())
        logger.info("%s: no sequence_id, so a sequence is the words of one %s; %d words lie outside and join the one "
                    "before", path, kind, outside)
        return number.clip(0).astype(str).astype(object)
    logger.info("%s: no sequence_id, so a sequence ends at a silence of more than %g s", path, max_gap)
    silence = start[1:] - (words["start"] + words["duration"]).to_numpy()[:-1]
    return np.r_[0, np.cumsum(silence > max_gap)].astype(str).astype(object)
