import pytest

from bm.bench.gradmaps import ENCODERS, compare_maps

pytestmark = pytest.mark.alone


def test_all_neurons_at_once_are_fast():
    """Half of what is asked for."""
    assert min(compare_maps(name, repeats=5).ratio for name in ENCODERS) > 10
