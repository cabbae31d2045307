"""Words or phonemes as items of an experiment: which sound they are part of, what was measured after each, splits.

An item is a place in a sound. All who hear the sound share it; a subject who hears it again has a repetition.
"""
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bm.config import Dset
from bm.data.assemble import Sources, purge_seconds
from bm.data.scaling import robust_center_scale
from bm.events import MARGIN, make_blocks, playing

logger = logging.getLogger(__name__)

#: s; the same word of a sound annotated this close in two recordings is one item
SAME = 0.05
#: s; the same word of a sound annotated this close, and never by one recording, looks like clocks that differ
DRIFT = 0.5
#: rows of a recording that its scale is fitted on, and presentations that are gathered at once, at most
SCALE_ROWS, AT_ONCE = 50_000, 256


@dataclass(frozen=True)
class Items:
    """Items and when they were heard.

    Args:
        kind: of event: word or phoneme.
        table: a row per item: `item` (its name), `label` (what is said), `stimulus`, `path`, `start` and `duration` (s
            in the sound), `group` (number: items of one block of the stimulus, and of all blocks with a text of it).
        heard: a row per presentation: `item` (row of `table`), `recording`, `subject` (names), `repetition`, `trigger`
            (sample of its start).
        first, stop: samples of the response about the trigger, baseline included.
        gap: further samples that are kept between responses of train and of test items.
        every: as `table` (without `group`), with those items of the same sounds that are not compared; activations are
            of all of them, so that which items are compared does not change them. (Places are medians over the
            selected recordings, so another selection may move them by milliseconds.)
    """

    kind: str
    table: pd.DataFrame
    heard: pd.DataFrame
    first: int
    stop: int
    gap: int
    every: pd.DataFrame

    def splits(self, n_train: int, n_splits: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
        """Random (train, test) rows, ascending: whole groups, about `n_train` items of them to train on, less those
        whose response lies less than `gap` samples from one of a test item, in any recording (counted in the log).

        Raises:
            ValueError: fewer than two groups or items on a side.
        """
        group = self.table["group"].to_numpy()
        sizes = np.bincount(group)
        cure = (f"use more sound, or a smaller dset.min_block_duration (more groups); the largest of {len(sizes)} "
                f"groups has {sizes.max()} of {len(group)} {self.kind}s")
        if len(sizes) < 4:
            raise ValueError(f"splits are of whole groups (blocks of the stimulus), at least four of them: {cure}")
        rng, out, purged = np.random.RandomState(seed), [], []
        for _ in range(n_splits):
            order = rng.permutation(len(sizes))
            count = int(np.abs(np.cumsum(sizes[order])[1:-2] - n_train).argmin()) + 2
            training = np.isin(group, order[:count])
            near = self.near(training)
            train, test = np.flatnonzero(training & ~near), np.flatnonzero(~training)
            purged.append(int((training & near).sum()))
            if len(np.unique(group[train])) < 2 or len(test) < 2:
                raise ValueError(f"{len(train)} {self.kind}s are left to train on, of {training.sum()}: the others' "
                                 f"responses lie within dset.purge ({self.gap} samples) of those of test items: use "
                                 "a larger dset.min_block_duration, shorter latencies or a smaller dset.purge; or "
                                 f"{cure}")
            out.append((train, test))
        logger.info("%d splits of %d groups: %.0f %ss to train on and %.0f to test on (means); %.0f more were left out "
                    "of train, whose responses overlap those of test items or lie within %d samples of them", n_splits,
                    len(sizes), np.mean([len(train) for train, _ in out]), self.kind,
                    np.mean([len(test) for _, test in out]), np.mean(purged), self.gap)
        return out

    def apart(self) -> np.ndarray:
        """Which pairs of items `(n, n)` are of different groups and have responses `gap` or more apart wherever heard.
        """
        group = self.table["group"].to_numpy()
        out = group[:, None] != group
        for _, own in self.heard.groupby("recording", sort=False):
            item, trigger = own["item"].to_numpy(), own["trigger"].to_numpy()
            close = np.abs(trigger[:, None] - trigger) < self.stop - self.first + self.gap
            first, second = np.nonzero(close)
            out[item[first], item[second]] = False
        return out

    def near(self, training: np.ndarray) -> np.ndarray:
        """Which items `(n,)` have a response that is too close to that of an item that is not `training`."""
        out = np.zeros(len(training), dtype=bool)
        reach = self.stop - self.first + self.gap
        for _, own in self.heard.groupby("recording", sort=False):
            item, trigger = own["item"].to_numpy(), own["trigger"].to_numpy()
            held = np.sort(trigger[~training[item]])
            if len(held):
                after = np.searchsorted(held, trigger)
                distance = np.minimum(np.abs(trigger - held[np.maximum(after - 1, 0)]),
                                      np.abs(trigger - held[np.minimum(after, len(held) - 1)]))
                out[item[distance < reach]] = True
        return out


def list_items(events: Sequence[pd.DataFrame], kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All items of checked events, one table per recording; nothing is left out but what is said outside any sound.

    The same label within `SAME` s is one item; of what one presentation of a sound has twice there, the first counts
    (the log says how many do not). The place of an item in its sound, and its duration, are medians over recordings,
    to the millisecond.

    Returns:
        `table` and `heard` of `Items`, without `group`, `subject`, `repetition` and with `time` (s) for `trigger`.

    Raises:
        ValueError: no event of that kind, or none in a sound.
    """
    parts, outside = [], 0
    paths: dict[str, str] = {}
    for recording, table in enumerate(events):
        sound = (table["kind"] == "sound").to_numpy()
        own = table[(table["kind"] == kind).to_numpy()]
        stimulus, place = playing(table, sound, own["start"].to_numpy(float))
        heard = stimulus != ""
        outside += int((~heard).sum())
        paths |= dict(zip(table["stimulus"][sound], table["filepath"][sound].map(str), strict=True))
        parts.append(pd.DataFrame({
            "stimulus": stimulus[heard], "label": own.get(kind, pd.Series("", own.index)).astype(str)[heard],
            "start": place[heard], "duration": own["duration"].to_numpy(float)[heard], "recording": recording,
            "time": own["start"].to_numpy(float)[heard],
            "playing": np.searchsorted(table["start"][sound], own["start"].to_numpy(float)[heard] + MARGIN)}))
    said = pd.concat(parts, ignore_index=True)
    if not len(said):
        kinds = pd.concat([table["kind"] for table in events]).value_counts().to_dict()
        raise ValueError(f"encoding.items={kind}: no event of this kind lies in a sound that plays ({outside} outside "
                         f"of any); the events are {kinds}: use another kind, or another selection")
    if outside:
        logger.warning("%d of %d %ss are said (or read) while no sound plays: left out", outside, outside + len(said),
                       kind)
    said = said.sort_values(["stimulus", "label", "start"], kind="stable").reset_index(drop=True)
    new = (said["stimulus"] != said["stimulus"].shift()) | (said["label"] != said["label"].shift()) | (
        said["start"].diff() > SAME)
    said["item"] = new.cumsum() - 1
    twice = said.duplicated(["item", "recording", "playing"])
    if twice.any():
        logger.warning("%d %ss have the label of another less than %g s before them in the same recording: taken as "
                       "annotated twice, the first counts", twice.sum(), kind, SAME)
        said = said[~twice]
    _warn_of_drift(said, kind)
    table = said.groupby("item").agg(label=("label", "first"), stimulus=("stimulus", "first"),
                                     start=("start", "median"), duration=("duration", "median"))
    table[["start", "duration"]] = table[["start", "duration"]].round(3)
    order = {stimulus: i for i, stimulus in enumerate(paths)}
    table = table.assign(sound=table["stimulus"].map(order)).sort_values(["sound", "start", "label"], kind="stable")
    place_of = pd.Series(np.arange(len(table)), table.index)
    table = table.drop(columns="sound").reset_index(drop=True)
    table.insert(0, "item", table["stimulus"] + "@" + table["start"].map("{:.3f}".format) + " " + table["label"])
    table.insert(3, "path", table["stimulus"].map(paths))
    heard = said.assign(item=said["item"].map(place_of))[["item", "recording", "time"]]
    return table, heard.sort_values(["recording", "time"], kind="stable").reset_index(drop=True)


def _warn_of_drift(said: pd.DataFrame, kind: str) -> None:
    """Warns where many items have a neighbour of the same label that other recordings have instead."""
    by_item = said.groupby("item")
    table = by_item.agg(label=("label", "first"), stimulus=("stimulus", "first"), start=("start", "median"))
    after = table.shift(-1)
    near = np.flatnonzero((table["label"] == after["label"]) & (table["stimulus"] == after["stimulus"])
                          & (after["start"] - table["start"] < DRIFT))
    who = by_item["recording"].agg(frozenset).to_numpy()
    apart = sum(who[i].isdisjoint(who[i + 1]) for i in near)
    if apart > 0.01 * len(table):
        logger.warning("%d of %d %ss are more than %g s, but less than %g s, from one of the same label that only "
                       "other recordings have: do the recordings' clocks differ, or were they annotated apart? They "
                       "count as different items", apart, len(table), kind, SAME, DRIFT)


def find_items(sources: Sources, dset: Dset, kind: str, first: int, stop: int) -> Items:
    """The items that all subjects heard, with a response from `first` to `stop` samples about their start inside the
    recording; what is left out is counted in the log.

    Each subject has the same number of repetitions of each item, R: that of the subject who heard most of the common
    items the fewest times. Of those who heard more, the first R count; items that someone heard less often do not.

    Raises:
        ValueError: fewer than ten are left.
    """
    table, heard = list_items(sources.events, kind)
    several = len({study for study, _ in sources.subject_names}) > 1
    names = ["/".join(sources.subject_names[i]) if several else sources.subject_names[i][1] for i in sources.subjects]
    heard = heard.assign(subject=heard["recording"].map(dict(enumerate(names))),
                         trigger=np.rint(heard["time"] * dset.sample_rate).astype(np.int64)).drop(columns="time")
    length = np.array(sources.lengths)[heard["recording"]]
    inside = ((heard["trigger"] + first >= 0) & (heard["trigger"] + stop <= length)).to_numpy()
    heard = heard[inside]
    counts = pd.crosstab(heard["item"], heard["subject"]).reindex(
        index=range(len(table)), columns=sorted(set(names)), fill_value=0)
    least = counts.min(axis=1).to_numpy()
    usual = counts[least > 0].mode().min(axis=1)  # over subjects, of the number of times they heard most items
    repetitions = int(usual.iloc[0]) if len(usual) else 1
    keep = least >= repetitions
    if keep.sum() < 10:
        each = {name: int((counts[name] > 0).sum()) for name in counts}
        raise ValueError(f"{keep.sum()} of {len(table)} {kind}s were heard by all {counts.shape[1]} subjects "
                         f"({repetitions} times), expected at least 10; each heard {each}: select fewer subjects, who "
                         "heard the same (by the selection's keys, dset.n_recordings or skip_recordings)")
    heard = heard[keep[heard["item"]]]
    heard = heard.assign(repetition=heard.groupby(["item", "subject"]).cumcount())
    more = (heard["repetition"] >= repetitions).to_numpy()
    logger.info("%d of %d %ss are kept: all %d subjects heard them (repetitions: %d). Left out: %d that not all of "
                "them heard, %d that some heard less often, and of those kept %d further presentations%s", keep.sum(),
                len(table), kind, counts.shape[1], repetitions, (least == 0).sum(), (~keep & (least > 0)).sum(),
                more.sum(), "" if inside.all() else f"; {(~inside).sum()} presentations do not count, whose response "
                                                    "is not whole in the recording")
    every = table[table["stimulus"].isin(set(table["stimulus"][keep]))].reset_index(drop=True)
    place = pd.Series(np.cumsum(keep) - 1, range(len(table)))
    heard = heard[~more].assign(item=lambda h: h["item"].map(place)).reset_index(drop=True)
    table = table.assign(group=_groups(table, sources, dset))[keep].reset_index(drop=True)
    table["group"] = pd.factorize(table["group"])[0]
    return Items(kind, table, heard, first, stop, round(purge_seconds(dset) * dset.sample_rate), every)


def _groups(table: pd.DataFrame, sources: Sources, dset: Dset) -> np.ndarray:
    """The number of the group of each item: its block of the stimulus, and every block that shares a text with it."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    blocks = sources.blocks(dset.model_copy(update={"min_n_blocks_per_split": 0}), purge=0.0)  # none is trained on
    chunks = blocks.loc[blocks["stimulus"] != "", ["stimulus", "chunk_start"]].drop_duplicates()
    without = sorted(set(table["stimulus"]) - set(chunks["stimulus"]))  # sounds in which no block begins
    alone = pd.DataFrame({"stimulus": pd.Series(without, dtype=chunks["stimulus"].dtype), "chunk_start": 0.0})
    chunks = pd.concat([chunks, alone], ignore_index=True)
    chunks = chunks.sort_values("chunk_start", kind="stable").reset_index(drop=True).assign(chunk=lambda c: c.index)
    texts = pd.concat([make_blocks(events, study.blocks, p.duration, recording.name) for events, study, p, recording in
                       zip(sources.events, sources.studies, sources.prepared, sources.recordings, strict=True)])
    texts = texts[texts["stimulus"] != ""]

    def chunk_of(stimulus: pd.Series, start: pd.Series) -> np.ndarray:
        asked = pd.DataFrame({"stimulus": stimulus.to_numpy(), "chunk_start": start.to_numpy(float) + SAME})
        asked = asked.reset_index().sort_values("chunk_start", kind="stable")
        found = pd.merge_asof(asked, chunks, on="chunk_start", by="stimulus").set_index("index").sort_index()["chunk"]
        first = chunks.groupby("stimulus")["chunk"].first()  # what is said before the first block belongs to it
        return found.fillna(pd.Series(stimulus.to_numpy()).map(first)).to_numpy(int)

    text, uids = pd.factorize(texts["uid"])
    edge = (chunk_of(texts["stimulus"], texts["offset"]), len(chunks) + text)
    size = len(chunks) + len(uids)
    joined = connected_components(coo_matrix((np.ones(len(text)), edge), (size, size)), directed=False)[1]
    return joined[chunk_of(table["stimulus"], table["start"])]


def item_responses(items: Items, sources: Sources, windows: Sequence[tuple[int, int]],
                   baseline: tuple[int, int] | None, max_scale: float | None) -> tuple[np.ndarray, pd.DataFrame]:
    """Means over windows of the prepared recordings, and the channels they are of.

    As for decoding, the mean over the baseline is subtracted from each response, which is scaled and clamped to
    ±`max_scale`. Scales (interquartile range; without a baseline also the median) are those of the whole recording,
    which know nothing of what was heard when. A subject's channels are those good in all of their recordings.

    Args:
        windows: (first, stop) samples about the trigger; baseline: the same, or None.

    Returns:
        `(items, channels · windows, repetitions)` float32, subjects side by side; and a row per channel: the prepared
        table of it, with `subject`.

    Raises:
        ValueError: a subject without a channel that is good in all recordings.
    """
    average = np.zeros((items.stop - items.first, len(windows)), np.float32)
    for column, (first, stop) in enumerate(windows):
        average[first - items.first:stop - items.first, column] = 1 / (stop - first)
    before = None if baseline is None else slice(baseline[0] - items.first, baseline[1] - items.first)
    repetitions, values, tables = int(items.heard["repetition"].max()) + 1, [], []
    for subject, presented in items.heard.groupby("subject", sort=True):
        recordings = presented["recording"].unique()
        good = [sources.prepared[r].channels.loc[lambda c: ~c["bad"].astype(bool), "name"] for r in recordings]
        names = [name for name in good[0] if all(name in set(other) for other in good[1:])]
        every = {name for r in recordings for name in sources.prepared[r].channels["name"]}
        if not names:
            raise ValueError(f"{subject}: no channel is good in all {len(recordings)} recordings: select fewer of them")
        if len(names) < len(every):
            logger.warning("%s: %d of %d channels are bad or missing in one of %d recordings: left out", subject,
                           len(every) - len(names), len(every), len(recordings))
        out = np.empty((len(items.table), len(names), len(windows), repetitions), np.float32)
        for recording in recordings:
            p = sources.prepared[recording]
            columns = pd.Index(p.channels["name"]).get_indexer(names)
            center, scale = robust_center_scale(p.array[::len(p.array) // SCALE_ROWS + 1, columns])
            own = presented[presented["recording"] == recording]
            for at in range(0, len(own), AT_ONCE):
                some = own.iloc[at:at + AT_ONCE]
                x = np.stack([p.array[t + items.first:t + items.stop] for t in some["trigger"]])[:, :, columns]
                x -= center if before is None else x[:, before].mean(1, keepdims=True)
                x /= scale
                if max_scale is not None:
                    np.clip(x, -max_scale, max_scale, out=x)
                out[some["item"], :, :, some["repetition"]] = np.einsum("ntc,tw->ncw", x, average, optimize=True)
        values.append(out.reshape(len(items.table), -1, repetitions))
        channels = sources.prepared[recordings[0]].channels.set_index("name", drop=False).loc[names]
        tables.append(channels.assign(subject=str(subject)))
    return np.concatenate(values, 1), pd.concat(tables, ignore_index=True)
