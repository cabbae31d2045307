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

from bm.events import KINDS, ranks

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
                    kinds: Mapping[str, str] | None = None, max_gap: float = 1.0, sounds_required: bool = True,
                    columns: Mapping[str, str] | None = None, sounds: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The events of one recording, in seconds from its first stored sample, sorted by (start, rank of the kind).

    Args:
        path: the `events.tsv`.
        stimuli: folders to look for sound files in, in order (`<root>/stimuli`, `<root>`), before that of `path`.
        language: where a row has none.
        modality: where a row has none.
        kinds: more trial types (lower case) → kinds, over `KIND_MAP`.
        max_gap: s without a word that end a sequence, where the file tells nothing of sequences.
        sounds_required: a sound without a file is an error; if False it becomes a `special` event.
        columns: our name of a column → the file's, over `ALIASES`.
        sounds: more trial types (lower case) → the sound file that each stands for.

    Returns:
        A table with the columns `COLUMNS` and then those of the file that have no meaning here. `filepath` is absolute
        and set for sounds only; `word_index` is a float, NaN where there is no word.

    Raises:
        ValueError: a fault in the table; the message names file and line, what was got and what was expected.
        FileNotFoundError: the table, or a sound file it names.
    """
    return events_of_cells(read_tsv(path), path, stimuli, language=language, modality=modality, kinds=kinds,
                           max_gap=max_gap, sounds_required=sounds_required, columns=columns, sounds=sounds)


def events_of_cells(table: pd.DataFrame, path: Path, stimuli: Sequence[Path] = (), *, language: str = "en",
                    modality: str = "audio", kinds: Mapping[str, str] | None = None, max_gap: float = 1.0,
                    sounds_required: bool = True, columns: Mapping[str, str] | None = None,
                    sounds: Mapping[str, str] | None = None) -> pd.DataFrame:
    """As `read_events_tsv`, from cells (text, or NaN) whose index is the line in the file; `path` names it."""
    kind_map = {**KIND_MAP, **(kinds or {}), **dict.fromkeys(sounds or {}, "sound")}
    unknown = sorted(set(kind_map.values()) - set(KINDS) - {"sentence"})
    if unknown:
        raise ValueError(f"unknown kinds {unknown} in `kinds`, expected some of {sorted(set(KINDS) | {'sentence'})}")
    table = _expand(_rename(table, columns or {}, path), path)
    table = _drop_rows(table, path)
    if sounds:
        file = table["trial_type"].map(lambda text: sounds.get(str(text).strip().lower(), np.nan))
        table["stim_file"] = table["stim_file"].fillna(file) if "stim_file" in table else file
    table = _set_kinds(table, path, kind_map, sounds_required)
    table["filepath"] = _find_sounds(table, path, [*stimuli, path.parent])
    table = table.sort_values("start", kind="stable")
    table["duration"] = _durations(table, path)
    table = _sequences(table, path, max_gap)
    for column, default in {"modality": modality, "language": language}.items():
        table[column] = table.get(column, pd.Series(np.nan, table.index, dtype=object)).fillna(default)
    table = table[table["kind"] != "sentence"]
    table = table.iloc[np.lexsort((ranks(table["kind"]), table["start"]))].reset_index(drop=True)
    for column in COLUMNS:
        if column not in table:
            table[column] = np.nan
    return table[COLUMNS + [c for c in table.columns if c not in COLUMNS]].infer_objects()


def _fail(path: Path, line: Any, message: str) -> NoReturn:
    raise ValueError(f"{path}, line {line}: {message}")


def read_tsv(path: Path) -> pd.DataFrame:
    """All cells as text or NaN ("n/a" and empty ones); the index is the line in the file, from 1.

    Raises:
        ValueError: what is no table of cells between tabs under different headings; the message names file and line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # drops a byte-order mark; all line ends become \n
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8, expected a text file in UTF-8: save it as such "
                         "(spreadsheets may write UTF-16 or Latin-1)") from error
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise ValueError(f"{path} is empty, expected a header with at least onset and duration")
    first, *numbers = lines
    header = [cell.strip() for cell in lines.pop(first).split("\t")]
    if len(set(header)) < len(header):
        _fail(path, first, f"columns must have different names, got {header}")
    for number, line in lines.items():
        n = line.count("\t") + 1
        if n != len(header):
            _fail(path, number, f"{n} cells, expected {len(header)} as in the header (separated by tabs)")
    missing = {"": np.nan, "n/a": np.nan}
    cells = map(str.strip, "\t".join(lines.values()).split("\t")) if lines else ()
    values = np.array([missing.get(cell, cell) for cell in cells], dtype=object)
    return pd.DataFrame(values.reshape(-1, len(header)), index=numbers, columns=header, dtype=object)


def _alias(names: Sequence[str]) -> dict[str, str]:
    """Which of these names to change, and to what."""
    out = {}
    for ours, others in ALIASES.items():
        found = [other for other in others if other in names]
        if ours not in names and found:
            out[found[0]] = ours
    return out


def _rename(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Our names for the columns: those the user gave, else the aliases."""
    missing = [theirs for theirs in columns.values() if theirs not in table]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}, which `columns` names; it has {list(table.columns)}")
    given = {theirs: ours for ours, theirs in columns.items()}
    # what another column replaces is kept under another name
    hidden = {ours: f"file_{ours}" for ours in columns if ours in table and ours not in given}
    table = table.rename(columns=hidden | given)
    return table.rename(columns=_alias(list(table.columns)))


def _expand(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Turns trial types that are the text of a dictionary into columns."""
    if "trial_type" not in table:
        table["trial_type"] = pd.Series(np.nan, index=table.index, dtype=object)
    given = table["trial_type"].dropna()
    texts = {text: _unquote(text) for text in given.unique()}
    if not any(text.startswith("{") for text in texts.values()):
        return table
    cells = given.map(texts)
    rows: dict[Any, dict[str, Any]] = {}
    for line, cell in cells[cells.str.startswith("{")].items():
        values = _literal(cell, path, line)
        names = _alias([*values, "onset"])  # a start inside the dictionary is one inside the sound, never our onset
        values = {names.get(key, key): value for key, value in values.items()}
        values.setdefault("trial_type", np.nan)
        rows[line] = {key: _cell(value) for key, value in values.items() if key not in ("start", "onset", "duration")}
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
    wrong = table.index[~np.isfinite(numbers.to_numpy()) & table[column].notna().to_numpy()]
    if len(wrong):
        _fail(path, wrong[0], f"{column} is {table.at[wrong[0], column]!r}, expected a finite number or n/a")
    return numbers


def _drop_rows(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Without bad spans and without rows that have no onset, both counted; `start` and `offset` as floats."""
    if "onset" not in table:
        raise ValueError(f"{path}: no column onset (or start), expected one in seconds; it has {list(table.columns)}")
    table["onset"], table["offset"] = _numbers(table, "onset", path), _numbers(table, "stim_offset", path)
    types = table["trial_type"].dropna().unique()
    bad = table["trial_type"].isin([text for text in types if text.lower().startswith("bad_")])
    untimed = table["onset"].isna() & ~bad
    if bad.any() or untimed.any():
        logger.info("%s: dropped %d bad spans and %d rows without onset", path, bad.sum(), untimed.sum())
    return table[~bad & ~untimed].rename(columns={"onset": "start"}).drop(columns="stim_offset", errors="ignore")


def _set_kinds(table: pd.DataFrame, path: Path, kind_map: Mapping[str, str], sounds_required: bool) -> pd.DataFrame:
    """Adds `kind`, and `name` for what has no kind here. A row without type takes that of its only filled cell."""
    for column in ("word", "phoneme", "stim_file"):
        if column not in table:
            table[column] = pd.Series(np.nan, index=table.index, dtype=object)
    untyped = table["trial_type"].isna().to_numpy()
    kinds = {text: kind_map.get(text.strip().lower(), "special") for text in table["trial_type"][~untyped].unique()}
    kind = np.array([kinds.get(text, "special") for text in table["trial_type"]], dtype=object)
    filled = {column: table[column].notna().to_numpy() for column in ("word", "phoneme", "stim_file")}
    only = np.sum(list(filled.values()), axis=0) == 1
    for column, of_column in {"word": "word", "phoneme": "phoneme", "stim_file": "sound"}.items():
        kind[untyped & only & filled[column]] = of_column
    silent = (kind == "sound") & ~filled["stim_file"]
    if silent.any() and sounds_required:
        _fail(path, table.index[silent][0], "a sound without stim_file, expected the name of a sound file")
    for column in ("word", "phoneme"):
        empty = table.index[(kind == column) & ~filled[column]]
        if len(empty):
            _fail(path, empty[0], f"a {column} row whose cell {column} is n/a, expected its text")
        table[column] = table[column].where(kind == column)
    kind[silent] = "special"
    table["kind"] = pd.Series(kind, table.index, dtype=object)
    special = table["kind"] == "special"
    if special.any():
        name = table["name"] if "name" in table else pd.Series(np.nan, index=table.index, dtype=object)
        table["name"] = name.where(~special | name.notna(), table["trial_type"].fillna("n/a"))
    return table.drop(columns="trial_type")


def _find_sounds(table: pd.DataFrame, path: Path, folders: list[Path]) -> pd.Series:
    """Absolute paths of the sounds, NaN elsewhere."""
    rows = np.flatnonzero(table["kind"] == "sound")
    names = table["stim_file"].iloc[rows]
    found: dict[str, str] = {}
    for line, name in names.items():
        if name not in found:
            file = _resolve(name, folders)
            if file is None:
                raise FileNotFoundError(f"{path}, line {line}: no sound file {name!r} (nor with letters of other case) "
                                        f"in {[str(f) for f in folders]}: add the file, or mend stim_file")
            found[name] = str(file.resolve())
    paths = np.full(len(table), np.nan, dtype=object)
    paths[rows] = [found[name] for name in names]
    return pd.Series(paths, table.index, dtype=object)


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


def _durations(table: pd.DataFrame, path: Path) -> np.ndarray:
    """Given durations; else the rest of a sound file, the time to the next word (up to `MAX_WORD`), or 0."""
    import soundfile

    duration = _numbers(table, "duration", path).to_numpy(copy=True)
    negative = np.flatnonzero(duration < 0)
    if len(negative):
        _fail(path, table.index[negative[0]], f"duration {duration[negative[0]]} s, expected 0 or more, or n/a")
    kind = table["kind"].to_numpy()
    unset = (kind == "sound") & ~(duration > 0)
    lengths = np.array([soundfile.info(file).duration for file in table["filepath"].to_numpy()[unset]], dtype=float)
    duration[unset] = lengths - np.nan_to_num(table["offset"].to_numpy()[unset])
    default = np.zeros(len(table))
    default[kind == "word"] = np.diff(table["start"].to_numpy()[kind == "word"], append=np.inf).clip(0, MAX_WORD)
    default[kind == "sentence"] = np.nan
    return np.where(np.isnan(duration), default, duration)


def _sequences(table: pd.DataFrame, path: Path, max_gap: float) -> pd.DataFrame:
    """Fills `sequence_id`, `word_index` and `word_sequence` of the words, and hands the first two to the phonemes."""
    for column in ("sequence_id", "word_sequence"):
        if column not in table:
            table[column] = pd.Series(np.nan, index=table.index, dtype=object)
    is_word = (table["kind"] == "word").to_numpy()
    words = table[is_word]
    sequence = words["sequence_id"].to_numpy(copy=True)
    if words["sequence_id"].isna().all() and len(words):
        sequence = _derive_sequences(table, words, path, max_gap)
    group, _ = pd.factorize(sequence)
    if (group < 0).any():
        line = words.index[np.argmax(group < 0)]
        _fail(path, line, f"the word {words.at[line, 'word']!r} has no sequence_id though others have one: "
              "fill it in, or leave the column out to have sequences derived")
    index = _numbers(table, "word_index", path).to_numpy(copy=True)
    tokens = pd.Series([len(text.split()) for text in words["word"]], dtype=int)
    counted = (tokens.groupby(group).cumsum() - tokens).to_numpy()
    incomplete = np.unique(group[np.isnan(index[is_word])])
    index[is_word] = np.where(np.isin(group, incomplete), counted, index[is_word])
    joined = words["word"].groupby(group).agg(" ".join).to_numpy()[group]
    told = words["word_sequence"]
    _fill(table, is_word, {"sequence_id": sequence, "word_sequence": told.where(told.notna(), joined).to_numpy()})
    table["word_index"] = index
    return _phoneme_words(table)


def _fill(table: pd.DataFrame, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
    """Sets columns where the mask `rows` is True."""
    for column, given in values.items():
        cells = table[column].to_numpy(copy=True)
        cells[rows] = given
        table[column] = pd.Series(cells, table.index, dtype=cells.dtype)


def _phoneme_words(table: pd.DataFrame) -> pd.DataFrame:
    """A phoneme that does not name its word belongs to the last one that started."""
    kind, start = table["kind"].to_numpy(), table["start"].to_numpy()
    words = np.flatnonzero(kind == "word")
    last = np.searchsorted(start[words], start + 1e-6, side="right") - 1
    for column in ("sequence_id", "word_index"):
        empty = (kind == "phoneme") & (last >= 0) & table[column].isna().to_numpy()
        _fill(table, empty, {column: table[column].to_numpy()[words[last[empty]]]})
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
