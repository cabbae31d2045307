"""All statistics of one XP: accuracies with intervals and chance, breakdown, and the test beside another decoder."""
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import PermutationMethod, wilcoxon

from bm.analysis.breakdown import breakdown
from bm.analysis.evaluate import accuracy
from bm.bench import Comparison, interleaved
from bm.metrics.compare import compare, paired_interval, signed_rank
from bm.metrics.retrieval import Retrieval, rank_values

SEGMENTS, SUBJECTS, CANDIDATES, KS = 10_000, 27, 1300, (1, 5, 10)
WORDS = ["the", "of", "and", "ferry", "lantern", "harbour", "it", "remembered", "was", "captain"]


def evaluation(seed: int, hits: float = 0.3) -> tuple[Retrieval, pd.DataFrame]:
    """A decoder that finds a share of the segments, and guesses else; two recordings a subject, 40 blocks."""
    rng = np.random.default_rng(seed)
    number = np.arange(SEGMENTS)
    subject, place = number % SUBJECTS, number // SUBJECTS
    own = (place * 7) % CANDIDATES
    rank = np.where(rng.random(SEGMENTS) < hits, rng.integers(0, 10, SEGMENTS), rng.integers(0, CANDIDATES, SEGMENTS))
    best = (own[:, None] + 1 + rng.integers(0, CANDIDATES - 1, (SEGMENTS, max(KS)))) % CANDIDATES
    found = rank < max(KS)
    best[found, rank[found]] = own[found]
    values = rank_values(rank, np.ones(SEGMENTS), np.zeros(SEGMENTS, dtype=bool), CANDIDATES, KS)
    names = np.array([f"study/{s:02}" for s in range(SUBJECTS)])[subject]
    word = np.array(WORDS)[own % len(WORDS)]
    table = pd.DataFrame({
        "study": "study", "subject_id": subject, "subject_uid": names, "recording_id": 2 * subject + (place % 2),
        "recording_uid": [f"{s}-{p % 2}" for s, p in zip(subject, place, strict=True)], "time": 0.3 * place,
        "block": [f"b{p // 10}" for p in place], "candidate": own, "word": word, "word_index": own % 12,
        "sentence": " ".join(WORDS), "word_segment_strings": " ".join(WORDS), "language": "en", "pos": ""})
    return Retrieval(number, values, own, best, CANDIDATES, ks=KS), table.assign(**values)


def statistics() -> None:
    """What one evaluation and its comparison with another one cost, with the defaults of the config."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        result, table = evaluation(0)
        accuracy(result, table, n_boot=2000, n_permutations=1000, seed=0).to_csv(folder / "acc.csv", index=False)
        table.to_parquet(folder / "metadata.parquet")
        (folder / "complete.json").write_text("{}")
        breakdown(folder)
        other = evaluation(1, 0.28)[1]
        for metric in ("top1", "top5", "top10"):
            compare({"one": [table], "other": [other]}, "one", metric)
            paired_interval(table, other, metric)


def run() -> Iterator[Comparison]:
    begin = time.perf_counter()
    statistics()
    yield Comparison("statistics", f"of an XP, {SEGMENTS} segments of {SUBJECTS} subjects / what is allowed",
                     time.perf_counter() - begin, 30, 1)
    a, b = np.random.default_rng(0).binomial(40, 0.3, (2, 12)) / 40
    ours, other = interleaved(lambda: signed_rank(a, b), lambda: wilcoxon(a - b, method=PermutationMethod(
        n_resamples=np.inf)), repeats=3)
    yield Comparison("signed-rank test", "12 tied pairs, exact / scipy's permutations", ours, other, 10)
