"""Config → everything an XP reads: recordings, prepared arrays, splits, segments, features, montages."""
import logging
import random
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from bm.batch import BatchSpec, FeatureSpec
from bm.config import Config, Dset, nearest
from bm.data.audit import Audit, audit
from bm.data.loader import Montages, SegmentDataset
from bm.data.noise import noise_recordings
from bm.data.pairs import right_pairs, shuffled_pairs
from bm.data.prepare import Prepared, filter_length, prepare_all, read_events
from bm.data.segments import Window, segment_table
from bm.data.tracks import Bank, SampleBank, build_bank, build_event_bank, word_mask
from bm.events import check_events, make_blocks, sounds_of
from bm.features import EventFeature, Feature, FeatureContext, SoundFeature, build_feature
from bm.splits import SPLITS, SplitRule, hold_out_subjects, plan_blocks
from bm.store import Store
from bm.studies.base import STUDIES, Recording, Study

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """All data of an XP. `segments` is the table whose row numbers are segment ids; `heard (N,)` are the segments whose
    features they have, their own unless pairs are shuffled."""

    recordings: list[Recording]
    prepared: list[Prepared]
    events: list[pd.DataFrame]
    blocks: pd.DataFrame
    segments: pd.DataFrame
    heard: np.ndarray
    banks: list[Bank | SampleBank]
    words: list[np.ndarray]
    montages: Montages
    subjects: list[int]
    windows: dict[str, Window]
    spec: BatchSpec
    audit: Audit

    def dataset(self, split: str) -> SegmentDataset:
        """The dataset that gathers segments of the length used in `split`."""
        return SegmentDataset([p.array for p in self.prepared], self.montages, self.segments,
                              self.windows[split].samples(round(self.spec.sample_rate)), self.subjects, self.banks,
                              self.words, self.heard)

    def ids(self, split: str) -> np.ndarray:
        """Ids of the segments of a split."""
        return np.flatnonzero((self.segments["split"] == split).to_numpy())

    def trained_subjects(self) -> np.ndarray:
        """Numbers of the subjects who have train segments, sorted."""
        train = self.segments.loc[self.segments["split"] == "train", "recording"]
        return np.unique(np.asarray(self.subjects)[train.unique()])


def build_studies(cfg: Config, root: Path) -> list[Study]:
    """The study of each selection, prepared (downloaded or made) if it has to be.

    Raises:
        ValueError: a selection of an unknown study.
        FileNotFoundError: no folder where a study should be.
    """
    import bm.studies  # noqa: F401  registers them
    studies = []
    for name in cfg.dset.selections:
        selection = dict(cfg.selections[name])
        key = selection.pop("study")
        if key not in STUDIES:
            raise ValueError(f"selections.{name}.study: unknown study {key!r}; known: {', '.join(sorted(STUDIES))}"
                             + nearest(key, STUDIES))
        path = root / cfg.study_paths[key] if key in cfg.study_paths else None
        study = STUDIES[key](path, **selection)
        study.prepare()
        if path is not None and not path.exists():
            raise FileNotFoundError(f"selections.{name}: the study {key!r} is not in {path.absolute()}: download it "
                                    f"there, or say where it is with study_paths.{key}=… (or BM_DATA, the folder that "
                                    "has a folder for each study)")
        studies.append(study)
    return studies


def list_recordings(studies: list[Study], dset: Dset) -> tuple[list[Recording], list[Study]]:
    """The recordings of all studies, interleaved, as `n_recordings`, `skip_recordings` and the shuffle ask; and the
    study of each.

    Raises:
        ValueError: a uid twice, or no recording.
    """
    lists = []
    for study in studies:
        listed = [(recording, study) for recording in study.recordings()]
        if dset.shuffle_recordings_seed >= 0:
            random.Random(dset.shuffle_recordings_seed).shuffle(listed)
        lists.append(listed)
    pairs = [pair for row in zip_longest(*lists) for pair in row if pair is not None]
    names = pd.Series([recording.name for recording, _ in pairs], dtype=str)
    if names.duplicated().any():
        raise ValueError(f"two recordings are called {names[names.duplicated()].iloc[0]!r}: uids must be unique within "
                         "a study, and a study may be selected once")
    chosen = pairs[dset.skip_recordings:dset.skip_recordings + dset.n_recordings]
    if not chosen:
        raise ValueError(f"no recording is left: the selections {dset.selections} have {len(pairs)}, and "
                         f"dset.skip_recordings is {dset.skip_recordings}")
    return [recording for recording, _ in chosen], [study for _, study in chosen]


def purge_seconds(dset: Dset) -> float:
    """What is trimmed where two splits touch."""
    return (filter_length(dset.sample_rate, dset.highpass, dset.lowpass, dset.notch) if dset.purge is None
            else dset.purge)


@dataclass(frozen=True)
class Sources:
    """What was measured and what was heard, before anything is cut: lists have one entry per recording.

    Args:
        sounds: the sound events of all recordings, with a column `recording`.
        features: not yet computed.
        subjects: index into `subject_names`, pairs (study, subject).
    """

    recordings: list[Recording]
    studies: list[Study]
    prepared: list[Prepared]
    events: list[pd.DataFrame]
    sounds: pd.DataFrame
    features: list[Feature]
    subjects: list[int]
    subject_names: list[tuple[str, str]]
    store: Store

    @property
    def lengths(self) -> list[int]:
        """Samples of each recording."""
        return [len(p.array) for p in self.prepared]

    def blocks(self, dset: Dset, purge: float | None = None) -> pd.DataFrame:
        """Blocks and splits, study by study (each has its own rule); `purge` (s) as `dset` says if it is None.

        A study may assign a sound to a split itself, by a column `split` of its sound events.
        """
        purge = purge_seconds(dset) if purge is None else purge
        rule = SplitRule(dset.test_ratio, dset.valid_ratio, dset.remove_ratio, dset.split_assign_seed,
                         dset.min_block_duration, dset.min_n_blocks_per_split, purge, dset.fold, dset.n_folds,
                         dset.split_by)
        durations = [p.duration for p in self.prepared]
        fixed = dict(self.sounds.dropna(subset=["split"])[["stimulus", "split"]].itertuples(index=False, name=None)
                     ) if "split" in self.sounds else {}
        plans = []
        for study in dict.fromkeys(self.studies):
            own = [i for i, s in enumerate(self.studies) if s is study]
            base = pd.concat([make_blocks(self.events[i], study.blocks, durations[i], self.recordings[i].name)
                              .assign(recording=i) for i in own], ignore_index=True)
            merge = study.merge_blocks and not dset.force_uid_assignement
            plans.append(plan_blocks(base, self.sounds[self.sounds["recording"].isin(own)], durations, rule, merge,
                                     fixed))
        blocks = pd.concat(plans, ignore_index=True).sort_values(["recording", "start"], ignore_index=True)
        if dset.split_by == "subject":
            return hold_out_subjects(blocks, [f"{r.study}/{r.subject}" for r in self.recordings], rule)
        return blocks

    def banks(self, blocks: pd.DataFrame, dset: Dset) -> list[Bank | SampleBank]:
        """The features, computed and placed in every recording."""
        files = {stimulus: Path(path) for stimulus, path in zip(self.sounds["stimulus"], self.sounds["filepath"],
                                                                strict=True)} if len(self.sounds) else {}
        banks: list[Bank | SampleBank] = []
        for feature in self.features:
            if isinstance(feature, EventFeature):
                banks.append(build_event_bank(feature, self.events, blocks, self.lengths, dset.sample_rate, self.store))
            elif isinstance(feature, SoundFeature):
                banks.append(build_bank(feature, blocks, files, self.lengths, dset.sample_rate,
                                        dset.feature_resampling, self.store))
        return banks


def build_features(cfg: Config, root: Path) -> list[Feature]:
    """The features of `dset.features`, not yet computed. Errors: see `features.build_feature`."""
    context = FeatureContext(root / cfg.features_models, cfg.device)
    return [build_feature(name, cfg.dset.features_params.get(name, {}), context) for name in cfg.dset.features]


def find_sources(cfg: Config, root: Path) -> Sources:
    """Recordings, prepared, and their events, checked; everything slow is cached. Relative paths start at `root`.

    Raises:
        ValueError: a recording without a sampling rate, bad events… each with its place and cure.
    """
    dset = cfg.dset
    store = Store(root / cfg.cache)
    features = build_features(cfg, root)  # first: what one lacks is said before hours of preparation
    recordings, studies = list_recordings(build_studies(cfg, root), dset)
    prepared = prepare_all(recordings, store, dset.sample_rate, dset.highpass, cfg.num_workers, dset.lowpass,
                           dset.notch)
    for recording, p in zip(recordings, prepared, strict=True):
        if p.sample_rate is None:
            raise ValueError(f"{recording.name} has one row per event, not a signal in time: task.type={cfg.task.type} "
                             "cuts windows out of signals")
    events = [check_events(read_events(recording, store), recording.name, p.duration)
              for recording, p in zip(recordings, prepared, strict=True)]
    subject_names = sorted({(r.study, r.subject) for r in recordings})
    subjects = [subject_names.index((r.study, r.subject)) for r in recordings]
    return Sources(recordings, studies, prepared, events, sounds_of(events), features, subjects, subject_names, store)


def limit_subjects(segments: pd.DataFrame, subjects: list[int], dset: Dset) -> pd.DataFrame:
    """Keeps the first subjects only, where `n_subjects` (train, valid) or `n_subjects_test` ask for it."""
    rank = {subject: i for i, subject in enumerate(dict.fromkeys(subjects))}
    order = segments["recording"].map(lambda r: rank[subjects[r]])
    limits = {"train": dset.n_subjects, "valid": dset.n_subjects, "test": dset.n_subjects_test}
    limit = segments["split"].map({split: n or len(rank) for split, n in limits.items()} | {"removed": 0})
    keep = order.to_numpy(int) < limit.to_numpy(int)  # of no type where there is no segment
    return segments[keep].reset_index(drop=True)


def assemble(cfg: Config, root: Path, *, tell_audit: bool = True) -> Data:
    """Builds all data of an XP; everything slow is cached. Relative paths start at `root`.

    Without `tell_audit` a leak is an error all the same, but a clean audit is not logged: another one counts.

    Raises:
        ValueError: bad events, an empty split, a leak (`splits.LeakError`)… each with its place and cure.
    """
    dset = cfg.dset
    sources = find_sources(cfg, root)
    recordings, prepared, events, lengths = sources.recordings, sources.prepared, sources.events, sources.lengths
    blocks, subjects = sources.blocks(dset), sources.subjects

    short = Window(dset.tmin, dset.tmax, dset.condition)
    windows = {"train": short, "valid": short, "test": Window(*dset.test_window, dset.test.condition)}
    segments = segment_table(events, blocks, lengths, windows, dset.sample_rate, [r.name for r in recordings])
    segments = limit_subjects(segments, subjects, dset)
    report = audit(segments, subjects, events)
    if tell_audit:
        logger.info("leak audit:\n%s", report.table.drop(columns="example").to_string(index=False))
    report.check(dset.strict_text, shared_subjects=dset.split_by != "subject", warn=tell_audit)
    _check_sizes(segments, blocks, recordings, dset)

    banks = sources.banks(blocks, dset)
    words = [word_mask(table, length, dset.sample_rate) for table, length in zip(events, lengths, strict=True)]
    if not dset.event_mask:
        words = [np.ones_like(mask) for mask in words]
    montages = Montages.from_tables([p.channels for p in prepared])
    spec = BatchSpec(
        channels=montages.valid.shape[1], times=short.samples(dset.sample_rate), sample_rate=dset.sample_rate,
        tmin=dset.tmin, subjects=tuple(f"{study}/{subject}" for study, subject in sources.subject_names),
        features=tuple(FeatureSpec(b.feature.name, b.feature.dim,
                                   b.feature.rate if isinstance(b, SampleBank) else dset.sample_rate,
                                   b.feature.n_classes) for b in banks))
    if cfg.task.noise_brain:
        prepared = noise_recordings(prepared, cfg.seed)
    heard = shuffled_pairs(segments, cfg.seed) if cfg.task.shuffle_pairs else right_pairs(segments)
    return Data(recordings, prepared, events, blocks, segments, heard, banks, words, montages, subjects, windows, spec,
                report)


def _check_sizes(segments: pd.DataFrame, blocks: pd.DataFrame, recordings: list[Recording], dset: Dset) -> None:
    """Logs what each split holds; an empty one is an error unless allowed."""
    for split in SPLITS:
        own = segments[segments["split"] == split]
        minutes = (blocks["stop"] - blocks["start"])[blocks["split"] == split].sum() / 60
        logger.info("%-5s: %6d segments, %5d different, %3d recordings, %3d blocks, %.1f min", split, len(own),
                    own["candidate"].nunique(), own["recording"].nunique(), (blocks["split"] == split).sum(), minutes)
        if len(own) == 0 and not dset.allow_empty_split:
            n = int((blocks["split"] == split).sum())
            cure = ("a shorter window, other ratios or a larger dset.min_block_duration" if n else
                    "other ratios, a smaller dset.min_block_duration (so more blocks) or another "
                    "dset.split_assign_seed (chance decides where a block goes)")
            raise ValueError(
                f"split {split!r} is empty: {len(recordings)} recordings, {n} blocks of it, none holds a whole window "
                f"of {dset.tmax - dset.tmin:g} s. Use more data, {cure}; or dset.allow_empty_split=true"
                f"{'' if split == 'test' else _purge_advice(dset)}")


def _purge_advice(dset: Dset) -> str:
    """What the trimming has to do with an empty split, where it is long."""
    purge = purge_seconds(dset)
    if purge < dset.min_block_duration / 4:
        return ""
    why = f"half the length of the filter of dset.highpass={dset.highpass:g}" if dset.purge is None else "dset.purge"
    return (f". Note that {purge:.3g} s ({why}) are trimmed from train and valid wherever they touch another split, "
            f"beside blocks of about {dset.min_block_duration:g} s: larger blocks (dset.min_block_duration="
            f"{max(4 * purge, 2 * dset.min_block_duration):.0f}), a higher dset.highpass or none, or a smaller "
            "dset.purge (what the filter spreads over the border is then in both splits) leave more")
