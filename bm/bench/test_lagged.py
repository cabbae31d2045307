from bm.bench.lagged import compare_memory


def test_windows_take_no_memory():
    """At a fifth of the full size, so that what the process takes anyway counts five times as much."""
    ours, bound = compare_memory(720, 100, 31, 25)
    assert ours.ratio > 10
    assert bound.ratio >= 1, f"{bound.ours:.1f} MB, expected at most {bound.other:.1f}"
