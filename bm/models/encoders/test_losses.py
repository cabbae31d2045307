import numpy as np
import pytest
import torch
from torch import nn

from bm.models.encoders import build_encoder
from bm.models.encoders.activations import DoubleExponential, ParametricSoftplus, Sigmoid, make_activation
from bm.models.encoders.losses import mse, poisson


def responses(seed=0):
    """Prediction (2, 3, 1, 6) and counts (2, 3, 4, 6) with gaps; neuron 2 is not measured in the second stimulus."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.poisson(torch.full((2, 3, 4, 6), 2.0), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = torch.nan
    target[1, 2] = target[0, 0, :, 2] = torch.nan
    return torch.rand(2, 3, 1, 6, generator=generator) + 0.5, target


def terms(kind, rate, y):
    return {"mse": (rate - y) ** 2, "poisson": rate - y * np.log(rate), "log": np.exp(rate) - y * rate}[kind]


@pytest.mark.parametrize(("kind", "loss"), [
    ("mse", mse), ("poisson", poisson), ("log", lambda *args: poisson(*args, log_rate=True))])
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_losses_are_those_of_the_mean_over_measured_repeats(kind, loss):
    prediction, target = responses()
    values = terms(kind, prediction[:, :, 0].numpy(), np.nanmean(target.numpy(), axis=2))
    expected = np.nanmean(values, axis=(0, 2))
    np.testing.assert_allclose(loss(prediction, target, "none"), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(prediction, target, "sum"), expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(loss(prediction[:, :, 0], target), expected.mean(), rtol=1e-5)
    target[:, 1] = torch.nan  # a neuron that no one measured counts for nothing
    np.testing.assert_allclose(loss(prediction, target), expected[[0, 2]].mean(), rtol=1e-5)
    assert loss(prediction, target, "none").isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("loss", [mse, poisson, lambda *args: poisson(*args, log_rate=True)])
def test_what_is_not_measured_has_no_gradient(loss):
    prediction, target = responses()
    prediction[1, 2] = 1e4  # e^η overflows where nothing is measured
    gradient = torch.autograd.grad(loss(prediction.requires_grad_(), target), prediction)[0]
    measured = (~target.isnan()).any(2, keepdim=True)
    assert gradient.isfinite().all()
    assert (gradient[~measured] == 0).all() and (gradient[measured] != 0).all()


def test_poisson_agrees_with_torch():
    rate, counts = torch.rand(3, 2, 1, 50) + 0.1, torch.poisson(torch.full((3, 2, 1, 50), 3.0))
    torch.testing.assert_close(poisson(rate, counts), nn.PoissonNLLLoss(log_input=False, eps=0)(rate, counts))
    torch.testing.assert_close(poisson(rate.log(), counts, log_rate=True), nn.PoissonNLLLoss()(rate.log(), counts))
    torch.testing.assert_close(poisson(torch.zeros_like(rate), counts), -counts.mean() * np.log(1e-8))


def test_bad_input_of_losses():
    prediction, target = responses()
    for args, message in [((prediction, target, "avg"), "reduction must be"),
                          ((prediction, target[:, :, 0]), r"must be \(B, N, R, T\)"),
                          ((prediction[..., 1:], target), r"predictions must be \(2, 3, 1, 6\)"),
                          ((prediction, target * torch.nan), "no response of this batch is measured")]:
        with pytest.raises(ValueError, match=message):
            mse(*args)
    with pytest.raises(ValueError, match="the lowest is -"):
        poisson(prediction, target - 9)
    with pytest.raises(ValueError, match="rates of at least 0, the lowest is -0.5: give the encoder an activation"):
        poisson(torch.full_like(prediction, -0.5), target)


def test_activations_start_as_published_and_stay_above_zero():
    torch.manual_seed(0)
    n, x = 400, torch.linspace(-30, 30, 61)[None, None].repeat(2, 400, 1)[:, :, None]
    softplus, sigmoid, double = ParametricSoftplus(n), Sigmoid(n), DoubleExponential(n)
    for raw, low, high in [(softplus.beta, 5, 6), (softplus.b, -5, -3), (sigmoid.b, -0.43, 1.40),
                           (sigmoid.a, -1.43, 0.43), (sigmoid.c, -0.5, 0.5), (sigmoid.d, 0.5, 1.5)]:
        assert low <= raw.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < raw.max() <= high
    for activation in (softplus, sigmoid, double):
        y = activation(x)
        assert y.shape == x.shape and (y >= 0).all() and (y.diff(dim=-1) >= -1e-6).all()
        with torch.no_grad():
            getattr(activation, "a" if hasattr(activation, "a") else "b").fill_(-40.0)
        assert (activation(x) >= 0).all()
        assert (type(activation)(n, non_negative=False)(x) > 0).all()  # the same starting values
        free = type(activation)(n, non_negative=False)
        with torch.no_grad():
            free.b.fill_(-5.0)
        assert free(x).min() < 0


def values(activation):
    return {name: parameter.detach()[:, None, None] for name, parameter in activation.named_parameters()}


def test_activations_are_their_formulas():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 1, 5)
    sigmoid, double = Sigmoid(3, False), DoubleExponential(3, False)
    p = values(sigmoid)
    torch.testing.assert_close(sigmoid(x), p["b"] / (1 + torch.exp(-(x - p["c"]) / p["d"])) + p["a"])
    p = values(double)
    torch.testing.assert_close(double(x), p["a"] * torch.exp(-torch.exp(p["k"] * x - p["s"])) + p["b"])
    soft = ParametricSoftplus(3, False)
    beta = torch.log1p(soft.beta.exp()).detach()[:, None, None]
    torch.testing.assert_close(soft(x), torch.log1p(torch.exp(beta * x)) / beta + soft.b.detach()[:, None, None])
    assert make_activation("identity", 3, True)(x) is x


@pytest.mark.parametrize("name", ["sigmoid", "double_exponential", "softplus"])
def test_gradients_of_activations_are_finite_far_out(name):
    activation = make_activation(name, 4, True)
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4]).repeat(1, 4, 1, 1).requires_grad_()
    activation(x).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in [x, *activation.parameters()])


def test_an_encoder_learns_the_strf_of_a_neuron_with_gaps():
    torch.manual_seed(0)
    section = {"name": "ln", "params": {"window": 4}}
    truth, model = (build_encoder(section, n_bands=6, rate=100.0, n_out=3) for _ in range(2))
    x = torch.randn(8, 1, 6, 200)
    with torch.no_grad():
        target = truth.train()(x) + 0.1 * torch.randn(8, 3, 5, 200)
    target[torch.rand(target.shape) < 0.2] = torch.nan
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        mse(model(x), target).backward()
        optimizer.step()
    found, true = (encoder.core.strf.kernel().detach().flatten(1) for encoder in (model, truth))
    assert torch.nn.functional.cosine_similarity(found, true).min() > 0.95
