"""Matching two sequences that should be the same but for a few faults: words and text, triggers and log."""
from collections.abc import Hashable, Sequence

import numpy as np

#: s; two clocks are not further apart than this at any mark, once their difference is known
NEAR = 1.5


def match_sequences(a: Sequence[Hashable], b: Sequence[Hashable], distance: np.ndarray | None = None
                    ) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of equal symbols in the Levenshtein alignment of two sequences.

    What was inserted, deleted or replaced is in no pair. Of the alignments with the fewest edits those with the most
    pairs are taken, of these the one with the smallest sum of distances, and of several places in a run of equal
    symbols the first ("aa" and "a" give the pair 0, 0). Time and memory grow with `len(a) · len(b)`: 8 MB for 1000
    words each.

    Args:
        a, b: hashable symbols; NaN equals nothing.
        distance: `(len(a), len(b))`, 0 or more; infinite for pairs that must not be matched though their symbols are
            equal (the wrong place, the wrong time). Finite ones are compared in thousandths of the largest. None: 0.

    Returns:
        `(index_a, index_b)`, two increasing int arrays of one length: symbol `index_a[k]` of `a` is symbol
        `index_b[k]` of `b`. Both are empty if nothing is equal.

    Raises:
        ValueError: `distance` has another shape.

    >>> [index.tolist() for index in match_sequences("the cat sat".split(), "the big cat sits".split())]
    [[0, 1], [0, 2]]
    """
    if distance is not None and distance.shape != (len(a), len(b)):
        raise ValueError(f"`distance` has shape {distance.shape}, expected {(len(a), len(b))}: one row for each symbol "
                         "of `a`, one column for each of `b`")
    number: dict[Hashable, int] = {}
    codes = [np.array([number.setdefault(symbol, len(number)) if symbol == symbol else which  # NaN is not itself
                       for symbol in symbols], dtype=np.int64) for which, symbols in ((-1, a), (-2, b))]
    # whole units: all pairs together cost less than what a replacement costs more than an insertion, and all of that
    # together less than one edit
    most = min(len(a), len(b)) + 1
    more, edit = 1000 * most + 1, (1000 * most + 1) * (most + 1)
    replace = np.where(codes[0][:, None] == codes[1], 0, edit + more)
    if distance is not None:
        far = ~np.isfinite(distance)
        largest = distance[~far].max(initial=0) or 1
        units = np.rint(np.where(far, 0, distance) * (1000 / largest)).astype(np.int64)
        replace = np.where((replace > 0) | far, edit + more, units)
    cost = _costs(replace, edit)
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if cost[i, j] == cost[i + 1, j + 1] + replace[i, j]:
            if replace[i, j] < edit:
                pairs.append((i, j))
            i, j = i + 1, j + 1
        elif cost[i, j] == cost[i + 1, j] + edit:
            i += 1
        else:
            j += 1
    index = np.array(pairs, dtype=int).reshape(-1, 2)
    return index[:, 0], index[:, 1]


def _costs(replace: np.ndarray, edit: int) -> np.ndarray:
    """Cost of aligning what follows each place, `(n + 1, m + 1)`; `edit`: of an insertion or a deletion."""
    n, m = replace.shape
    column = edit * np.arange(m + 1)
    cost = np.empty((n + 1, m + 1), dtype=np.int64)
    cost[n] = edit * m - column
    for i in range(n - 1, -1, -1):
        best = np.r_[np.minimum(cost[i + 1, 1:] + replace[i], cost[i + 1, :-1] + edit), cost[i + 1, m] + edit]
        cost[i] = np.minimum.accumulate((best + column)[::-1])[::-1] - column  # insertions, all at once
    return cost


def match_clocks(a: Sequence[Hashable], times_a: np.ndarray, b: Sequence[Hashable], times_b: np.ndarray
                 ) -> tuple[np.ndarray, np.ndarray]:
    """As `match_sequences`, for marks that two clocks give to the same instants.

    Symbols alone cannot tell which of several equal marks in a row is missing ("fixation, fixation" and "fixation").
    So every pair of equal symbols votes for the whole second between its two times; pairs further than `NEAR` from the
    second with most votes are not matched, and of the others those closest to it. Clocks may drift apart by that much.

    Args:
        a, b: symbols.
        times_a, times_b: seconds, each on its own clock.
    """
    equal = np.array([[x == y for y in b] for x in a], dtype=bool).reshape(len(a), len(b))
    if not equal.any():
        return match_sequences(a, b)
    later = np.subtract.outer(-np.asarray(times_a, float), -np.asarray(times_b, float))
    seconds = np.rint(later[equal]).astype(int)
    votes = np.convolve(np.bincount(seconds - seconds.min() + 1, minlength=3), np.ones(3), "same")
    most = np.abs(later - (int(np.argmax(votes)) + seconds.min() - 1)) <= NEAR
    apart = np.abs(later - np.median(later[equal & most]))
    return match_sequences(a, b, np.where(most, apart, np.inf))


def carry_over(times: np.ndarray, anchors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Times on one clock → times on another, through instants known on both.

    Each time is as far from the last anchor before it (or at it) as on its own clock: offsets by pieces, no slope.

    Args:
        times: `(n,)` s.
        anchors, others: `(k,)` s, the same instants on the first and on the second clock, increasing.

    Returns:
        `(n,)` s; NaN before the first anchor.
    """
    last = np.searchsorted(anchors, times, side="right") - 1
    return np.where(last >= 0, times + (others - anchors)[last], np.nan)
