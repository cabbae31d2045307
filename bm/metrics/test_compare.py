"""Paired tests on cases whose answers are known, and how often they are wrong where nothing differs."""
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from bm.metrics.compare import SignedRank, compare, fdr, over_subjects, paired_interval, per_subject, signed_rank


def brute_force(difference: np.ndarray) -> float:
    """p of the signed-rank test by all sign patterns."""
    rank = rankdata(np.abs(difference))
    observed = abs((rank * np.sign(difference)).sum())
    sums = [abs((rank * signs).sum()) for signs in product([-1, 1], repeat=len(difference))]
    return float(np.mean(np.array(sums) >= observed - 1e-9))


@pytest.mark.parametrize("n", [3, 6, 10])
def test_few_subjects_are_exact(n):
    rng = np.random.default_rng(n)
    for ties in (False, True):
        difference = rng.integers(-4, 9, n).astype(float) if ties else rng.standard_normal(n) + 0.5
        difference = difference[difference != 0]
        test = signed_rank(difference, np.zeros(len(difference)))
        assert test.p == pytest.approx(brute_force(difference), abs=1e-12)


def test_effect_and_zeros():
    for a, b in [([3, 1, 5], [3, 1, 5]), ([0.3], [0.1 + 0.2])]:  # rounding is no difference
        assert signed_rank(a, b) == SignedRank(len(a), 1.0, 0.0)
    test = signed_rank([1, 2, 3, 4], [1, 4, 2, 1])  # differences 0, -2, 1, 3
    assert test.n == 4 and test.effect == pytest.approx((1 + 3 - 2) / 6)
    for a, b, message in [([1], [1, 2], "two lists"), ([], [], "two lists"), ([np.nan], [1], "1 of 1 pairs")]:
        with pytest.raises(ValueError, match=message):
            signed_rank(a, b)


@pytest.mark.parametrize("n", [8, 30])
def test_errors_are_as_rare_as_promised(n):
    rng = np.random.default_rng(0)
    accuracies = rng.binomial(40, 0.3, (100, 2, n)) / 40  # tied, as accuracies are
    wrong = np.mean([signed_rank(a, b).p < 0.05 for a, b in accuracies])
    assert 0.01 < wrong < 0.08


def table(rng: np.random.Generator, gain: float, subjects: int = 12, segments: int = 60) -> pd.DataFrame:
    skill = np.linspace(0.1, 0.6, subjects)
    rows = [{"study": "s", "subject_uid": f"p{p}", "recording_uid": f"r{p}", "time": float(i), "candidate": i,
             "block": f"b{i // 10}", "top10": float(rng.random() < skill[p] + gain)}
            for p in range(subjects) for i in range(segments)]
    return pd.DataFrame(rows)


def test_compare():
    rng = np.random.default_rng(1)
    decoders = {"worse": [table(rng, 0.0), table(rng, 0.0)], "same": [table(rng, 0.2)], "full": [table(rng, 0.2)]}
    out = compare(decoders, "full", chances={"full": 0.1}).set_index("decoder")
    assert list(out.index) == ["full", "worse", "same"] and (out["n_subjects"] == 12).all()
    assert np.isnan(out.loc["full", "p"]) and out.loc["full", "chance"] == 0.1
    worse = out.loc["worse"]
    assert worse["difference"] == pytest.approx(worse["mean"] - out.loc["full", "mean"])
    assert worse["difference_low"] < worse["difference"] < worse["difference_high"] < 0
    assert worse["p_fdr"] < 0.01 and worse["effect"] < -0.9 and out.loc["same", "p_fdr"] > 0.05
    np.testing.assert_allclose(out.loc[["worse", "same"], "p_fdr"], fdr(out.loc[["worse", "same"], "p"]))
    assert (out["low"] < out["mean"]).all() and (out["mean"] < out["high"]).all()
    pair = paired_interval(decoders["same"][0], decoders["worse"][0])
    assert pair["n"] == 720 and pair["low"] > 0.1 and pair["high"] < 0.3


def test_other_subjects_are_refused():
    rng = np.random.default_rng(2)
    a, b = table(rng, 0), table(rng, 0, subjects=5)
    with pytest.raises(ValueError, match="'b' and 'a' were tested on other subjects .5 and 12, e.g. s/p10"):
        compare({"a": [a], "b": [b]}, "a")
    with pytest.raises(ValueError, match=r"about \[5, 12\] subjects"):
        per_subject([a, b], "top10")
    with pytest.raises(KeyError, match="reference 'c'"):
        compare({"a": [a]}, "c")
    with pytest.raises(ValueError, match="none is in both"):
        paired_interval(a, b.assign(time=-1.0))


def test_the_interval_over_subjects_covers():
    """Of 20 subjects nine in ten intervals and more hold the truth; of two there is none."""
    rng = np.random.default_rng(3)
    inside = []
    for values in rng.standard_normal((300, 20)):
        low, high = over_subjects(values, n_boot=400)
        inside.append(low < 0 < high)
    assert 0.88 < np.mean(inside) < 0.98
    assert np.isnan(over_subjects(np.array([0.1, 0.2]))).all()
