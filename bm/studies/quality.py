"""How well events fit the recording they belong to: clocks, triggers, words, sounds. Measures, limits and findings.

`quality_of(recording)` measures one recording. A recording that was aligned by triggers has a method
`anchors() -> Anchors`, from which the drift between the two clocks and the lost triggers are known; one whose files
tell more has `measures() -> dict`, numbers of its own, judged by `LIMITS` where they have a key there.
"""
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from bm.events import MARGIN, check_events
from bm.studies.base import Recording

logger = logging.getLogger(__name__)

Level = Literal["ok", "warn", "fail"]
_LEVELS: tuple[Level, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Anchors:
    """The instants by which the clock of the events was laid onto that of the recording.

    Args:
        events: `(n,)` s on the events' clock (log, sound, table), increasing.
        recorded: `(n,)` s in the recording, of the same instants.
        n_events: anchors that the events have, matched or not.
        n_recorded: triggers that the recording has, matched or not.
        group: `(n,)`; anchors of one group (one sound) share an offset of their own. None: all are one group.

    Raises:
        ValueError: unequal lengths, or more matches than anchors.
    """

    events: np.ndarray
    recorded: np.ndarray
    n_events: int
    n_recorded: int
    group: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.events)
        if n != len(self.recorded) or n > min(self.n_events, self.n_recorded):
            raise ValueError(f"anchors: {n} times of events, {len(self.recorded)} in the recording, of {self.n_events} "
                             f"and {self.n_recorded} in all; expected matched pairs")


@runtime_checkable
class Anchored(Protocol):
    """A recording that knows how it was aligned."""

    def anchors(self) -> Anchors: ...


@runtime_checkable
class Measured(Protocol):
    """A recording that has measures of its own."""

    def measures(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class Drift:
    """A straight line through anchors: `recorded ≈ offset + slope · events`.

    `ppm` is `(slope − 1) · 10⁶`; `residual_ms` the root mean square of what the line leaves, `worst_ms` the largest.
    """

    slope: float
    residual_ms: float
    worst_ms: float

    @property
    def ppm(self) -> float:
        return (self.slope - 1) * 1e6


def fit_drift(events: np.ndarray, recorded: np.ndarray, group: np.ndarray | None = None) -> Drift:
    """Least-squares line from the events' times to the recorded ones, both `(n,)` in seconds; each group has its own
    offset, all share the slope.

    Raises:
        ValueError: no group has two different instants.
    """
    times = pd.DataFrame({"x": np.asarray(events, float), "y": np.asarray(recorded, float)})
    x, y = (times - times.groupby(np.zeros(len(times)) if group is None else group).transform("mean")).to_numpy().T
    if not np.any(np.abs(x) > 1e-9):
        raise ValueError(f"drift needs two different matched instants in a group, got {len(x)} times")
    slope = float(x @ y / (x @ x))
    left = 1000 * (y - slope * x)
    return Drift(slope, float(np.sqrt(np.mean(left ** 2))), float(np.abs(left).max()))


def audio_lag(channel: np.ndarray, rate: float, sound: Path, start: float, most: float = 1.0) -> tuple[float, float]:
    """How much later a sound is in a recording's audio channel than at `start`, and the envelopes' correlation there.

    Args:
        channel: `(time,)`, what the recording has of the sound, in any unit.
        rate: of the channel, Hz.
        sound: the file that was played.
        start: s, where its first sample should be; may be negative.
        most: s; lags from −most to most are tried.

    Returns:
        `(lag, correlation)`, lag in s; `(nan, nan)` if less than 2 s of the sound lie inside the recording.
    """
    import soundfile
    from scipy.signal import correlate

    wave, wave_rate = soundfile.read(sound, dtype="float32", always_2d=True)
    edges = np.round(np.arange(int(len(wave) / wave_rate * rate)) / rate * wave_rate).astype(int)
    played = np.add.reduceat(np.abs(wave).mean(1), edges) / np.diff(edges, append=len(wave))
    margin, first = round(most * rate), round(start * rate)
    begin, end = max(first, margin), min(first + len(played), len(channel) - margin)
    if end - begin < 2 * rate:
        return np.nan, np.nan
    smooth = np.ones(max(round(0.03 * rate), 1))
    played = np.convolve(played, smooth, "same")[begin - first:end - first]
    heard = np.convolve(np.abs(channel - np.median(channel)), smooth, "same")[begin - margin:end + margin]
    n = len(played)
    played = played - played.mean()
    total = np.cumsum(np.r_[[[0.0, 0.0]], np.c_[heard, heard ** 2]], axis=0)
    mean, square = ((total[n:] - total[:-n]) / n).T
    spread = np.sqrt(np.maximum(square - mean ** 2, 0)) * played.std() * n
    r = correlate(heard, played, "valid") / np.maximum(spread, np.finfo(float).tiny)
    best = int(np.argmax(r))
    return (best - margin) / rate, float(r[best])


#: measure → what it is, and above which values it is a warning and a failure. Shares are of the recording's words
#: (anchors for triggers). A crystal is good to about 100 parts per million; listening studies pause for seconds.
LIMITS: dict[str, tuple[str, float, float]] = {
    "drift_ppm": ("drift between the clocks, parts per million", 150, 1000),
    "residual_ms": ("jitter of the triggers about a straight line, ms (rms)", 10, 50),
    "missed_triggers": ("share of the events' anchors without a trigger", 0, 0.1),
    "spare_triggers": ("share of the triggers without an event", 0, 0.25),
    "missing_words": ("share of the words that their sentence has and the events lack", 0, 0.05),
    "doubled_words": ("share of the words that are there twice", 0, 0.02),
    "out_of_order": ("share of the words that come before one they follow in the text", 0, 0.01),
    "outside_sounds": ("share of the words heard while no sound plays", 0, 0.02),
    "outside_recording": ("share of the words before the recording or after its end", 0.01, 0.25),
    "gap_s": ("longest time without a word inside a sound, s", 10, 60),
    "unaligned_words": ("share of the transcript's words that the aligner did not find", 0.1, 0.5),
    "unmatched_words": ("share of the aligned words that are not in the text", 0.1, 0.5),
    "table_mismatch": ("share of the trials whose segment or word time contradicts the story's table", 0, 0.01),
    "audio_lag_ms": ("the sound in the recording's audio channel comes this much later than its event, ms", 20, 100),
}


@dataclass(frozen=True)
class Finding:
    """One thing said about a recording: `measure` is a key of `LIMITS`, or another name for what has no number."""

    level: Level
    measure: str
    text: str


@dataclass(frozen=True)
class Quality:
    """All that was measured of a recording; `measures` has some of the keys of `LIMITS`, and counts.

    `sensors`, `rate` (Hz) and `seconds` are the signal's, None where it could not be read; `vocabulary` the different
    words, in lower case.
    """

    recording: str
    measures: dict[str, float]
    findings: tuple[Finding, ...]
    sensors: int | None = None
    rate: float | None = None
    seconds: float | None = None
    vocabulary: frozenset[str] = frozenset()

    @property
    def level(self) -> Level:
        """The worst of the findings."""
        return worst(finding.level for finding in self.findings)


def worst(levels: Iterable[Level]) -> Level:
    """"fail" if any is, else "warn" if any is, else "ok"."""
    return max(levels, key=_LEVELS.index, default="ok")


def judge(measures: dict[str, float]) -> list[Finding]:
    """A finding for each measure that is beyond a limit (both signs for `drift_ppm`)."""
    findings = []
    for name, value in measures.items():
        if name in LIMITS:
            text, warn, fail = LIMITS[name]
            level: Level = "fail" if abs(value) > fail else "warn" if abs(value) > warn else "ok"
            if level != "ok":
                limit = fail if level == "fail" else warn
                findings.append(Finding(level, name, f"{text}: {value:.3g} (limit {limit:g})"))
    return findings


def trigger_measures(anchors: Anchors) -> dict[str, float]:
    """`matched`, `missed_triggers`, `spare_triggers`, and the drift if two anchors are matched."""
    n = len(anchors.events)
    measures = {"matched": float(n), "missed_triggers": 1 - n / max(anchors.n_events, 1),
                "spare_triggers": 1 - n / max(anchors.n_recorded, 1)}
    if n > 1:
        drift = fit_drift(anchors.events, anchors.recorded, anchors.group)
        measures |= {"drift_ppm": drift.ppm, "residual_ms": drift.residual_ms, "worst_ms": drift.worst_ms}
    return measures


def word_measures(events: pd.DataFrame, duration: float | None = None) -> dict[str, float]:
    """What the words of checked events say about themselves; keys of `LIMITS`, and `words`.

    Args:
        events: from `check_events`: sorted, the durations of sounds filled in.
        duration: of the recording, s; None: nothing is outside it.
    """
    words = events[events["kind"] == "word"].reset_index(drop=True)
    sounds = events[events["kind"] == "sound"]
    n = len(words)
    if n == 0:
        return {"words": 0.0}
    start, stop = words["start"].to_numpy(), (words["start"] + words["duration"]).to_numpy()
    begin, end = sounds["start"].to_numpy(), (sounds["start"] + sounds["duration"]).to_numpy()
    sound = np.searchsorted(begin, start + MARGIN, side="right") - 1
    measures = {"words": float(n)}
    if len(sounds):
        heard = (words["modality"] == "audio").to_numpy()
        outside = heard & ((sound < 0) | (start > end[sound] + MARGIN))
        measures["outside_sounds"] = float(outside.sum() / n)
        measures["gap_s"] = _longest_gap(sound[~outside], start[~outside], stop[~outside], begin, end)
    if duration is not None:
        measures["outside_recording"] = float(((start < 0) | (stop > duration + MARGIN)).mean())
    return measures | {name: count / n for name, count in _order_faults(words, sound).items()}


def _longest_gap(sound: np.ndarray, start: np.ndarray, stop: np.ndarray, begin: np.ndarray, end: np.ndarray) -> float:
    """Longest time without a word inside a sound that has any, its silences at both ends included."""
    gaps = [0.0]
    for i in np.unique(sound):
        own = sound == i
        covered = np.maximum.accumulate(np.r_[begin[i], stop[own]])
        gaps.append(float((np.r_[start[own], end[i]] - covered).max()))
    return max(gaps)


def _order_faults(words: pd.DataFrame, sound: np.ndarray) -> dict[str, int]:
    """Words missing, doubled and out of order, by `word_index` within each sequence of each sound."""
    counts = {"missing_words": 0, "doubled_words": 0, "out_of_order": 0}
    sequence = words["sequence_id"] if "sequence_id" in words else words["word_sequence"]
    known = sequence.notna().to_numpy()
    # what is before the first sound is counted with it
    keys = pd.Series([f"{s}/{name}" for s, name in zip(sound[known].clip(0), sequence[known], strict=True)], dtype=str)
    own = words[known].reset_index(drop=True)
    runs = int((keys != keys.shift()).sum())
    counts["out_of_order"] += runs - keys.nunique()  # a sequence that is interrupted by another
    for _, rows in own.groupby(keys, sort=False):
        index = rows["word_index"].to_numpy(int)
        tokens = [max(len(str(word).split()), 1) for word in rows["word"]]
        covered = {i + k for i, n in zip(index, tokens, strict=True) for k in range(n)}
        whole = len(str(rows["word_sequence"].iloc[0]).split())
        counts["missing_words"] += len(set(range(max(whole, int(index.max()) + 1))) - covered)
        counts["doubled_words"] += len(index) - len(np.unique(index))
        counts["out_of_order"] += int((np.diff(index) < 0).sum())
    same = (words["word"] == words["word"].shift()) & (words["start"].diff() < 0.02)  # spoken twice takes longer
    counts["doubled_words"] = max(counts["doubled_words"], int(same.sum()))
    return counts


def quality_of(recording: Recording) -> Quality:
    """Reads a recording's signal and events (and its anchors and own measures, if it has any) and measures them.

    A recording whose files are missing or broken is a finding that fails, named "unreadable", with the error's text.
    """
    measures: dict[str, float] = {}
    about: dict[str, Any] = {}
    try:
        signal = recording.signal()
        about = {"sensors": signal.shape[1], "rate": signal.rate, "seconds": signal.duration}
        signal.read(max(signal.shape[0] - 1, 0))  # whether the file is as long as it says
        events = check_events(recording.events(), recording.name, signal.duration)
        measures |= word_measures(events, signal.duration)
        if isinstance(recording, Anchored):
            measures |= trigger_measures(recording.anchors())
        if isinstance(recording, Measured):
            measures |= recording.measures()
    except (OSError, ValueError, KeyError) as error:
        return Quality(recording.name, measures, (Finding("fail", "unreadable", f"{type(error).__name__}: {error}"),),
                       **about)
    measures["sounds"] = float((events["kind"] == "sound").sum())
    measures["phonemes"] = float((events["kind"] == "phoneme").sum())
    findings = judge(measures)
    if measures["words"] == 0 and (events["language"] != "").any():  # "": not about speech
        findings.append(Finding("warn", "no_words", "the events have no word"))
    about["vocabulary"] = frozenset(events.loc[events["kind"] == "word", "word"].astype(str).str.lower()
                                    ) if measures["words"] else frozenset()
    return Quality(recording.name, measures, tuple(findings), **about)
