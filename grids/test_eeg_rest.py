"""The grid asks for each method on each fold, with the same people."""
from collections import Counter

from grids._utils import collect
from grids.eeg_rest import FOLDS, METHODS, explorer


def test_each_method_has_each_fold():
    cfgs = [one.xp.cfg for one in collect(explorer)]
    assert Counter((cfg.classify.method, cfg.dset.fold) for cfg in cfgs) == dict.fromkeys(
        [(method, fold) for method in METHODS for fold in range(FOLDS)], 1)
    assert {cfg.dset.n_folds for cfg in cfgs} == {FOLDS} == {len(cfg.selections.eegmmidb_rest.subjects) for cfg in cfgs}
    assert {cfg.dset.lowpass for cfg in cfgs if cfg.classify.method == "csp"} == {12}


def test_the_table_shows_what_was_tested():
    history = [{"train": {"loss": 1.0}, "valid": {"loss": 2.0}}, {"train": {"loss": 0.5}, "valid": {"loss": 1.5},
               "test": {"balanced_accuracy": 0.7, "p": 0.01}}]
    shown = explorer.process_history(history)
    names = [one.key for one in explorer.get_grid_metrics()[2].groups]
    assert "balanced_accuracy" in names and shown["test"]["balanced_accuracy"] == 0.7
