import numpy as np
import pytest

from bm.features import build_feature
from bm.features.audio import MelSpectrum, read_audio, resample


def slow_mel(audio, n_fft, n_mels, rate, eps):
    """The formula of the specification, a frame and a filter at a time."""
    audio = (audio - audio.mean()) / (1e-8 + audio.std(ddof=1))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(audio, n_fft // 2, mode="reflect")
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), n_mels + 2) / 2595) - 1)
    freqs = np.linspace(0, rate / 2, n_fft // 2 + 1)
    rows = []
    for first in range(0, len(padded) - n_fft + 1, n_fft // 4):
        power = np.abs(np.fft.rfft(padded[first:first + n_fft] * window)) ** 2 / (window ** 2).sum()
        row = []
        for low, peak, high in zip(edges, edges[1:], edges[2:], strict=False):
            weight = np.maximum(0, np.minimum((freqs - low) / (peak - low), (high - freqs) / (high - peak)))
            row.append(np.log10((weight * power).sum() + eps))
        rows.append(row)
    return np.array(rows)


def test_mel_equals_the_formula():
    rng = np.random.default_rng(0)
    audio = rng.standard_normal(5000) * np.linspace(0, 1, 5000)
    mel = MelSpectrum(n_mels=20).compute(audio, 16_000)
    expected = slow_mel(audio, 512, 20, 16_000, 1e-5)
    assert mel.shape == expected.shape and mel.dtype == np.float32
    np.testing.assert_allclose(mel, expected, atol=2e-4)


def test_mel_of_a_tone_is_at_its_frequency():
    feature = MelSpectrum(n_mels=40)
    t = np.arange(32_000) / 32_000
    mel = feature.compute(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 32_000)
    assert mel.shape == (126, 40) and feature.rate == 125 and feature.default == pytest.approx(-5)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)[1:-1] / 2595) - 1)
    assert centres[mel[60].argmax()] == pytest.approx(1000, rel=0.08)


@pytest.mark.parametrize("samples", [1, 2, 100, 257])
def test_mel_of_very_short_sounds_and_silence(samples):
    mel = MelSpectrum().compute(np.zeros(samples + 1, np.float32), 16_000)
    np.testing.assert_allclose(mel, -5)


def test_bad_parameters_are_named():
    with pytest.raises(ValueError, match="n_mels=400: expected 1 to"):
        build_feature("MelSpectrum", {"n_mels": 400})
    with pytest.raises(ValueError, match="did you mean 'MelSpectrum'"):
        build_feature("MelSpectrm", {})
    with pytest.raises(ValueError, match="features_params.MelSpectrum: .*n_mel"):
        build_feature("MelSpectrum", {"n_mel": 4})


def test_read_audio(tmp_path):
    import soundfile
    x = np.stack([np.arange(1000), -np.arange(1000) / 2], 1) / 2000
    soundfile.write(tmp_path / "x.wav", x, 1000, subtype="FLOAT")
    samples, rate = read_audio(tmp_path / "x.wav", 0.1, 0.3)
    np.testing.assert_allclose(samples, x[100:300].mean(1), atol=1e-7)
    assert rate == 1000
    assert len(read_audio(tmp_path / "x.wav", 0.5, 1.05)[0]) == 500
    with pytest.raises(ValueError, match="asked for 0.500–1.200 s, but the file has only 1.000 s"):
        read_audio(tmp_path / "x.wav", 0.5, 1.2)


@pytest.mark.filterwarnings("error")  # torch warns of memory that it may not write, once in a process
def test_read_only_sound_is_resampled_without_a_warning():
    sound = np.random.default_rng(0).standard_normal(1600).astype(np.float32)
    expected = resample(sound.copy(), 16000, 8000)
    sound.flags.writeable = False
    np.testing.assert_array_equal(resample(sound, 16000, 8000), expected)
