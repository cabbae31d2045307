"""Whole XPs on neurons whose kernels are known: what comes back from a TRF, a network, and from the sound itself."""
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.analysis.encoder_views import attention_of, load_encoder, look_inside, sound_of
from bm.analysis.encoders import read_encoders
from bm.analysis.gradmaps import strf_gradmap, waveform_gradmap
from bm.analysis.plots.attention_time import plot_attention
from bm.analysis.report.encoding import encoding
from bm.analysis.report.test_report import figures, text_of
from bm.analysis.xp import NotRestorable, StoredXP
from bm.config import CONF, check_config, to_plain
from bm.solvers import build_solver
from bm.solvers.base import Solver
from bm.studies.simulated_neurons import LAGS, SimulatedNeurons

BANDS = 12
BASE = ["dset.selections=[simulated_neurons]", "dset.features=[MelSpectrum]", "dset.sample_rate=200",
        f"dset.features_params.MelSpectrum={{n_fft: 320, n_mels: {BANDS}}}", "device=cpu", "test.n_boot=50"]
TRF = ["task.type=trf", "task.offset_meg_ms=0", "trf.tmin=0", "trf.tmax=0.095", "trf.folds=3", "optim.epochs=1"]
NETWORK = ["model=encoder", "encode.window_s=1.0", "optim.batch_size=8", "optim.lr=5e-3"]

Train = Callable[..., tuple[Solver, StoredXP]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def train(folder) -> Train:
    """`train(name, overrides…, clips=…)`: a finished XP on 4 neurons that are hardly noisy."""
    def one(name: str, *overrides: str, clips: int) -> tuple[Solver, StoredXP]:
        selection = {"neurons": 4, "clips": clips, "repeats": 2, "bands": BANDS, "snr": 20.0}
        with initialize_config_dir(str(CONF), version_base="1.3"):
            plain = to_plain(compose("config", [
                *BASE, *(f"selections.simulated_neurons.{key}={value}" for key, value in selection.items()),
                f"study_paths.simulated_neurons={folder}/neurons", f"cache={folder}/cache", *overrides]))
        place = folder / name
        place.mkdir()
        solver = build_solver(check_config(plain), place, folder, Link(place / "history.json"))
        solver.run()
        (place / "config.json").write_text(json.dumps(plain))
        return solver, StoredXP(place, folder)
    return one


def similarity(folder: Path, clips: int, fields: np.ndarray) -> np.ndarray:
    """r of fields `(N, bands, lags)`, lag 0 first, with the planted kernels."""
    truth = SimulatedNeurons(folder / "neurons", neurons=4, clips=clips, repeats=2, bands=BANDS, snr=20.0).truth()
    assert fields.shape == (4, BANDS, LAGS)
    return np.array([np.corrcoef(field.T.ravel(), kernel.ravel())[0, 1]
                     for field, kernel in zip(fields, truth.kernels, strict=True)])


@pytest.mark.slow
def test_planted_kernels_are_found(train, folder):
    """By the TRF, and by the gradient of a trained linear network; both predict what can be predicted."""
    regression, _ = train("trf", *TRF, clips=100)
    with np.load(regression.folder / "kernels.npz") as found:
        kernels = found["kernels"].transpose(2, 0, 1)
    assert similarity(folder, 100, kernels).min() > 0.99
    network, xp = train("linear", *NETWORK, "encoder.name=linear", f"+encoder.params={{window: {LAGS}}}",
                        "optim.epochs=20", clips=100)
    maps = strf_gradmap(load_encoder(xp)[0], LAGS)[:, 0].numpy()[:, :, ::-1]
    assert similarity(folder, 100, maps).min() > 0.95
    assert regression.last_test["ccnorm"] > 0.98 and network.last_test["ccnorm"] > 0.98


def test_from_the_waveform(train):
    """A front-end makes the spectrogram; the report shows what the neurons listen to in the samples."""
    solver, xp = train("waveform", *NETWORK, "dset.features=[Waveform]", "encoder.name=linear",
                       "+encoder.params={window: 20}", "encoder.wav2spec=mel",
                       f"+encoder.wav2spec_params={{sample_rate: 16000, bands: {BANDS}, fmin: 100, fmax: 8000}}",
                       "optim.epochs=12", clips=20)
    assert solver.last_test["r"] > 0.6
    model, responses = load_encoder(xp)
    assert model.hop == responses.hop == 80
    (view,) = (look_inside(one, [("simulated_neurons/population", "neuron001")], 20) for one in read_encoders([xp]))
    heard = view.waveform
    assert heard is not None and heard.wave.shape == heard.gradient.shape == (20 * 80,) and heard.rate == 16000
    (trial,) = [trial for trial in responses.of("test") if trial.stimulus == view.stimulus]
    wave = sound_of(trial, 80)[0, 0]
    stop = (len(wave) // 80 + 1) // 2 * 80
    whole = waveform_gradmap(model, wave[:stop], unit=1).numpy()  # with all that was before
    assert np.corrcoef(whole[-1600:], heard.gradient)[0, 1] > 0.999 and np.abs(heard.gradient).max() > 0
    np.testing.assert_array_equal(wave[stop - 1600:stop].numpy(), heard.wave)
    assert "Waveform: linear" in [part.title for part in encoding(xp)]
    with pytest.raises(NotRestorable, match=r"encoder.name=linear .* no attention"):
        attention_of(xp)


def test_behind_a_prefilter(train):
    solver, _ = train("prefilter", *NETWORK, "encoder.name=linear", "+encoder.params={window: 20}",
                      "encoder.prefilter=adaptrans", "optim.epochs=10", clips=20)
    assert solver.model.core.in_channels == 2 and solver.last_test["r"] > 0.6


def test_attention_in_one_call_and_in_the_report(train):
    solver, xp = train("attention", *NETWORK, "encoder.name=gru_attention", "+encoder.params={window: 12, hidden: 8}",
                       "optim.epochs=1", "encode.window_s=0.5", clips=20)
    found = attention_of(xp, 2)
    trials = solver.responses.of("test")[:2]
    assert [one.stimulus for one in found] == [trial.stimulus for trial in trials]
    for one, trial in zip(found, trials, strict=True):
        np.testing.assert_array_equal(one.sound, np.concatenate([trial.before, trial.features]))
        assert one.weights.shape == (1, len(one.sound), 12)
        np.testing.assert_allclose(one.weights.sum(2), 1, atol=1e-5)
    plot_attention(found[0].weights[0, 20], found[0].sound[9:21], np.arange(BANDS), 200.0)
    parts = {part.title: part for part in encoding(xp)}
    assert figures([parts["Attention of gru_attention"]]) and figures([parts["Attention over lags"]])
    said = text_of(list(parts.values()))
    assert "Does the attention of gru_attention follow the sound?" in said and "Time-lock p = " in said
