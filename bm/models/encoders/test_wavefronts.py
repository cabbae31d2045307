"""Front-ends: shapes, causality in samples, tones in their bands, learning, and published filter banks."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bm.models.encoders import FRONTS, build_encoder
from bm.models.encoders.cochlear import gammatone_kernels, slaney_kernels
from bm.models.encoders.scales import band_frequencies, erb, mel_filters
from bm.models.encoders.wavefronts import Compression, Mel, Pcen, SincNet, causal_fir

FS, RATE, HOP, BANDS = 16_000, 100.0, 160, 12
#: of each front-end, the options that test all of it
OPTIONS = {"mel": {"fmin": 200.0}, "sincnet": {}, "gammatone": {"fmin": 200.0}, "gammatonegram": {"fmax": 6000.0},
           "leaf": {"fmin": 150.0}}


def front(name, **options):
    return FRONTS[name](**{"rate": RATE, "sample_rate": FS, "bands": BANDS, **OPTIONS[name], **options})


def noise(frames=60, batch=2):
    return 0.1 * torch.randn(batch, 1, frames * HOP, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FRONTS)
def test_shapes(name):
    model = front(name)
    out = model(noise(7))
    assert out.shape == (2, 1, BANDS, 7) and out.isfinite().all() and out.std() > 0
    assert model.hop == HOP and model.out_channels == BANDS
    for wrong in ((2, 1, 7 * HOP + 1), (2, 7 * HOP), (2, 2, HOP), (1, 1, 0)):
        with pytest.raises(ValueError, match="a multiple of hop = 160"):
            model(torch.zeros(wrong))


@pytest.mark.parametrize("name", FRONTS)
def test_causal_in_samples(name):
    """No frame hears a sample after its end, nor one before its history."""
    torch.manual_seed(0)
    model, wave, frame = front(name, compression="none").eval(), noise(), 30
    out = model(wave)
    tolerance = {"rtol": 0, "atol": 1e-6 * out.abs().max().item()}
    later, earlier = wave.clone(), wave.clone()
    later[..., (frame + 1) * HOP:] *= -3
    torch.testing.assert_close(model(later)[..., :frame + 1], out[..., :frame + 1], **tolerance)
    assert not torch.allclose(model(later)[..., frame + 1], out[..., frame + 1])
    earlier[..., :(frame - model.history) * HOP] *= -3
    torch.testing.assert_close(model(earlier)[..., frame:], out[..., frame:], **tolerance)


def test_no_frame_sees_the_end_of_the_next():
    """The last sample of a frame matters to it, the first of the next does not, whatever blocks FFTs are in."""
    for model in (front("mel"), SincNet(RATE, FS, BANDS, taps=301, envelope=True, min_hz=20.0)):
        wave = noise(40).requires_grad_()
        for frame in (0, 17, 39):
            (grad,) = torch.autograd.grad(model(wave)[..., frame].sum(), wave)
            seen = (grad[0, 0].abs() > 1e-5 * grad.abs().max()).nonzero()[:, 0]
            assert seen.max() == (frame + 1) * HOP - 1
            assert seen.min() >= (frame - model.history) * HOP


def centres(name, model):
    if name == "mel":
        return band_frequencies(BANDS + 2, 200, FS / 2)[1:-1]
    if name == "sincnet":
        return sum(model.corners()).detach() / 2
    if name == "leaf":
        return model.frequencies.detach() * FS / (2 * torch.pi)
    return band_frequencies(BANDS, *((200, 0.45 * FS) if name == "gammatone" else (1000, 6000)), "erb")


@pytest.mark.parametrize("name", FRONTS)
def test_a_tone_is_in_its_band(name):
    model = front(name, compression="none", **({"envelope": True} if name == "sincnet" else {}))
    tones = centres(name, model).float()
    t = torch.arange(30 * HOP) / FS
    late = model(torch.sin(2 * torch.pi * tones[:, None, None] * t))[:, 0, :, -1]
    assert late.argmax(1).tolist() == list(range(BANDS))


def test_tones_at_every_frame_without_envelope():
    """Samples of the filter's output, of which every frame has another phase."""
    model = front("sincnet", compression="symlog")
    tones = centres("sincnet", model).round() + 13.7
    t = torch.arange(80 * HOP) / FS
    out = model(torch.sin(2 * torch.pi * tones[:, None, None] * t))[:, 0, :, 10:].detach()
    assert out.square().mean(-1).argmax(1).tolist() == list(range(BANDS))
    assert out.min() < -0.4 and out.max() == pytest.approx(np.log(2), abs=0.05)  # gain 1


@pytest.mark.parametrize("name, options", [
    ("sincnet", {}), ("sincnet", {"envelope": True, "compression": "symlog"}), ("leaf", {}),
    ("leaf", {"compression": "log1p"}), ("gammatone", {"compression": "pcen", "learnable": True}),
    ("mel", {"compression": "pcen"})])
def test_gradients_reach_what_is_learned(name, options):
    model, wave = front(name, **options), noise(20)
    (model(wave) * torch.randn(BANDS, 20)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).all(), key
    assert model.history is None if (options.get("compression") == "pcen" or name == "leaf" and not options) \
        else model.history is not None


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("compression", ["cuberoot", "pcen", "log", "log1p"])
def test_silence_has_finite_gradients(name, compression):
    model = front(name, compression="logabs" if name == "sincnet" else compression)
    wave = torch.zeros(1, 1, 5 * HOP, requires_grad=True)
    out = model(wave)
    out.sum().backward()
    assert out.isfinite().all() and wave.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("power, fs, rate", [(1.0, 48_000, 200.0), (2.0, 16_000, 100.0)])
def test_mel_is_torchaudios(power, fs, rate):
    from torchaudio.functional import melscale_fbanks
    from torchaudio.transforms import MelSpectrogram
    model, wave = Mel(rate, fs, bands=20, power=power), noise(20)[..., :round(fs / rate) * 12]
    top = min(22_627, fs / 2)
    expected = melscale_fbanks(model.n_fft // 2 + 1, 500.0, top, 20, fs).T
    torch.testing.assert_close(mel_filters(20, model.n_fft, fs, 500.0, top), expected, atol=1e-5, rtol=1e-4)
    transform = MelSpectrogram(fs, model.n_fft, hop_length=model.hop, f_min=500.0, f_max=top, n_mels=20, power=power,
                               center=False)
    padded = F.pad(wave[:, 0], (model.window - model.hop, 0))
    torch.testing.assert_close(model(wave)[:, 0], transform(padded).clamp_min(1e-4).log(), atol=1e-4, rtol=1e-4)


def test_gammatones_are_scipys():
    """Slaney's recursive filters, and the FIR ones up to scipy's factor; gain 1 at their frequency."""
    from scipy.signal import gammatone, lfilter
    frequencies, n = torch.tensor([500.0, 1000.0, 4000.0], dtype=torch.float64), 1000
    widths = 1.019 * erb(frequencies)
    slaney, fir = (make(frequencies, widths, FS, n).numpy() for make in (slaney_kernels, gammatone_kernels))
    for i, frequency in enumerate(frequencies.tolist()):
        click = np.eye(1, n)[0]
        np.testing.assert_allclose(slaney[i], lfilter(*gammatone(frequency, "iir", fs=FS), click), atol=1e-6)
        assert np.corrcoef(fir[i], gammatone(frequency, "fir", numtaps=n, fs=FS)[0])[0, 1] > 0.9999
        for kernel in (slaney[i], fir[i]):
            gain = abs(np.exp(-2j * np.pi * frequency / FS * np.arange(n)) @ kernel)
            assert gain == pytest.approx(1, abs=1e-6)


def test_causal_fir_is_a_convolution():
    for taps, samples in ((5, 40), (200, 50), (200, 3001), (129, 1921)):
        wave, kernels = torch.randn(2, 1, samples).double(), torch.randn(3, taps).double()
        expected = np.stack([[np.convolve(row, k)[:samples] for k in kernels] for row in wave[:, 0]])
        torch.testing.assert_close(causal_fir(wave, kernels), torch.from_numpy(expected))


def test_pcen_is_its_recursion():
    pcen, energy = Pcen(3, smooth=0.1, alpha=0.9).double(), torch.rand(2, 3, 40).double()
    mean, rows = energy[..., 0], []
    for t in range(40):
        mean = 0.9 * mean + 0.1 * energy[..., t]
        rows.append((energy[..., t] / (1e-6 + mean) ** 0.9 + 2) ** 0.5 - 2 ** 0.5)
    torch.testing.assert_close(pcen(energy), torch.stack(rows, -1), rtol=1e-6, atol=1e-6)


def test_compressions():
    x = torch.tensor([0.0, 8.0])
    assert Compression("cuberoot", 1)(x).tolist() == pytest.approx([1e-4, 2.0])
    assert torch.equal(Compression("cubic", 1)(x), Compression("cuberoot", 1)(x))
    assert Compression("log", 1, 0.01)(x).tolist() == pytest.approx(np.log([0.01, 8]).tolist())
    assert torch.equal(Compression("log1p", 1)(x), torch.log1p(x)) and torch.equal(Compression("none", 1)(x), x)


@pytest.mark.parametrize("name", FRONTS)
def test_in_an_encoder(name):
    section = {"name": "ln", "wav2spec": name, "wav2spec_params": {"sample_rate": FS, "bands": BANDS, **OPTIONS[name]},
               "prefilter": "ic_adaptation"}
    model = build_encoder(section, n_bands=99, rate=RATE, n_out=3)
    assert model(noise(11)).shape == (2, 3, 1, 11)


def test_frames_of_no_whole_number_of_samples():
    with pytest.warns(UserWarning, match="220.5000 samples at 44100 Hz, rounded to 220"):
        assert Mel(200.0, 44_100).hop == 220


@pytest.mark.parametrize("name, options, message", [
    ("mel", {"fmax": 9000.0}, "half the sample rate, 8000"), ("mel", {"bands": 60}, "fewer bands, a longer window"),
    ("mel", {"n_fft": 100}, "at least the window's 160"), ("mel", {"compression": "sqrt"}, "expected log, log1p"),
    ("mel", {"log_offset": 0.0}, "log_offset=0"), ("mel", {"window_ms": 0.01}, "less than one sample"),
    ("sincnet", {"compression": "pcen"}, "expected logabs"), ("sincnet", {"taps": 1}, "at least 3"),
    ("sincnet", {"min_hz": 400.0}, "min_hz=400"), ("gammatonegram", {"window_ms": 30.0}, "at most a frame's 160"),
    ("leaf", {"pool_frames": 0}, "at least 1"), ("leaf", {"rate": 0.0}, "0 < rate"), ("gammatone", {"bands": 0}, "one"),
])
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        front(name, **options)


def test_wrong_pcen():
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        Pcen(3, smooth=1.5)
