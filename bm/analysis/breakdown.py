"""Of which words does the accuracy come? Read from the files of an evaluation alone."""
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bm.analysis.words import ZIPF, frequency, plain, word_class
from bm.metrics.stats import bootstrap_interval

logger = logging.getLogger(__name__)

#: edges of bins: index of the word in its sentence, from 0; letters; words in a segment
PLACE, LETTERS, WORDS = (1, 3, 6, 11), (4, 6, 8), (5, 8, 11)


def groupings(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Name → group of each segment (ordered categories, NaN: in none), of those that the table can tell.

    Segments of one XP have one length, so that "words in the segment" is how dense the speech was.
    """
    found: dict[str, pd.Series] = {}
    said = word_class(table)
    if said is not None:
        found[said[0]] = said[1].astype("category")
    often = frequency(table)
    if often is not None:
        name, values = often
        edges = ZIPF if "Zipf" in name else np.unique(values.dropna().quantile([0.25, 0.5, 0.75]))
        found[name] = binned(values, edges)
    if (table["word_index"] >= 0).any():
        found["place in the sentence, from 1"] = binned((table["word_index"] + 1).where(table["word_index"] >= 0),
                                                        [edge + 1 for edge in PLACE], whole=True)
    if (table["word"] != "").any():
        found["letters of the word"] = binned(plain(table["word"]).str.len().where(table["word"] != ""), LETTERS,
                                              whole=True)
        found["words in the segment"] = binned(table["word_segment_strings"].str.split().str.len(), WORDS, whole=True)
    found["subject"] = table["subject_uid"].astype("category")
    return found


def binned(values: pd.Series, edges: Sequence[float] | np.ndarray, whole: bool = False) -> pd.Series:
    """Values as ordered categories that begin at each of `edges`, with names; NaN stays NaN.

    >>> binned(pd.Series([1, 4, 9]), [4, 6], whole=True).tolist()
    ['up to 3', '4–5', '6 or more']
    """
    edges = [float(edge) for edge in edges]
    if whole:
        inner = [f"{low:g}" if high - low == 1 else f"{low:g}–{high - 1:g}"
                 for low, high in zip(edges, edges[1:], strict=False)]
        names = [f"up to {edges[0] - 1:g}", *inner, f"{edges[-1]:g} or more"]
    else:
        inner = [f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:], strict=False)]
        names = [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and more"]
    code = np.searchsorted(edges, values.to_numpy(float), side="right")
    code = np.where(values.isna(), -1, code)
    return pd.Series(pd.Categorical.from_codes(code, names, ordered=True), values.index)


def breakdown(folder: Path, *, n_boot: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Accuracy by class, frequency, place and length of the word, density of speech, and subject.

    Args:
        folder: of an evaluation (`metadata.parquet`, `acc.csv`).

    Returns:
        A row per grouping `by`, `group` and `topk`: `accuracy` with its 95 % interval `low`, `high` (bootstrap over
        subjects, or over subjects and blocks of stimulus where subjects are few; NaN where there is nothing to draw
        from), `n` segments of `n_subjects`, `chance` (the same in all groups: candidates are those of everybody).

    Errors: FileNotFoundError if the folder has no evaluation.
    """
    table, accuracy = read(folder)
    rows = []
    for by, groups in groupings(table).items():
        for group, own in table.groupby(groups, observed=True):
            for line in accuracy.itertuples():
                values = own[f"top{line.topk}"]
                low, high = interval(values, own, n_boot, seed)
                rows.append({"by": by, "group": str(group), "topk": line.topk, "accuracy": values.mean(), "low": low,
                             "high": high, "n": len(own), "n_subjects": own["subject_uid"].nunique(),
                             "chance": line.chance})
    return pd.DataFrame(rows)


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Segments and accuracies of an evaluation. Errors: FileNotFoundError if there is none, or it is not complete."""
    if not (folder / "complete.json").exists():
        raise FileNotFoundError(f"no finished evaluation in {folder}: python -m scripts.run_eval_probs "
                                f"'sigs=[{folder.name}]'")
    return pd.read_parquet(folder / "metadata.parquet"), pd.read_csv(folder / "acc.csv")


def interval(values: pd.Series, own: pd.DataFrame, n_boot: int, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of one value per segment; NaN where subjects and blocks give nothing to draw from."""
    subjects, blocks = own["subject_uid"], own["block"]
    if blocks.nunique() < 2 or len(own) < 2:
        return np.nan, np.nan
    try:
        found = bootstrap_interval(values, subjects, blocks, n_boot=n_boot, seed=seed)
    except ValueError as error:  # a small group: many draws of subjects and blocks have no sample of it
        logger.info("no interval for %d segments of %d subjects: %s", len(own), subjects.nunique(), error)
        return np.nan, np.nan
    return found.low, found.high
