"""Which stretch of the stimulus was it? Reconstructions compared with all candidates by correlation."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bm.linear.kernel import to_numpy
from bm.metrics.retrieval import Retrieval, retrieval


@dataclass(frozen=True)
class Identified:
    """Ranks of all segments, and what they are: `trial` and `number` `(segments,)`, the `number`-th of its trial;
    `candidate`, the same for what is heard at one place of a stimulus; `samples` of a segment."""

    result: Retrieval
    trial: np.ndarray
    number: np.ndarray
    candidate: np.ndarray
    samples: int


def identify(estimates: Sequence[Any], truths: Sequence[Any], stimuli: Sequence[str], samples: int | None = None, *,
             ks: Sequence[int] = (1, 5, 10)) -> Identified:
    """Ranks the own stimulus segment of each reconstructed one among those of all stimuli, each a candidate once.

    The score is that of decoders (`bm.losses.ClipLoss`) on features each centred and of norm 1 over the segment: Σ r /
    √n, with r Pearson's correlation of each feature with the candidate (0 for one that is constant in either) and n the
    number of features that vary in the candidate. Where all features vary in all candidates they are ranked by mean r,
    as in O'Sullivan et al. 2015, doi:10.1093/cercor/bht355, for attended speech.

    Args:
        estimates, truths: `(T, F)` per trial.
        stimuli: name of each trial's stimulus; trials of one name have the same candidates.
        samples: of a segment, which lie one after the other; what is left at a trial's end is left out. None: whole
            trials, all of one length.
        ks: numbers of best candidates in which to be found.

    Raises:
        ValueError: shapes that do not match, trials of several lengths without `samples`, or fewer than two candidates.
    """
    if not len(estimates) == len(truths) == len(stimuli) > 0:
        raise ValueError(f"{len(estimates)} estimates, {len(truths)} truths and {len(stimuli)} stimuli: expected the "
                         "same number, at least one")
    guesses, rights = [to_numpy(x) for x in estimates], [to_numpy(x) for x in truths]
    for i, (guess, right) in enumerate(zip(guesses, rights, strict=True)):
        if guess.shape != right.shape or guess.ndim != 2:
            raise ValueError(f"trial {i}: estimate {guess.shape} and truth {right.shape} must be the same (T, F)")
    lengths = {len(right) for right in rights}
    if samples is None and len(lengths) > 1:
        raise ValueError(f"trials have {min(lengths)} to {max(lengths)} samples: say how long segments are")
    n = lengths.pop() if samples is None else samples
    trial = np.repeat(np.arange(len(rights)), [len(right) // n for right in rights])
    number = np.concatenate([np.arange(len(right) // n) for right in rights])
    names = {name: i for i, name in enumerate(dict.fromkeys(stimuli))}
    own = np.array([names[name] for name in stimuli])[trial] * (max(map(len, rights)) // n + 1) + number
    if len(np.unique(own)) < 2:
        raise ValueError(f"trials of {min(map(len, rights))} to {max(map(len, rights))} samples hold "
                         f"{len(np.unique(own))} different segments of {n}: at least two are needed to tell apart")
    z, y = (np.concatenate([_segments(x, n) for x in side]) for side in (guesses, rights))
    return Identified(retrieval(z, y, own, own, ks=ks, description=f"segments of {n} samples"), trial, number,
                      own, n)


def _segments(x: np.ndarray, n: int) -> np.ndarray:
    """`(T, F)` → `(T // n, F, n)`, each feature centred and of norm 1 over each segment."""
    return centred(x[:len(x) // n * n].reshape(-1, n, x.shape[1]).transpose(0, 2, 1))


def centred(x: np.ndarray) -> np.ndarray:
    """Segments `(…, n)` centred and of norm 1, 0 where they are constant: products of such are correlations."""
    mean = x.mean(-1, keepdims=True)
    out = x - mean
    norm = np.sqrt((out ** 2).sum(-1, keepdims=True))
    varies = norm > 1e-12 * x.shape[-1] ** 0.5 * np.abs(mean)
    return np.where(varies, out / np.where(varies, norm, 1), 0)
