import numpy as np
import pytest

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
    """A ripple that moves up the bands is passed by the filters of one direction alone."""
    bands, frames, rate, scale = 96, 800, 8.0, 0.5
    t, place = np.arange(frames) / ENVELOPE_RATE, np.arange(bands) / 6
    found = dict(transfer_functions(bands, frames))
    for sign, heard, missed in [(1, "up", "down"), (-1, "down", "up")]:
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
