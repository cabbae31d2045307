"""Configs are composed as Hydra composes them, only faster."""
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dora.hydra import HydraMain
from hydra import initialize_config_dir

import bm.train
from bm.config import ConfigError, to_plain
from bm.studies.download import DownloadError
from bm.train import is_for_user, main
from bm.xp_lock import failure_of


@pytest.mark.parametrize("overrides", [
    [],
    ["seed=1", "preset=nmi", "dset.selections=[audio_mous]", "optim.lr=1e-4", "feature_model=deep_mel"],
    ["preset=natsounds_linear", "dset.features_params.MelSpectrum={n_mels: 20}", "dset.highpass=0.5", "dummy=null"],
    ["model=decoder_convrnn", "convrnn.hidden={meg: 64}", "+selections.simulated.story='a b'", "cache=${dora.dir}/x"],
    ["feature_model=deep_mel", "feature_model_params.kernel=5", "optim={lr: 0.1, loss: mse}", "test.topk=[1,2]"],
])
def test_as_hydra_does(overrides):
    with initialize_config_dir(str(main.full_config_path), version_base="1.3"):
        expected = HydraMain._get_config_noinit(main, overrides)
        found = main._get_config_noinit(overrides)
        assert to_plain(found) == to_plain(expected) and list(found) == list(expected)
        found.seed = 99  # what is kept for the next one is another
        assert main._get_config_noinit(overrides).seed == expected.seed


@pytest.mark.parametrize("override, said", [
    ("preset=lyers", "config: unknown preset 'lyers'; did you mean 'layers'? known: eeg_motor, eeg_rest, "),
    ("model=zzz", "config: unknown model 'zzz'; known: braindecode, "),
    ("preset=trf,layers", "config: Ambiguous value for argument"),
    ("encoder.wav2spec_params={sample_rate: 16000}",
     "config: encoder.wav2spec_params is given a key that conf/ does not have there; what is added needs a plus: "
     "'+encoder.wav2spec_params={sample_rate: 16000}'"),
    ("dset.features_params.MelSpectrum.n_mel=4",
     "config: dset.features_params has no key 'MelSpectrum.n_mel' in conf/; did you mean 'MelSpectrum.n_mels'; what is "
     "added needs a plus: "
     "'+dset.features_params.MelSpectrum.n_mel=4'"),
    ("preset=null", "config: preset=null: leave preset out, or choose one of eeg_motor, "),
    ("optim=null", "config: 'optim=null' replaces a section of the config by something else, where Dora needs its "),
    ("encodr.params={window: 12}", "config: unknown key 'encodr.params'; did you mean 'encoder.params'?"),
])
def test_a_choice_that_is_not_there(override, said):
    with pytest.raises(ConfigError) as caught:
        main.get_xp(["seed=1", override])
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_a_bad_key_in_a_grid_is_one_line(monkeypatch, tmp_path):
    """Not the traceback of a process that Dora composes configs in."""
    from dora import Explorer
    from dora.grid import RunGridArgs, run_grid
    monkeypatch.setattr(main.dora, "dir", tmp_path)
    explorer = Explorer(lambda launcher: launcher({"optim.epohs": 3}))
    with pytest.raises(ConfigError, match="^config: unknown key 'optim.epohs'; did you mean 'optim.epochs'.$"):
        run_grid(main, explorer, "bad", args=RunGridArgs(dry_run=True, monitor=False))


def test_data_that_cannot_be_had_end_a_run_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(main.dora, "dir", tmp_path)
    xp = main.get_xp(["seed=1"])
    xp.folder.mkdir(parents=True)

    def fails(error: Exception) -> None:
        def run(*args: object) -> None:
            raise error
        monkeypatch.setattr(bm.train, "run", run)
        with xp.enter():
            main.main(xp.cfg)

    with pytest.raises(SystemExit, match="^study x: no connection$"):
        fails(DownloadError("study x: no connection"))
    assert failure_of(xp.folder) == "DownloadError: study x: no connection"
    with pytest.raises(RuntimeError):  # with its traceback
        fails(RuntimeError("a fault"))


def test_what_the_user_can_mend_is_one_line(monkeypatch, tmp_path):
    """Raised on purpose before training; the traceback goes to the log file."""
    monkeypatch.setattr(main.dora, "dir", tmp_path)
    xp = main.get_xp(["device=gpuu"])
    xp.folder.mkdir(parents=True)
    log = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(log)
    try:
        with xp.enter(), pytest.raises(SystemExit, match="^device='gpuu': expected auto, cpu, cuda or cuda:N$"):
            main.main(xp.cfg)
    finally:
        logging.getLogger().removeHandler(log)
        log.close()
    assert failure_of(xp.folder).startswith("ValueError: device='gpuu'")
    assert "in pick_device" in (tmp_path / "train.log").read_text()
    monkeypatch.setenv("BM_TRACEBACK", "1")
    with xp.enter(), pytest.raises(ValueError, match="^device='gpuu'"):
        main.main(xp.cfg)


def run_epoch(fault: Callable[[], object]) -> None:
    fault()


def fault_of_numpy() -> None:
    np.stack([np.zeros(2), np.zeros(3)])


def fault_of_an_operation() -> None:
    np.zeros(2) + np.zeros(3)


def fault_of_a_lookup() -> None:
    {"a": 1}["b"]


def fault_of_a_file() -> None:
    Path("nothing/there").read_text()


def raised_on_purpose() -> None:
    raise KeyError(
        "no study 'x'")


def raised_as_impossible() -> None:
    raise TypeError("a number")


@pytest.mark.parametrize("fault, expected", [
    (fault_of_numpy, False), (fault_of_an_operation, False), (fault_of_a_lookup, False), (fault_of_a_file, False),
    (raised_as_impossible, False), (raised_on_purpose, True), (partial(run_epoch, raised_on_purpose), False)])
def test_only_errors_that_explain_themselves_lose_their_traceback(fault, expected):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fault()
    assert is_for_user(caught.value) is expected
