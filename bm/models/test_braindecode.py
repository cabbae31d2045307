"""Networks of braindecode by name: built from the data's sizes, trained by task classify, errors that help."""
import json

import pytest
import torch
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.batch import BatchSpec
from bm.config import ConfigError, check_config, to_plain
from bm.models import Braindecode, build_model
from bm.models.check import make_batch
from bm.solvers import build_solver
from bm.solvers.test_classify import CONF, TINY
from bm.studies.twins import make_twin

SPEC = BatchSpec(6, 320, 160.0, 0.0, ("a",))


@pytest.mark.parametrize("name", ["EEGNet", "ShallowFBCSPNet", "EEGConformer", "ATCNet"])
def test_logits(name):
    model = build_model("braindecode", SPEC, 3, name=name).eval()
    assert isinstance(model, Braindecode) and type(model.network).__name__ == name and model.pooled
    out = model(make_batch(SPEC))
    assert out.shape == (4, 3) and torch.isfinite(out).all()


def test_parameters_are_theirs():
    small, large = (build_model("braindecode", SPEC, 2, name="EEGNet", params={"F1": n}) for n in (2, 16))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())


def test_errors():
    for options, message in (({"name": "EEGNett"}, "nearest is 'EEGNet'"),
                             ({"params": {"kernel_lenght": 9}}, "nearest is 'kernel_length'"),
                             ({"params": {"n_times": 9}}, "the data decide that"), ({"nam": "EEGNet"}, "nam")):
        with pytest.raises((ValueError, TypeError), match=message):
            build_model("braindecode", SPEC, 2, **options)
    with pytest.raises(ValueError, match="EEGNet cannot be made for {'n_chans': 6, .*'n_times': 20"):
        build_model("braindecode", BatchSpec(6, 20, 160.0, 0.0, ("a",)), 2, name="EEGNet")
    with pytest.raises(ValueError, match="NeuroPose gives .* it is no classifier"):
        build_model("braindecode", BatchSpec(64, 320, 160.0, 0.0, ("a",)), 2, name="NeuroPose")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[braindecode\]'"):
        build_model("braindecode", SPEC, 2)


def config(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", [*TINY, "model=braindecode", *overrides]))


def test_config():
    assert check_config(config("braindecode.name=TCFormer")).braindecode == {"name": "TCFormer", "params": {}}
    with pytest.raises(ConfigError, match="model_name=braindecode is for task.type=classify"):
        check_config(config("task.type=decode", "optim.name=adam", "optim.weight_decay=0", "optim.warmup_steps=0",
                            "optim.lr_decay=1"))


@pytest.mark.slow
def test_it_learns(tmp_path):
    make_twin("eegmmidb", tmp_path / "data/eegmmidb", rest_subjects=4)
    plain = config("braindecode.name=ShallowFBCSPNet", f"study_paths.eegmmidb={tmp_path}/data/eegmmidb",
                   "optim.weight_decay=0", "+braindecode.params.pool_time_length=20",
                   "+braindecode.params.filter_time_length=15")
    folder = tmp_path / "xp"
    folder.mkdir()
    build_solver(check_config(plain), folder, tmp_path, Link(folder / "history.json")).run()
    assert json.loads((folder / "result.json").read_text())["test"]["balanced_accuracy"] > 0.8
