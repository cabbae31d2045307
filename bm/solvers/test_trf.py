"""Temporal response functions as experiments, on two simulated people who listen for two minutes."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bm.config import ConfigError
from bm.data.responses import Trial, mean_of_repeats
from bm.solvers.test_decode import config, solver
from bm.solvers.trf import TrfSolver

TRF = ["preset=trf", "dset.lowpass=10", "trf.tmax=0.32", "dset.features_params.MelSpectrum.n_mels=4", "trf.folds=3"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trf")


@pytest.fixture(scope="module")
def forward(root) -> TrfSolver:
    one = solver(root, "forward", *TRF)
    one.run()
    return one


def test_what_is_heard_predicts_the_brain(forward):
    metrics = forward.last_test
    assert metrics["r"] > 0.15 and metrics["r_low"] > 0.1 and metrics["r_low"] < metrics["r"] < metrics["r_high"]
    table = pd.read_parquet(forward.folder / "encoding.parquet")
    assert len(table) == len(forward.responses.units) and {"r", "r2", "subject_name", "x"} <= set(table)
    assert metrics["n_units"] == np.isfinite(table["r"]).sum() and metrics["r"] == pytest.approx(table["r"].median())
    with np.load(forward.folder / "kernels.npz") as found:
        kernels, lags = found["kernels"], found["lags"]
        assert kernels.shape == (4, len(lags), len(table)) and lags[0] == pytest.approx(-0.08) and lags[-1] == 0.32
        assert list(found["features"]) == [f"MelSpectrum[{i}]" for i in range(4)]
        assert found["units"][0].startswith("simulated/01/") and "per standard deviation" in str(found["unit"])
    measured = np.isfinite(kernels).all((0, 1))
    assert 0.9 < measured.mean() < 1  # a few channels are bad
    size = np.abs(kernels[:, :, measured]).mean((0, 2))
    assert size[lags >= 0.08].mean() > 1.3 * size[lags < 0].mean()  # the brain is later than the sound


def test_resuming_repeats_nothing(root, forward, monkeypatch):
    (forward.folder / "result.json").unlink()
    monkeypatch.setattr(TrfSolver, "train_epoch", None)
    again = solver(root, "forward", *TRF)
    assert again.run() == forward.last_test
    trials = again.splits["test"]
    for a, b in zip(again.predict(trials), forward.predict(trials), strict=True):
        np.testing.assert_array_equal(a, b)


def test_groups_of_features(root):
    one = solver(root, "bands", *TRF, "dset.features=[MelSpectrum,WordPulse]", "trf.n_scalings=3",
                 "trf.bands=[[MelSpectrum],[WordPulse]]")
    metrics = one.run()
    table = pd.read_parquet(one.folder / "partition.parquet")
    assert (table[["unique_MelSpectrum", "unique_WordPulse"]].max() < 1).all()
    assert metrics["unique_MelSpectrum"] == pytest.approx(table["unique_MelSpectrum"].median())
    assert metrics["unique_MelSpectrum"] > 0
    whole = pd.read_parquet(one.folder / "encoding.parquet")
    np.testing.assert_allclose(table["r2"], whole["r2"])


def test_the_sound_from_the_brain(root):
    one = solver(root, "backward", *TRF, "trf.direction=backward", "trf.tmin=0", "trf.tmax=0.08", "trf.segment_s=2")
    metrics = one.run()
    assert metrics["r"] > 0.15 and metrics["top1_low"] > metrics["top1_chance"]
    assert len(pd.read_parquet(one.folder / "reconstruction.parquet")) == 2 * 4
    segments = pd.read_parquet(one.folder / "test_segments.parquet")
    assert segments["top1"].mean() == pytest.approx(metrics["top1"]) and set(segments["subject"]) == {0, 1}
    with np.load(one.folder / "kernels.npz") as found:
        channels = len(found["channels_1"])
        assert found["kernels_1"].shape == (channels, 3, 4) and found["patterns_1"].shape == (4, 3, channels)
        assert found["lags"][0] == pytest.approx(-0.08)


def test_repeats_count_and_lost_channels_are_left_out(root, monkeypatch):
    """A channel that is measured in one stimulus is predicted to be 0; the others have three repeats."""
    build = TrfSolver.build

    def built(self):
        build(self)
        noise = np.random.default_rng(0)
        for split, trials in self.splits.items():
            for i, trial in enumerate(trials):
                y = trial.responses.repeat(3, 0)
                y += 2 * noise.standard_normal(y.shape).astype(np.float32)
                if split == "train" and i % len(trials) > 0:
                    y[:, :, 5] = np.nan
                trials[i] = Trial(trial.stimulus, split, trial.subject, trial.features, trial.before, trial.after, y)

    monkeypatch.setattr(TrfSolver, "build", built)
    one = solver(root, "repeats", *TRF)
    metrics = one.run()
    assert 5 not in one.used[0] and 6 in one.used[0]
    assert (one.predict(one.splits["test"][:1])[0][:, 5] == 0).all()
    assert metrics["ccnorm"] > metrics["r"] > 0.05 and mean_of_repeats(one.splits["test"][0].responses).ndim == 2


@pytest.mark.parametrize(("options", "message"), [
    (["trf.tmin=0.4"], r"tmin \(0.4 s\) must be below tmax"), (["trf.alphas.low=9"], "powers of ten"),
    (["trf.bands=[[MelSpectrum]]"], "two groups of features or more"), (["dset.features=[]"], "needs features"),
    (["trf.penalty=lasso"], "trf.penalty"), (["task.lowpass=5"], "no use for task.lowpass"),
    (["trf.bands=[[MelSpectrum],[Word]]", "trf.direction=backward"], "backward predicts them")])
def test_bad_configs(options, message):
    with pytest.raises(ConfigError, match=message):
        config(*TRF, *options)


@pytest.mark.parametrize(("options", "message"), [
    (["trf.bands=[[MelSpectrum],[Word]]"], "dset.features"), (["trf.folds=500"], "use fewer folds"),
    (["dset.n_subjects=1"], "simulated/02 has no train trials")])
def test_bad_runs(root, options, message):
    with pytest.raises(ValueError, match=message):
        solver(root, "bad", *TRF, *options).run()
