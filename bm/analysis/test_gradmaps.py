"""Gradient maps: equal to kernels where there are any, to finite differences elsewhere; and find planted STRFs."""
import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from bm.analysis.gradmaps import default_probe, strf_gradmap, waveform_gradmap
from bm.models.encoders import AudioEncoder, build_encoder

BANDS, RATE = 10, 200.0


def encoder(name, n_out=5, prefilter=None, seed=0, n_bands=BANDS, **section):
    torch.manual_seed(seed)
    section = {"name": name, "prefilter": prefilter, **section}
    if prefilter:
        section["prefilter_params"] = {"fmin": 5000, "fmax": 20_000}
    model = build_encoder(section, n_bands=n_bands, rate=RATE, n_out=n_out)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
    return model


def kernel(model):
    norm = model.readout.norm
    weight = next(p for p in model.core.parameters() if p.ndim == 4)
    return ((norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None] * weight).detach()


def frozen(model):
    """All that a map must leave alone."""
    return ({key: value.clone() for key, value in model.state_dict().items()},
            [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()],
            [None if p.grad is None else p.grad.clone() for p in model.parameters()])


@pytest.mark.parametrize("prefilter", [None, "adaptrans"])
def test_of_a_linear_encoder_it_is_the_kernel(prefilter):
    model = encoder("linear", prefilter=prefilter)
    wrt = "prefilter" if prefilter else "spectrogram"
    expected = kernel(model)
    assert expected.shape == (5, 2 if prefilter else 1, BANDS, 9)
    torch.testing.assert_close(strf_gradmap(model, 9, wrt=wrt), expected, atol=1e-6, rtol=0)
    longer = strf_gradmap(model.double(), 30, wrt=wrt)
    torch.testing.assert_close(longer[..., -9:], kernel(model), atol=1e-12, rtol=0)
    assert (longer[..., :-9] == 0).all()


@pytest.mark.parametrize("name", ["linear", "dnet", "statenet"])
@pytest.mark.parametrize("fails", [False, True])
def test_leaves_the_model_as_it_was(name, fails):
    model = encoder(name, prefilter="adaptrans", wav2spec="leaf",
                    wav2spec_params={"sample_rate": 16_000, "bands": BANDS}).train()
    model.core.eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    before = copy.deepcopy(frozen(model))

    def broken(responses):
        raise KeyError("no")
    for make in (lambda target: strf_gradmap(model, 9, target=target),
                 lambda target: waveform_gradmap(model, torch.randn(800), target=target)):
        if fails:
            with pytest.raises(KeyError):
                make(broken)
        else:
            with torch.no_grad():  # gradients are on inside
                assert (make("last") != 0).any()
        torch.testing.assert_close(frozen(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["linear", "ln", "nrf", "dnet", "convnet2d", "transformer", "statenet"])
@pytest.mark.parametrize("prefilter", [None, "adaptrans"])
def test_all_at_once_equal_one_by_one(name, prefilter):
    """Also the short cuts: one frame of a convolution, norms of many copies together."""
    model = encoder(name, n_out=21, prefilter=prefilter).double().eval()
    probe, expected = torch.rand(1, 1, BANDS, 30).double(), []
    for unit in range(21):
        x = probe.clone().requires_grad_()
        model.zero_grad()
        model(x)[0, unit, 0, -1].backward()
        expected.append(x.grad[0])
    torch.testing.assert_close(strf_gradmap(model, 30, at=probe), torch.stack(expected), atol=1e-10, rtol=0)


def differences(function, x, places, eps=1e-5):
    """Central differences of `function(x)` at some elements of x."""
    found = []
    for place in places:
        up, down = x.clone(), x.clone()
        up.view(-1)[place] += eps
        down.view(-1)[place] -= eps
        found.append((function(up) - function(down)) / (2 * eps))
    return torch.stack(found, -1)


TARGETS = {"last": lambda y: y[..., -1], "peak": lambda y: y.amax(-1), "sustained": lambda y: y.mean(-1),
           "sum": lambda y: y.sum(-1)}


@pytest.mark.parametrize("name, prefilter", [("statenet", None), ("gru_attention", None), ("nrf", "adaptrans")])
@pytest.mark.parametrize("target", TARGETS)
def test_equals_finite_differences(name, prefilter, target):
    """Of the last frames alone: what leads in has its part in the responses, not in the targets."""
    model, n = encoder(name, n_out=3, prefilter=prefilter).double(), 12
    probe = torch.rand(1, 1, BANDS, n + 6).double()
    model.eval()
    places = [b * (n + 6) + t for b, t in ((0, 17), (3, 10), (7, 14))]
    with torch.no_grad():
        expected = differences(lambda x: TARGETS[target](model(x)[0, :, 0, -n:]), probe, places)
    maps = strf_gradmap(model.train(), n, at=probe[0, 0], target=target)
    found = torch.stack([maps[:, 0, 0, 11], maps[:, 0, 3, 4], maps[:, 0, 7, 8]], -1)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-5)
    assert (maps != 0).flatten(1).any(1).all()


def test_units_batches_and_probes():
    model = encoder("statenet").double()
    probes = torch.rand(3, 1, BANDS, 10).double()
    maps = strf_gradmap(model, 10, at=probes)
    each = torch.stack([strf_gradmap(model, 10, at=probe[0].numpy()) for probe in probes])
    torch.testing.assert_close(maps, each.mean(0))
    torch.testing.assert_close(strf_gradmap(model, 10, at=probes, units=[4, 1], batch=4), maps[[4, 1]])
    twice = strf_gradmap(model, 10, at=probes, target=lambda responses: 2 * responses[..., -1])
    torch.testing.assert_close(twice, 2 * maps)
    assert not maps.requires_grad


@pytest.mark.parametrize("prefilter", ["adaptrans", "ic_adaptation"])
@pytest.mark.parametrize("name", ["linear", "ln", "statenet"])
@pytest.mark.parametrize("n_frames", [9, 60])
def test_never_zero_behind_a_rectifier(prefilter, name, n_frames):
    """At the default probe every channel of every band is open; at silence, and at a constant, all is shut."""
    model = encoder(name, prefilter=prefilter)
    probe = default_probe(model, n_frames)
    assert (model.prefiltering(probe)[..., -n_frames:] > 0).all()
    maps = strf_gradmap(model, n_frames)
    assert maps.shape == (5, 1, BANDS, n_frames) and maps.isfinite().all()
    assert (maps[..., -9:] != 0).all()
    with pytest.warns(UserWarning, match=r"units \[0, 3\] are zero everywhere"):
        shut = strf_gradmap(model, n_frames, at=torch.zeros(BANDS, n_frames), units=[0, 3])
    assert (shut == 0).all()


def test_a_longer_map_shows_the_same():
    for prefilter in ("adaptrans", "ic_adaptation"):
        model = encoder("linear", prefilter=prefilter).double()
        torch.testing.assert_close(strf_gradmap(model, 20), strf_gradmap(model, 60)[..., -20:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", ["last", "peak", "sum"])
def test_waveform(target):
    model = encoder("ln", n_out=3, wav2spec="mel",
                    wav2spec_params={"sample_rate": 16_000, "bands": BANDS, "compression": "log1p"}).double().eval()
    wave = torch.randn(12 * 80).double()
    maps = waveform_gradmap(model, wave, target=target)
    places = [5, 400, 800, 950]
    with torch.no_grad():
        expected = differences(lambda x: TARGETS[target](model(x[None, None])[0, :, 0]), wave, places)
    torch.testing.assert_close(maps[:, places], expected, atol=1e-8, rtol=1e-5)
    assert maps.shape == (3, 960) and (maps != 0).any(1).all()
    torch.testing.assert_close(waveform_gradmap(model, wave.numpy(), unit=1, target=target), maps[1])


def test_wrong_use():
    model, filtered = encoder("linear"), encoder("linear", prefilter="adaptrans")
    for options, message in [({"units": [5]}, "0 to 4"), ({"units": []}, "at least one"), ({"batch": 0}, "batch=0"),
                             ({"target": "first"}, "expected one of last"), ({"n_frames": 0}, "n_frames=0"),
                             ({"at": torch.zeros(BANDS, 8)}, "T at least n_frames = 9"),
                             ({"at": torch.zeros(BANDS + 1, 9)}, r"expected \(10, T\)"),
                             ({"target": lambda y: y}, r"expected \(B, N\)"), ({"wrt": "prefilter"}, "that has one"),
                             ({"wrt": "core"}, "expected spectrogram")]:
        with pytest.raises(ValueError, match=message):
            strf_gradmap(model, **{"n_frames": 9, **options})
    with pytest.raises(ValueError, match="one with a wav2spec"):
        waveform_gradmap(filtered, torch.zeros(800))
    model = encoder("linear", wav2spec="mel", wav2spec_params={"sample_rate": 16_000, "bands": 5})
    with pytest.raises(ValueError, match=r"expected \(samples,\)"):
        waveform_gradmap(model, torch.zeros(1, 1, 800))
    with pytest.raises(ValueError, match="a multiple of 80"):
        waveform_gradmap(model, torch.zeros(801))


def planted(n_units=6, bands=12, window=9):
    """STRFs with an excitatory and an inhibitory spot, `(N, F, W)`."""
    rng = np.random.default_rng(0)
    f, t = np.mgrid[:bands, :window]

    def spot(centre, lag):
        return np.exp(-((f - centre) / 1.5) ** 2 - ((window - 1 - t - lag) / 1.2) ** 2)
    return torch.tensor(np.stack([spot(rng.uniform(1, bands - 2), rng.uniform(0, 3))
                                  - 0.7 * spot(rng.uniform(1, bands - 2), rng.uniform(3, 6))
                                  for _ in range(n_units)]), dtype=torch.float32)


def natural(bands=12, frames=4000):
    """A spectrogram that is smooth over bands and time, level 0 to some 3."""
    rng = np.random.default_rng(1)
    smooth = gaussian_filter(rng.standard_normal((bands, frames)), 0.7)
    return torch.tensor(np.exp(0.5 * smooth / smooth.std()), dtype=torch.float32)[None, None] - 1


def fit(model: AudioEncoder, stimulus, responses, steps=150, lr=0.05, weight_decay=1e-2):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(stimulus)[:, :, 0], responses).backward()
        optimizer.step()
        scheduler.step()


def simulated(inputs, kernels, rectified=True, noise=0.3):
    """Responses to `inputs` (1, C, F, T): a softplus of the kernels' output, noise of so many standard deviations."""
    drive = nn.functional.conv2d(nn.functional.pad(inputs, (kernels.shape[-1] - 1, 0)), kernels)[:, :, 0]
    drive = (drive - drive.mean(-1, keepdim=True)) / drive.std(-1, keepdim=True)
    rates = nn.functional.softplus(2 * drive) / 2 if rectified else drive
    return rates + noise * rates.std(-1, keepdim=True) * torch.randn(rates.shape)


def correlations(found, truth):
    return [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found.numpy(), truth.numpy(), strict=True)]


@pytest.mark.parametrize("name", ["linear", "ln"])
def test_finds_planted_receptive_fields(name):
    torch.manual_seed(0)
    truth, stimulus = planted(), natural()
    model = build_encoder({"name": name}, n_bands=12, rate=RATE, n_out=6)
    assert max(np.abs(correlations(strf_gradmap(model, 9)[:, 0], truth))) < 0.5  # not yet
    fit(model, stimulus, simulated(stimulus, truth[:, None], rectified=name == "ln"))
    r = correlations(strf_gradmap(model, 9)[:, 0], truth)
    assert min(r) >= 0.95


def test_finds_planted_receptive_fields_behind_adaptation():
    """Neurons that hear onsets and offsets: the map on the spectrogram is that of the encoder that made them."""
    torch.manual_seed(0)
    truth, stimulus = torch.stack([planted(), planted().flip(0)], 1), natural() + 1
    section = {"prefilter": "adaptrans", "prefilter_params": {"fmin": 2000, "fmax": 20_000}}
    true = build_encoder({"name": "linear", **section}, n_bands=12, rate=RATE, n_out=6)
    model = build_encoder({"name": "ln", **section}, n_bands=12, rate=RATE, n_out=6)
    with torch.no_grad():
        next(p for p in true.core.parameters() if p.ndim == 4).copy_(truth)
        responses = simulated(true.prefiltering(stimulus), truth, noise=0.1)
    fit(model, stimulus, responses, steps=300, lr=0.02, weight_decay=1e-3)
    maps, expected = strf_gradmap(model, 20), strf_gradmap(true, 20)
    assert maps.shape == (6, 1, 12, 20) and maps.isfinite().all() and (maps != 0).flatten(1).any(1).all()
    assert min(correlations(maps, expected)) >= 0.95
    assert min(correlations(strf_gradmap(model, 9, wrt="prefilter"), truth)) >= 0.9  # ON and OFF say nearly the same
