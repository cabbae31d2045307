"""The grid asks for each method on each fold, with the same people."""
from collections import Counter

from bm.config import check_config, to_plain
from grids import eeg_motor
from grids._utils import collect
from grids.eeg_rest import FOLDS, METHODS, SETTINGS, explorer


def test_each_method_has_each_fold():
    cfgs = [one.xp.cfg for one in collect(explorer)]
    assert Counter((cfg.classify.method, cfg.dset.fold) for cfg in cfgs) == {
        (method, fold): len(SETTINGS) if method == "network" else 1 for method in METHODS for fold in range(FOLDS)}
    tried = {(cfg.eeg_transformer.dim, cfg.dset.highpass, cfg.classify.scale) for cfg in cfgs
             if cfg.classify.method == "network"}
    assert tried == {(64, 1, "channel"), (32, 1, "channel"), (64, 0, "global")}
    assert {cfg.dset.n_folds for cfg in cfgs} == {FOLDS} == {len(cfg.selections.eegmmidb_rest.subjects) for cfg in cfgs}
    assert {cfg.dset.lowpass for cfg in cfgs if cfg.classify.method == "csp"} == {12}


def test_the_table_shows_what_was_tested():
    history = [{"train": {"loss": 1.0}, "valid": {"loss": 2.0}}, {"train": {"loss": 0.5}, "valid": {"loss": 1.5},
               "test": {"balanced_accuracy": 0.7, "p": 0.01}}]
    shown = explorer.process_history(history)
    names = [one.key for one in explorer.get_grid_metrics()[2].groups]
    assert "balanced_accuracy" in names and shown["test"]["balanced_accuracy"] == 0.7


def test_the_motor_grid():
    cfgs = [one.xp.cfg for one in collect(eeg_motor.explorer)]
    check_config(to_plain(cfgs[-1]))
    assert Counter((cfg.classify.method, cfg.dset.fold) for cfg in cfgs) == dict.fromkeys(
        [(method, fold) for method in eeg_motor.METHODS for fold in range(eeg_motor.FOLDS)], 1)
    assert all(cfg.selections.eegmmidb.runs == [6, 10, 14] and cfg.dset.split_by == "stimulus"
               and cfg.dset.n_folds == eeg_motor.FOLDS for cfg in cfgs)
