import numpy as np
import pytest

from bm.features import build_feature
from bm.features.check import check_feature, speechlike
from bm.features.cochlea import Envelope, Gammatone, OnsetEnvelope, erb, erb_space, gammatone, smooth

RATE = 16_000


def tone(frequency, seconds=1.0, rate=RATE):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_erb():
    np.testing.assert_allclose(erb(np.array([100, 1000, 4000])), [35.5, 132.6, 456.5], atol=0.1)
    centres = erb_space(80, 7600, 5)
    assert centres[0] == pytest.approx(80) and centres[-1] == pytest.approx(7600)
    steps = np.diff(21.4 * np.log10(4.37e-3 * centres + 1))
    np.testing.assert_allclose(steps, steps[0])


def test_a_filter_is_an_erb_wide():
    """Gain 1 at its centre; the power of its response is that of a rectangle of one ERB."""
    response = np.abs(np.fft.fft(gammatone(1000.0, RATE, 4000), 16_000)) / 2
    assert response[1000] == pytest.approx(1, abs=1e-6) and response.argmax() == pytest.approx(1000, abs=2)
    assert (response ** 2).sum() == pytest.approx(132.6, rel=0.02)


def test_a_tone_is_in_its_band_with_its_amplitude():
    feature = Gammatone(n_bands=25, compression=1.0)
    for frequency in (200.0, 1000.0, 4000.0):
        rows = feature.compute(0.5 * tone(frequency), RATE)
        assert rows.shape == (100, 25)
        best = np.abs(feature.frequencies - frequency).argmin()
        assert rows[50].argmax() == best
    exact = Gammatone(n_bands=1, fmin=1000, fmax=1000.001, compression=1.0)
    assert exact.compute(0.5 * tone(1000), RATE)[50, 0] == pytest.approx(0.5, rel=1e-3)


def test_equals_the_obvious_way():
    """One band: the filter convolved in time, a Hann window under each row."""
    feature, audio = Gammatone(n_bands=3, fmin=300, fmax=2000), speechlike(0.5)
    rows = feature.compute(audio, RATE)
    window = np.hanning(321)
    for band, frequency in enumerate(feature.frequencies):
        envelope = np.abs(np.convolve(audio, gammatone(frequency, RATE, feature.taps)))[:len(audio)]
        padded = np.pad(envelope, 160)
        slow = [(padded[160 * j:160 * j + 321] * window).sum() / 160 for j in range(49)]
        np.testing.assert_allclose(rows[:49, band], np.array(slow) ** 0.3, rtol=1e-4)


def test_smooth_keeps_constants_and_covers_all():
    np.testing.assert_allclose(smooth(np.ones(1000), 10)[1:-1], 1)
    assert len(smooth(np.ones(1001), 10)) == 101 and len(smooth(np.ones(1), 10)) == 1


@pytest.mark.parametrize("method", ["hilbert", "gammatone"])
def test_the_envelope_follows_the_modulation(method):
    t = np.arange(3 * RATE) / RATE
    modulation = 1 + 0.8 * np.sin(2 * np.pi * 3 * t)
    rows = Envelope(method, n_bands=8, compression=1.0).compute((modulation * tone(700, 3)).astype(np.float32), RATE)
    assert rows.shape == (300, 1)
    assert np.corrcoef(rows[20:-20, 0], modulation[::160][20:-20])[0, 1] > (0.999 if method == "hilbert" else 0.97)
    if method == "hilbert":
        np.testing.assert_allclose(rows[20:-20, 0], modulation[::160][20:-20], rtol=0.02)


def test_onsets_are_where_sound_begins():
    audio = np.concatenate([np.zeros(RATE, np.float32), tone(500, 1.0), np.zeros(RATE, np.float32)])
    rows = OnsetEnvelope(n_bands=6).compute(audio, RATE)
    assert rows.min() == 0 and rows[:98].max() < 1e-3
    assert rows.argmax() == pytest.approx(100, abs=2)
    bands = Gammatone(n_bands=6, onsets=True).compute(audio, RATE)
    assert bands.shape == (300, 6) and bands[98:104].max() == bands.max() and bands.min() == 0


FEW = {"n_bands": 4, "fmin": 200.0}


@pytest.mark.parametrize("name, params, variation", [
    ("Gammatone", {**FEW, "onsets": True}, {"onsets": False}), ("OnsetEnvelope", FEW, {"method": "hilbert"}),
    ("Envelope", {"method": "hilbert"}, {"compression": 1.0}), ("Pitch", {}, {"harmonic_thresh": 0.2}),
    ("MelSpectrum", {"norm_audio": False}, {"n_mels": 20}), ("MelSpectrum", {}, {"norm_audio": False})])
def test_contract_of_variants(name, params, variation):
    measured = check_feature(name, params, variation, other_process=False)
    assert measured.keys() == {"pieces", "shift"} and min(measured.values()) > 0.99


@pytest.mark.parametrize("name, params, words", [
    ("Gammatone", {"fmax": 9000.0}, "fmin < fmax ≤ in_sampling / 2"), ("Envelope", {"rate": 7.0}, "divisor"),
    ("Gammatone", {"compression": 0.0}, "exponent"), ("Envelope", {"method": "hilber"}, "gammatone or hilbert"),
    ("Pitch", {"min_f0": 50}, "periods shorter than a frame"), ("Pitch", {"hop": 60}, "divides half a frame")])
def test_bad_parameters_are_named(name, params, words):
    with pytest.raises(ValueError, match=words):
        build_feature(name, params)
