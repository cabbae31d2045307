"""Metrics of classification beside scikit-learn's, calibration of intervals and p-values."""
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from bm.metrics.classification import (
    Predictions,
    bootstrap,
    by_subject,
    from_confusion,
    from_tables,
    paired,
    permutation_p,
    roc_auc,
    summary,
    weighted_auc,
)


def make(n=300, k=2, signal=1.0, subjects=12, seed=0, rounded=False) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    score = rng.standard_normal((n, k))
    score[np.arange(n), truth] += signal
    probability = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    subject = rng.integers(subjects, size=n)
    return Predictions(truth, probability.round(1) if rounded else probability, subject, rng.integers(8, size=n))


@pytest.mark.parametrize("k", [2, 4])
def test_as_scikit_learn(k):
    p = make(k=k)
    found = from_confusion(p.confusion())
    assert (p.confusion() == sk.confusion_matrix(p.truth, p.predicted)).all()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(p.truth, p.predicted))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(p.truth, p.predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(p.truth, p.predicted, average="macro"))
    expected = (sk.roc_auc_score(p.truth, p.probability[:, 1]) if k == 2 else
                sk.roc_auc_score(p.truth, p.probability, multi_class="ovr"))
    assert roc_auc(p)[0] == pytest.approx(expected)


def test_auc_with_ties_and_weights():
    p = make(rounded=True)
    weights = np.random.default_rng(1).integers(0, 3, (5, 300)).astype(float)
    found = weighted_auc(p.probability[:, 1], p.truth == 1, weights)
    for area, weight in zip(found, weights, strict=True):
        assert area == pytest.approx(sk.roc_auc_score(p.truth, p.probability[:, 1], sample_weight=weight))
    assert np.isnan(weighted_auc(np.arange(3.0), np.ones(3, bool), np.ones((1, 3)))).all()


def test_classes_that_are_missing():
    found = from_confusion(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 4]]))
    assert found["balanced_accuracy"] == pytest.approx((0.75 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((6 / 7 + 0 + 1) / 3)
    one = Predictions(np.zeros(4, int), np.array([[0.9, 0.1]] * 4), np.zeros(4), np.arange(4))
    result = summary(one, n_boot=50, n_permutations=20)
    assert result["accuracy"] == 1 and "roc_auc" not in result and "balanced_accuracy_low" not in result
    assert result["p"] == 1


def test_summary():
    result = summary(make(), n_boot=300, n_permutations=300)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"]
    assert result["p"] < 0.02 and result["chance_low"] < 0.5 < result["chance_high"] and result["n_subjects"] == 12
    assert all(isinstance(value, int | float) for value in result.values())
    table = by_subject(make())
    assert table["n"].sum() == 300 and result["subject_accuracy"] == pytest.approx(table["accuracy"].mean())


@pytest.mark.parametrize("subjects", [1, 4, 15])
def test_the_interval_holds_what_it_should(subjects):
    """True accuracy of make(signal=1) by a large sample; 100 small ones."""
    truth = make(200_000)
    expected = (truth.truth == truth.predicted).mean()
    inside = 0
    for seed in range(100):
        low, high = bootstrap(make(240, subjects=subjects, seed=seed + 1), 200, seed)["accuracy"]
        inside += low <= expected <= high
    assert inside >= 85  # eight blocks, or four subjects, are few


def test_p_is_uniform_without_signal_even_if_segments_depend_on_one_another():
    rng, p_values = np.random.default_rng(0), []
    for seed in range(150):  # blocks of ten segments of one class that get the same prediction
        truth = np.repeat(rng.permutation(np.arange(24) % 2), 10)
        score = np.repeat(rng.standard_normal(24), 10) + 0.1 * rng.standard_normal(240)
        p = Predictions(truth, np.c_[-score, score], np.repeat(np.arange(4), 60), np.repeat(np.arange(24), 10))
        p_values.append(permutation_p(p, 99, seed)[0])
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.11
    assert 0.4 < np.mean(p_values) < 0.62


def test_from_tables():
    table = pd.DataFrame({"label": ["b", "a"], "p_a": [0.9, 0.6], "p_b": [0.1, 0.4], "subject": "s", "block": [1, 2]})
    found = from_tables([table, table.assign(subject="t")])
    assert found.truth.tolist() == [1, 0, 1, 0] and found.predicted.tolist() == [0, 0, 0, 0]
    assert found.subject.tolist() == ["s", "s", "t", "t"] and found.block.tolist() == [1, 2, 1, 2]
    with pytest.raises(ValueError, match="expected XPs of one experiment"):
        from_tables([table, table.rename(columns={"p_a": "p_c"})])


def test_paired():
    one = pd.DataFrame({"subject": list("abcdef"), "balanced_accuracy": [0.9, 0.8, 0.7, 0.9, 0.8, 0.95]})
    other = one.assign(balanced_accuracy=one["balanced_accuracy"] - [0.1, 0.2, 0.1, 0.15, 0.05, 0.12]).sample(
        frac=1, random_state=0)
    found = paired(one, other)
    assert found["difference"] == pytest.approx(0.12) and found["n"] == 6
    assert 0 < found["low"] < 0.12 < found["high"] and found["p"] == pytest.approx(2 / 64)
    assert paired(one, one)["p"] == 1
    with pytest.raises(ValueError, match="the same two or more subjects"):
        paired(one, other[other["subject"] != "a"])


@pytest.mark.parametrize("change", [{"truth": np.array([0, 2])}, {"subject": np.zeros(3)}, {"truth": np.array([], int)},
                                    {"probability": np.array([[np.nan, 1], [0, 1]])}])
def test_bad_predictions(change):
    good = {"truth": np.array([0, 1]), "probability": np.eye(2), "subject": np.zeros(2), "block": np.zeros(2)}
    with pytest.raises(ValueError, match="expected"):
        Predictions(**{**good, **change})
