"""Ridge regression as an XP: what is planted is found, noise is not, and a resumed run gives the same."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.config import ConfigError, check_config, to_plain
from bm.solvers import build_solver
from bm.solvers.linear import LinearSolver
from bm.solvers.test_decode import CONF, config, solver

BASE = ["dset.condition=0.5", "task.offset_meg_ms=0", "linear.tmax=1.52", "linear.feature_tmax=1.52", "linear.bins=2"]
DECODE = ["task.type=linear_decode", *BASE, "linear.brain_bins=19"]
ENCODE = ["task.type=linear_encode", *BASE, "linear.brain_bins=2", "linear.alpha_per_target=true"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("linear")


def plant(monkeypatch, signal: float) -> None:
    """Brains that are a linear map of the features, and noise of unit size."""
    rows = LinearSolver.rows

    def planted(self, raw, split, reject=False):
        brain, features, batch = rows(self, raw, split, reject)
        noise = torch.Generator().manual_seed(int(batch.segment[0]))
        weights = torch.randn(features[0].numel(), brain[0].numel(), generator=torch.Generator().manual_seed(1))
        brain = signal * features.flatten(1) @ weights + torch.randn(len(brain), brain[0].numel(), generator=noise)
        return brain.reshape(len(features), self.data.spec.channels, -1), features, batch

    monkeypatch.setattr(LinearSolver, "rows", planted)


@pytest.mark.parametrize("options", [DECODE, ENCODE, [*DECODE, "linear.metric=correlation", "linear.cv=loo"],
                                     [*ENCODE, "linear.metric=cosine"]])
def test_what_is_planted_is_found(root, monkeypatch, options):
    plant(monkeypatch, 3.0)
    one = solver(root, "planted" + "-".join(options), *options)
    metrics = one.run()
    assert metrics["top1"] > 0.97 and metrics["mrr"] > 0.97 and metrics["correlation"] > 0.9
    assert metrics["top10_low"] <= metrics["top10"] <= metrics["top10_high"]
    table = pd.read_parquet(one.folder / "test_segments.parquet")
    assert len(table) == metrics["n"] and table["top1"].mean() == pytest.approx(metrics["top1"])
    assert {"rank", "reciprocal", "subject", "segment", "candidate", "top5"} <= set(table)
    history = json.loads((one.folder / "history.json").read_text())
    assert len(history) == 1 and history[0]["valid"]["loss"] < (0.2 if options[0] == DECODE[0] else 2)


@pytest.mark.parametrize("options", [DECODE, ENCODE])
def test_noise_is_at_chance(root, monkeypatch, options):
    plant(monkeypatch, 0.0)
    metrics = solver(root, "noise" + options[0], *options).run()
    assert metrics["top10_low"] <= metrics["top10_chance"] <= metrics["top10_high"]
    assert abs(metrics["correlation"]) < 0.1


def test_it_decodes_the_simulated_brain(root):
    metrics = solver(root, "simulated", *DECODE).run()
    assert metrics["top10_low"] > 1.5 * metrics["top10_chance"] and metrics["correlation"] > 0.1


def test_the_penalty_is_chosen_on_whole_blocks(root):
    one = solver(root, "blocks", *DECODE)
    one.build()
    ids = one.data.ids("train")
    block = one.data.segments["block"].to_numpy()
    for train, out in one._splits(ids):
        assert not set(block[ids[train]]) & set(block[ids[out]])
    with pytest.raises(ValueError, match=r"linear\.cv=500 folds, but train has \d+ blocks"):
        solver(root, "too-many", *DECODE, "linear.cv=500").run()


def test_what_is_scaled_is_scaled_on_train(root):
    one = solver(root, "scaled", *DECODE, "linear.global_scale=true", "linear.cv=loo")
    one.build()
    one.train_epoch(1)
    x, y = one.scaled(*one.collect("train"))
    recording = one.data.segments["recording"].to_numpy()[one.data.ids("train")]
    for r in np.unique(recording):
        own = x[recording == r]
        assert own.mean(0).abs().max() < 1e-9 and own.square().mean() == pytest.approx(1)
    torch.testing.assert_close(y.mean(0), torch.zeros_like(y[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones_like(y[0]))


def test_bins_are_means(root):
    one = solver(root, "bins", *DECODE, "linear.feature_tmin=0.2", "linear.feature_tmax=0.6", "linear.bins=5")
    one.build()
    raw = one.dataset("train").__getitems__(one.data.ids("train")[:3])
    batch = one.finish(raw)
    _, features, _ = one.rows(raw, "train")
    expected = torch.stack([batch.features["MelSpectrum"][..., 5 + 2 * i:7 + 2 * i].mean(-1) for i in range(5)], -1)
    torch.testing.assert_close(features, expected)


def test_resumes_exactly(root, monkeypatch):
    whole, killed = solver(root, "whole", *DECODE), solver(root, "killed", *DECODE)
    metrics = whole.run()
    monkeypatch.setattr(killed, "test", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = solver(root, "killed", *DECODE)
    assert again.run() == metrics
    (again.folder / "result.json").unlink()
    monkeypatch.setattr(LinearSolver, "train_epoch", lambda self, epoch: pytest.fail("trained again"))
    resumed = solver(root, "killed", *DECODE)
    assert resumed.run() == metrics
    assert resumed.retrieval()[0].summary() == again.retrieval()[0].summary()


@pytest.mark.parametrize("options", [
    ["test.wer_random=true"], ["norm.clip=false", "norm.max_scale=15"], ["optim.max_batches=2"], ["resident=true"],
    ["dset.valid_ratio=0", "dset.allow_empty_split=true"], ["dset.test.condition=0.5", "linear.alpha_per_target=true"],
    ["dset.test.tmax=1.6", "linear.tmax=1.5", "linear.feature_tmax=1.5", "linear.tmin=0.2", "linear.feature_tmin=0.06",
     "linear.bins=null", "linear.brain_bins=null"],
])
def test_every_road_is_open(root, options):
    one = solver(root, "-".join(options), *DECODE, *options)
    metrics = one.run()
    assert 0 <= metrics["top10"] <= 1 and np.isfinite(metrics["mrr"])
    if "dset.valid_ratio=0" in options:
        history = json.loads((one.folder / "history.json").read_text())[0]
        assert history["valid"]["loss"] == history["train"]["loss"]


def test_show_stops(root, caplog):
    caplog.set_level("INFO")
    assert solver(root, "show", *DECODE, "show=1").run() is None
    assert "values of brain" in caplog.text


@pytest.mark.parametrize("options,message", [
    (["linear.bins=5"], r"linear\.bins=5 does not divide the 38 samples"),
    (["linear.tmax=3"], r"linear\.tmin, tmax=\[None, 3\.0\) s is not inside segments of \[0, 1\.5\] s"),
    (["linear.cv=1"], "cv=1: expected loo"), (["linear.cv=lo"], "cv='lo': expected loo"),
    (["linear.alphas.low=9"], "alphas are 9 powers of ten from 9 to 8"), (["linear.metric=euclid"], "linear.metric"),
    (["dset.features=[]"], "needs features"), (["task.lowpass=5"], "no use for task.lowpass=5"),
    (["dset.test.tmax=1.0"], r"not inside segments of \[0, 1\] s"), (["linear.folds=3"], "unknown key 'linear.folds'"),
    (["dset.test.tmax=1.0", "linear.bins=null", "linear.brain_bins=null", "linear.tmax=null",
      "linear.feature_tmax=null"], r"uses \[39, 39\] samples .* but \[26, 26\]"),
])
def test_a_bad_config_is_explained(options, message):
    with pytest.raises(ConfigError, match=message):
        config(*DECODE, *(option.replace("linear.folds", "+linear.folds") for option in options))


@pytest.mark.parametrize("preset,kind", [("linear_decode", "linear_decode"), ("linear_encode", "linear_encode")])
def test_presets(root, preset, kind):
    cfg = config(f"preset={preset}", "dset.tmin=-0.5", "dset.tmax=2.5", "dset.sample_rate=20")
    assert cfg.task.type == kind and isinstance(build_solver(cfg, root, root, None), LinearSolver)
    assert cfg.linear.part("feature", (-0.5, 2.5), 20, 0)[:2] == (10, 60)


@pytest.mark.slow
def test_natural_sounds_are_found(shared_data, tmp_path):
    """165 sounds, five folds: 27.9 / 70.3 / 90.3 % were measured with these data by another program."""
    for name in ("natsound165_neural", "natsound165_sounds"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(shared_data(name))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = [to_plain(compose("config", ["preset=natsounds_linear", f"dset.fold={fold}", "device=cpu",
                                             f"study_paths.natsounds={tmp_path / 'data'}"])) for fold in range(5)]
    found = []
    for fold, one in enumerate(plain):
        folder = tmp_path / f"xp{fold}"
        folder.mkdir()
        build_solver(check_config(one), folder, tmp_path, Link(folder / "history.json")).run()
        found.append(pd.read_parquet(folder / "test_segments.parquet"))
    table = pd.concat(found)
    assert len(table) == table["candidate"].nunique() == 165
    for name, expected in [("top1", 0.279), ("top5", 0.703), ("top10", 0.903)]:
        assert table[name].mean() == pytest.approx(expected, abs=0.06)
