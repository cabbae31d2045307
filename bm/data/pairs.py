"""Wrong pairs of brain and stimulus, for the control of a decoder that was trained on them (`task.shuffle_pairs`)."""
import logging

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

#: their own random stream
PAIR_STREAM = 4

#: rotations that are tried for each recording, and rounds of draws for what none of them suits
TRIES = 64


def right_pairs(segments: pd.DataFrame) -> np.ndarray:
    """Each segment with what was heard in it."""
    return np.arange(len(segments))


def shuffled_pairs(segments: pd.DataFrame, seed: int) -> np.ndarray:
    """For each segment the id `(n,)` of the one whose features it gets: another one in train and valid, itself in test.

    Within a recording and split the features are rotated against the brain, by one random number of segments between a
    quarter and three quarters: their order and rhythm stay, only what goes with what is wrong. A partner never shares
    a second of sound or of the recording with its segment, nor its place in a sentence. Where no rotation of a
    recording gives that (a single block), partners are drawn from other recordings of the split, which is logged.

    Args:
        segments: the segment table (`data/segments.py`).
        seed: of the rotations; the pairs are the same in all epochs.

    Errors: ValueError if everything in a split sounds alike, so that there is no wrong pair.
    """
    clash = _Clash(segments)
    heard = right_pairs(segments)
    for number, split in enumerate(("train", "valid")):
        own = np.flatnonzero((segments["split"] == split).to_numpy())
        for recording in np.unique(clash.recording[own]):
            ids = own[clash.recording[own] == recording]
            ids = ids[np.argsort(clash.start[ids], kind="stable")]
            rng = np.random.default_rng([seed, PAIR_STREAM, number, recording])
            heard[ids] = _rotated(ids, clash, rng)
        lost = own[clash(own, heard[own])]
        if len(lost):
            logger.warning("task.shuffle_pairs: %d of %d segments of split %r have no other sound in their recording; "
                           "they get one of another recording", len(lost), len(own), split)
        rng = np.random.default_rng([seed, PAIR_STREAM, number])
        for _ in range(TRIES):
            heard[lost] = rng.choice(own, len(lost)) if len(lost) else lost
            lost = lost[clash(lost, heard[lost])]
        if len(lost):
            raise ValueError(f"task.shuffle_pairs: {len(lost)} segments of split {split!r} have no wrong pair, as all "
                             "there is sounds alike: use more data, or a larger dset.valid_ratio")
    return heard


class _Clash:
    """Which segments are too close to be a wrong pair: `clash(a, b)` of two lists of ids."""

    def __init__(self, segments: pd.DataFrame) -> None:
        self.start, self.stop, self.sound_start, self.sound_stop = (
            segments[name].to_numpy(float) for name in ("start", "stop", "stimulus_start", "stimulus_stop"))
        self.recording, self.candidate = segments["recording"].to_numpy(), segments["candidate"].to_numpy()
        self.sound = np.where(segments["stimulus"] != "", pd.factorize(segments["stimulus"])[0], -1)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        brain = (self.recording[a] == self.recording[b]) & (self.start[a] < self.stop[b]) & (
            self.start[b] < self.stop[a])
        sound = (self.sound[a] == self.sound[b]) & (self.sound[a] >= 0) & (
            self.sound_start[a] < self.sound_stop[b]) & (self.sound_start[b] < self.sound_stop[a])
        return brain | sound | (self.candidate[a] == self.candidate[b])


def _rotated(ids: np.ndarray, clash: _Clash, rng: np.random.Generator) -> np.ndarray:
    """`ids` rotated so that as few as possible clash with those before; of `TRIES` random rotations the first best."""
    quarter = len(ids) // 4
    shifts = rng.permutation(np.arange(quarter, len(ids) - quarter + 1))[:TRIES]
    best, least = ids, len(ids) + 1
    for shift in shifts:
        partner = np.roll(ids, -shift)
        clashes = int(clash(ids, partner).sum())
        if clashes < least:
            best, least = partner, clashes
        if not clashes:
            break
    return best
