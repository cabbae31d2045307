import numpy as np
import pytest

from bm.features.audio import read_audio
from bm.features.check import speechlike
from bm.features.pitch import Pitch, yin

RATE = 16_000


def slow_yin(x, shortest, longest, threshold):
    """The formula, a window, a lag and a sample at a time."""
    d = [sum((x[i] - x[i + tau]) ** 2 for i in range(len(x) - tau)) for tau in range(longest)]
    total, normal = 0.0, [1.0]
    for tau in range(1, longest):
        total += d[tau]
        normal.append(d[tau] * tau / total if total > 0 else 1.0)
    tau = shortest
    while tau < longest:
        if normal[tau] < threshold:
            while tau + 1 < longest and normal[tau + 1] < normal[tau]:
                tau += 1
            return tau
        tau += 1
    return 0


@pytest.mark.parametrize("f0", [100, 115, 150, 177, 200, 247, 300, 350])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_tones(f0, rate):
    t = np.arange(rate) / rate
    voice = sum(np.sin(2 * np.pi * k * f0 * t) / k for k in range(1, 6))
    f = Pitch().compute(voice.astype(np.float32), rate)
    assert f.shape == (250, 1)
    np.testing.assert_allclose(f[5:-5, 0], f0, rtol=0.01)


def test_silence_noise_and_hum_have_no_pitch():
    for sound in (np.zeros(RATE), np.full(RATE, 0.3), np.random.default_rng(0).standard_normal(RATE)):
        assert (Pitch().compute(sound.astype(np.float32), RATE) > 0).mean() < 0.01


def test_equals_the_slow_loop_on_speech(shared_data):
    audio, rate = read_audio(shared_data("librivox_aligned") / "sense_and_sensibility_01_austen_64kb-0870.wav")
    part = audio[2 * rate:2 * rate + 6000].astype(np.float64)
    expected = [slow_yin(part[t:t + 256], 45, 160, 0.1) for t in range(0, len(part) - 256, 64)]
    frames = np.lib.stride_tricks.sliding_window_view(part, 256)[::64][:len(expected)]
    np.testing.assert_array_equal(yin(frames, 45, 160, 0.1), expected)
    assert 0.2 < np.mean(np.array(expected) > 0) < 0.95
    rows = Pitch(mapping="ratio").compute(part.astype(np.float32), rate)[:, 0]
    period = np.array(expected)
    np.testing.assert_allclose(rows, np.where(period > 0, RATE / np.maximum(period, 1), 0), rtol=1e-6)
    late = Pitch().compute(part.astype(np.float32), rate)[:, 0]  # the same, centred: two rows later
    assert len(late) == 94
    np.testing.assert_array_equal(late[2:2 + len(rows)], rows)
    assert (late[:2] == 0).all() and (late[2 + len(rows):] == 0).all()


def test_real_speech_is_plausible(shared_data):
    """A man reads; half of his voice is below the default band (`test_net.py` compares with CREPE)."""
    voiced, f0 = [], []
    for file in sorted(shared_data("librivox_aligned").glob("*.wav")):
        rows = Pitch().compute(*read_audio(file))[:, 0]
        voiced.append((rows > 0).mean())
        f0.append(rows[rows > 0])
    assert 0.15 < np.mean(voiced) < 0.6
    assert 100 < np.median(np.concatenate(f0)) < 130


def test_blocks_of_frames_join(monkeypatch):
    audio = speechlike(2.0)
    whole = Pitch().compute(audio, RATE)
    monkeypatch.setattr("bm.features.pitch._BLOCK", 100)
    np.testing.assert_array_equal(Pitch().compute(audio, RATE), whole)
    assert Pitch().compute(audio[:20], RATE).tolist() == [[0.0]]
