import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.studies.align import carry_over, match_clocks, match_sequences


def distance(a, b):
    """The textbook recurrence."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


def pairs(*args, **kwargs):
    return [tuple(map(int, pair)) for pair in zip(*match_sequences(*args, **kwargs), strict=True)]


def test_known_alignments():
    assert pairs("abcd", "abcd") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert pairs("abcd", "abXcd") == [(0, 0), (1, 1), (2, 3), (3, 4)]
    assert pairs("abcd", "aXcd") == [(0, 0), (2, 2), (3, 3)]
    assert pairs("", "abc") == pairs("abc", "") == pairs("abc", "xyz") == []
    assert pairs("aa", "a") == [(0, 0)]
    assert pairs([float("nan"), "a"], [float("nan"), "a"]) == [(1, 1)]


def test_distance_decides_between_equal_symbols():
    assert pairs("aa", "a", distance=np.array([[1.0], [0.5]])) == [(1, 0)]
    assert pairs("aa", "a", distance=np.array([[1.0], [np.inf]])) == [(0, 0)]
    assert pairs("ab", "b", distance=np.array([[0.0], [np.inf]])) == []
    assert pairs("ab", "ab", distance=np.array([[9.0, 0], [0, 9]])) == [(0, 0), (1, 1)]  # edits come first
    with pytest.raises(ValueError, match="shape"):
        match_sequences("aa", "a", np.ones((1, 2)))


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_it_is_a_shortest_alignment_of_equal_symbols(a, b):
    i, j = match_sequences(a, b)
    assert (np.diff(i) > 0).all() and (np.diff(j) > 0).all()
    assert all(a[x] == b[y] for x, y in zip(i, j, strict=True))
    # what lies between two pairs is replaced as far as possible, and inserted or deleted for the rest
    gaps = zip(np.diff(np.r_[-1, i, len(a)]) - 1, np.diff(np.r_[-1, j, len(b)]) - 1, strict=True)
    assert sum(max(gap) for gap in gaps) == distance(a, b)


@pytest.mark.parametrize("trial", [4.0, 5.2])  # s, from one fixation to the next: as regular as can be
def test_clocks_tell_which_of_equal_marks_is_missing_or_spare(trial):
    marks = list("CFFFF" * 4)
    times = np.cumsum([2.0 if mark == "C" else trial for mark in marks])
    for at in range(len(marks)):
        kept = [i for i in range(len(marks)) if i != at]
        i, j = match_clocks(marks, times, [marks[k] for k in kept], 7 + 1.001 * times[kept])
        assert i.tolist() == kept and j.tolist() == list(range(len(kept)))
        i, j = match_clocks(marks, times, [*marks[:at], "F", *marks[at:]], 7 + np.insert(times, at, times[at] - 0.4))
        assert i.tolist() == list(range(len(marks))) and at not in j
    both = [i for i in range(len(marks)) if i != 2]  # one lost, one spare: as many as there should be
    seen = sorted([*times[both], times[8] + 1.7])
    i, _ = match_clocks(marks, times, [*(marks[k] for k in both if k < 9), "F", *(marks[k] for k in both if k > 8)],
                        np.array(seen) - 3)
    assert i.tolist() == both
    assert match_clocks("C", np.zeros(1), "F", np.zeros(1))[0].size == 0


def test_carry_over_uses_the_last_anchor():
    anchors, others = np.array([1.0, 5.0]), np.array([11.0, 15.5])
    np.testing.assert_array_equal(carry_over(np.array([0.9, 1, 4.9, 5, 9]), anchors, others),
                                  [np.nan, 11, 14.9, 15.5, 19.5])
