"""Temporal response functions as experiments, on two simulated people who listen for two minutes; those from the brain
to the sound beside a decoder."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from bm.analysis.evaluate import Evaluation, evaluate
from bm.analysis.report import make_report
from bm.analysis.report.reconstruction import reconstruction
from bm.analysis.report.test_report import figures, text_of
from bm.analysis.xp import NotRestorable, StoredXP
from bm.config import CONF, ConfigError, to_plain
from bm.data.responses import Trial, build_responses, mean_of_repeats
from bm.linear import TRF as Function
from bm.linear import dirichlet
from bm.linear.reconstruct import centred
from bm.metrics.compare import paired_interval
from bm.solvers.base import Solver
from bm.solvers.test_decode import TINY, config, solver
from bm.solvers.trf import TrfSolver

TRF = ["preset=trf", "dset.lowpass=10", "trf.tmax=0.32", "dset.features_params.MelSpectrum.n_mels=4", "trf.folds=3"]
BANDS = ["trf.n_scalings=3", "trf.bands=[[MelSpectrum],[WordPulse]]"]


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
    one = solver(root, "bands", *TRF, "dset.features=[MelSpectrum,WordPulse]", *BANDS)
    metrics = one.run()
    table = pd.read_parquet(one.folder / "partition.parquet")
    assert metrics["unique_MelSpectrum"] == pytest.approx(table["unique_MelSpectrum"].median())
    assert metrics["unique_MelSpectrum"] > 0.01
    whole = pd.read_parquet(one.folder / "encoding.parquet")
    np.testing.assert_allclose(table["r2"], whole["r2"])
    for name, other in (("MelSpectrum", "WordPulse"), ("WordPulse", "MelSpectrum")):
        rest = solver(root, f"{other} alone", *TRF, f"dset.features=[{other}]")
        rest.run()
        alone = pd.read_parquet(rest.folder / "encoding.parquet")["r2"]
        np.testing.assert_allclose(table[f"unique_{name}"], whole["r2"] - alone, atol=1e-9)
    np.testing.assert_allclose(table["shared"], table["r2"] - table[["unique_MelSpectrum", "unique_WordPulse"]].sum(
        axis=1, skipna=False), atol=1e-12)


def test_nested_folds_are_of_all_stimuli(root, forward):
    """Each trial is predicted by a function that is fitted, penalties included, to the trials of the other folds."""
    one = solver(root, "nested", *TRF, "dset.features=[MelSpectrum,WordPulse]", *BANDS, "trf.nested=true",
                 "encode.predictions=true")
    metrics = one.run()
    trials = [trial for split in ("train", "valid", "test") for trial in one.splits[split]]
    assert metrics["n_stimuli"] == len({trial.stimulus for trial in trials}) > forward.last_test["n_stimuli"]
    own = [trial for trial in trials if trial.subject == 1]
    settings = one.settings | {"bands": one._bands(), "scalings": dirichlet(3, 2, seed=one.cfg.seed)}
    held = Function(**settings).splits(len(own), [trial.stimulus for trial in own])[0]
    rest, saved = [trial for i, trial in enumerate(own) if i not in held], np.load(
        one.folder / "encoding_predictions.npz")
    # as nested does it, the other folds choose among themselves
    inner = Function(**settings).splits(len(own), [trial.stimulus for trial in own])[1:]
    label = {int(i): number for number, fold in enumerate(inner) for i in fold}
    fitted = Function(**settings | {"folds": None}).fit(**one._sides(rest), groups=[
        label[i] for i in range(len(own)) if i not in held])
    first = int(held[0])
    expected = fitted.predict([own[first].features], before=[own[first].before], after=[own[first].after])[0]
    (at,) = [i for i, name in enumerate(saved["stimulus"]) if name == own[first].stimulus and saved["subject"][i] == 1]
    mean = np.concatenate([trial.mean()[:, one.used[1]] for trial in rest]).mean(0)  # both are relative to it
    np.testing.assert_allclose(saved[f"prediction_{at}"][:, one.used[1]], expected - mean, atol=1e-5)
    np.testing.assert_allclose(saved[f"response_{at}"][:, one.used[1]], own[first].mean()[:, one.used[1]] - mean,
                               atol=1e-5)
    table = pd.read_parquet(one.folder / "partition.parquet")
    np.testing.assert_allclose(table[["product_MelSpectrum", "product_WordPulse"]].sum(axis=1, skipna=False),
                               table["r2"], atol=1e-9)
    np.testing.assert_allclose(table["unique_MelSpectrum"], table["r2"] - table["alone_WordPulse"], atol=1e-9)
    # about the mean of those that train; there about that of all
    assert (table["r2"] - pd.read_parquet(one.folder / "encoding.parquet")["r2"]).abs().median() < 0.01


def test_nested_leaves_out_what_two_folds_measure(root, monkeypatch, caplog):
    """A channel of two train stimuli can be fitted, and has a kernel; nested it has no scores."""
    def sparse(*args):
        data = build_responses(*args)
        own = [trial for trial in data.trials if trial.subject == 0]
        train = [trial for trial in own if trial.split == "train"]
        folds = Function(0, 0.3, 25, folds=3).splits(len(train), [trial.stimulus for trial in train])
        kept = {id(train[int(fold[0])]) for fold in folds[:2]}
        for trial in own:
            if id(trial) not in kept:
                trial.responses[:, :, 5] = np.nan
        return data
    monkeypatch.setattr("bm.solvers.trf.build_responses", sparse)
    one = solver(root, "sparse", *TRF, "trf.nested=true")
    with caplog.at_level("WARNING"):
        one.run()
    table = pd.read_parquet(one.folder / "encoding.parquet")
    used = np.concatenate([one.used[0], one.used[1] + len(table) // 2])
    assert used[table["r"][used].isna()].tolist() == [5]
    assert f"{table['name'][5]} measured in fewer than three of the nested folds" in caplog.text
    assert np.isfinite(np.load(one.folder / "kernels.npz")["kernels"][..., 5]).all()


def test_predictions_are_of_what_was_heard_around_a_trial(forward):
    """Kernels times features at each lag, those before and after the trial included."""
    trial = max(forward.splits["test"], key=lambda one: np.abs(one.before).sum() * np.abs(one.after).sum())
    model, n = forward.models[""][trial.subject], len(trial.features)
    heard = np.concatenate([trial.before, trial.features, trial.after])
    lags = np.rint(model.lags * 25).astype(int)
    expected = model.intercept_ + sum(heard[len(trial.before) - lag:][:n] @ model.kernels[:, i] / 25
                                      for i, lag in enumerate(lags))
    found = forward.predict([trial])[0][:, forward.used[trial.subject]]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.abs(trial.before).max() > 0 and np.abs(trial.after).max() > 0


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
    (["trf.bands=[[MelSpectrum],[Word]]", "trf.direction=backward"], "backward predicts them"),
    (["trf.nested=true", "trf.folds=2"], "at least three folds"),
    (["trf.candidates=segments"], "direction=backward alone"),
    (["trf.nested=true", "trf.direction=backward"], "nested cross-validation is of direction=forward")])
def test_bad_configs(options, message):
    with pytest.raises(ConfigError, match=message):
        config(*TRF, *options)


@pytest.mark.parametrize(("options", "message"), [
    (["trf.bands=[[MelSpectrum],[Word]]"], "dset.features"), (["trf.folds=500"], "use fewer folds"),
    (["dset.n_subjects=1"], "simulated/02 has no train trials"),
    (["trf.direction=backward", "trf.candidates=segments", "encode.offset_ms=100"], "encode.offset_ms=100 has no use")])
def test_bad_runs(root, options, message):
    with pytest.raises(ValueError, match=message):
        solver(root, "bad", *TRF, *options).run()


LISTENING = ["dset.features_params.MelSpectrum.n_mels=4", "dset.tmax=2", "dset.lowpass=10", "test.n_boot=50",
             "test.n_permutations=20", "dset.condition=1.0", "norm.scaler.n_samples_per_recording=20"]
BACKWARD = [*LISTENING, "task.type=trf", "task.offset_meg_ms=0", "trf.direction=backward", "trf.tmin=0",
            "trf.tmax=0.08", "trf.folds=3", "optim.epochs=1"]
XPS = {"pieces": [*BACKWARD, "trf.segment_s=2"], "segments": [*BACKWARD, "trf.candidates=segments"],
       "ridge": [*LISTENING, "task.type=linear_decode", "optim.epochs=1"]}


@pytest.fixture(scope="module")
def trained(root) -> dict[str, tuple[Solver, StoredXP]]:
    """Backward functions asked for pieces and for segments, and ridge regression on the same segments."""
    out = {}
    for name, overrides in XPS.items():
        one = solver(root, name, *overrides)
        one.run()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            plain = to_plain(compose("config", [*TINY, *overrides]))
        (one.folder / "config.json").write_text(json.dumps(plain))
        out[name] = one, StoredXP(one.folder, root)
    return out


def test_the_sound_from_the_brain(trained):
    one, _ = trained["pieces"]
    metrics = one.last_test
    assert metrics["r"] > 0.15 and metrics["top1_low"] > metrics["top1_chance"]
    assert len(pd.read_parquet(one.folder / "reconstruction.parquet")) == 2 * 4
    segments = pd.read_parquet(one.folder / "test_segments.parquet")
    assert segments["top1"].mean() == pytest.approx(metrics["top1"]) and set(segments["subject"]) == {0, 1}
    with np.load(one.folder / "kernels.npz") as found:
        channels = len(found["channels_1"])
        assert found["kernels_1"].shape == (channels, 3, 4) and found["patterns_1"].shape == (4, 3, channels)
        assert found["lags"][0] == pytest.approx(-0.08)
        pattern = found["patterns_1"]
    # covariance of the brain at each lag with the reconstruction, times the inverse of that of the reconstruction
    trials = one._own(1)
    rows = np.concatenate([np.hstack([np.pad(trial.mean()[lag:, one.used[1]], ((0, lag), (0, 0)))
                                      for lag in range(3)]) for trial in trials])
    guess = np.concatenate(one.predict(trials))
    rows, guess = rows - rows.mean(0), guess - guess.mean(0)
    expected = (rows.T @ guess @ np.linalg.inv(guess.T @ guess)).reshape(3, channels, 4).transpose(2, 0, 1)
    np.testing.assert_allclose(pattern, expected, atol=1e-6)
    assert np.abs(pattern).max() > 0.1


def test_one_audit_counts(root, caplog):
    """That of the trials, in whose blocks the test segments of decoding lie."""
    one = solver(root, "audited", *XPS["segments"])
    with caplog.at_level("INFO"):
        one.build()
    assert sum("leak audit" in record.getMessage() for record in caplog.records) == 1
    pd.testing.assert_frame_equal(pd.read_csv(one.folder / "audit.csv")[["a", "b", "brain_s"]],
                                  one.responses.audit.table[["a", "b", "brain_s"]], check_dtype=False)
    data, sample = one.segments.data, 1 / one.responses.rate
    blocks = data.blocks[data.blocks["split"] == "test"]
    for segment in data.segments[data.segments["split"] == "test"].itertuples():
        own = blocks[blocks["recording"] == segment.recording]
        assert ((own["start"] <= segment.start + 1e-6) & (segment.stop <= own["stop"] + sample)).any()


def test_segments_are_reconstructed_from_their_own_windows(trained):
    """As by the function itself, from the rows of a trial that lie in a segment."""
    one, _ = trained["segments"]
    assert isinstance(one, TrfSolver) and one.segments is not None
    data = one.segments.data
    ids = data.ids("test")[[0, 5, -1]]
    found = torch.cat(list(one.segments.estimates(ids))).numpy()
    truth = torch.cat(list(one.segments.target_batches(ids, data.dataset("test")))).numpy()
    for row, features, segment in zip(found, truth, data.segments.iloc[ids].itertuples(), strict=True):
        subject = data.subjects[segment.recording]
        recording = data.prepared[segment.recording]
        (trial,) = [trial for trial in one.splits["test"] if trial.subject == subject
                    and trial.stimulus.partition(" (")[0] == segment.block]
        at = _place(features, trial.features)
        window = trial.mean()[at:at + features.shape[1], one.used[subject]]
        expected = centred(one.models[""][subject].predict([window])[0].T)
        np.testing.assert_allclose(row, expected, atol=1e-4)
        assert len(recording.channels) > len(one.used[subject]) // 2


def _place(features: np.ndarray, whole: np.ndarray) -> int:
    """Where in a trial's features `(T, D)` those of a segment `(D, n)` are."""
    n = features.shape[1]
    gaps = [np.abs(centred(whole[at:at + n].T) - features).max() for at in range(len(whole) - n + 1)]
    assert min(gaps) < 1e-4
    return int(np.argmin(gaps))


def test_it_stands_beside_a_decoder(trained):
    """The same segments and candidates, so that the difference can be paired, segment by segment."""
    tables = {}
    for name in ("segments", "ridge"):
        one, xp = trained[name]
        (folder,) = evaluate(xp, Evaluation(), one.folder / "eval", progress=False)
        tables[name] = pd.read_parquet(folder / "metadata.parquet")
        accuracy = pd.read_csv(folder / "acc.csv").set_index("topk")
        assert accuracy.loc[10, "acc_segment"] == pytest.approx(one.last_test["top10"])
        assert one.last_test["top10_low"] > one.last_test["top10_chance"]
    assert (tables["segments"]["candidate"] == tables["ridge"]["candidate"]).all()
    both = paired_interval(tables["segments"], tables["ridge"], n_boot=50)
    assert both["n"] == len(tables["ridge"]) and both["low"] <= both["difference"] <= both["high"]


def test_controls_take_the_brain_away(trained):
    one, xp = trained["segments"]
    folders = {name: evaluate(xp, Evaluation(control=name), one.folder / "eval", progress=False)[0]
               for name in ("none", "noise_brain", "other_subject")}
    own, noise, other = (pd.read_csv(path / "acc.csv").set_index("topk").loc[10] for path in folders.values())
    assert noise["acc_segment"] < other["acc_segment"] < own["acc_segment"]
    assert noise["low"] <= noise["chance"] * 1.5
    assert evaluate(xp, Evaluation(control="untrained"), one.folder / "eval", progress=False) == []
    with pytest.raises(NotRestorable, match="trf.candidates=segments"):
        evaluate(trained["pieces"][1], Evaluation(), one.folder / "pieces", progress=False)


@pytest.mark.parametrize("name", ["pieces", "segments"])
def test_the_report(trained, name, tmp_path):
    one, xp = trained[name]
    parts = reconstruction(xp)
    said, test = text_of(parts), one.last_test
    scores = pd.read_parquet(one.folder / "reconstruction.parquet")
    for feature, own in scores.groupby("feature"):
        assert f"{feature} 2 {own['r'].mean():.3f}"[:-1] in said
    assert f"{100 * test['top1']:.1f} % [{100 * test['top1_low']:.1f} %" in said
    assert f"{100 * test['top1_chance']:.1f} %" in said and len(figures(parts)) == 1
    path = tmp_path / "report.html"
    make_report(xp).save(path, open_browser=False, verbose=False)
    page = path.read_text()
    for title in ("Reconstructed features", "Identified segments", "Patterns", "Accuracy by subject", "simulated/02",
                  "Retrieved segments", "best: rank", "has no network to run again"):
        assert title in page, title
    assert reconstruction(trained["ridge"][1]) == []


def test_an_older_xp_has_no_maps(trained, tmp_path):
    _, xp = trained["pieces"]
    for name in ("config.json", "result.json", "reconstruction.parquet"):
        (tmp_path / name).write_bytes((xp.folder / name).read_bytes())
    with np.load(xp.folder / "kernels.npz") as stored:
        np.savez(tmp_path / "kernels.npz", **{name: stored[name] for name in stored if name != "layout"})
    assert "no places of channels" in text_of(reconstruction(StoredXP(Path(tmp_path), xp.root)))
