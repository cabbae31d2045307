"""Classification: accuracy, balanced accuracy, macro F1, ROC-AUC with intervals; permutation test; results by subject.

The point estimates are scikit-learn's (a test compares them); the draws of bootstrap and permutations work on counts,
since thousands of calls would take longer than training.
"""
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bm.metrics.stats import MIN_SUBJECTS

logger = logging.getLogger(__name__)

#: draws whose weights are held at once
CHUNK = 200
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Predictions:
    """What a classifier said about N segments.

    Args:
        truth: `(N,)` class numbers.
        probability: `(N, K)`, or any scores that grow with it.
        subject, block: `(N,)` labels: of whom, and of which span that goes to one split as a whole.

    Errors: ValueError for other shapes, values that are not finite, or a class that does not exist.
    """

    truth: np.ndarray
    probability: np.ndarray
    subject: np.ndarray
    block: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.truth)
        shapes = {"truth": (n,), "subject": (n,), "block": (n,)}
        wrong = [name for name, shape in shapes.items() if np.shape(getattr(self, name)) != shape]
        if n == 0 or wrong or self.probability.ndim != 2 or len(self.probability) != n:
            raise ValueError(f"expected N > 0 truths, subjects and blocks, and probabilities (N, K), got {n} truths, "
                             f"probabilities {self.probability.shape} and other lengths of {wrong}")
        if not np.isfinite(self.probability).all() or not np.isin(self.truth, np.arange(self.n_classes)).all():
            raise ValueError(f"expected finite probabilities and classes from 0 to {self.n_classes - 1}, got "
                             f"{int((~np.isfinite(self.probability)).sum())} values that are not finite and classes "
                             f"{np.unique(self.truth).tolist()}")

    @property
    def n_classes(self) -> int:
        return self.probability.shape[1]

    @property
    def predicted(self) -> np.ndarray:
        """`(N,)` the likeliest class."""
        return self.probability.argmax(1)

    def confusion(self) -> np.ndarray:
        """`(K, K)` counts: row = truth, column = predicted."""
        return _count(self.truth, self.predicted, self.n_classes)

    def part(self, rows: np.ndarray) -> "Predictions":
        """Those of some rows (mask or numbers)."""
        return Predictions(self.truth[rows], self.probability[rows], self.subject[rows], self.block[rows])


def from_tables(tables: Sequence[pd.DataFrame]) -> Predictions:
    """Those of one or more `test_segments.parquet` (`p_CLASS`, `label`, `subject`, `block`), one after the other.

    Errors: ValueError for other classes.
    """
    classes = [[name for name in table if str(name).startswith("p_")] for table in tables]
    if any(one != classes[0] for one in classes):
        raise ValueError(f"classes {classes}: expected XPs of one experiment")
    table = pd.concat(tables, ignore_index=True)
    number = {name[2:]: i for i, name in enumerate(classes[0])}
    return Predictions(table["label"].map(number).to_numpy(int), table[classes[0]].to_numpy(float),
                       table["subject"].to_numpy(object), table["block"].to_numpy(object))


def _count(truth: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k)


def from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`METRICS` of confusion matrices `(..., K, K)`; classes without a sample count for nothing (macro F1: unless they
    were predicted, then their F1 is 0)."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    true, said = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.where(true > 0, hit / true, 0)
        f1 = np.where(true + said > 0, 2 * hit / (true + said), 0)
        return {"accuracy": hit.sum(-1) / true.sum(-1), "balanced_accuracy": recall.sum(-1) / (true > 0).sum(-1),
                "macro_f1": f1.sum(-1) / (true + said > 0).sum(-1)}


def weighted_auc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: P(score of a positive > of a negative) + half of ties, for each row of weights.

    Shape: score, positive `(N,)`; weights `(D, N)` → `(D,)`, NaN where one side has no weight.
    """
    order = np.argsort(score, kind="stable")
    ties = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    up = np.add.reduceat(weights[:, order] * positive[order], ties, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], ties, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    total = up.sum(1) * down.sum(1)
    return np.where(total > 0, (up * below).sum(1) / np.where(total > 0, total, 1), np.nan)


def roc_auc(predictions: Predictions, weights: np.ndarray | None = None) -> np.ndarray:
    """ROC-AUC of two classes; of more, the mean over classes against the rest. `(D,)` for weights `(D, N)`."""
    weights = np.ones((1, len(predictions.truth))) if weights is None else weights
    numbers = [1] if predictions.n_classes == 2 else range(predictions.n_classes)
    areas = [weighted_auc(predictions.probability[:, k], predictions.truth == k, weights) for k in numbers]
    return np.mean(areas, axis=0)


def bootstrap(predictions: Predictions, n_boot: int, seed: int, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile intervals of all metrics. As in `stats.bootstrap_interval`: from `MIN_SUBJECTS` subjects on, subjects
    are drawn; of fewer, subjects and their blocks both; of a single one, blocks alone. Draws in which a class is
    missing are left out of the metric that needs it."""
    subjects, subject = np.unique(predictions.subject, return_inverse=True)
    named = pd.MultiIndex.from_arrays([subject, predictions.block]).to_flat_index()
    block, blocks = pd.factorize(named)
    rng = np.random.default_rng(seed)
    k = predictions.n_classes
    code = predictions.truth * k + predictions.predicted
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*METRICS, "roc_auc")}
    for first in range(0, n_boot, CHUNK):
        size = min(CHUNK, n_boot - first)
        weights = rng.multinomial(len(subjects), np.full(len(subjects), 1 / len(subjects)), size)[:, subject]
        if len(subjects) < MIN_SUBJECTS:
            weights = weights * rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size)[:, block]
        cells = np.zeros((size, k * k))
        for cell in range(k * k):
            cells[:, cell] = weights[:, code == cell].sum(1)
        keep = cells.sum(1) > 0
        complete = (cells.reshape(size, k, k).sum(2) > 0).all(1)
        for name, values in from_confusion(cells.reshape(size, k, k)[keep]).items():
            found[name].append(values if name == "accuracy" else values[complete[keep]])
        found["roc_auc"].append(roc_auc(predictions, weights.astype(float)))
    out = {}
    for name, parts in found.items():
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        if len(values) < 0.5 * n_boot:
            logger.warning("%s: %d of %d bootstrap draws lack a class: no interval", name, n_boot - len(values), n_boot)
            out[name] = (float("nan"), float("nan"))
            continue
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        out[name] = (float(low), float(high))
    return out


def permutation_p(predictions: Predictions, n_permutations: int, seed: int) -> tuple[float, float, float]:
    """One-sided p-value of the balanced accuracy, and the interval (95 %) of chance.

    Within each subject, labels are permuted between units: the segments of one class in one block move together, as
    neighbours in time resemble one another. p = (1 + number at least as good) / (1 + permutations). Where each class is
    a recording of its own, all that makes two recordings differ counts as information about the class.
    """
    unit, names = pd.factorize(pd.MultiIndex.from_arrays(
        [predictions.subject, predictions.block, predictions.truth]).to_flat_index())
    k = predictions.n_classes
    said = np.zeros((len(names), k))
    np.add.at(said, (unit, predictions.predicted), 1)
    who = pd.factorize(np.array([name[0] for name in names], dtype=object))[0]
    label = np.array([name[2] for name in names])
    order = np.argsort(who, kind="stable")  # members of a subject in a row
    said, label, who = said[order], label[order], who[order]
    rng = np.random.default_rng(seed)
    null = np.empty(n_permutations)
    for draw in range(n_permutations):
        shuffled = label[np.lexsort((rng.random(len(label)), who))]
        confusion = np.zeros((k, k))
        np.add.at(confusion, shuffled, said)
        null[draw] = from_confusion(confusion)["balanced_accuracy"]
    observed = from_confusion(predictions.confusion())["balanced_accuracy"]
    low, high = np.quantile(null, [0.025, 0.975])
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + n_permutations)), float(low), float(high)


def by_subject(predictions: Predictions) -> pd.DataFrame:
    """A row per subject: `n`, `METRICS`, `roc_auc` (NaN where the subject lacks a class)."""
    rows = []
    for subject in np.unique(predictions.subject):
        own = predictions.part(predictions.subject == subject)
        rows.append({"subject": subject, "n": len(own.truth),
                     **{name: float(value) for name, value in from_confusion(own.confusion()).items()},
                     "roc_auc": float(roc_auc(own)[0])})
    return pd.DataFrame(rows)


def summary(predictions: Predictions, *, n_boot: int = 2000, n_permutations: int = 1000, seed: int = 0
            ) -> dict[str, Any]:
    """All metrics as plain numbers: each with `_low` and `_high`, `n`, chance, p-value, mean over subjects.

    Metrics that cannot be had (ROC-AUC of segments of one class) are left out.
    """
    out: dict[str, Any] = {"n": len(predictions.truth), "chance": 1 / predictions.n_classes}
    values = {**from_confusion(predictions.confusion()), "roc_auc": roc_auc(predictions)[0]}
    limits = bootstrap(predictions, n_boot, seed)
    for name, value in values.items():
        if np.isfinite(value):
            out[name] = float(value)
            out |= {f"{name}_{side}": limit for side, limit in zip(("low", "high"), limits[name], strict=True)
                    if np.isfinite(limit)}
    if n_permutations:
        out["p"], out["chance_low"], out["chance_high"] = permutation_p(predictions, n_permutations, seed)
    table = by_subject(predictions)
    return out | {"n_subjects": len(table), "subject_accuracy": float(table["accuracy"].mean()),
                  "subject_balanced_accuracy": float(table["balanced_accuracy"].mean())}


def paired(one: pd.DataFrame, other: pd.DataFrame, metric: str = "balanced_accuracy") -> dict[str, float]:
    """Two methods on the same subjects: mean difference (one − other), its 95 % t interval, and the p-value of
    Wilcoxon's signed-rank test (exact where it can be).

    Args:
        one, other: from `by_subject`.

    Errors: ValueError for other subjects or fewer than two.
    """
    from scipy import stats
    both = one.set_index("subject")[metric].to_frame("one").join(other.set_index("subject")[metric].rename("other"),
                                                               how="outer")
    if len(both) < 2 or both.isna().any().any():
        raise ValueError(f"expected the same two or more subjects, got {sorted(one['subject'])} and "
                         f"{sorted(other['subject'])}")
    difference = (both["one"] - both["other"]).to_numpy()
    mean, error = difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))
    half = stats.t.ppf(0.975, len(difference) - 1) * error
    p = 1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue)
    return {"n": len(difference), "difference": float(mean), "low": float(mean - half), "high": float(mean + half),
            "p": p}
