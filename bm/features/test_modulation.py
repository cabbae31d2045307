import numpy as np
import pytest
from scipy.fft import next_fast_len

from bm.features import modulation
from bm.features.modulation import (
    ENVELOPE_RATE,
    RATE,
    SPECTRAL,
    TEMPORAL,
    cochleagram,
    cosine_filters,
    erb_number,
    spectrotemporal,
    transfer_functions,
)


def test_the_bands_cover_the_spectrum():
    filters = cosine_filters(4000)
    frequency = np.fft.rfftfreq(4000, 1 / RATE)
    assert filters.shape == (211, 2001)
    np.testing.assert_allclose((filters ** 2).sum(0), 1, atol=1e-12)
    peak = frequency[filters[4:-4].argmax(1)]
    assert (np.diff(peak) >= 0).all() and peak[0] < 100 and peak[-1] > 9000
    assert erb_number(1000) == pytest.approx(15.57, abs=0.05)


def test_a_tone_is_heard_in_its_band_with_its_envelope():
    t = np.arange(2 * RATE) / RATE
    heard = cochleagram((1 + 0.9 * np.sin(2 * np.pi * 8 * t)) * np.sin(2 * np.pi * 1000 * t))
    assert heard.shape == (211, 390)
    centres = np.linspace(erb_number(50), erb_number(10_000), 205)[1:-1]
    assert abs(centres[heard.mean(1).argmax() - 4] - erb_number(1000)) < 0.5
    loudest = heard[heard.mean(1).argmax()] ** (1 / 0.3)
    spectrum = np.abs(np.fft.rfft(loudest - loudest.mean()))
    assert abs(np.fft.rfftfreq(390, 1 / ENVELOPE_RATE)[spectrum.argmax()] - 8) < 0.6
    with pytest.raises(ValueError, match="100 samples"):
        cochleagram(np.zeros(100))


def test_there_are_111_filters_each_at_its_place():
    bands, frames = 96, 800
    found = dict(transfer_functions(bands, frames))
    assert len(found) == 111
    rates, scales = np.fft.rfftfreq(frames, 1 / ENVELOPE_RATE), np.abs(np.fft.fftfreq(bands, 1 / 6))
    for rate in TEMPORAL[2:-1]:
        for scale in SPECTRAL[2:-1]:
            up, down = (np.abs(found[f"{rate:g}Hz_{scale:g}cyc_{way}"]) for way in ("up", "down"))
            row, column = np.unravel_index(up.argmax(), up.shape)
            # h(t) falls so fast that its band is wide; its peak lies within a third of an octave of the rate
            assert abs(np.log2(rates[column] / rate)) < 0.34 and abs(np.log2(scales[row] / scale)) < 0.34
            np.testing.assert_allclose(up[1:, :-1], down[1:, :-1][::-1], atol=1e-8)  # the other diagonal


def test_a_ripple_drives_its_direction():
    """A ripple is passed by the filters of its direction alone: cos(2π(ft + sx)) moves to lower bands x."""
    bands, frames, rate, scale = 96, 800, 8.0, 0.5
    t, place = np.arange(frames) / ENVELOPE_RATE, np.arange(bands) / 6
    found = dict(transfer_functions(bands, frames))
    for sign, heard, missed in [(-1, "up", "down"), (1, "down", "up")]:
        image = np.cos(2 * np.pi * (rate * t[None] + sign * scale * place[:, None]))
        power = {way: (np.fft.irfft2(np.fft.rfft2(image) * found[f"8Hz_0.5cyc_{way}"], (bands, frames)) ** 2).mean()
                 for way in ("up", "down")}
        assert power[heard] > 100 * power[missed]


@pytest.mark.slow
def test_a_sound_has_23421_features():
    rng = np.random.default_rng(0)
    one, two = (spectrotemporal(0.1 * rng.standard_normal(2 * RATE)) for _ in range(2))
    t = np.arange(2 * RATE) / RATE
    other = spectrotemporal(0.1 * np.sin(2 * np.pi * 500 * t))
    assert one.shape == (23_421,) and (one > 0).all()
    assert np.corrcoef(np.log(one), np.log(two))[0, 1] > 0.9 > np.corrcoef(np.log(one), np.log(other))[0, 1]


def test_envelopes_are_compressed():
    """Squared envelopes of a tone of amplitude A sum to A² over bands, before the power of 0.3."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / RATE)
    silence = cochleagram(np.zeros(2000))
    np.testing.assert_allclose(silence, (1e-8) ** 0.3, rtol=1e-12)
    for amplitude in (0.01, 0.3, 5.0):
        loud = cochleagram(amplitude * tone)[:, 20:-20]  # away from the ends, where a sound that wraps around clicks
        envelope = loud ** (1 / 0.3) - 1e-8
        np.testing.assert_allclose((envelope ** 2).sum(0), amplitude ** 2, rtol=1e-2)
    np.testing.assert_allclose(cochleagram(2 * tone).max(), cochleagram(tone).max() * 2 ** 0.3, rtol=1e-6)


def whole_response(rate, scale, direction, bands, frames):
    """The published filter on the whole grid of frequencies, from its impulse response in time and formula in bands."""
    temporal, spectral = np.ones(frames, complex), np.ones(bands, complex)
    if rate:
        t = np.arange(frames) / 200
        h = np.sin(2 * np.pi * rate * t) * (rate * t) ** 2 * np.exp(-3.5 * rate * t)
        h = h - h.mean()
        temporal = np.array([(h * np.exp(-2j * np.pi * k * np.arange(frames) / frames)).sum() for k in range(frames)])
    if scale:
        spectral = np.array([(w / scale) ** 2 * np.exp(-(w / scale) ** 2) for w in np.fft.fftfreq(bands) * 6]) + 0j
    for response, highest in ((temporal, rate == 64), (spectral, scale == 2)):
        response /= np.abs(response).max()
        if highest:  # of size one from its peak on, on both sides of 0, with the phase it had
            frequency = np.abs(np.fft.fftfreq(len(response)))
            beyond = frequency >= frequency[np.abs(response).argmax()] - 1e-12
            response[beyond] = np.exp(1j * np.angle(response[beyond]))
    whole = np.outer(spectral, temporal)
    if direction:
        sign = np.outer(np.sign(np.fft.fftfreq(bands)), np.sign(np.fft.fftfreq(frames)))
        whole[sign == (1 if direction == "up" else -1)] = 0  # what moves down: both frequencies have one sign
    return whole


@pytest.mark.parametrize("rate, scale, direction", [
    (0, 0, None), (4, 0, None), (64, 0, None), (0, 0.5, None), (0, 2, None), (8, 0.25, "up"), (8, 0.25, "down"),
    (64, 2, "up"), (32, 2, "down"), (64, 1, "down")])
def test_a_filter_is_its_formula(rate, scale, direction):
    """Applied to noise; the real part of what a complex filter gives."""
    image = np.random.default_rng(0).standard_normal((25, 61))
    found = dict(transfer_functions(25, 61))[f"{rate:g}Hz_{scale:g}cyc_{direction or 'both'}"]
    expected = np.fft.ifft2(np.fft.fft2(image) * whole_response(rate, scale, direction, 25, 61)).real
    np.testing.assert_allclose(np.fft.irfft2(np.fft.rfft2(image) * found, (25, 61)), expected, atol=1e-10)


def test_features_are_mean_power(monkeypatch):
    """Of 13 filters, of a sound padded with twice its time and once its bands: the mean of squares over time."""
    monkeypatch.setattr(modulation, "TEMPORAL", (0, 8, 64))
    monkeypatch.setattr(modulation, "SPECTRAL", (0, 0.5, 2))
    modulation._bank.cache_clear()
    audio = 0.1 * np.random.default_rng(0).standard_normal(6000) * np.linspace(0, 1, 6000) ** 2
    found = spectrotemporal(audio).reshape(13, 211)
    modulation._bank.cache_clear()
    image = 100 * cochleagram(audio)
    shape = next_fast_len(2 * 211, True), next_fast_len(3 * image.shape[1], True)
    padded = np.zeros(shape)
    padded[:211, :image.shape[1]] = image
    expected = []
    for rate in (0, 8, 64):
        for scale in (0, 0.5, 2):
            for direction in ("down", "up") if rate and scale else (None,):
                passed = np.fft.ifft2(np.fft.fft2(padded) * whole_response(rate, scale, direction, *shape))
                expected.append(np.maximum(passed.real[:211, :image.shape[1]] ** 2, 1e-8).mean(1))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose(found[0], (image ** 2).mean(1), rtol=1e-4)  # what the first filter passes is everything
