"""XPs from before there were some keys of today."""
import copy
import json
import shutil

import pytest

from bm.analysis.load import export as write_export
from bm.analysis.load import load, read_export
from bm.analysis.trained import Trained
from bm.analysis.xp import StoredXP
from bm.config import ConfigError, check_config, with_new_keys


@pytest.fixture
def old(trained, tmp_path) -> StoredXP:
    """The trained XP as if `task.shuffle_pairs`, `test.n_permutations` and the section `classify` were newer."""
    folder = tmp_path / "xps/0a1b2c3d"
    shutil.copytree(trained.folder, folder)
    plain = copy.deepcopy(trained.config)
    del plain["task"]["shuffle_pairs"], plain["test"]["n_permutations"], plain["classify"]
    (folder / "config.json").write_text(json.dumps(plain))
    return StoredXP(folder, trained.root)


def test_new_keys_are_those_of_today(old, trained, caplog):
    with pytest.raises(ConfigError):
        check_config(json.loads((old.folder / "config.json").read_text()))
    with caplog.at_level("INFO"):
        assert old.config == trained.config
    assert "task.shuffle_pairs=false" in caplog.text and "test.n_permutations=1000" in caplog.text
    assert old.restore().data.ids("test").tolist() == trained.restored().data.ids("test").tolist()
    stored = json.loads((old.folder / "config.json").read_text())
    assert "classify" not in stored  # nothing is written


def test_what_is_there_stays(trained, monkeypatch, tmp_path):
    plain = copy.deepcopy(trained.config)
    assert with_new_keys(plain) is plain
    del plain["optim"]["amp"], plain["simpleconv"]["gelu"]
    plain["seed"] = 7
    filled = with_new_keys(plain)
    assert filled["optim"]["amp"] is False and filled["seed"] == 7 and "gelu" not in filled["simpleconv"]
    assert filled["optim"]["epochs"] == trained.config["optim"]["epochs"] and "amp" not in plain["optim"]
    monkeypatch.setattr("bm.config.CONF", tmp_path / "none")  # the package alone is installed
    assert with_new_keys(plain) is plain


def test_an_exported_model_of_before(old, trained, tmp_path):
    write_export(Trained.of(trained.restored(), trained.config, trained.sig, trained.test), tmp_path / "decoder")
    path = tmp_path / "decoder/config.json"
    about = json.loads(path.read_text())
    del about["config"]["task"]["shuffle_pairs"]
    path.write_text(json.dumps(about))
    assert read_export(tmp_path / "decoder").cfg.task.shuffle_pairs is False
    assert load(tmp_path / "decoder").sig == trained.sig
