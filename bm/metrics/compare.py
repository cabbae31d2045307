"""Comparisons between decoders: paired tests over subjects, corrected for their number, with sizes and intervals."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, wilcoxon

from bm.metrics.stats import bootstrap_interval

#: up to so many pairs the test is exact, whatever ties there are
EXACT_PAIRS = 500

#: what makes a segment the same one in two XPs
SEGMENT = ["study", "recording_uid", "time", "candidate"]


@dataclass(frozen=True)
class SignedRank:
    """A two-sided Wilcoxon signed-rank test of n pairs.

    `effect` is the matched-pairs rank-biserial correlation, (W₊ − W₋) / (W₊ + W₋) over the pairs that differ: 1 if
    the first is better in all, −1 if in none (Kerby 2014, doi:10.2466/11.IT.3.1). No p can be below 2 / 2ⁿ.
    """

    n: int
    p: float
    effect: float


def signed_rank(a: Any, b: Any) -> SignedRank:
    """Tests whether paired values differ, e.g. the accuracies of two decoders in each subject.

    Exact up to `EXACT_PAIRS` pairs that differ (all signs equally likely), then by normal approximation. Pairs that do
    not differ are dropped (Wilcoxon's own way).

    Shape: `(n,)` each, finite. Errors: ValueError for other shapes, NaN, or no pair.

    >>> signed_rank([.5, .6, .7, .8, .9], [.4, .4, .4, .4, .4])
    SignedRank(n=5, p=0.0625, effect=1.0)
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"expected two lists of as many numbers, one pair per subject, got {x.shape} and {y.shape}")
    difference = x - y
    if not np.isfinite(difference).all():
        raise ValueError(f"{int((~np.isfinite(difference)).sum())} of {len(x)} pairs have NaN or infinite values")
    # accuracies are fractions: 0.3 - 0.1 and 0.5 - 0.3 are tied, though not in floating point
    different = np.round(difference, 12)
    different = different[different != 0]
    if not len(different):
        return SignedRank(len(x), 1.0, 0.0)
    rank = pd.Series(np.abs(different)).rank().to_numpy()
    effect = float((rank * np.sign(different)).sum() / rank.sum())
    if len(different) > EXACT_PAIRS:
        return SignedRank(len(x), float(wilcoxon(different, method="asymptotic").pvalue), effect)
    return SignedRank(len(x), _exact_p(np.rint(2 * rank).astype(int), different > 0), effect)


def _exact_p(rank: np.ndarray, positive: np.ndarray) -> float:
    """Probability of a sum of signed ranks as far from 0 as the observed one, if each sign is tossed.

    Args:
        rank: `(n,)` whole numbers: twice the ranks, which ties make halves.
    """
    total = int(rank.sum())
    chance = np.zeros(total + 1)  # of each sum of the positive ones
    chance[0] = 1.0
    for one in rank:
        chance[one:] = (chance[one:] + chance[:-one]) / 2  # the right side is made first
        chance[:one] /= 2
    far = np.abs(2 * np.arange(total + 1) - total) >= abs(2 * int(rank[positive].sum()) - total)
    return float(min(chance[far].sum(), 1.0))


def per_subject(tables: Sequence[pd.DataFrame], metric: str) -> pd.Series:
    """Mean of a metric in each subject, averaged over tables (e.g. seeds of one decoder).

    Args:
        tables: of `metadata.parquet` or alike, with `study`, `subject_uid` and the metric.

    Errors: ValueError if the tables are about other subjects.
    """
    means = [table.groupby(["study", "subject_uid"])[metric].mean() for table in tables]
    if not means:
        raise ValueError("no table to average")
    if any(not mean.index.equals(means[0].index) for mean in means):
        raise ValueError(f"tables of one decoder are about {sorted({len(mean) for mean in means})} subjects, who are "
                         "not the same in all")
    return pd.concat(means, axis=1).mean(axis=1)


def compare(decoders: Mapping[str, Sequence[pd.DataFrame]], reference: str, metric: str = "top10", *,
            chances: Mapping[str, float] | None = None, n_boot: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Each decoder beside the reference, over the subjects that all of them have.

    Args:
        decoders: name → tables of its segments (`metadata.parquet`), one per seed.
        reference: name of the one that the others are compared with.
        metric: a column, the mean of which is compared.
        chances: name → chance level, for the column `chance`.

    Returns:
        One row per decoder, the reference first: `n_segments`, `n_subjects`, `mean` over subjects with `low`, `high`
        (95 % bootstrap over subjects), `chance`; `difference` to the reference with its interval, `effect`
        (rank-biserial), `p` of the signed-rank test over subjects, `p_fdr` (Benjamini–Hochberg over the rows).

    Errors: KeyError for an unknown reference; ValueError if decoders were tested on other subjects: a difference would
    then be one between people.
    """
    if reference not in decoders:
        raise KeyError(f"reference {reference!r} is none of the decoders {sorted(decoders)}")
    subjects = {name: per_subject(tables, metric) for name, tables in decoders.items()}
    base = subjects[reference]
    rows = []
    for name in [reference, *(other for other in decoders if other != reference)]:
        values = subjects[name]
        if not values.index.equals(base.index):
            lacking = values.index.symmetric_difference(base.index)
            raise ValueError(f"{name!r} and {reference!r} were tested on other subjects ({len(values)} and "
                             f"{len(base)}, e.g. {'/'.join(map(str, lacking[0]))} in one alone): compare them on the "
                             "same ones")
        low, high = over_subjects(values.to_numpy(), n_boot, seed)
        row = {"decoder": name, "n_segments": len(decoders[name][0]), "n_subjects": len(values),
               "mean": values.mean(), "low": low, "high": high, "chance": (chances or {}).get(name, np.nan)}
        if name != reference:
            difference = (values - base).to_numpy()
            test = signed_rank(values, base)
            low, high = over_subjects(difference, n_boot, seed)
            row |= {"difference": difference.mean(), "difference_low": low, "difference_high": high,
                    "effect": test.effect, "p": test.p}
        rows.append(row)
    out = pd.DataFrame(rows)
    if len(out) > 1:
        out.loc[1:, "p_fdr"] = fdr(out.loc[1:, "p"])
    return out


def fdr(p: Any) -> np.ndarray:
    """p values corrected for their number by Benjamini and Hochberg (1995): the smallest false discovery rate at which
    each is one. Shape: `(n,)` to `(n,)`.

    >>> fdr([0.01, 0.02, 0.5]).tolist()
    [0.03, 0.03, 0.5]
    """
    return false_discovery_control(np.asarray(p, dtype=float), method="bh")


def over_subjects(values: np.ndarray, n_boot: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value per subject `(n,)`; NaN for fewer than 3 subjects.

    With few subjects it is too narrow (of 5, √(4/5) · 1.96 / 2.78 = 0.63 times Student's): beside it stands the exact
    test. Where segments are at hand, `paired_interval` draws stimuli as well.
    """
    if len(values) < 3:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(values), size=(n_boot, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(a: pd.DataFrame, b: pd.DataFrame, metric: str = "top10", *, n_boot: int = 2000, seed: int = 0
                    ) -> dict[str, float]:
    """Difference a − b of the means over the segments that both have, by bootstrap over subjects and stimuli.

    Args:
        a, b: tables with `SEGMENT`, `subject_uid`, `block` and the metric.

    Returns:
        `n` segments, `difference`, `low`, `high`: see `bootstrap_interval` for what is drawn.

    Errors: ValueError if they share no segment.
    """
    both = a.merge(b, on=SEGMENT, suffixes=("", "_b"), validate="one_to_one")
    if both.empty:
        raise ValueError("the two were tested on other segments: none is in both")
    interval = bootstrap_interval(both[metric] - both[f"{metric}_b"], both["subject_uid"], both["block"],
                                  n_boot=n_boot, seed=seed)
    return {"n": len(both), "difference": interval.mean, "low": interval.low, "high": interval.high}
