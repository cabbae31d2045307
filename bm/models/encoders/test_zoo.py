import math

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete, dimpulse
from torch import nn

from bm.models import encoders
from bm.models.encoders import CORES, FRONTS, READOUTS, AudioEncoder, build_encoder
from bm.models.encoders.kernels import ExponentialDecay, ParametricSTRF, SeparableSTRF
from bm.models.encoders.readouts import NoReadout
from bm.models.encoders.statenet import LocallyConnected
from bm.models.encoders.zoo import Linear
from bm.models.encoders.zoo_deep import factor_strides
from bm.models.encoders.zoo_recurrent import LMU, S4D, SelectiveSSM, scan

BANDS, OUT = 34, 5
# Every core with its defaults, and the variants of those of this folder that the defaults do not reach.
VARIANTS = [(name, {}) for name in sorted(CORES) if not CORES[name].at_audio_rate] + [
    ("linear", {"kernel": "parametric"}), ("nrf", {"kernel": "separable", "window": 4}),
    ("dnet", {"kernel": "parametric", "n_gaussians": 2, "tau": 3.0}), ("convnet2d", {"layers": 2, "kernel_frames": 3}),
    ("transformer", {"context_window": 5, "layers": 2}),
    ("transformer", {"patch_bands": 17, "patch_frames": 3, "heads": 2, "context_window": 4}),
    *[("statenet", {"rnn": rnn}) for rnn in ("lstm", "rnn", "lmu", "s4d", "mamba")],
    ("statenet", {"encoder": "fc", "layers": 2}), ("statenet", {"encoder": "conv", "rnn": "s4d", "layers": 2})]


def make(name, params=None, n_out=OUT, n_bands=BANDS, **section):
    torch.manual_seed(0)
    section = {"name": name, "params": params or {}, **section}
    return build_encoder(section, n_bands=n_bands, rate=100.0, n_out=n_out).eval()


class Samples(nn.Module):
    """A front-end of `n_bands` two-tap filters, one frame per sample."""

    def __init__(self, *, rate, n_bands=48, sample_rate=800):
        super().__init__()
        assert rate == sample_rate
        self.out_channels, self.hop, self.history = n_bands, 1, 1
        self.register_buffer("taps", torch.randn(n_bands, 1, 2))

    def forward(self, x):
        return nn.functional.conv1d(nn.functional.pad(x, (1, 0)), self.taps)[:, None]


@pytest.mark.parametrize(("name", "count"), [
    ("linear", 19_776), ("ln", 19_904), ("nrf", 7_652), ("dnet", 7_544), ("convnet2d", 12_852),
    ("transformer", 33_088), ("statenet", 35_066)])
def test_parameters_are_those_of_the_published_networks(name, count):
    assert sum(parameter.numel() for parameter in make(name, n_out=64).parameters()) == count


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=str)
def test_the_past_does_not_know_the_future_nor_what_is_older_than_history(name, params):
    encoder, frames = make(name, params), 70
    x = torch.randn(2, 1, BANDS, frames)
    before = encoder(x)
    assert before.shape == (2, OUT, 1, frames)
    future = x.clone()
    future[..., 40:] = 1e3 * torch.randn(2, 1, BANDS, frames - 40)
    after = encoder(future)
    torch.testing.assert_close(after[..., :40], before[..., :40], rtol=1e-5, atol=1e-6)
    assert (after[..., 40] - before[..., 40]).abs().max() > 1e-3
    last = encoder(x.requires_grad_())[..., -1].sum()
    reach = torch.autograd.grad(last, x)[0].abs().amax((0, 1, 2))
    if encoder.history is None:
        assert reach.min() > 0
    else:
        first = frames - 1 - encoder.history
        assert reach[:first].max() == 0 and (reach[first:] > 0).all()


def test_icnet_reads_samples(monkeypatch):
    monkeypatch.setitem(FRONTS, "samples", Samples)
    params = {"channels": 3, "bottleneck": 4, "kernel_size": 5, "strides": [2, 1, 2, 1, 2]}
    encoder = make("icnet", params, wav2spec="samples")
    # 8 samples per frame; padding 3, 4·2, 3·2, 4·4, 3·4 and 4·8 samples, and 1 of the front-end.
    assert encoder.hop == 8 and encoder.history == math.ceil((3 + 8 + 6 + 16 + 12 + 32 + 1) / 8)
    x = torch.randn(1, 1, 8 * 20, requires_grad=True)
    y = encoder(x)
    assert y.shape == (1, OUT, 1, 20)
    reach = torch.autograd.grad(y[..., 14].sum(), x)[0][0, 0].abs()
    assert reach[15 * 8:].max() == 0 and reach[15 * 8 - 1] > 0  # up to the last sample of its frame
    assert reach[:14 * 8 - 78].max() == 0 and reach[14 * 8 - 78] > 0
    assert make("icnet", {**params, "strides": None}, wav2spec="samples").core.stack[0].stride == (2,)
    with pytest.raises(ValueError, match="a multiple of 8"):
        encoder(torch.randn(1, 1, 41))
    with pytest.raises(ValueError, match=r"product 8 .*\[2, 2, 2, 2, 2\]"):
        make("icnet", {**params, "strides": [2] * 5}, wav2spec="samples")
    with pytest.raises(ValueError, match="samples would be lost"):
        make("icnet", {"kernel_size": 1}, wav2spec="samples")
    with pytest.raises(ValueError, match="no multiple of 100"):
        make("icnet", {}, wav2spec="samples", wav2spec_params={"sample_rate": 850})
    with pytest.raises(ValueError, match="reads a waveform"):
        make("icnet")


def test_icnet_with_its_published_front_end():
    encoder = make("icnet", {"channels": 4}, n_bands=1, wav2spec="sincnet")  # 48 kHz to 100 Hz
    assert encoder.wav2spec.out_channels == 48 and encoder.wav2spec.taps == 64 and encoder.hop == 480
    assert [layer.stride[0] for layer in encoder.core.stack[::2]] == [2, 2, 2, 2, 30, 1]
    x = torch.randn(1, 1, 480 * 4, requires_grad=True)
    y = encoder(x)
    assert y.shape == (1, OUT, 1, 4) and (y >= 0).all()
    reach = torch.autograd.grad(y[..., 1].sum(), x)[0][0, 0]
    assert reach[960:].abs().max() == 0 and reach[959] != 0


@pytest.mark.parametrize(("total", "strides"), [(240, [2, 2, 2, 2, 15]), (80, [2, 2, 2, 2, 5]), (75, [3, 5, 5, 1, 1])])
def test_factor_strides(total, strides):
    assert factor_strides(total, 5) == strides


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=str)
def test_a_state_dict_reproduces_outputs_bit_for_bit(name, params):
    first = make(name, params)
    torch.manual_seed(1)
    second = build_encoder({"name": name, "params": params}, n_bands=BANDS, rate=100.0, n_out=OUT).eval()
    x = torch.randn(2, 1, BANDS, 40)
    with torch.no_grad():
        assert not torch.equal(first(x), second(x))
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(x), second(x))


def test_bad_sections_are_named():
    cases = [({"name": "lnn"}, "unknown encoder 'lnn', nearest is 'ln'"), ({}, "encoder.name is missing"),
             ({"name": "ln", "parms": {}}, "unknown option of encoder 'parms', nearest is 'params'"),
             ({"name": "nrf", "params": {"hiden": 3}}, "unknown option of encoder 'nrf' 'hiden', nearest is 'hidden'"),
             ({"name": "nrf", "params": {"readout": "batchnorm"}}, "20 features and there are 5 neurons"),
             ({"name": "ln", "params": {"readout": "x"}}, "unknown readout 'x'"),
             ({"name": "ln", "params": {"kernel": "ful"}}, "unknown kernel 'ful', nearest is 'full'"),
             ({"name": "ln", "params": {"n_gaussians": 2}}, "option of kernel 'parametric'"),
             ({"name": "ln", "params": {"activation": "softmax"}}, "unknown activation 'softmax'"),
             ({"name": "ln", "params": {"window": 0}}, "window must be at least 1"),
             ({"name": "ln", "prefilter_params": {"a": 1}}, "encoder.prefilter is null"),
             ({"name": "ln", "prefilter": "nothing"}, "unknown prefilter"),
             ({"name": "convnet2d", "params": {"layers": 17}}, "need at least 35 bands, got 34"),
             ({"name": "transformer", "params": {"patch_bands": 5}}, "must divide the 34 bands, got 5"),
             ({"name": "statenet", "params": {"stride_bands": 4}}, "leave 3 of 34 bands out: kernel_bands=10"),
             ({"name": "statenet", "params": {"rnn": "gruu"}}, "unknown rnn 'gruu', nearest is 'gru'"),
             ({"name": "statenet", "params": {"rnn": "lmu", "rnn_options": {"x": 1}}}, "'memory', 'theta'")]
    for section, message in cases:
        with pytest.raises(ValueError, match=message.replace("[", r"\[")):
            build_encoder(section, n_bands=BANDS, rate=100.0, n_out=OUT)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"spectrograms \(B, 1, 34, T\), got shape \(2, 1, 33, 9\)"):
        make("linear")(torch.zeros(2, 1, 33, 9))
    core = Linear(in_channels=2, n_bands=3, n_out=4, rate=1.0)
    with pytest.raises(ValueError, match="takes 2 channels, the prefilter gives 1"):
        AudioEncoder(core, NoReadout(4, 4))


def test_options_of_cores_and_readouts_do_not_collide():
    for core in CORES.values():
        for readout in READOUTS.values():
            assert not set(encoders.options_of(core)) & set(encoders.options_of(readout))


def test_kernels():
    x = torch.randn(2, 2, 7, 30)
    encoder = make("linear", {"window": 4}, n_bands=7)
    strf = encoder.core.strf
    expected = nn.functional.conv2d(nn.functional.pad(x[:, :1], (3, 0)), strf.kernel(), strf.bias)[:, :, 0]
    torch.testing.assert_close(encoder.core(x[:, :1]), expected)
    # In eval mode the gradient of a linear encoder is its STRF, scaled by the batch norm.
    encoder.readout.norm.running_var.fill_(4.0)
    stimulus = torch.zeros(1, 1, 7, 4, requires_grad=True)
    gradient = torch.autograd.grad(encoder(stimulus)[0, 2, 0, -1], stimulus)[0]
    torch.testing.assert_close(gradient[0], strf.kernel()[2] / math.sqrt(4 + 1e-5))
    parametric = ParametricSTRF(2, 3, 7, 4, n_gaussians=1)
    torch.testing.assert_close(parametric.kernel().sum((2, 3)), parametric.weight[..., 0])
    with torch.no_grad():  # a narrow Gaussian in the middle of the grid is the textbook's; one far outside is finite
        parametric.band.fill_(3.0), parametric.band_width.fill_(0.5)
        bands = parametric.kernel()[0, 0].sum(1) / parametric.weight[0, 0, 0]
        density = np.exp(-0.5 * ((np.arange(7) - 3) / 0.77) ** 2) / (0.77 * math.sqrt(2 * math.pi))
        np.testing.assert_allclose(bands, density, atol=2e-3)
        parametric.band.fill_(1e4)
        assert parametric.kernel().isfinite().all()
    assert torch.linalg.matrix_rank(SeparableSTRF(2, 3, 7, 4).kernel()).eq(1).all()


def test_exponential_decay():
    decay = ExponentialDecay(3, tau=2.0)
    assert decay.window == 14
    with torch.no_grad():
        decay.d.copy_(torch.tensor([0.0, 1.0, 2.0]))
    x = torch.randn(2, 3, 30)
    torch.testing.assert_close(decay(x)[:, 0], x[:, 0])  # τ = 1: no memory
    torch.testing.assert_close(decay.kernel()[2].flip(0), 0.2 * 0.8 ** torch.arange(14.0))
    # Replicated, the first frame fills the past: a constant input gives the kernel's mass at once.
    torch.testing.assert_close(decay(torch.ones(1, 3, 5))[0, 1], torch.full((5,), 1 - 0.5 ** 14))


def test_locally_connected_is_a_dot_product_at_each_position():
    layer = LocallyConnected(2, 3, positions=4, kernel_bands=5, stride_bands=2)
    x = torch.randn(2, 2, 11, 6)
    expected = torch.stack([torch.einsum("bckt,ock->bot", x[:, :, 2 * p:2 * p + 5], layer.weight[p])
                            for p in range(4)], dim=2) + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_scan_with_constant_decay_is_a_convolution():
    drive = torch.randn(2, 20, 3)
    powers = 0.7 ** (torch.arange(20)[:, None] - torch.arange(20)).clamp(min=0)
    torch.testing.assert_close(scan(torch.tensor(0.7), drive), torch.einsum("ts,bsh->bth", powers.tril(), drive))


def test_legendre_memory_holds_a_window():
    """From the memory the input `lag` frames ago is Σ_i P_i(2 lag/θ − 1) m_i (Voelker et al. 2019, eq. 3)."""
    memory, theta, lag, small = 24, 60.0, 25, 1e-3
    lmu = LMU(1, 1, memory=memory, theta=theta)
    basis = np.polynomial.legendre.legvander(np.array([2 * lag / theta - 1]), memory - 1)
    with torch.no_grad():  # a unit that reads the memory, in the linear range of tanh
        lmu.input_code.fill_(1.0), lmu.hidden_code.zero_(), lmu.input_kernel.zero_(), lmu.hidden_kernel.zero_()
        lmu.memory_kernel.copy_(small * torch.tensor(basis))
        read = lmu(torch.sin(torch.arange(300) * 0.08)[None, :, None])[0, 100:, 0] / small
    # The hold makes an input count for the whole frame before the state it enters: half a frame on average.
    assert (read - torch.sin((torch.arange(100, 300) - lag + 0.5) * 0.08)).abs().max() < 0.02


def test_s4d_has_the_impulse_response_of_its_continuous_system():
    layer = S4D(2, 3, state=4)
    kept = {}
    layer.mix.register_forward_pre_hook(lambda module, inputs: kept.update(y=inputs[0]))
    with torch.no_grad():
        layer.skip.zero_()
        layer(torch.eye(12)[None, :, :1].repeat(1, 1, 2))
    for feature in range(2):
        poles = (-layer.log_damping[feature].exp() + 1j * layer.frequency[feature]).detach().numpy()
        output = torch.view_as_complex(layer.output[feature].detach()).numpy()
        a = np.diag(np.concatenate([poles, poles.conj()]))
        c = np.concatenate([output, output.conj()])[None]
        step = layer.log_step[feature].exp().item()
        # Real form: rotating each conjugate pair turns it into two real states.
        turn = np.kron([[1, 1j], [1, -1j]], np.eye(2)) / math.sqrt(2)
        real = [(np.linalg.inv(turn) @ a @ turn).real, (np.linalg.inv(turn) @ np.ones((4, 1))).real, (c @ turn).real]
        system = cont2discrete((*real, np.zeros((1, 1))), step, method="zoh")
        # A state-space model of this kind has its input in the same frame: one frame ahead of scipy's convention.
        impulse = dimpulse(system, n=13)[1][0][1:, 0]
        expected = nn.functional.gelu(torch.tensor(impulse, dtype=torch.float32))
        torch.testing.assert_close(kept["y"][0, :, feature], expected, rtol=1e-4, atol=1e-6)


def test_selective_ssm_against_its_recurrence():
    layer = SelectiveSSM(3, 2, state=2, expand=1, conv=2)
    x = torch.randn(1, 9, 3)
    with torch.no_grad():
        u, gate = (layer.enter(x)[0, :, part].numpy() for part in (slice(0, 3), slice(3, 6)))
        w, bias = layer.conv.weight[:, 0].numpy(), layer.conv.bias.numpy()
        state, rows = np.zeros((3, 2)), []
        for t in range(9):
            conv = w[:, 1] * u[t] + (w[:, 0] * u[t - 1] if t else 0) + bias
            conv = conv / (1 + np.exp(-conv))
            chosen = layer.select.weight.numpy() @ conv  # step, two entries, two outputs
            step = np.log1p(np.exp(layer.step.weight.numpy() @ chosen[:1] + layer.step.bias.numpy()))
            state = np.exp(-step[:, None] * np.array([1.0, 2.0])) * state + np.outer(step * conv, chosen[1:3])
            rows.append((state @ chosen[3:] + conv) * gate[t] / (1 + np.exp(-gate[t])))
        expected = np.stack(rows) @ layer.leave.weight.numpy().T
        np.testing.assert_allclose(layer(x)[0].numpy(), expected, rtol=1e-4, atol=1e-6)
