"""Sounds that are as simple as noise and vary as natural ones do, and what an ear makes of them."""
import numpy as np

#: Hz of the sounds, and of the spectrogram: the feature `MelSpectrum(n_fft=320, n_mels=bands)` at 16 kHz
SOUND_RATE, RATE = 16_000, 200
#: samples of a window; what is added to a power before its logarithm
WINDOW, FLOOR = 320, 1e-5


def spectrogram(sound: np.ndarray, bands: int) -> np.ndarray:
    """Log mel power of a standardised sound at 16 kHz, `(samples,)` → `(1 + samples // 80, bands)`: centred periodic
    Hann windows of 20 ms every 5 ms, triangular HTK filters to 8 kHz, log10(power + 1e-5)."""
    sound = (sound - sound.mean()) / (1e-8 + sound.std(ddof=1))
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, WINDOW // 2, mode="reflect"), WINDOW)
    power = np.abs(np.fft.rfft(frames[::SOUND_RATE // RATE] * window))**2 / (window**2).sum()
    edges = 700 * (10**(np.linspace(0, np.log10(1 + SOUND_RATE / 2 / 700), bands + 2)) - 1)
    rising = (np.fft.rfftfreq(WINDOW, 1 / SOUND_RATE)[:, None] - edges[:-1]) / np.diff(edges)
    filters = np.maximum(0, np.minimum(rising[:, :-1], 1 - rising[:, 1:]))
    return np.log10(power @ filters + FLOOR)


def make_sounds(number: int, seconds: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Noise of which 24 bands (200 Hz – 7 kHz) wax and wane by themselves, by 10 dB (standard deviation) and as
    natural sounds do: modulation spectra fall with frequency (here up to 40 Hz)."""
    n, steps = round(seconds * SOUND_RATE), round(seconds * RATE)
    edges, sounds = np.geomspace(200, 7000, 25), []
    band = np.digitize(np.fft.rfftfreq(n, 1 / SOUND_RATE), edges) == np.arange(1, 25)[:, None]
    frequency = np.fft.rfftfreq(steps, 1 / RATE)
    slow = np.where((frequency > 0) & (frequency < 40), 1 / np.sqrt(np.maximum(frequency, 1)), 0)
    for _ in range(number):
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * band, n)
        level = np.fft.irfft(np.fft.rfft(rng.standard_normal((24, steps))) * slow, steps)
        gain = 10**(0.5 * level / level.std(1, keepdims=True))
        at = np.arange(n) * RATE / SOUND_RATE
        sound = sum(x / x.std() * np.interp(at, np.arange(steps), g) for x, g in zip(noise, gain, strict=True))
        sounds.append((0.1 * sound / sound.std()).clip(-1, 1))
    return sounds
