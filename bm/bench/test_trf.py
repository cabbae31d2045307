"""Half of the ratio that response functions are asked for, on a busy machine, with the same scores."""
import pytest

from bm.bench.trf import by_channels, run


@pytest.mark.alone
def test_it_is_faster_than_mtrf():
    assert next(run(repeats=1)).ratio > 0.85


@pytest.mark.alone
def test_it_is_at_most_linear_in_channels():
    assert min(row.ratio for row in by_channels(repeats=1)) > 0.5
