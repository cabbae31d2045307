"""Half of each ratio that the data path was asked for, on a busy machine."""
from bm.bench.loader import run as loader
from bm.bench.startup import run as startup


def test_loader_and_start_up_are_fast():
    rows = {row.name: row for run in (loader, startup) for row in run()}
    assert rows["gather"].ratio > 0.35 and rows["full batch"].ratio > 0.35
    assert rows["mne.Epochs"].ratio > 5
    assert rows["start-up cold"].ratio > 0.5 and rows["start-up warm"].ratio > 0.5
