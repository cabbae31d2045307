import pytest

from bm.bench.features import run


@pytest.mark.slow
def test_most_of_the_time_is_the_networks_own():
    rows = {row.name: row for row in run(minutes=0.4)}
    assert 0.75 < rows["whisper forward"].ratio <= 1
    assert rows["float16 bank"].ratio > 0.4
