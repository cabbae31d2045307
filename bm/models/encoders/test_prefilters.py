"""Prefilters against the FIR filters that define them, and against what they are for: changes of level."""
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bm.features import build_feature
from bm.models.encoders import PREFILTERS, build_encoder
from bm.models.encoders.prefilters import AdapTrans, ICAdaptation, geometric_sum
from bm.models.encoders.scales import SCALES, band_frequencies, mel_filters
from bm.models.encoders.wavefronts import Mel

BANDS, RATE = 6, 200.0
PUBLISHED = {"fmin": 500.0, "fmax": 20_000.0}  # what the published package supposes


def taus(n=BANDS):
    return 500 - 105 * torch.log10(band_frequencies(n, 500, 20_000))


def fir(x, kernels):
    """One filter `(F, taps)`, oldest tap first, a band; the first frame stands for those before it."""
    padded = F.pad(x[:, 0], (kernels.shape[1] - 1, 0), mode="replicate")
    return F.conv1d(padded, kernels[:, None], groups=len(kernels))[:, None]


def past_kernel(decay, taps):
    """[… a², a, 1] over their sum, `(F, taps − 1)`."""
    weights = decay[:, None] ** torch.arange(taps - 2, -1, -1)
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("taps", [None, "original", 2, 3, 64])
def test_equal_the_fir_filters(taps):
    torch.manual_seed(0)
    x = torch.randn(2, 1, BANDS, 50, dtype=torch.float64)
    model = ICAdaptation(BANDS, RATE, taps=taps, **PUBLISHED)
    a, now = torch.exp(-1000 / RATE / taus()), torch.ones(BANDS, 1, dtype=torch.float64)
    past = past_kernel(a, model.taps)
    # decays are kept in single precision
    torch.testing.assert_close(model.double()(x), fir(x, torch.cat([-past, now], 1)).relu(), atol=1e-6, rtol=1e-6)

    model = AdapTrans(BANDS, RATE, taps=taps, **PUBLISHED).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.rand(BANDS))
    a_on, a_off, w = (1 / (1 + p.detach() ** 2) for p in (model.d_on, model.d_off, model.p))
    on = torch.cat([-w[:, None] * past_kernel(a_on, model.taps), now], 1)
    off = torch.cat([past_kernel(a_off, model.taps), -w[:, None]], 1)
    expected = torch.cat([fir(x, on), fir(x, off)], 1).relu()
    torch.testing.assert_close(model(x), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("taps", range(1, 12))
def test_geometric_sum(taps):
    x, decay = torch.randn(3, 2, 12).double(), torch.tensor([[0.5], [0.9]]).double()
    expected = [sum(decay[:, 0] ** n * x[..., t - n] for n in range(taps)) for t in range(taps - 1, 12)]
    torch.testing.assert_close(geometric_sum(x, decay, taps), torch.stack(expected, -1))


def test_taps_are_frames():
    assert [ICAdaptation(34, rate, **PUBLISHED).taps for rate in (1000.0, 200.0, 50.0)] == [651, 131, 33]
    original = {**PUBLISHED, "taps": "original"}
    assert [ICAdaptation(34, rate, **original).taps for rate in (1000.0, 200.0, 50.0)] == [651, 651, 651]
    assert AdapTrans(34, RATE, **PUBLISHED).history == 130


def test_decays_with_the_time_constants_of_the_bands():
    """After a click, the OFF channel has the mean of the past, which falls by e in τ(f)."""
    click = torch.zeros(1, 1, BANDS, 40)
    click[..., 1] = 1.0
    off = AdapTrans(BANDS, RATE, **PUBLISHED)(click)[0, 1]
    slope = (off[:, 30].log() - off[:, 10].log()) / 20
    torch.testing.assert_close(-1000 / (RATE * slope), taus().float(), rtol=1e-3, atol=0)


def test_hears_changes_of_level():
    x, model = torch.ones(1, 1, BANDS, 200), AdapTrans(BANDS, RATE, init_w=0.75, **PUBLISHED)
    torch.testing.assert_close(model(x), torch.full((1, 2, BANDS, 200), 0.25))
    assert ICAdaptation(BANDS, RATE, **PUBLISHED)(x).max() < 1e-6
    x[..., 100:] = 2.0
    (on, off), ic = AdapTrans(BANDS, RATE, **PUBLISHED)(x)[0], ICAdaptation(BANDS, RATE, **PUBLISHED)(x)[0, 0]
    torch.testing.assert_close(on[:, 100], torch.full((BANDS,), 1.25))  # 2 − ¾ · 1
    torch.testing.assert_close(ic[:, 100], torch.ones(BANDS))
    assert (off[:, 100] == 0).all() and (ic[:, 150] < ic[:, 100]).all()
    x[..., 100:] = 0.5
    on, off = AdapTrans(BANDS, RATE, **PUBLISHED)(x)[0]
    torch.testing.assert_close(off[:, 100], torch.full((BANDS,), 0.625))  # 1 − ¾ · ½
    assert (on[:, 100] == 0).all()


@pytest.mark.parametrize("name", PREFILTERS)
def test_causal_in_an_encoder(name):
    torch.manual_seed(0)
    section = {"name": "linear", "prefilter": name, "prefilter_params": {"fmin": 300, "fmax": 20_000}}
    model = build_encoder(section, n_bands=BANDS, rate=RATE, n_out=3).eval()
    x = torch.randn(2, 1, BANDS, 300)
    later = x.clone()
    later[..., 250:] += 1
    torch.testing.assert_close(model(x)[..., :250], model(later)[..., :250], rtol=0, atol=0)
    earlier = x.clone()
    earlier[..., :50] += 1
    assert model.history == model.prefiltering.history + 8
    after = 50 + model.history
    torch.testing.assert_close(model(x)[..., after:], model(earlier)[..., after:])
    model(x).square().sum().backward()
    grads = [p.grad for p in model.prefiltering.parameters()]
    assert len(grads) == (3 if name == "adaptrans" else 0)
    assert all(grad.isfinite().all() and (grad != 0).all() for grad in grads)


def test_bands_are_those_of_the_features():
    """Of the front-end where there is one; options that say it themselves come first; unknown bands are refused."""
    hertz = [300.0, 700.0, 1500.0, 3000.0, 5000.0, 9000.0]
    section = {"name": "linear", "prefilter": "ic_adaptation"}

    def decay(**changes):
        model = build_encoder({**section, **changes}, n_bands=BANDS, rate=RATE, n_out=3, bands_hz=hertz)
        return model.prefiltering.decay[0, :, 0]

    def expected(frequencies):
        return torch.exp(-1000 / (RATE * (500 - 105 * torch.log10(torch.as_tensor(frequencies)))))

    torch.testing.assert_close(decay(), expected(hertz))
    torch.testing.assert_close(decay(prefilter_params={"taps": 9}), expected(hertz))
    torch.testing.assert_close(decay(prefilter_params=PUBLISHED).double(), expected(
        band_frequencies(BANDS, 500, 20_000)), atol=1e-6, rtol=0)
    torch.testing.assert_close(decay(prefilter_params={"frequencies": hertz[::-1]}), expected(hertz[::-1]))
    front = {"wav2spec": "mel", "wav2spec_params": {"sample_rate": 16_000, "bands": BANDS, "fmin": 100.0}}
    centres = Mel(RATE, 16_000, BANDS, 100.0).bands_hz
    torch.testing.assert_close(decay(**front), expected(centres))
    # that is where the triangles have their peaks, to the spectrum's 31 Hz
    filters = mel_filters(BANDS, 512, 16_000, 100.0, 8000.0)
    torch.testing.assert_close(filters.argmax(1) * 31.25, torch.tensor(centres), atol=16, rtol=0)
    with pytest.raises(ValueError, match="encoder.prefilter=ic_adaptation needs the frequency of each band"):
        build_encoder(section, n_bands=BANDS, rate=RATE, n_out=3)
    with pytest.raises(ValueError, match="needs both, or frequencies"):
        decay(prefilter_params={"scale": "erb"})


@pytest.mark.parametrize("name", ["MelSpectrum", "Gammatone"])
def test_features_of_bands_say_where_they_are(name):
    """A tone at the middle of a band is loudest there."""
    feature = build_feature(name, {"norm_audio": False, "n_mels": 20} if name == "MelSpectrum" else {"n_bands": 20})
    assert feature.bands_hz.shape == (feature.dim,)
    for band in (8, 14, 18):
        tone = np.sin(2 * np.pi * feature.bands_hz[band] * np.arange(8000) / 16_000).astype(np.float32)
        assert feature.compute(tone, 16_000)[20:30].mean(0).argmax() == band
    assert build_feature("Envelope", {}).bands_hz is None and build_feature("Pitch", {}).bands_hz is None


@pytest.mark.parametrize("scale", SCALES)
def test_scales_have_inverses(scale):
    there, back = SCALES[scale]
    f = torch.tensor([20.0, 100, 1000, 20_000], dtype=torch.float64)
    torch.testing.assert_close(back(there(f)), f)
    bands = band_frequencies(9, 100, 8000, scale)
    assert bands[0] == pytest.approx(100) and bands[-1] == pytest.approx(8000) and (bands.diff() > 0).all()


def test_published_places_on_the_scales():
    """mel(1000 Hz) = 1000; the human cochlea's range (Greenwood 1990: 20 Hz to 20.7 kHz); ERB number of 1 kHz 15.6."""
    f = torch.tensor([1000.0], dtype=torch.float64)
    assert SCALES["mel"][0](f).item() == pytest.approx(1000, abs=0.1)
    assert SCALES["erb"][0](f).item() == pytest.approx(15.6, abs=0.05)
    ends = SCALES["greenwood"][1](torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([19.85, 20_677], rel=1e-3)


@pytest.mark.parametrize("options, message", [
    ({"fmin": None}, "fmin=None, fmax=20000.0.*needs both, or frequencies"), ({"fmax": 60_000.0}, "57 kHz"),
    ({"scale": "bark"}, "one of mel, erb"), ({"fmin": 0.0}, "20 ≤ low < high"),
    ({"taps": "long"}, "'original' or null"), ({"taps": 1}, "at least 2"), ({"rate": 0.0}, "rate=0"),
    ({"frequencies": [500.0, 900.0]}, r"shape \(2,\), expected one for each of 6 bands"), ({"init_w": 1.0}, "init_w=1"),
])
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        AdapTrans(**{"n_bands": BANDS, "rate": RATE, **PUBLISHED, **options})


def test_wrong_input():
    with pytest.raises(ValueError, match=r"takes \(B, 1, 6, T\), got shape \(1, 1, 5, 9\)"):
        AdapTrans(BANDS, RATE, **PUBLISHED)(torch.zeros(1, 1, 5, 9))
    assert math.isclose(AdapTrans(BANDS, RATE, frequencies=[1000.0] * BANDS).d_on[0].item() ** 2,
                        math.exp(5 / 185) - 1, rel_tol=1e-5)
