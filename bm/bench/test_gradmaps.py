import pytest

from bm.bench.gradmaps import compare_maps

pytestmark = pytest.mark.alone


def test_all_neurons_at_once_are_fast():
    """Half of what is asked for, of the median encoder."""
    assert sorted(compare_maps(name, repeats=5).ratio for name in ("ln", "dnet", "statenet"))[1] > 10
