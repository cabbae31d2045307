"""What every study must satisfy, in the spirit of scikit-learn's `check_estimator`."""
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.events import BLOCK_RULES, EventsError, check_events, make_blocks, sounds_of
from bm.studies.base import CHANNEL_COLUMNS, Recording, Signal, Study

#: bytes; a pickled recording holds names and paths, no data
MAX_PICKLE = 65_536
#: m; no sensor is further from the origin of a head or a helmet
MAX_DISTANCE = 0.5
#: samples that are read to compare slices with the whole
PROBE = 5000


class CheckError(ValueError):
    """What a study or a feature promises and does not keep: names the part, what was found and what was expected."""


def _require(true: bool, where: str, message: str) -> None:
    if not true:
        raise CheckError(f"{where}: {message}")


def check_study(cls: type[Study], path: Path | None, selection: dict[str, Any] | None = None, *, deep: int = 2) -> None:
    """Checks a study: its list of recordings, and of the first and the last ones signal, events, blocks and files.

    Args:
        cls: the study.
        path: of its data.
        selection: its arguments, as in `conf/selections`.
        deep: how many recordings are read.

    Raises:
        CheckError: the first promise of `bm/studies/base.py` that is not kept.
    """
    selection = selection or {}
    study = _check_class(cls, path, selection)
    study.prepare()
    first = list(study.recordings())
    _check_list(cls.name, first, list(cls(path, **selection).recordings()))
    for recording in dict.fromkeys([*range(-(-deep // 2)), *range(len(first) - deep // 2, len(first))]):
        if 0 <= recording < len(first):
            _check_recording(study, first[recording], first)


def _check_class(cls: type[Study], path: Path | None, selection: dict[str, Any]) -> Study:
    _require(cls.name == cls.name.lower() and cls.name.isidentifier(), cls.__name__,
             f"its name is {cls.name!r}, expected a lower-case identifier")
    try:
        cls(path, **selection, no_such_key=1)
    except ValueError as error:
        _require("no_such_key" in str(error), cls.name, f"an unknown selection key gives an error that does not name "
                 f"it: {error}")
    else:
        raise CheckError(f"{cls.name}: the unknown selection key 'no_such_key' is accepted, expected a ValueError")
    study = cls(path, **selection)
    _require(study.blocks in BLOCK_RULES, cls.name, f"blocks is {study.blocks!r}, expected one of {BLOCK_RULES}")
    return study


def _check_list(name: str, first: list[Recording], second: list[Recording]) -> None:
    _require(len(first) > 0, name, "it lists no recording")

    def described(recordings: list[Recording]) -> list[tuple]:
        return [(r.name, r.subject, r.session, r.source_files(), r.event_files()) for r in recordings]

    _require(described(first) == described(second), name, "two listings differ, expected a fixed order and the same "
             "files: sort what a folder lists")
    for recording in first:
        for key in ("study", "subject", "uid"):
            value = getattr(recording, key)
            _require(isinstance(value, str) and value != "", name, f"{key} of {recording!r} is {value!r}, expected a "
                     "text")
        _require(isinstance(recording.session, str), name, f"session of {recording!r} is {recording.session!r}, "
                 "expected text")
        size = len(pickle.dumps(recording))
        _require(size <= MAX_PICKLE, recording.name, f"its pickle has {size} bytes, expected at most {MAX_PICKLE}: "
                 "keep paths, not data")
        missing = [path for path in [*recording.source_files(), *recording.event_files()] if not Path(path).is_file()]
        _require(not missing, recording.name, f"source_files and event_files must be files, but {missing[:3]} are not")
        _require(len(recording.source_files()) > 0, recording.name, "no source_files, expected those of the signal: "
                 "the cache knows it by their content")
    uids = pd.Series([recording.name for recording in first])
    _require(not uids.duplicated().any(), name, f"the uid {uids[uids.duplicated()].to_list()[:1]} occurs twice")


def _check_recording(study: Study, recording: Recording, others: list[Recording]) -> None:
    size = len(pickle.dumps(recording))
    files = [*recording.source_files(), *recording.event_files()]
    before = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    with _opened() as in_signal:
        signal = pickle.loads(pickle.dumps(recording)).signal()
        _check_channels(signal, recording.name)
        _check_reads(signal, recording)
    with _opened() as in_events:
        events = recording.events()
    _check_events(study, recording, signal, events)
    _check_files(recording, others, in_signal, in_events, study.path)
    _require([(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files] == before, recording.name,
             "reading changed its files")
    _require(len(pickle.dumps(recording)) == size, recording.name, "reading changed the recording: it must be "
             "immutable, without hidden caches")


def _check_channels(signal: Signal, where: str) -> None:
    channels, (times, n) = signal.channels, signal.shape
    _require(times > 0 and n > 0, where, f"its signal has shape {signal.shape}, expected (time, channels)")
    _require(signal.rate is None or (np.isfinite(signal.rate) and signal.rate > 0), where,
             f"rate is {signal.rate!r}, expected Hz or None")
    _require(signal.missing in ("error", "mask"), where, f"missing is {signal.missing!r}, expected error or mask")
    _require(list(channels.columns)[:len(CHANNEL_COLUMNS)] == CHANNEL_COLUMNS, where, "channels has the columns "
             f"{list(channels.columns)}, expected {CHANNEL_COLUMNS} (and then more)")
    _require(len(channels) == n, where, f"{n} channels with {len(channels)} rows that describe them")
    names = channels["name"]
    _require(not names.duplicated().any(), where, f"channel names must be unique: {names[names.duplicated()].tolist()}")
    for column in ("name", "type", "unit", "region"):
        _require(all(isinstance(value, str) for value in channels[column]), where, f"channels[{column!r}] must be text")
    _require(channels["bad"].dtype == bool, where, f"channels['bad'] is {channels['bad'].dtype}, expected bool")
    xyz = channels[["x", "y", "z"]].to_numpy(float)
    partly = np.isnan(xyz).any(1) & ~np.isnan(xyz).all(1)
    _require(not partly.any(), where, f"x, y, z must be all known or all NaN: {names[partly].tolist()[:5]}")
    distance = np.linalg.norm(xyz[~np.isnan(xyz).any(1)], axis=1)
    far = distance[~(distance <= MAX_DISTANCE)]
    _require(not len(far), where, f"a sensor is {far[:1]} m from the origin, expected metres, at most {MAX_DISTANCE}")
    _require(not len(distance) or distance.max() > 0.01, where, "all sensors are within 1 cm of the origin: expected "
             "positions in metres, NaN where unknown")
    layout = channels[["layout_x", "layout_y"]].to_numpy(float)
    known = layout[~np.isnan(layout)]
    _require(bool(((known >= 0) & (known <= 1)).all()), where, "layout_x and layout_y must be in [0, 1], or NaN")


def _check_reads(signal: Signal, recording: Recording) -> None:
    where, (times, n) = recording.name, signal.shape
    probe = min(times, PROBE)
    whole = signal.read(0, probe)
    _require(whole.shape == (probe, n), where, f"read(0, {probe}) has shape {whole.shape}, expected {(probe, n)}")
    _require(np.issubdtype(whole.dtype, np.floating), where, f"values are {whole.dtype}, expected floating-point")
    _require(not np.isinf(whole).any() and (signal.missing == "mask" or not np.isnan(whole).any()), where,
             "values are not finite, though signal.missing is 'error'" if signal.missing == "error" else
             "values are infinite")
    low, high = probe // 3, max(2 * probe // 3, probe // 3 + 1)
    _require(np.array_equal(signal.read(low, high), whole[low:high], equal_nan=True), where,
             f"read({low}, {high}) differs from these rows of read(0, {probe})")
    last = max(times - 3, 0)
    end = signal.read(last)
    _require(end.shape == (times - last, n), where, f"read({last}) has shape {end.shape}, expected "
             f"{(times - last, n)}: does shape tell the length of the file?")
    again = recording.signal()
    _require(again.shape == signal.shape and again.rate == signal.rate and again.channels.equals(signal.channels)
             and np.array_equal(again.read(low, high), whole[low:high], equal_nan=True), where,
             "a second signal() differs from the first")


def _check_events(study: Study, recording: Recording, signal: Signal, events: pd.DataFrame) -> None:
    where = recording.name
    _require(recording.events().equals(events), where, "a second events() differs from the first")
    try:
        checked = check_events(events, where, signal.duration)
    except EventsError as error:
        raise CheckError(str(error)) from error
    _require(len(checked) > 0, where, "it has no event")
    if signal.duration is None:  # one row per event: no clock
        return
    stop = (checked["start"] + checked["duration"]).to_numpy()
    _require(bool((stop >= 0).mean() > 0.5), where, f"{(stop < 0).mean():.0%} of its events end before the recording "
             "begins: are onsets seconds from its first sample?")
    try:
        blocks = make_blocks(checked, study.blocks, signal.duration, where)
    except EventsError as error:
        raise CheckError(str(error)) from error
    bad = blocks[blocks["stop"] <= blocks["start"]]
    _require(not len(bad), where, f"a block ends before it starts: {bad.head(1).to_dict('records')}")
    heard = sounds_of([checked])
    playing = blocks["stimulus"] != ""
    _require(not len(heard) or playing.any(), where, "it has sounds, but no block begins in one: are words and sounds "
             "on one clock?")


def _check_files(recording: Recording, others: list[Recording], in_signal: set[Path], in_events: set[Path],
                 root: Path | None) -> None:
    """A recording opens its own files alone, and tells which they are."""
    own = {Path(path).resolve() for path in [*recording.source_files(), *recording.event_files()]}
    for other in others:
        foreign = ({Path(path).resolve() for path in other.source_files()} - own) & (in_signal | in_events)
        _require(not foreign, recording.name, f"reading it opens {sorted(foreign)[:2]} of {other.name}")
    if root is None:
        return
    sources = {Path(path).resolve() for path in recording.source_files()}
    data = {path for path in in_signal if path.is_relative_to(Path(root).resolve())} - sources
    untold = sorted(path for path in data if path.suffix != ".json")  # what a header says twice
    _require(not untold, recording.name, f"signal() reads {untold[:3]}, which source_files does not list: were it to "
             "change, the cache would not notice")


_recorders: list[set[Path]] = []


def _hook(event: str, args: tuple) -> None:
    if event == "open" and _recorders and isinstance(args[0], str | os.PathLike):
        for recorder in _recorders:
            recorder.add(Path(args[0]))


@contextmanager
def _opened() -> Iterator[set[Path]]:
    """The files that Python code opens inside, resolved at the end. (Hooks cannot be removed: one serves all.)"""
    if not _hook_is_set:
        sys.addaudithook(_hook)
        _hook_is_set.append(True)
    files: set[Path] = set()
    _recorders.append(files)
    try:
        yield files
    finally:
        _recorders.remove(files)
        resolved = {path.resolve() for path in files}
        files.clear()
        files.update(resolved)


_hook_is_set: list[bool] = []
