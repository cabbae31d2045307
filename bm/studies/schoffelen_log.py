"""Reads the logs that Presentation wrote during the MOUS experiment (schoffelen2019)."""
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

#: s; the unit of times in a log
TICK = 1e-4
#: what a code contains → what its row is; a later one has the last word
_CONDITIONS = {"ZINNEN": "sentence", "WOORDEN": "word_list", "FIX": "fix", "QUESTION": "question",
               "Response": "response", "ISI": "isi", "blank": "blank", "pause": "pause", "PULSE MODE": "pulse"}
#: types of rows that the log's second table lists again
_STIMULI = ("Picture", "Sound", "Nothing")
_EDGES = re.compile(r"^[\d\s]+|[\d\s]+$")


def read_log(path: Path) -> pd.DataFrame:
    """The rows of a log, in order.

    Returns:
        `line` (in the file, from 1; of its first part where a row was broken in two), `type`, `code`, `time` (s, may
        be negative), `duration` (s, NaN if none), `condition` ("fix", "word", …; "sentence" and "word_list" only for
        the cues ZINNEN and WOORDEN), `word` (the code without digits and spaces around it), `new_context` (it is a
        cue), `context` (of the last cue: "sentence", "word_list"; "init" before the first) and `block` (number of
        cues so far).

    Raises:
        ValueError: no table of events, or a row without a time; names file and line.
    """
    lines = _first_scenario(_mend(_lines(path)), path)
    first = _table(lines, "Subject\t", path)
    if first is None:
        raise ValueError(f"{path}: no line starts with 'Subject' and a tab, expected a log of Presentation with a "
                         "table of events: is it the right file, and whole?")
    rows = pd.DataFrame({
        "line": first.index, "type": first["Event Type"].to_numpy(), "code": first["Code"].to_numpy(),
        "time": _seconds(first["Time"]), "duration": _seconds(first["Duration"]) if "Duration" in first else np.nan})
    rows = rows[rows["type"] != "Quit"].reset_index(drop=True)
    untimed = rows.index[rows["time"].isna()]
    if len(untimed):
        row = rows.loc[untimed[0]]
        raise ValueError(f"{path}, line {row['line']}: {row['type']} {row['code']!r} has no time, expected a whole "
                         "number of 0.1 ms: was the line cut?")
    _check_second(rows, _table(lines, "Event Type\t", path), path)
    rows["condition"] = [_condition(code, kind) for code, kind in zip(rows["code"], rows["type"], strict=True)]
    rows["word"] = [_EDGES.sub("", code) for code in rows["code"]]
    rows["new_context"] = rows["condition"].isin(["sentence", "word_list"])
    rows["context"] = rows["condition"].where(rows["new_context"]).ffill().fillna("init")
    rows["block"] = rows["new_context"].cumsum()
    return rows


def _lines(path: Path) -> list[str]:
    """Logs are of 2006–2010 and of Windows: what is not UTF-8 is Windows-1252."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return re.split(r"\r\n|\r|\n", text)


def _mend(lines: list[str]) -> list[tuple[int, str]]:
    """Numbered lines; one that ends in a full stop was broken inside a code, and goes on in the next."""
    out: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if out and line and out[-1][1].endswith("."):
            out[-1] = (out[-1][0], out[-1][1] + line)
        else:
            out.append((number, line))
    return out


def _first_scenario(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str]]:
    """Some logs hold the whole content twice."""
    headers = [i for i, (_, line) in enumerate(lines) if line.startswith("Scenario -")]
    if len(headers) > 1:
        logger.info("%s: %d logs in one file, the first is used", path, len(headers))
        return lines[:headers[1]]
    return lines


def _table(lines: list[tuple[int, str]], start: str, path: Path) -> pd.DataFrame | None:
    """The table under the header that starts so: text cells, the index is the line; None without such a header."""
    header = next((i for i, (_, line) in enumerate(lines) if line.startswith(start)), None)
    if header is None:
        return None
    names = [name.strip() for name in lines[header][1].split("\t")]
    missing = sorted({"Event Type", "Code", "Time"} - set(names))
    if missing:
        raise ValueError(f"{path}, line {lines[header][0]}: no column {missing}, expected Event Type, Code and Time "
                         f"among {names}")
    place = {name: names.index(name) for name in ("Event Type", "Code", "Time", "Duration") if name in names}
    rows, numbers = [], []
    for number, line in lines[header + 1:]:
        if line.startswith("Event Type\t"):
            break
        if line.strip():
            cells = line.split("\t")
            rows.append({name: cells[i].strip() if i < len(cells) else "" for name, i in place.items()})
            numbers.append(number)
    return pd.DataFrame(rows, index=numbers, columns=list(place), dtype=object)


def _seconds(cells: pd.Series) -> np.ndarray:
    """Whole numbers of 0.1 ms as seconds; NaN for what is none ("next", "")."""
    return np.array([int(cell) * TICK if re.fullmatch(r"[-+]?\d+", cell) else np.nan for cell in cells], dtype=float)


def _check_second(rows: pd.DataFrame, second: pd.DataFrame | None, path: Path) -> None:
    """The second table repeats the stimuli of the first; a difference is worth a warning."""
    if second is None:
        return
    stimuli = rows[rows["type"].isin(_STIMULI)]
    ours = list(zip(stimuli["type"], stimuli["code"], stimuli["time"], strict=True))
    theirs = list(zip(second["Event Type"], second["Code"], _seconds(second["Time"]), strict=True))
    differ = sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))
    if differ:
        logger.warning("%s: its two tables differ in %d of %d stimuli; the first table is used", path, differ,
                       len(ours))


def _condition(code: str, kind: str) -> str:
    if kind in ("Response", "Pause", "Resume"):
        return {"Response": "response"}.get(kind, "pause")
    condition = "word" if _EDGES.sub("", code) else "blank"
    for part, name in _CONDITIONS.items():
        if part in code:
            condition = name
    return condition
