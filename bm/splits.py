"""Train, valid and test, without leaks.

Splits are drawn once per *stimulus*, on the stimulus's own clock, and laid onto every recording where that stimulus is
heard. So all who hear a sentence have it in one split, whatever a trigger's jitter or a missing annotation does to one
of them; and the chunks of sound from which features are computed are the same for all.
"""
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
#: s; the same sentence at two places of one sound closer than this is one sentence annotated with jitter
SAME_PLACE = 0.5


class LeakError(ValueError):
    """Something of a held-out split is also in another split."""


@dataclass(frozen=True)
class SplitRule:
    """How blocks are merged and assigned; the keys of `dset` with the same names."""

    test_ratio: float = 0.2
    valid_ratio: float = 0.1
    remove_ratio: float = 0.0
    split_assign_seed: int = 12
    min_block_duration: float = 6.0
    min_n_blocks_per_split: int = 1
    purge: float = 0.0
    fold: int = 0
    n_folds: int | None = None
    split_by: str = "stimulus"


def split_score(uid: str, seed: int = 12) -> float:
    """A number in [0, 1) drawn from the content of a block alone: `Random(sha256(uid) + seed).random()`."""
    return random.Random(int(hashlib.sha256(uid.encode()).hexdigest(), 16) + seed).random()


def assign_splits(uids: Sequence[str], rule: SplitRule) -> np.ndarray:
    """"test", "valid", "removed" or "train" for each of different uids (of blocks, or of subjects).

    Without folds: the first of these splits whose cumulative ratio exceeds the uid's score. With `n_folds`: uids in the
    order of their scores are dealt into folds of equal size (to within one), fold number `fold` is test, and the rest
    is divided by another score of theirs, so that `valid_ratio` and `remove_ratio` stay shares of the whole.

    Raises:
        ValueError: when a split that has blocks has fewer than `min_n_blocks_per_split`.
    """
    names = np.array(["test", "valid", "removed", "train"], dtype=object)
    ratios = np.array([rule.test_ratio, rule.valid_ratio, rule.remove_ratio])
    scores = np.array([split_score(uid, rule.split_assign_seed) for uid in uids])
    in_fold = np.zeros(len(uids), dtype=bool)
    if rule.n_folds:
        rank = np.empty(len(uids), dtype=int)
        rank[np.lexsort((np.array(uids), scores))] = np.arange(len(uids))
        in_fold = rank * rule.n_folds // len(uids) == rule.fold
        scores = np.array([split_score(uid, rule.split_assign_seed + 1) for uid in uids])
        ratios = np.array([0, *ratios[1:]]) / (1 - 1 / rule.n_folds)
    split = names[np.searchsorted(np.cumsum(ratios), scores, side="right")]
    split[in_fold] = "test"
    for name in SPLITS:
        n = int((split == name).sum())
        if 0 < n < rule.min_n_blocks_per_split:
            raise ValueError(f"split {name!r} has {n} blocks, expected at least {rule.min_n_blocks_per_split}: lower "
                             "dset.min_n_blocks_per_split or change the ratios or dset.split_assign_seed")
    return split


def merge_groups(start: np.ndarray, stop: np.ndarray, min_s: float, first: float | None = None) -> np.ndarray:
    """Group number of each block when short ones are merged in order: a group is closed once it is longer than `min_s`.

    Args:
        start, stop: `(n,)` seconds, in order.
        min_s: seconds; 0 merges nothing.
        first: where the first group begins; its first block's start by default.
    """
    group = np.zeros(len(start), dtype=int)
    if not len(start):
        return group
    current, begin = 0, float(start[0]) if first is None else first
    for i in range(len(start)):  # few blocks, and each step needs the one before
        group[i] = current
        if stop[i] > begin + min_s or min_s == 0:
            current, begin = current + 1, stop[i]
    return group


def _canonical(blocks: pd.DataFrame, stop_of: pd.Series, rule: SplitRule, merge: bool) -> pd.DataFrame:
    """The blocks of every stimulus on its own clock: stimulus, start, stop (s in the file), uid.

    `blocks` are those of all recordings; the place of a sentence in its sound is the median over recordings.
    """
    blocks = blocks.sort_values(["stimulus", "uid", "offset"], kind="stable")
    new = (blocks["stimulus"] != blocks["stimulus"].shift()) | (blocks["uid"] != blocks["uid"].shift()) | (
        blocks["offset"].diff() > SAME_PLACE)
    place = blocks.groupby(new.cumsum().to_numpy(), sort=False).agg(
        stimulus=("stimulus", "first"), uid=("uid", "first"), start=("offset", "median"))
    place = place.sort_values(["stimulus", "start"], kind="stable").reset_index(drop=True)
    place["start"] = place["start"].round(3)  # features are cached by these times
    following = place.groupby("stimulus")["start"].shift(-1)
    place["stop"] = following.fillna(place["stimulus"].map(stop_of)).round(3)
    if merge and rule.min_block_duration > 0:
        group = np.concatenate([merge_groups(part["start"].to_numpy(), part["stop"].to_numpy(), rule.min_block_duration)
                                for _, part in place.groupby("stimulus", sort=False)])
        place = place.groupby([place["stimulus"], group], sort=False).agg(
            start=("start", "first"), stop=("stop", "last"), uid=("uid", ",".join)).reset_index("stimulus")
    return place.reset_index(drop=True)


def plan_blocks(base: pd.DataFrame, sounds: pd.DataFrame, durations: Sequence[float], rule: SplitRule,
                merge: bool = True, fixed: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The blocks of every recording with their split.

    Args:
        base: `events.make_blocks` of all recordings, with a column `recording` (index).
        sounds: the checked sound events of all recordings, with a column `recording`.
        durations: of each recording, seconds.
        rule: ratios, seed, merging, purge.
        merge: whether the study lets short blocks be merged (blocks without a sound never are: they have no clock
            that all subjects share).
        fixed: stimulus → split, for those that are not drawn.

    Returns:
        A table sorted by recording and start, blocks disjoint within a recording: `recording`, `start`, `stop` (s),
        `uid`, `split`, `stimulus`, `chunk_start`, `chunk_stop` (s in the stimulus: the chunk features are made from),
        `chunk_time` (s in the recording where the chunk begins). `start`–`stop` is shorter than the chunk where the
        recording hears only part of it or `purge` trimmed it, longer where silence follows.
    """
    heard = base[base["stimulus"] != ""]
    stop_of = (sounds["offset"] + sounds["duration"]).groupby(sounds["stimulus"]).max()
    silent = base.loc[base["stimulus"] == "", ["recording", "start", "stop", "uid", "stimulus"]]
    parts = [silent.assign(chunk_start=0.0, chunk_stop=0.0, chunk_time=0.0)] if len(silent) else []
    if len(heard):
        parts.append(_lay(_canonical(heard, stop_of, rule, merge), sounds, durations))
    blocks = pd.concat(parts)
    blocks = blocks.sort_values(["recording", "start"], kind="stable").reset_index(drop=True)
    blocks = _drop_overlapping(blocks)
    fixed = fixed or {}
    if unknown := set(fixed.values()) - {*SPLITS, "removed"}:
        raise ValueError(f"events of kind sound, column 'split': got {sorted(map(str, unknown))}, expected "
                         f"{', '.join(SPLITS)} or removed, or nothing where it is to be drawn")
    assigned = blocks["stimulus"].map(fixed)
    uids = blocks.loc[assigned.isna(), "uid"].unique()
    by_block = rule if rule.split_by == "stimulus" else replace(rule, n_folds=None)
    drawn = blocks["uid"].map(dict(zip(uids, assign_splits(list(uids), by_block), strict=True)))
    blocks["split"] = drawn if assigned.isna().all() else assigned.where(assigned.notna(), drawn)
    return blocks if rule.split_by == "subject" else _purge(blocks, rule.purge)


def hold_out_subjects(blocks: pd.DataFrame, subjects: Sequence[str], rule: SplitRule) -> pd.DataFrame:
    """Splits by subject (`dset.split_by=subject`): nobody is in two splits, and nothing that is heard either.

    Subjects are assigned to splits as blocks are (ratios, or folds). With folds, `n_folds` = number of subjects leaves
    one out at a time, and the valid and removed shares of the others are whole numbers of people, at least one where
    the ratio is not 0. A block that has a sound keeps its own split, and is removed from the recordings of subjects in
    another one; a block without a sound goes where its subject goes.

    Args:
        blocks: from `plan_blocks`.
        subjects: of each recording.
    """
    names = sorted(set(subjects))
    of_subject = dict(zip(names, _assign_subjects(names, rule), strict=True))
    mine = blocks["recording"].map(lambda recording: of_subject[subjects[recording]])
    silent = blocks["stimulus"] == ""
    return _purge(blocks.assign(split=mine.where(silent | (mine == blocks["split"]), "removed")), rule.purge)


def _assign_subjects(names: Sequence[str], rule: SplitRule) -> np.ndarray:
    """The split of each subject. Of a handful of people, chance alone would often leave none to validate on.

    Raises:
        ValueError: more folds than subjects.
    """
    if rule.n_folds is None:
        return assign_splits(names, rule)
    if rule.n_folds > len(names):
        raise ValueError(f"dset.n_folds={rule.n_folds}, but there are {len(names)} subjects to hold out: use at most "
                         "as many folds")
    split = assign_splits(names, replace(rule, valid_ratio=0.0, remove_ratio=0.0, min_n_blocks_per_split=0))
    rest = sorted(np.flatnonzero(split == "train").tolist(),
                  key=lambda i: split_score(names[i], rule.split_assign_seed + 1))
    for name, ratio in (("valid", rule.valid_ratio), ("removed", rule.remove_ratio)):
        number = max(1, round(ratio * len(names))) if ratio else 0
        split[rest[:number]] = name
        rest = rest[number:]
    return split


def _lay(plan: pd.DataFrame, sounds: pd.DataFrame, durations: Sequence[float]) -> pd.DataFrame:
    """Lays the stimulus blocks onto each recording, through the sound events."""
    sounds = sounds.sort_values(["recording", "start"], kind="stable").reset_index(drop=True)
    following = sounds.groupby("recording")["start"].shift(-1)
    sounds["next"] = following.fillna(sounds["recording"].map(dict(enumerate(durations))))
    if "until" in sounds:  # see `events.make_blocks`
        sounds["next"] = np.fmin(sounds["next"], sounds["until"])
    pairs = sounds.merge(plan, on="stimulus", suffixes=("_sound", ""))
    low = np.maximum(pairs["start"], pairs["offset"])
    high = np.minimum(pairs["stop"], pairs["offset"] + pairs["duration"])
    shift = pairs["start_sound"] - pairs["offset"]
    last = high >= pairs["offset"] + pairs["duration"] - 1e-3  # the silence after a sound belongs to its last block
    stop = np.minimum(np.where(last, np.maximum(pairs["next"], high + shift), high + shift), pairs["next"])
    laid = pd.DataFrame({
        "recording": pairs["recording"], "start": low + shift, "stop": stop, "uid": pairs["uid"],
        "stimulus": pairs["stimulus"], "chunk_start": pairs["start"], "chunk_stop": pairs["stop"],
        "chunk_time": pairs["start"] + shift})
    return laid[(high > low) & (laid["stop"] > laid["start"])]


def _drop_overlapping(blocks: pd.DataFrame) -> pd.DataFrame:
    """Drops blocks without a sound that overlap one with a sound (counted); two that both have one are an error."""
    previous_stop = blocks.groupby("recording")["stop"].cummax().groupby(blocks["recording"]).shift(1)
    overlap = (blocks["start"] < previous_stop - 1e-6).to_numpy(bool)
    if overlap.any():
        silent = (blocks["stimulus"] == "").to_numpy()
        drop = (overlap & silent) | (np.r_[overlap[1:], False] & silent)
        if not drop.any():
            row = blocks[overlap].iloc[0]
            raise ValueError(f"recording {row['recording']}: two sounds overlap at {row['start']:.3f} s (block "
                             f"{row['uid'][:60]!r}): check the sounds' starts and durations")
        logger.warning("%d blocks lie outside any sound but overlap one that does not: dropped", drop.sum())
        return _drop_overlapping(blocks[~drop].reset_index(drop=True))
    return blocks


def _purge(blocks: pd.DataFrame, purge: float) -> pd.DataFrame:
    """Trims `purge` seconds where two splits touch: from train, then from valid, never from test."""
    if purge <= 0 or len(blocks) < 2:
        return blocks
    rank = blocks["split"].map({"train": 0, "removed": 0, "valid": 1, "test": 2}).to_numpy()
    start, stop = blocks["start"].to_numpy().copy(), blocks["stop"].to_numpy().copy()
    same = blocks["recording"].to_numpy()[1:] == blocks["recording"].to_numpy()[:-1]
    missing = np.where(same & (rank[1:] != rank[:-1]), np.maximum(purge - (start[1:] - stop[:-1]), 0), 0)
    start[1:] += np.where(rank[1:] < rank[:-1], missing, 0)
    stop[:-1] -= np.where(rank[:-1] < rank[1:], missing, 0)
    blocks = blocks.assign(start=start, stop=stop)
    return blocks[blocks["stop"] > blocks["start"]].reset_index(drop=True)
