"""The whole way, on two simulated people who listen for two minutes."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.config import Config, check_config, to_plain
from bm.solvers import build_solver
from bm.solvers.base import Solver
from bm.solvers.decode import DecodeSolver

CONF = Path(__file__).parents[2] / "conf"
TINY = ["selections.simulated.subjects=2", "selections.simulated.sessions=1", "selections.simulated.minutes=2.5",
        "selections.simulated.snr=1.0", "selections.simulated.rate=100.", "dset.sample_rate=25", "dset.tmin=0",
        "dset.tmax=1.5", "dset.condition=0.25", "dset.features_params.MelSpectrum.n_mels=16", "optim.epochs=4",
        "simpleconv.hidden.meg=24", "simpleconv.depth=2", "simpleconv.merger_channels=24",
        "simpleconv.initial_linear=24", "dset.test_ratio=0.3", "dset.valid_ratio=0.2", "device=cpu", "test.n_boot=200"]


def config(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check_config(to_plain(compose("config", [*TINY, *overrides])))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where the data is made and cached, once for all tests here."""
    return tmp_path_factory.mktemp("decode")


def solver(root: Path, name: str, *overrides: str) -> Solver:
    folder = root / "xps" / name
    folder.mkdir(parents=True, exist_ok=True)
    return build_solver(config(*overrides), folder, root, Link(folder / "history.json"))


@pytest.fixture(scope="module")
def finished(root) -> Path:
    one = solver(root, "whole")
    one.run()
    return one.folder


def test_it_learns(finished):
    history = json.loads((finished / "history.json").read_text())
    result = json.loads((finished / "result.json").read_text())
    test = result["test"]
    assert len(history) == result["epochs"] == 4
    assert history[-1]["valid"]["loss"] < history[0]["valid"]["loss"]
    assert test["n_candidates"] >= 30 and test["top10_chance"] == pytest.approx(10 / test["n_candidates"])
    assert test["top10_low"] > 1.5 * test["top10_chance"]
    assert test["top10_low"] <= test["top10"] <= test["top10_high"]
    assert test["top10_chance_low"] < test["top10_chance"] < test["top10_chance_high"] < test["top10"]
    assert test["top10_p"] < 0.05
    table = pd.read_parquet(finished / "test_segments.parquet")
    assert len(table) == test["n"] and table["top10"].mean() == pytest.approx(test["top10"])
    assert (pd.read_csv(finished / "audit.csv")["brain_s"] == 0).all()


def test_a_finished_xp_is_found_at_once(finished, root, monkeypatch, caplog):
    monkeypatch.setattr(DecodeSolver, "build", lambda self: pytest.fail("built again"))
    caplog.set_level("INFO")
    assert solver(root, "whole").run() == json.loads((finished / "result.json").read_text())["test"]
    assert "this XP is finished" in caplog.text


def _comparable(folder: Path) -> tuple[list, dict]:
    history = json.loads((folder / "history.json").read_text())
    for epoch in history:
        for stage in epoch.values():
            stage.pop("duration")
    state = torch.load(folder / "checkpoint.th", weights_only=True)["solver"]
    return history, state


@pytest.mark.parametrize("moment", ["train", "valid", "save"])
def test_resumes_exactly(finished, root, monkeypatch, moment):
    one = solver(root, f"interrupted-{moment}")
    name = {"train": "train_epoch", "valid": "valid_epoch", "save": "save"}[moment]
    step = getattr(one, name)
    calls = []

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(one, name, stop)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    solver(root, f"interrupted-{moment}").run()
    history, state = _comparable(one.folder)
    expected_history, expected_state = _comparable(finished)
    assert history == expected_history
    for key, value in expected_state["modules"].items():
        assert torch.equal(state["modules"][key], value), key


def test_a_corrupt_checkpoint_is_named_and_the_one_before_used(finished, root, caplog):
    one = solver(root, "corrupt")
    for path in finished.iterdir():
        if path.name != "result.json":
            (one.folder / path.name).write_bytes(path.read_bytes())
    data = one.checkpoint_path.read_bytes()
    one.checkpoint_path.write_bytes(data[:len(data) // 2])
    one.run()
    assert "checkpoint.th cannot be read" in caplog.text
    assert _comparable(one.folder)[0] == _comparable(finished)[0]


@pytest.mark.parametrize("overrides", [
    ["optim.loss=mse"], ["optim.loss=l1", "task.mask_loss=true"], ["clip.pool=true"], ["clip.linear=8"],
    ["feature_model=deep_mel", "feature_model_params.n_hidden_channels=8", "feature_model_params.n_out_channels=12",
     "feature_model_params.n_hidden_layers=3"],
    ["norm.clip=false", "norm.max_scale=10"], ["test.wer_random=true"], ["dset.n_subjects=1"],
    ["dset.test.tmin=0", "dset.test.tmax=1"], ["dset.feature_resampling=nearest", "dset.highpass=4"],
    ["optim.max_batches=2", "eval_every=1"], ["resident=true", "num_workers=2"],
    ["optim.amp=true", "optim.clip_grad=0.1", "optim.svd=1e-3", "task.lowpass=5"], ["clip.dedupe=true"],
    ["optim.negatives=128", "optim.negative_pool_size=200", "optim.batch_size=32"],
    ["model=decoder_convrnn", "convrnn.hidden.meg=16", "convrnn.lstm=1", "optim.use_weighting=true",
     "dset.event_mask=false"],
    ["model_name=convrnn", "convrnn.hidden.meg=16", "convrnn.lstm=1", "convrnn.attention=1"],
])
def test_every_road_is_open(root, overrides):
    name = "-".join(overrides)
    metrics = solver(root, name, *overrides, "optim.epochs=1").run()
    assert metrics is not None
    if "acc_WordSegment" in metrics:
        assert 0.3 < metrics["acc_WordSegment"] <= 1 and metrics["acc_WordSegment_chance"] >= 0.5
    else:
        assert 0 <= metrics["top10"] <= 1 and np.isfinite(metrics["mrr"])


def test_noise_is_at_chance(root):
    metrics = solver(root, "noise", "test.wer_random=true", "optim.epochs=1", "optim.max_batches=1").run()
    assert metrics["top10_chance_low"] <= metrics["top10"] <= metrics["top10_chance_high"]
    assert metrics["top10_p"] > 0.05


def test_an_empty_split_is_explained(root):
    with pytest.raises(ValueError, match="split 'test' is empty.*allow_empty_split"):
        solver(root, "empty", "dset.test_ratio=0.001").run()
