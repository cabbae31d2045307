"""Published networks against their descriptions, written out in numpy: one frame, band and position at a time."""
import math

import numpy as np
import pytest
import torch

from bm.models.encoders import build_encoder
from bm.models.encoders.activations import make_activation
from bm.models.encoders.kernels import ChannelNorm

BANDS, FRAMES, OUT = 13, 40, 4


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def softplus_per_neuron(p, x):
    """log(1 + exp(βx)) / β + b of `(B, N, T)`; β and the baseline are softplus of what is learned."""
    beta, base = (np.log1p(np.exp(p[f"readout.activation.{name}"]))[:, None] for name in ("beta", "b"))
    return np.log1p(np.exp(beta * x)) / beta + base


def weighted(p, name, x):
    """A linear layer over the features of `(B, H, T)`."""
    return np.einsum("oh,bht->bot", p[f"{name}.weight"], x) + p[f"{name}.bias"][:, None]


def layer_norm(p, name, x, axis=1):
    """Over the features of each frame (and band) alone; the variance is that of a population, 1e-5 is added to it."""
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    centred = x - x.mean(axis, keepdims=True)
    unit = centred / np.sqrt((centred ** 2).mean(axis, keepdims=True) + 1e-5)
    return unit * p[f"{name}.weight"].reshape(shape) + p[f"{name}.bias"].reshape(shape)


def strf(p, x):
    """Frame t is the bias and the sum over bands and lags of the kernel times the sound; silence before the first."""
    w = p["core.strf.weight"]
    window, out = w.shape[-1], np.zeros((len(x), len(w), x.shape[-1]))
    for t in range(x.shape[-1]):
        out[..., t] = p["core.strf.bias"]
        for lag in range(min(window, t + 1)):
            out[..., t] += np.einsum("bcf,ocf->bo", x[..., t - lag], w[..., window - 1 - lag])
    return out


def linear(p, x):
    mean, variance, scale, shift = (p[f"readout.norm.{name}"][:, None]
                                    for name in ("running_mean", "running_var", "weight", "bias"))
    return (strf(p, x) - mean) / np.sqrt(variance + 1e-5) * scale + shift


def ln(p, x):
    return softplus_per_neuron(p, linear(p, x))


def nrf(p, x):
    return softplus_per_neuron(p, weighted(p, "readout.linear", np.tanh(layer_norm(p, "core.norm", strf(p, x)))))


def dnet(p, x):
    """The memory has 14 frames of weights (1 − 1/τ)ᵏ / τ, τ = 1 + d²; the first frame stands for those before it."""
    units, tau = sigmoid(layer_norm(p, "core.norm", strf(p, x))), 1 + p["core.decay.d"] ** 2
    kept = sum(((1 - 1 / tau) ** k / tau)[:, None] * units[..., np.maximum(np.arange(FRAMES) - k, 0)]
               for k in range(14))
    return weighted(p, "readout.linear", kept)


def convolved(p, name, x):
    """A 2-D convolution of `(B, C, F, T)` without padding."""
    w = p[f"{name}.weight"]
    bands, frames = x.shape[2] - w.shape[2] + 1, x.shape[3] - w.shape[3] + 1
    return p[f"{name}.bias"][:, None, None] + sum(
        np.einsum("bcft,oc->boft", x[:, :, i:i + bands, j:j + frames], w[..., i, j])
        for i in range(w.shape[2]) for j in range(w.shape[3]))


def convnet2d(p, x):
    x = np.pad(x, [(0, 0), (0, 0), (0, 0), (24, 0)])
    for layer in (0, 3, 6):
        x = leaky(layer_norm(p, f"core.stack.{layer + 1}", convolved(p, f"core.stack.{layer}", x)))
    hidden = leaky(weighted(p, "readout.linear.0", x.reshape(len(x), -1, FRAMES)))
    return softplus_per_neuron(p, weighted(p, "readout.linear.2", hidden))


def transformer(p, x, bands=BANDS, window=1, layers=1, heads=1, context=FRAMES):
    """Post-norm blocks; the token of a frame is its patches of bands, and attends to `context` frames up to itself."""
    w, n = p["core.patches.weight"], BANDS // bands
    padded = np.pad(x, [(0, 0), (0, 0), (0, 0), (window - 1, 0)])
    size = len(w) * n
    tokens = np.zeros((len(x), FRAMES, size))
    for t in range(FRAMES):
        patches = [np.einsum("bcft,ocft->bo", padded[:, :, k * bands:(k + 1) * bands, t:t + window], w)
                   + p["core.patches.bias"] for k in range(n)]
        angle = np.array([t / 10_000 ** (2 * (i // 2) / size) for i in range(size)])
        place = np.where(np.arange(size) % 2, np.cos(angle), np.sin(angle))
        tokens[:, t] = np.stack(patches, 2).reshape(len(x), size) + place
    for layer in range(layers):
        own = {name.partition(f"layers.{layer}.")[2]: values for name, values in p.items()}
        tokens = layer_norm(own, "norm1", tokens + attended(own, tokens, heads, context), 2)
        first = np.maximum(tokens @ own["linear1.weight"].T + own["linear1.bias"], 0)
        tokens = layer_norm(own, "norm2", tokens + first @ own["linear2.weight"].T + own["linear2.bias"], 2)
    return weighted(p, "readout.linear", tokens.transpose(0, 2, 1))


def attended(p, tokens, heads, context):
    each = tokens @ p["self_attn.in_proj_weight"].T + p["self_attn.in_proj_bias"]
    q, k, v = (part.reshape(*part.shape[:2], heads, -1) for part in np.split(each, 3, 2))
    out = np.zeros_like(q)
    for t in range(tokens.shape[1]):
        seen = slice(max(0, t - context + 1), t + 1)
        logits = np.einsum("bhe,bshe->bhs", q[:, t], k[:, seen]) / math.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(2, keepdims=True))
        out[:, t] = np.einsum("bhs,bshe->bhe", weights / weights.sum(2, keepdims=True), v[:, seen])
    return out.reshape(tokens.shape) @ p["self_attn.out_proj.weight"].T + p["self_attn.out_proj.bias"]


def locally_connected(p, x):
    w = p["core.encoder.weight"]  # positions, channels, inputs, bands of a position, 3 bands apart
    return np.stack([np.einsum("bcft,ocf->bot", x[:, :, 3 * k:3 * k + 7], w[k]) for k in range(len(w))],
                    2) + p["core.encoder.bias"]


def fully_connected(p, x):
    flat = weighted(p, "core.encoder.linear", x.reshape(len(x), -1, FRAMES))
    return flat.reshape(len(x), 7, 3, FRAMES)


def shared(p, x):
    return convolved(p, "core.encoder", x)[:, :, ::3]


def gru(p, x, layer=0):
    """`(B, T, features)` → `(B, T, hidden)`; the reset gate is applied after the product with the last state."""
    w_in, w_own, b_in, b_own = (p[f"core.rnn.recurrent.{name}_l{layer}"]
                                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    state, out = np.zeros((len(x), w_own.shape[1])), []
    for t in range(x.shape[1]):
        given, own = (np.split(part, 3, 1) for part in (x[:, t] @ w_in.T + b_in, state @ w_own.T + b_own))
        reset, update = sigmoid(given[0] + own[0]), sigmoid(given[1] + own[1])
        state = (1 - update) * np.tanh(given[2] + reset * own[2]) + update * state
        out.append(state)
    return np.stack(out, 1)


def statenet(p, x, encoder=locally_connected, layers=1):
    units = sigmoid(layer_norm(p, "core.norm", encoder(p, x)))
    states = units.reshape(len(x), -1, FRAMES).transpose(0, 2, 1)
    for layer in range(layers):
        states = gru(p, states, layer)
    return softplus_per_neuron(p, weighted(p, "readout.linear", states.transpose(0, 2, 1)))


def randomised(module, seed=0):
    """The module in float64 and eval mode, with no parameter or statistic of a norm left at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for values in [*module.parameters(), *(values for values in module.buffers() if values.is_floating_point())]:
            values.add_(0.4 * torch.rand(values.shape, generator=generator, dtype=torch.float64) - 0.2)
    return module, {name: values.numpy() for name, values in module.state_dict().items()}


@pytest.mark.parametrize("name, params, reference, options", [
    ("linear", {}, linear, {}), ("ln", {}, ln, {}), ("nrf", {}, nrf, {}), ("dnet", {}, dnet, {}),
    ("convnet2d", {}, convnet2d, {}), ("transformer", {"embedding": 8}, transformer, {}),
    ("transformer", {"embedding": 6, "patch_frames": 3, "layers": 2, "heads": 2, "context_window": 5}, transformer,
     {"window": 3, "layers": 2, "heads": 2, "context": 5}),
    ("transformer", {"embedding": 3, "patch_bands": 1}, transformer, {"bands": 1}),
    ("statenet", {}, statenet, {}), ("statenet", {"encoder": "fc", "layers": 2}, statenet,
                                     {"encoder": fully_connected, "layers": 2}),
    ("statenet", {"encoder": "conv"}, statenet, {"encoder": shared})])
def test_a_network_is_what_is_published(name, params, reference, options):
    torch.manual_seed(0)
    model, p = randomised(build_encoder({"name": name, "params": params}, n_bands=BANDS, rate=100.0, n_out=OUT))
    x = torch.randn(2, 1, BANDS, FRAMES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found = model(x).numpy()[:, :, 0]
    expected = reference(p, x.numpy(), **options)
    assert found.shape == expected.shape and expected.std() > 0.01
    atol = 1e-6 if name == "transformer" else 1e-10  # its positions are made in float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 5, 600), (3, 5, 20, 40)])
def test_channels_are_normalised_at_each_frame_alone(shape):
    """Of few frames and of many, which take another way, and back through it."""
    norm, p = randomised(ChannelNorm(5))
    x = (3 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    found = norm(x)
    np.testing.assert_allclose(found.detach().numpy(), layer_norm({f"n.{name}": values for name, values in p.items()},
                                                                  "n", x.detach().numpy()), rtol=1e-5, atol=1e-10)
    ours = torch.autograd.grad(found.square().sum(), x)[0]
    plain = torch.nn.functional.layer_norm(x.movedim(1, -1), (5,), norm.weight, norm.bias, 1e-5).square().sum()
    torch.testing.assert_close(ours, torch.autograd.grad(plain, x)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name, formula", [
    ("softplus", lambda p, x: np.log(1 + np.exp(p["beta"] * x)) / p["beta"] + p["b"]),
    ("sigmoid", lambda p, x: p["b"] / (1 + np.exp(-(x - p["c"]) / p["d"])) + p["a"]),
    ("double_exponential", lambda p, x: p["a"] * np.exp(-np.exp(p["k"] * x - p["s"])) + p["b"])])
def test_amplitude_and_baseline_are_softplus_where_no_response_may_be_negative(name, formula):
    activation, p = randomised(make_activation(name, OUT, True))
    p = {key: (np.log1p(np.exp(values)) if key in ("a", "b", "beta") else values)[:, None] for key, values in p.items()}
    x = torch.linspace(-2, 2, 30, dtype=torch.float64).expand(2, OUT, 30)
    with torch.no_grad():
        np.testing.assert_allclose(activation(x).numpy(), formula(p, x.numpy()), rtol=1e-9, atol=1e-12)
