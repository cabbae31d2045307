"""Config → trials for encoding: what was heard, frame by frame, and what each channel answered, with its repeats.

A trial is a block of one split as one subject heard it, whole. Repeats of a stimulus by a subject are rows of one
trial, on the stimulus's own clock. No frame of a response is in two trials; features of the time before and after are
given beside a trial, responses never.
"""
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bm.config import Config
from bm.data.assemble import Sources, build_features, find_sources, limit_subjects
from bm.data.audit import Audit, audit
from bm.data.loader import BufferPool
from bm.data.tracks import Bank, SampleBank
from bm.features import Feature
from bm.splits import SPLITS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One stretch of stimulus as one subject (or preparation) heard it: T frames, R repeats, C channels, D columns.

    Args:
        stimulus: its name: the same for all who hear the same stretch; never in two splits.
        split: train, valid or test.
        subject: index into `Responses.subjects`.
        features: `(T · hop, D)` float32, see `Responses`.
        before, after: `(history · hop, D)` and `(future · hop, D)`: features of the frames just before and after, in
            the same recording; zeros outside it.
        responses: `(R, T, C)` float32, NaN where not measured; C channels of the subject, the rows `units_of(subject)`.
    """

    stimulus: str
    split: str
    subject: int
    features: np.ndarray
    before: np.ndarray
    after: np.ndarray
    responses: np.ndarray

    def mean(self) -> np.ndarray:
        """`(T, C)` float32: the mean over the repeats that were measured, NaN where there is none; made once."""
        return self._mean

    @cached_property
    def _mean(self) -> np.ndarray:
        return mean_of_repeats(self.responses)


@dataclass(frozen=True)
class Responses:
    """All trials of an XP.

    Args:
        subjects: `study/subject` of those who have a trial.
        units: a row per channel, those of subject 0 first: `subject` (index), `channel` (its column in the responses of
            that subject), and the columns of `studies.base.CHANNEL_COLUMNS` but for `bad`.
        rate: frames per second.
        feature_names: in the order of the columns of `Trial.features`; `feature_slices`: those of each.
        hop: rows of `Trial.features` per frame: 1, or samples per frame of a feature at a rate of its own.
        audit: the leak audit of the trials.
        scales: centre and scale `(C,)` of the responses of each subject; NaN for a unit that is left out.

    Columns are standardised by the train stimuli, each counted once; classes are one column each but for class 0
    (nothing). Features at a rate of their own are left as they are.
    """

    trials: list[Trial]
    subjects: list[str]
    units: pd.DataFrame
    rate: float
    feature_names: list[str]
    feature_slices: dict[str, slice]
    hop: int
    audit: Audit
    scales: list[tuple[np.ndarray, np.ndarray]]

    def of(self, split: str) -> list[Trial]:
        """The trials of a split."""
        return [trial for trial in self.trials if trial.split == split]

    def units_of(self, subject: int) -> slice:
        """The rows of `units` that are channels of a subject."""
        first, stop = np.searchsorted(self.units["subject"].to_numpy(), [subject, subject + 1])
        return slice(int(first), int(stop))

    @property
    def n_columns(self) -> int:
        """D."""
        return max(columns.stop for columns in self.feature_slices.values())


def mean_of_repeats(responses: np.ndarray) -> np.ndarray:
    """`(R, T, C)` → `(T, C)` without what is NaN; NaN where nothing was measured."""
    if len(responses) == 1:
        return responses[0]
    measured = np.isfinite(responses)
    n = measured.sum(0)
    total = np.where(measured, responses, 0).sum(0, dtype=np.float64)
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0).astype(responses.dtype)


def _width(feature: Feature) -> int:
    """Columns of a feature."""
    return feature.n_classes - 1 if feature.n_classes else feature.dim


def count_columns(cfg: Config, root: Path) -> int:
    """The columns of `Trial.features`, without any data."""
    return sum(_width(feature) for feature in build_features(cfg, root))


def column_frequencies(cfg: Config, root: Path) -> list[float] | None:
    """Hz of the columns of `Trial.features`, if all of them are bands of sound; else None."""
    bands = [feature.bands_hz for feature in build_features(cfg, root)]
    return [float(f) for own in bands if own is not None for f in own] if all(b is not None for b in bands) else None


def build_responses(cfg: Config, root: Path, history: int, future: int = 0) -> Responses:
    """The trials of the config's studies, splits and features.

    Blocks (`splits.plan_blocks`) are cut at `dset.sample_rate`, trimmed by `dset.purge` where splits touch; what is
    trimmed is still heard: it is in the `before` and `after` of its neighbours. `encode.offset_ms` pairs a frame of the
    stimulus with the response so much later, inside the same block. Responses are scaled per unit, by train trials
    alone, as `encode.response` says; a unit that is never measured there, or that cannot be scaled because it never
    varies (`max`: is never above 0), is NaN everywhere.

    Args:
        history, future: frames of features before and after each trial.

    Raises:
        ValueError: no feature, features that do not go together, an empty split, `dset.split_by=subject`;
            `splits.LeakError` on a leak; what `data.assemble` raises.
    """
    dset = cfg.dset
    if not dset.features:
        raise ValueError(f"task.type={cfg.task.type} needs features: dset.features is empty")
    if dset.split_by == "subject":
        raise ValueError(f"task.type={cfg.task.type} learns the channels of each subject, so nobody can be held out: "
                         "use dset.split_by=stimulus")
    sources = find_sources(cfg, root)
    offset = round(cfg.encode.offset_ms / 1000 * dset.sample_rate)
    whole = sources.blocks(dset, purge=0.0)  # purging trims what is learned from, not what was heard
    blocks = limit_subjects(sources.blocks(dset), sources.subjects, dset)
    spans = _spans(sources, blocks, whole, dset.sample_rate, offset)
    report = _audit(spans, sources, dset.sample_rate, dset.strict_text)
    _check_sizes(spans, dset.sample_rate, dset.allow_empty_split)
    heard = _Features(sources, sources.banks(whole, dset), dset.sample_rate)
    present = sorted({sources.subjects[recording] for recording in spans["recording"]})
    units, columns = _units(sources, present)
    stimulus_trials = []
    for _, own in spans.groupby("trial", sort=False):
        features, known = heard.gather(own, history, future)
        stimulus_trials.append((own, features, known))
    heard.standardise([(own, x) for own, x, _ in stimulus_trials], history, future)
    trials = []
    before, after = history * heard.hop, future * heard.hop
    for own, x, known in stimulus_trials:
        x = heard.scaled(x)
        x[~known] = 0
        first = own.iloc[0]
        subject = present.index(sources.subjects[first["recording"]])
        trials.append(Trial(first["name"], first["split"], subject, x[before:len(x) - after], x[:before],
                            x[len(x) - after:], _stack(own, sources, columns, offset, int((units["subject"] == subject)
                                                                                          .sum()))))
    names = ["/".join(sources.subject_names[subject]) for subject in present]
    responses = Responses(trials, names, units, float(dset.sample_rate), [f.name for f in sources.features],
                          heard.slices, heard.hop, report, [])
    _scale(responses, cfg.encode.response)
    return responses


def _spans(sources: Sources, blocks: pd.DataFrame, whole: pd.DataFrame, rate: int, offset: int) -> pd.DataFrame:
    """A row per block that is heard: `recording`, `split`, `name`, `trial` (number: the same for repeats), the samples
    `first` and `stop` of the stimulus, `origin` (of the stimulus chunk's beginning), `block_first`, `block_stop` and
    `heard_first`, `heard_stop` (before purging: those of `whole`); and what the audit reads.

    `offset` samples at the end of each block have no response inside it and are left out.
    """
    blocks = blocks[blocks["split"].isin(SPLITS)].reset_index(drop=True)
    recording = blocks["recording"].to_numpy(int)
    around = pd.merge_asof(blocks[["start", "recording"]].reset_index().sort_values("start"),
                           whole[["start", "stop", "recording"]].assign(heard=whole["start"]).sort_values("start"),
                           on="start", by="recording").set_index("index").sort_index()
    length = np.array(sources.lengths)[recording]
    first, heard_first, stop, heard_stop = (
        np.clip(np.ceil(column.to_numpy() * rate - 1e-6).astype(np.int64), 0, length)
        for column in (blocks["start"], around["heard"], blocks["stop"], around["stop"]))
    silent = (blocks["stimulus"] == "").to_numpy()
    origin = np.where(silent, first, np.rint(blocks["chunk_time"].to_numpy() * rate)).astype(np.int64)
    chunk = [blocks[column] for column in ("uid", "stimulus", "chunk_start", "chunk_stop")]
    chunk_number = pd.Series(pd.MultiIndex.from_arrays(chunk).factorize()[0])
    # the same text may be spoken twice: two stimuli, one split
    several = chunk_number.groupby(blocks["uid"]).nunique()[blocks["uid"]].to_numpy() > 1
    place = blocks["stimulus"].astype(str) + "@" + blocks["chunk_start"].round(3).astype(str)
    name = np.where(several, blocks["uid"].astype(str) + " (" + place + ")", blocks["uid"].astype(str))
    # what nobody heard (words that were read) has no clock on which it could be averaged
    repeat = np.where(silent, np.arange(len(blocks)), -1)
    trial = pd.MultiIndex.from_arrays([np.array(sources.subjects)[recording], chunk_number, repeat]).factorize()[0]
    spans = pd.DataFrame({"recording": recording, "split": blocks["split"], "name": name, "trial": trial,
                          "chunk": np.where(silent, -1 - np.arange(len(blocks)), chunk_number),
                          "first": first, "stop": stop - offset, "origin": origin, "block_first": first,
                          "block_stop": stop, "heard_first": heard_first, "heard_stop": heard_stop,
                          "stimulus": blocks["stimulus"],
                          "shift": blocks["chunk_start"] - blocks["chunk_time"], "chunk_stop": blocks["chunk_stop"]})
    kept = spans[spans["stop"] > spans["first"]].reset_index(drop=True)
    if len(kept) < len(spans):
        logger.info("%d of %d blocks are not longer than encode.offset_ms or outside their recording: left out",
                    len(spans) - len(kept), len(spans))
    return kept


def _audit(spans: pd.DataFrame, sources: Sources, rate: int, strict_text: bool) -> Audit:
    """The leak audit on what is learned and tested."""
    start, stop = spans["block_first"] / rate, spans["block_stop"] / rate
    report = audit(spans.assign(start=start, stop=stop, stimulus_start=start + spans["shift"],
                                stimulus_stop=np.minimum(stop + spans["shift"], spans["chunk_stop"])),
                   sources.subjects, sources.events)
    logger.info("leak audit:\n%s", report.table.drop(columns="example").to_string(index=False))
    report.check(strict_text)
    return report


def _check_sizes(spans: pd.DataFrame, rate: int, allow_empty: bool) -> None:
    """Logs what each split holds; an empty one is an error unless allowed."""
    for split in SPLITS:
        own = spans[spans["split"] == split]
        logger.info("%-5s: %5d trials, %5d different stimuli, %3d recordings, %.1f min with repeats", split,
                    own["trial"].nunique(), own["name"].nunique(), own["recording"].nunique(),
                    (own["stop"] - own["first"]).sum() / rate / 60)
        if len(own) == 0 and not (allow_empty and split != "train"):
            raise ValueError(f"split {split!r} is empty: use more data, other ratios, a smaller "
                             "dset.min_block_duration (so more blocks), another dset.split_assign_seed (chance decides "
                             "where a block goes) or a smaller dset.purge"
                             + ("; or dset.allow_empty_split=true" if split != "train" else ""))


class _Features:
    """All features of the XP, side by side."""

    def __init__(self, sources: Sources, banks: list[Bank | SampleBank], rate: int) -> None:
        self.sources, self.banks, self.pool = sources, banks, BufferPool()
        self.hop = 1
        own_rate = [bank for bank in banks if isinstance(bank, SampleBank)]
        if own_rate:
            feature = own_rate[0].feature
            if len(banks) > 1 or feature.rate % rate:
                raise ValueError(f"feature {feature.name} has {feature.rate:g} rows a second: it stands alone in "
                                 f"dset.features, and dset.sample_rate ({rate} Hz) divides its rate")
            self.hop = round(feature.rate / rate)
        self.slices: dict[str, slice] = {}
        at = 0
        for bank in banks:
            self.slices[bank.feature.name] = slice(at, at + _width(bank.feature))
            at += _width(bank.feature)
        self.mean, self.std = np.zeros(at, np.float32), np.ones(at, np.float32)

    def gather(self, own: pd.DataFrame, history: int, future: int) -> tuple[np.ndarray, np.ndarray]:
        """`(rows, D)` of a trial with `history` frames before it and `future` after, and which of them are known.

        Taken from the repeat that was heard longest; where neighbours in the recording were none in the experiment,
        silence surrounds a block.
        """
        longest = own.iloc[int(np.argmax((own["stop"] - own["first"]).to_numpy()))]
        recording, origin = int(longest["recording"]), int(longest["origin"])
        first = origin + int((own["first"] - own["origin"]).min()) - history
        stop = origin + int((own["stop"] - own["origin"]).max()) + future
        at = np.arange(first, stop)
        known = (at >= 0) & (at < self.sources.lengths[recording])
        alone = np.zeros(len(at), dtype=bool)
        if not self.sources.studies[recording].continuous:
            alone = (at < longest["heard_first"]) | (at >= longest["heard_stop"])
            known |= alone
        parts = [self._rows(bank, recording, at, alone) for bank in self.banks]
        return np.concatenate(parts, axis=1), np.repeat(known, self.hop)

    def _rows(self, bank: Bank | SampleBank, recording: int, at: np.ndarray, alone: np.ndarray) -> np.ndarray:
        feature = bank.feature
        if isinstance(bank, SampleBank):
            rows = bank.gather([(recording, int(at[0]))], len(at), self.pool)[0].astype(np.float32)
            rows[np.repeat(alone, self.hop)] = feature.default
            return rows
        line = bank.index[recording]
        index = np.where(alone | (at < 0) | (at >= len(line)), 0, line[np.clip(at, 0, len(line) - 1)])
        rows = np.asarray(bank.rows[index], dtype=np.float32)
        if feature.n_classes:
            return (rows[:, :1] == np.arange(1, feature.n_classes)).astype(np.float32)
        return rows

    def standardise(self, trials: list[tuple[pd.DataFrame, np.ndarray]], history: int, future: int) -> None:
        """Fits mean and deviation of each column on the train stimuli, each counted once."""
        if self.hop > 1:
            return
        once = {own.iloc[0]["chunk"]: x[history:len(x) - future] for own, x in trials
                if own.iloc[0]["split"] == "train"}
        n = sum(len(x) for x in once.values())
        mean = sum(x.sum(0, dtype=np.float64) for x in once.values()) / n
        variance = sum(((x - mean) ** 2).sum(0) for x in once.values()) / n
        flat = np.sqrt(variance) <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
        if flat.any():
            names = [name for name, columns in self.slices.items() if flat[columns].any()]
            logger.warning("%d of %d feature columns never vary on the train stimuli (%s): they are 0", flat.sum(),
                           len(flat), ", ".join(names))
        self.mean = mean.astype(np.float32)
        self.std = np.where(flat, np.inf, np.sqrt(variance)).astype(np.float32)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Standardised columns, float32."""
        return (x - self.mean) / self.std


def _units(sources: Sources, present: list[int]) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The table of units of these subjects, and of each recording of theirs the column of each of its channels in its
    subject's responses (-1 for a bad one)."""
    tables, columns = [], [np.empty(0, int)] * len(sources.recordings)
    for subject, number in enumerate(present):
        own = [i for i, s in enumerate(sources.subjects) if s == number]
        channels = [sources.prepared[i].channels for i in own]
        table = pd.concat(channels, ignore_index=True).drop_duplicates("name", ignore_index=True)
        for i, its in zip(own, channels, strict=True):
            place = pd.Index(table["name"]).get_indexer(its["name"])
            columns[i] = np.where(its["bad"].to_numpy(bool), -1, place)
        tables.append(table.drop(columns="bad").assign(subject=subject, channel=np.arange(len(table))))
    units = pd.concat(tables, ignore_index=True)
    front = ["subject", "channel", "name"]
    return units[[*front, *(column for column in units if column not in front)]], columns


def _stack(own: pd.DataFrame, sources: Sources, columns: list[np.ndarray], offset: int, n: int) -> np.ndarray:
    """`(R, T, n)` responses of a trial: one row per repeat, on the clock of the stimulus."""
    low = int((own["first"] - own["origin"]).min())
    length = int((own["stop"] - own["origin"]).max()) - low
    out = np.full((len(own), length, n), np.nan, dtype=np.float32)
    for row, repeat in zip(out, own.itertuples(), strict=True):
        at = repeat.first - repeat.origin - low
        place = columns[repeat.recording]
        measured = sources.prepared[repeat.recording].array[repeat.first + offset:repeat.stop + offset]
        row[at:at + len(measured), place[place >= 0]] = measured[:, place >= 0]
    return out


def _scale(responses: Responses, how: str) -> None:
    """Scales the responses in place, by train trials alone."""
    unfit = 0
    for subject in range(len(responses.subjects)):
        own = [trial for trial in responses.trials if trial.subject == subject]
        train = [trial.responses for trial in own if trial.split == "train"]
        channels = range(responses.units_of(subject).stop - responses.units_of(subject).start)
        center, scale = np.zeros(len(channels)), np.ones(len(channels))
        n = sum((np.isfinite(x).sum((0, 1)) for x in train), start=np.zeros(len(channels)))
        if how == "zscore":
            center, scale = _moments(train, n)
        elif how == "max" and train:
            means = [np.where(np.isfinite(x), x, -np.inf).max(0) for x in map(mean_of_repeats, train)]
            scale = np.max(means, axis=0)
        fit = (n > 0) & np.isfinite(scale) & (scale > 1e-6 * np.abs(center)) & (scale > 0)
        unfit += int((~fit).sum())
        scale = np.where(fit, scale, np.nan)
        responses.scales.append((center, scale))
        for trial in own:
            trial.responses[...] = (trial.responses - center) / scale
    if unfit:
        logger.warning("%d of %d units are bad, or have no train response that varies: they are left out", unfit,
                       len(responses.units))
    if unfit == len(responses.units):
        raise ValueError(f"encode.response={how}: no unit has a train response that varies")


def _moments(train: list[np.ndarray], n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all samples and repeats `(R, T, C)` that were measured."""
    total = sum((np.nansum(x, axis=(0, 1), dtype=np.float64) for x in train), start=np.zeros(len(n)))
    mean = np.divide(total, n, out=np.zeros(len(n)), where=n > 0)
    squares = sum((np.nansum((x - mean) ** 2, axis=(0, 1)) for x in train), start=np.zeros(len(n)))
    return mean, np.sqrt(np.divide(squares, n, out=np.zeros(len(n)), where=n > 0))
