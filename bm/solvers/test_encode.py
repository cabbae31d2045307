"""Encoding as an XP: a planted kernel is found, a resumed run is the same, what was not measured changes nothing."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dora.link import Link

from bm.config import ConfigError
from bm.data import test_responses
from bm.data.test_responses import PlantedRecording, planted_config, register
from bm.features import build_feature
from bm.metrics.encoding import pooled_ccnorm
from bm.solvers import build_solver
from bm.solvers.encode import EncodeSolver

ramp, people = test_responses.ramp, test_responses.people  # fixtures
LINEAR = ["dset.features=[WordPulse]", "encoder.name=linear", "optim.lr=3e-2", "optim.epochs=6", "test.n_boot=100",
          "encode.window_s=1.5", "optim.batch_size=8"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where cache and XPs are, once for all tests here."""
    return tmp_path_factory.mktemp("encode")


@pytest.fixture
def solver(people, monkeypatch, root):
    """`solver(name, overrides…, recordings=)`: an XP of the planted study, not yet built."""
    def make(name: str, *overrides: str, recordings: list[PlantedRecording] | None = None) -> EncodeSolver:
        register(monkeypatch, recordings or people)
        folder = root / "xps" / name
        folder.mkdir(parents=True, exist_ok=True)
        cfg = planted_config(*LINEAR, *overrides)
        return build_solver(cfg, folder, root, Link(folder / "history.json"))  # type: ignore[return-value]
    return make


def history_of(folder: Path) -> list:
    history = json.loads((folder / "history.json").read_text())
    for epoch in history:
        for stage in epoch.values():
            stage.pop("duration")
    return history


def test_a_planted_kernel_is_found(solver, people):
    """With two subjects, of whom one has repeats and the other fewer channels, one of them bad."""
    one = solver("planted", "encode.predictions=true", "optim.epochs=12", recordings=[
        replace(person, noise=0.5) for person in people])
    metrics = one.run()
    assert metrics["r"] > 0.85 and metrics["r_low"] <= metrics["r"] <= metrics["r_high"] and metrics["r2"] > 0.5
    assert metrics["n_units"] == 6 and metrics["n_stimuli"] == len({t.stimulus for t in one.responses.of("test")})
    assert 0.9 < metrics["ccnorm"] < 1.1 and metrics["ccnorm_low"] < metrics["ccnorm"] < metrics["ccnorm_high"]
    table = pd.read_parquet(one.folder / "encoding.parquet")
    assert table["name"].tolist() == [f"MEG{i:03d}" for i in (0, 1, 2, 3, 0, 1, 2)]
    assert table["subject_name"].tolist() == ["planted/a"] * 4 + ["planted/b"] * 3
    assert table["r"].isna().tolist() == [False] * 5 + [True, False]
    assert table["n_repeats"].tolist()[:5] == [2, 2, 2, 2, 1]
    assert table["ccnorm"].isna().tolist() == [False] * 4 + [True] * 3
    with np.load(one.folder / "encoding_moments.npz") as sums:
        assert (sums["powers"][:, 1] > 0).any(0).tolist() == [True] * 4 + [False] * 3
        assert pooled_ccnorm(sums["moments"], sums["powers"])[:4] == pytest.approx(table["ccnorm"][:4], rel=1e-4)
    with np.load(one.folder / "encoding_predictions.npz") as saved:
        trials = one.responses.of("test")
        assert saved["stimulus"].tolist() == [t.stimulus for t in trials]
        np.testing.assert_array_equal(saved["response_3"], trials[3].mean())
        assert np.corrcoef(saved["prediction_0"][:, 0], saved["response_0"][:, 0])[0, 1] > 0.7
    kernels = one.model.core.strf.weight.detach()[:4, 0, 0].flip(-1)[:, :6].numpy()
    assert min(np.corrcoef(*pair)[0, 1] for pair in zip(kernels, people[0].kernels(), strict=True)) > 0.95


@pytest.mark.parametrize("moment", ["train_epoch", "save"])
def test_resumes_exactly(solver, monkeypatch, moment):
    whole = solver("whole")
    whole.run()  # once: then it is finished
    one, calls = solver(moment), []
    step = getattr(one, moment)

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(one, moment, stop)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    again = solver(moment)
    again.run()
    assert history_of(again.folder) == history_of(whole.folder) and len(history_of(whole.folder)) == 6
    one_state, other = (torch.load(x.folder / "checkpoint.th", weights_only=True)["solver"] for x in (whole, again))
    for name, value in one_state["model"].items():
        assert torch.equal(value, other["model"][name]), name


def test_what_was_not_measured_changes_nothing(solver, people):
    """A repeat that is missing everywhere, and units that were never measured, beside the same without them."""
    alone = solver("alone", recordings=people[:1])
    alone.run()
    lost = replace(people[1], missing=(0, 10_000, -1))
    beside = solver("beside", recordings=[people[0], lost])
    beside.run()
    assert beside.responses.trials[0].responses.shape[0] == 2
    a, b = (history_of(one.folder) for one in (alone, beside))
    assert [e["train"]["loss"] for e in a] == pytest.approx([e["train"]["loss"] for e in b], rel=1e-6)
    assert a[-1]["test"]["r"] == pytest.approx(b[-1]["test"]["r"], rel=1e-6)


def test_outputs_see_the_history(solver):
    """A trial's prediction does not depend on how it is cut: whole, or as windows with history."""
    one = solver("cut")
    one.build()
    trials = one.splits["train"]
    whole = one.predict(trials[:2])[0]
    one.model.eval()
    with torch.no_grad():
        part = one.outputs(one.windows(trials, [(0, 20, 45)]))[0, one.responses.units_of(trials[0].subject)]
    np.testing.assert_allclose(part.T.numpy(), whole[20:45], atol=1e-6)
    assert one.history > 0 and one.outputs(one.windows(trials, [(0, 0, 10)])).shape[-1] == 10


def test_the_loss_does_not_depend_on_how_windows_are_dealt_out(solver, people):
    """To two processes, of which one has more of a subject, and a unit is measured at other times than the rest."""
    one = solver("dealt", recordings=[*people[:2], replace(people[2], missing=(200, 700, 0))])
    one.build()
    one.model.eval()
    trials, chosen = one.splits["train"], one.draw(1)[0][:5]
    assert {trials[i].subject for i, _, _ in chosen} == {0, 1}
    whole, *parts = (one._batch_loss(trials, own) for own in (chosen, chosen[::2], chosen[1::2]))
    for all_of_it, a, b in zip(whole, *parts, strict=True):
        torch.testing.assert_close(a + b, all_of_it)
    own = whole[1] > 0
    assert 0 < own.sum() < len(own) and (whole[0][~own] == 0).all()  # a bad channel


def test_recurrent_models_are_warmed_up(solver):
    one = solver("gru", "encoder.name=statenet", "+encoder.params={encoder: fc, kernel_bands: 1, hidden: 4}",
                 "encode.warmup_s=0.4")
    one.build()
    assert one.history == 10 and {len(trial.before) for trial in one.responses.trials} == {10}
    assert np.isfinite(one.train_epoch(1)["loss"]) and np.isfinite(one.valid_epoch(1)["loss"])


def test_rates_are_fitted_by_a_poisson_loss(solver, people):
    one = solver("poisson", "encoder.name=ln", "encode.loss=poisson", "encode.response=max", "optim.epochs=2")
    with pytest.raises(ValueError, match="responses of at least 0"):
        one.run()  # the planted ones are negative at times
    with pytest.raises(ConfigError, match="encode.loss=poisson is for rates"):
        solver("poisson", "encode.loss=poisson")


def test_show_builds_and_stops(solver, caplog):
    caplog.set_level("INFO")
    one = solver("show", "show=1")
    assert one.run() is None and "columns to 7 units" in caplog.text and not one.checkpoint_path.exists()


def test_a_prefilter_takes_its_bands_from_the_features(solver):
    mel = "dset.features_params.MelSpectrum={n_mels: 4, n_fft: 64, norm_audio: false}"
    one = solver("bands", "encoder.prefilter=ic_adaptation", "dset.features=[MelSpectrum]", mel)
    one.build()
    tau = 500 - 105 * np.log10(build_feature("MelSpectrum", {"n_mels": 4}).bands_hz)
    assert -1000 / (one.responses.rate * one.model.prefiltering.decay[0, :, 0].log()).numpy() == pytest.approx(
        tau, rel=1e-4)
    for features in ("WordPulse", "MelSpectrum,WordPulse"):
        with pytest.raises(ValueError, match="these features do not say: set encoder.prefilter_params="):
            solver("unknown", "encoder.prefilter=ic_adaptation", f"dset.features=[{features}]", mel).build()


def test_a_sound_needs_its_front_end(solver):
    with pytest.raises(ValueError, match="an encoder.wav2spec needs dset.features"):
        solver("wave", "dset.features=[Waveform]", "dset.features_params.Waveform.rate=1000").build()


@pytest.mark.parametrize("overrides,message", [
    (["task.type=decode"], "model_name=encoder is for task.type=encode"), (["dset.features=[]"], "needs features"),
    (["task.offset_meg_ms=100"], "encode.offset_ms"), (["encode.response=x"], "encode.response"),
    (["encode.window_s=0"], "encode.window_s"),
])
def test_a_bad_config_is_explained(overrides, message):
    with pytest.raises(ConfigError, match=message):
        planted_config(*overrides)
