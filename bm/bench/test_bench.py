"""Half of each ratio that the data path was asked for, on a busy machine."""
import pytest

from bm.bench.ceilings import BUDGET, compare_loops, compare_reading
from bm.bench.decoder import compare_attention, compare_retrieval, compare_step
from bm.bench.loader import run as loader
from bm.bench.startup import run as startup

pytestmark = pytest.mark.alone


def test_loader_and_start_up_are_fast():
    rows = {row.name: row for run in (loader, startup) for row in run()}
    assert rows["gather"].ratio > 0.35 and rows["full batch"].ratio > 0.35
    assert rows["mne.Epochs"].ratio > 5
    assert rows["start-up cold"].ratio > 0.5 and rows["start-up warm"].ratio > 0.5


def test_the_decoder_is_fast():
    """Half of what the full sizes are asked for, at small ones."""
    assert compare_step(8, 120, hidden=64, repeats=3).ratio > 0.5
    assert next(compare_attention(64, repeats=3)).ratio > 2.5
    speed, memory = compare_retrieval(1000, (120, 100), repeats=3)
    assert speed.ratio > 0.5 / 1.5 and memory.ratio > 1


def test_normalised_correlations_are_fast():
    assert compare_loops(16, 5).ratio > 20
    row = compare_reading()
    assert row.ours - row.other < 2 * 1000 * BUDGET
