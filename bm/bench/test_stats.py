"""Half of what the statistics were asked for, on a busy machine."""
import pytest

from bm.bench.stats import run


@pytest.mark.alone
def test_statistics_are_fast():
    rows = {row.name: row for row in run()}
    assert rows["statistics"].ratio > 0.5 and rows["signed-rank test"].ratio > 5
