"""The planted truth is what the responses and the feature say."""
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.data.responses import build_responses
from bm.features.audio import MelSpectrum, read_audio
from bm.metrics.encoding import encoding_scores
from bm.studies.modulated_noise import spectrogram
from bm.studies.simulated_neurons import LAGS, SimulatedNeurons

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("neurons")


def made(folder: Path, **selection) -> SimulatedNeurons:
    study = SimulatedNeurons(folder, **selection)
    study.prepare()
    return study


def test_the_spectrogram_is_the_feature(folder):
    study = made(folder, clips=2)
    for clip in next(study.recordings()).clips:
        audio, rate = read_audio(clip.path)
        feature = MelSpectrum(n_fft=320, n_mels=24).compute(audio, rate)
        assert np.abs(spectrogram(audio.astype(float), 24) - feature).max() < 1e-3
        # louder and softer by more than noise alone
        assert 0.3 < feature.std(0).mean() < 1.5


def test_kernels_give_the_rates_from_the_features_of_an_experiment(folder, tmp_path):
    """Convolving what a solver sees, and what was before, with the kernels gives the expected responses."""
    study = made(folder, repeats=3)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [
            "model=encoder", "dset.selections=[simulated_neurons]", "dset.features=[MelSpectrum]",
            "dset.features_params.MelSpectrum={n_fft:320,n_mels:24}", "dset.sample_rate=200", "dset.highpass=0",
            "encode.response=none", "device=cpu", "selections.simulated_neurons.repeats=3",
            f"study_paths.simulated_neurons={folder}", f"cache={tmp_path}"])))
    responses = build_responses(cfg, ROOT, history=LAGS - 1)
    assert [len(responses.of(split)) for split in ("train", "valid", "test")] == [12, 4, 4]
    truth = study.truth()
    predictions, rates = [], []
    for trial in responses.of("test"):
        heard = np.concatenate([trial.before, trial.features])
        lagged = np.lib.stride_tricks.sliding_window_view(heard, LAGS, axis=0)[..., ::-1]
        predictions.append(np.einsum("tbl,nlb->tn", lagged, truth.kernels))
        mean = trial.mean()
        rates.append(truth.rates[np.argmin([np.abs(rate - mean).mean() for rate in truth.rates])])
        assert trial.responses.shape == (3, 600, 8)
    x, y = np.concatenate(predictions), np.concatenate(rates)
    # bands are scaled by the train clips here, by all there
    assert min(np.corrcoef(x[:, n], y[:, n])[0, 1] for n in range(8)) > 0.98


@pytest.mark.parametrize("noise, snr", [("gaussian", 0.2), ("gaussian", 2.0), ("poisson", 0.2), ("poisson", 1.0)])
def test_signal_over_noise_is_as_asked(folder, noise, snr):
    study = made(folder, noise=noise, snr=snr, neurons=12, clips=12, bands=16)
    truth = study.truth()
    recordings = list(study.recordings())
    starts = recordings[0].events()["start"].astype(int) * 200
    arrays = [recording.signal().read() for recording in recordings]
    responses = [np.stack([array[start:start + 600] for array in arrays]) for start in starts]
    scores = encoding_scores(list(truth.rates), responses, n_boot=10)
    assert scores["ccnorm"].mean() == pytest.approx(1, abs=0.01) and scores["ccnorm_hsu"].mean() > 0.98
    # within clips there is a little less signal than over all
    assert scores["snr"].mean() == pytest.approx(snr, rel=0.15)
    if noise == "poisson":
        assert all((one == np.round(one)).all() and (one >= 0).all() for one in responses)
        assert (truth.rates == 0).mean() < 0.02


def test_seeds_and_parameters_have_folders_of_their_own(folder):
    small = {"clips": 2, "seconds": 0.5}
    one, other = made(folder, **small), made(folder, seed=1, **small)
    assert one.root != other.root and one.root.parent == folder
    assert not np.allclose(one.truth().kernels, other.truth().kernels)
    again = made(folder / "again", **small)
    assert np.array_equal(one.truth().rates, again.truth().rates)
    first, second = (next(study.recordings()).signal().read() for study in (one, again))
    assert np.array_equal(first, second, equal_nan=True)


@pytest.mark.parametrize("selection, message", [
    ({"noise": "pink"}, "expected gaussian or poisson"), ({"snr": 0}, "snr=0, expected a number from"),
    ({"neuron": 3}, "neuron.*neurons"), ({"clips": 3, "test_clips": [4]}, r"test_clips=\[4\]")])
def test_bad_selections(folder, selection, message):
    with pytest.raises(ValueError, match=message):
        SimulatedNeurons(folder, **selection)


def test_not_made_yet(tmp_path):
    with pytest.raises(FileNotFoundError, match="call prepare"):
        next(SimulatedNeurons(tmp_path).recordings())
