import pytest

from bm.bench.transformer import compare_step

pytestmark = pytest.mark.alone


def test_fused_attention_is_fast():
    """Half of what the full size is asked for, at a small one."""
    assert compare_step(32, 160, 4, 8, repeats=3).ratio > 0.85
