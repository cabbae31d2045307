"""The simulated study: the dataset, its truth and the ideal observer."""
import pickle
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import welch

from bm.events import check_events, make_blocks
from bm.studies.base import CHANNEL_COLUMNS, STUDIES
from bm.studies.simulated import Simulated
from bm.studies.simulated.make import Parameters
from bm.studies.simulated.noise import BAND
from bm.studies.simulated.truth import Truth, load_truth, whittle_scores

TINY = {"subjects": 1, "sessions": 1, "minutes": 0.3, "rate": 100}
LOUD = {"subjects": 1, "sessions": 1, "rate": 100, "snr": 1e4}


def made(path: Path, **selection) -> Simulated:
    study = Simulated(path, **selection)
    study.prepare()
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("simulated")


@pytest.fixture(scope="module")
def loud(folder):
    """A recording of 6 minutes with a very clear response, and its truth."""
    recording = next(made(folder, **LOUD).recordings())
    return recording, load_truth(recording)


def good_channels(recording) -> np.ndarray:
    return np.flatnonzero(~recording.signal().channels["bad"])


def test_registered_and_refuses_bad_selections(tmp_path):
    assert STUDIES["simulated"] is Simulated
    with pytest.raises(ValueError, match=r"unknown selection keys \['subject'\], expected some of"):
        Simulated(tmp_path, subject=1)
    for wrong in ({"subjects": 0}, {"subjects": 2.0}, {"seed": True}, {"snr": -1}, {"snr": float("nan")}, {"rate": 10},
                  {"minutes": 0.1}, {"sessions": "2"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* expected"):
            Simulated(tmp_path, **wrong)
    with pytest.raises(ValueError, match="no path"):
        Simulated(None)
    with pytest.raises(FileNotFoundError, match="prepare"):
        next(Simulated(tmp_path).recordings())


def test_streams_do_not_depend_on_how_many_there_are():
    few, many = Parameters(subjects=1), Parameters(subjects=9, sessions=3)
    assert few.rng("noise", 1, 1).random() == many.rng("noise", 1, 1).random()
    draws = {few.rng(stream, *who).random() for stream in ("noise", "timing") for who in ((1, 1), (1, 2), (2, 1))}
    assert len(draws) == 6
    assert Parameters(rate=100).key == Parameters(rate=100.0).key != Parameters(seed=1, rate=100).key


def test_signal_layout_and_channels(loud):
    recording, truth = loud
    signal = pickle.loads(pickle.dumps(recording)).signal()
    assert signal.shape == truth.clean.shape
    assert signal.rate == 100
    assert list(signal.channels.columns) == CHANNEL_COLUMNS
    assert signal.channels["bad"].sum() == 3
    places = signal.channels[["x", "y", "z", "layout_x", "layout_y"]].to_numpy()
    assert places.shape == (208, 5)
    assert np.isfinite(places).all()
    assert (places[:, 3:].min(0) == 0).all()
    assert (places[:, 3:].max(0) == 1).all()
    part = signal.read(1000, 1200)
    assert part.shape == (200, 208)
    assert np.array_equal(part, signal.read()[1000:1200])
    assert 1e-13 < np.median(part.std(0)) < 1e-10
    with pytest.raises(ValueError, match="rows"):
        signal.read(0, signal.shape[0] + 1)


def test_events_are_valid_and_make_blocks(loud):
    recording, _ = loud
    duration = recording.signal().duration
    events = check_events(recording.events(), recording.name, duration)
    assert set(events["kind"]) == {"sound", "word", "phoneme"}
    words = events[events["kind"] == "word"]
    assert len(words) > 1000
    assert events[events["kind"] == "phoneme"]["phoneme"].notna().all()
    assert len(make_blocks(events, "sentence", duration, recording.name)) == words["sequence_id"].nunique() == 83
    assert words["word_sequence"].iloc[0].startswith("The lighthouse at the end of the bay")


def test_mne_bids_reads_it(loud):
    from mne_bids import BIDSPath, read_raw_bids

    recording, _ = loud
    path = BIDSPath(subject="01", session="1", task="listening", datatype="meg", root=recording.root)
    raw = read_raw_bids(path, verbose="ERROR")
    channels = recording.signal().channels
    assert raw.info["bads"] == list(channels["name"][channels["bad"]])


def test_planted_response_is_recovered(loud):
    """Ridge regression of a few channels on the lagged features finds the response functions."""
    recording, truth = loud
    channels = good_channels(recording)[::20]
    n_features, n_lags = truth.kernels.shape[0], truth.kernels.shape[2]
    data = recording.signal().read()[:, channels]
    lagged = np.zeros((len(data), n_features, n_lags))
    for lag in range(n_lags):
        lagged[lag:, :, lag] = truth.stimulus[:len(data) - lag]
    lagged = np.c_[lagged.reshape(len(data), -1), np.ones(len(data))]
    weights = np.linalg.solve(lagged.T @ lagged + 0.1 * np.eye(lagged.shape[1]), lagged.T @ data)[:-1]
    found = weights.T.reshape(len(channels), n_features, n_lags)
    planted = truth.response_functions()[channels]
    r = [np.corrcoef(found[:, f].ravel(), planted[:, f].ravel())[0, 1] for f in range(n_features)]
    assert min(r) > 0.95, dict(zip(truth.features, np.round(r, 3), strict=True))


def test_snr_and_noise_spectrum(folder):
    """The ratio in the file is the parameter; the noise has the stated density, and correlations between channels."""
    recording = next(made(folder, **{**LOUD, "snr": 0.5, "minutes": 2}).recordings())
    truth, good = load_truth(recording), good_channels(recording)
    events = recording.events()
    playing = np.zeros(len(truth.clean), dtype=bool)
    for row in events[events["kind"] == "sound"].itertuples():
        playing[round(row.start * 100):round((row.start + row.duration) * 100)] = True
    noise = truth.noise.sample(np.random.default_rng(0), 50_000, 100)[:, good]

    def band_power(x):
        freqs, power = welch(x, 100, nperseg=4000, axis=0)
        inside = (freqs >= BAND[0]) & (freqs <= BAND[1])
        return power[inside].sum(0).mean() * freqs[1]

    assert band_power(truth.clean[playing][:, good]) / band_power(noise) == pytest.approx(0.5, rel=0.1)
    freqs = np.fft.rfftfreq(1000, 1 / 100)
    stated = 2 * np.diagonal(truth.noise_csd(freqs), axis1=1, axis2=2)[:, good]  # welch is one-sided
    residual = (recording.signal().read() - truth.clean)[:, good]
    for x, low in ((noise, 0.5), (residual, 4)):  # blinks and jumps lie below 4 Hz
        power = welch(x, 100, nperseg=1000, axis=0)[1]
        for edges in ((low, 6), (6, 9), (9, 12), (12, 20), (20, 45)):
            inside = (freqs >= edges[0]) & (freqs < edges[1])
            assert power[inside].sum(0).mean() / stated[inside].sum(0).mean() == pytest.approx(1, abs=0.1)
    f = np.linspace(-50, 50, 4001)
    covariance = np.trapezoid(truth.noise_csd(f)[:, good[:8, None], good[:8]], f, axis=0)
    sampled = np.cov(noise[:, :8].T)
    assert np.abs(sampled - covariance).max() < 0.1 * covariance.max()


def cut_out(array: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return array[starts[:, None] + np.arange(300)]


def observer_accuracy(truth: Truth, gain: float, good: np.ndarray) -> float:
    """How often an ideal observer finds which of 60 segments of 3 s was heard, if the response is `gain` times mu."""
    starts = 1000 + 400 * np.arange(60)
    noise = truth.noise.sample(np.random.default_rng(1), starts[-1] + 300, truth.rate)
    mu = 0.01 * cut_out(truth.clean, starts)  # an snr of 1
    heard = cut_out(noise, starts) + gain * mu
    scores = whittle_scores(heard, mu, truth.noise_csd, truth.rate, channels=good)
    return (scores.argmax(1) == np.arange(60)).mean()


def test_ideal_observer(loud):
    recording, truth = loud
    good = good_channels(recording)[::3]
    assert observer_accuracy(truth, 1.0, good) == 1
    assert observer_accuracy(truth, 0.0, good) < 0.1
    with pytest.raises(ValueError, match="expected"):
        whittle_scores(np.zeros((1, 300, 2)), np.zeros((1, 200, 2)), truth.noise_csd, 100)


def test_scores_are_log_likelihood_ratios():
    """With white noise the score is (2 x·mu − mu·mu) / (2 variance), for signals within the band."""
    rng, time_ = np.random.default_rng(0), np.arange(200) / 100
    mu = np.stack([np.sin(2 * np.pi * f * time_) for f in (3, 5, 8)])[:, :, None] * [1.0, 2.0]
    x = mu[[1]] + rng.normal(0, 0.5, (1, 200, 2))
    scores = whittle_scores(x, mu, lambda f: np.tile(0.25 / 100 * np.eye(2), (len(f), 1, 1)), 100)
    expected = (2 * (x * mu).sum((1, 2)) - (mu ** 2).sum((1, 2))) / (2 * 0.25)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-6)


SCRIPT = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO)
from bm.studies.simulated import Simulated
Simulated(Path(sys.argv[1]), subjects=1, sessions=1, minutes=0.3, rate=100).prepare()
"""


def start(path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stderr=subprocess.PIPE, text=True)


def test_two_processes_make_one_dataset_and_seeds_decide(tmp_path):
    children = [start(tmp_path / "a"), start(tmp_path / "a")]
    logs = [child.communicate(timeout=100)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], logs
    assert sum("simulated: making" in log for log in logs) == 1
    study = Simulated(tmp_path / "a", **TINY)
    assert [p.name for p in (tmp_path / "a").iterdir() if not p.name.startswith(".")] == [study.root.name]
    data = next(study.recordings()).signal().read()
    again = next(made(tmp_path / "b", **TINY).recordings()).signal().read()
    other = next(made(tmp_path / "b", **TINY, seed=1).recordings()).signal().read()
    assert data.tobytes() == again.tobytes()
    assert data.shape != other.shape or not np.allclose(data, other)


def test_killed_while_making(tmp_path):
    study = Simulated(tmp_path, **TINY)
    child = start(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.unfinished/stimuli")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signals.SIGKILL)
    child.communicate()
    assert not study.root.exists()
    assert list(tmp_path.glob(".*.unfinished"))
    study.prepare()
    assert next(study.recordings()).signal().shape[1] == 208
    assert not list(tmp_path.glob(".*.unfinished"))
