"""Models against numbers of the reference, against a second implementation, and option by option."""
# ruff: noqa: C408 - options are written as the keyword arguments they become
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bm.batch import BatchSpec, FeatureSpec
from bm.models import BrainModel, ConvRNN, DeepMel, SimpleConv, build_model, register
from bm.models.blocks.fourier import fourier_embedding
from bm.models.check import check_model, make_batch
from bm.models.penalties import spectral_penalty

CLIP_CONV = dict(hidden={"meg": 320}, batch_norm=True, depth=10, dilation_period=5, kernel_size=3, skip=True,
                 subject_layers=True, subject_dim=0, complex_out=True, glu=2, glu_context=1, merger=True,
                 initial_linear=270, gelu=True, merger_pos_dim=2048)
SMALL = dict(hidden=8, depth=3, kernel_size=3, merger_channels=5, merger_pos_dim=32, subject_dim=0)
MEL = (FeatureSpec("mel", 4, 100.0),)


def make_spec(channels=6, subjects=2, times=40, features=()) -> BatchSpec:
    return BatchSpec(channels, times, 100.0, -0.5, tuple(f"s{i}" for i in range(subjects)), features)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("channels, subjects, out, changes, expected", [
    (208, 27, 1024, {}, 9_565_054), (208, 27, 120, {}, 8_985_590), (208, 27, 768, {}, 9_400_958),
    (273, 96, 1024, {}, 14_595_154), (273, 96, 120, {}, 14_015_690), (128, 19, 1024, {}, 8_981_854),
    (128, 19, 120, {}, 8_402_390), (60, 33, 1024, {}, 10_002_454), (60, 33, 120, {}, 9_422_990),
    (208, 27, 1024, {"merger": False}, 8_995_354), (208, 27, 1024, {"glu": 0}, 6_489_854),
    (208, 27, 1024, {"initial_linear": 0}, 9_491_884), (208, 27, 1024, {"subject_layers": False}, 7_596_754),
    (208, 27, 1024, {"subject_layers": False, "subject_dim": 64}, 7_659_922),
    (208, 27, 1024, {"complex_out": False}, 15_057_598), (208, 27, 1024, {"merger_dropout": 0.0}, 9_565_054),
    (208, 27, 1024, {"gelu": False}, 9_565_054), (208, 27, 1024, {"skip": False}, 9_565_054)])
def test_clip_conv_sizes(channels, subjects, out, changes, expected):
    with torch.device("meta"):
        assert size(SimpleConv(make_spec(channels, subjects, 343), out, **CLIP_CONV | changes)) == expected


def test_other_sizes():
    with torch.device("meta"):
        for mels, expected in {120: 9_320_128, 20: 9_224_128, 40: 9_243_328, 80: 9_281_728}.items():
            assert size(DeepMel(make_spec(), 768, in_channels=mels)) == expected
        sizes = {"hidden": {"meg": 512, "features": 12}}
        encoder = ConvRNN(make_spec(273, 4, 361), 273, in_channels={"meg": 273, "features": 2}, **sizes)
        assert size(encoder) == 12_218_309
        assert size(ConvRNN(make_spec(273, 4, 361), 2, bidirectional_lstm=True, **sizes)) == 26_550_530
        assert encoder.valid_length(361) == 362


def test_fourier_vector():
    expected = [1, -1, -0.43388, 0.43388, 0, 0, 0.90097, -0.90097]
    got = fourier_embedding(torch.tensor([0.25, 0.5], dtype=torch.float64), 8)
    assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64), atol=1e-5)
    with pytest.raises(ValueError, match=r"got 256: use one of \[242, 288\]"):
        fourier_embedding(torch.zeros(2), 256)


def fill(tensors) -> None:
    """The deterministic weights of the reference vectors."""
    with torch.no_grad():
        for k, tensor in enumerate(tensors):
            wave = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + k)
            wave = wave / math.sqrt(tensor.shape[1]) if tensor.dim() > 1 else 0.1 * wave
            tensor.copy_(wave.float().reshape(tensor.shape))


def clip_conv_reference(p: list, x, layout, subject):
    """clip_conv of the paper in evaluation, straight from its list of weights in forward order."""
    p = iter(p)
    n = torch.arange(32, dtype=x.dtype)
    grid = (layout + 0.2) * 2 * math.pi / 1.4
    angle = (grid[:, 0, None, None] * n[:, None] + grid[:, 1, None, None] * n).flatten(1)
    attention = (next(p) @ torch.cat([angle.cos(), angle.sin()], 1).T).softmax(1)
    merged = torch.stack([attention @ item for item in x])
    h = F.conv1d(merged, next(p), next(p))
    w = next(p)
    mixed = torch.stack([w[s].T @ item for s, item in zip(subject, h, strict=True)])
    h = mixed
    for k in range(10):
        d = 2 ** (k % 5)
        y = F.conv1d(h, next(p), next(p), padding=d, dilation=d) / math.sqrt(1 + 1e-5)
        y = F.gelu(y * next(p)[:, None] + next(p)[:, None])
        h = y + h if k else y
        if k % 2:
            a, b = F.conv1d(h, next(p), next(p), padding=1).chunk(2, 1)
            h = a * b.sigmoid()
    out = F.conv1d(F.gelu(F.conv1d(h, next(p), next(p))), next(p).transpose(0, 1), next(p))
    return merged, mixed, h, out


def test_clip_conv_golden():
    spec = make_spec(208, 27, 343)
    model = SimpleConv(spec, 1024, **CLIP_CONV).double().eval()
    encoder = model.encoders["meg"]
    weights = [model.merger.heads, *model.initial.parameters(), model.subject_layers.weight]
    for layer, gate in zip(encoder.layers, encoder.gates, strict=True):
        weights += [*layer.parameters(), *gate.parameters()]
    weights += list(model.head.parameters())
    assert len(weights) == len(list(model.parameters()))
    fill(weights)
    c = torch.arange(208, dtype=torch.float64)[:, None]
    t = torch.arange(343, dtype=torch.float64)
    x = torch.sin(2 * math.pi * t / 120 * (1 + c % 7)) * (1 + c / 208)
    layout = torch.cat([c % 16 / 15, (c // 16) / 12], dim=1)
    batch = make_batch(spec, 2, 1, dtype=torch.float64).replace(
        brain=torch.stack([x, -0.5 * x]), layout=layout.expand(2, -1, -1), subject=torch.tensor([0, 26]))
    seen = {}
    for name, module in [("merger", model.merger), ("subject", model.subject_layers), ("encoder", encoder)]:
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        seen["out"] = model(batch)
        second = clip_conv_reference(weights, batch.brain, layout, batch.subject)
    for name, index, value in [
            ("merger", (0, 0, 1), 0.3076644), ("merger", (1, 269, 100), 0.0869034), ("subject", (1, 5, 7), 0.2236140),
            ("encoder", (0, 0, 0), 0.0232720), ("encoder", (1, 319, 342), -0.0094618), ("out", (0, 0, 0), 0.0498110),
            ("out", (1, 1023, 342), 0.0316700), ("out", (0, 500, 171), -0.1052883)]:
        assert seen[name][index].item() == pytest.approx(value, abs=1e-6), name
    for name, total in [("merger", 31483.2851), ("subject", 8748.3948), ("encoder", 6982.0985), ("out", 47995.6672)]:
        assert seen[name].abs().sum().item() == pytest.approx(total, rel=1e-6), name
    for mine, witness in zip(seen.values(), second, strict=True):
        assert torch.allclose(mine, witness, atol=1e-9)


def test_deep_mel_golden():
    model = DeepMel(make_spec(), 768, in_channels=120).double().eval()
    weights = []
    for layer, gate in zip(model.layers.layers, model.layers.gates, strict=True):
        weights += [*layer.parameters(), *gate.parameters()]
    fill(weights)
    d, t = torch.arange(120, dtype=torch.float64)[:, None], torch.arange(343, dtype=torch.float64)
    with torch.no_grad():
        y = model(torch.cos(0.3 * d + 0.05 * t)[None])
    assert y[0, 0, 0].item() == pytest.approx(0.0068105, abs=1e-6)
    assert y[0, 767, 342].item() == pytest.approx(-0.0224390, abs=1e-6)
    assert y.abs().sum().item() == pytest.approx(8385.4070, rel=1e-6)


def test_parameters_are_created_in_order():
    """A seed gives the weights of the reference: sensors, then head, then encoders."""
    torch.manual_seed(3)
    model = SimpleConv(make_spec(), 7, **SMALL | dict(merger=True, initial_linear=4, subject_layers=True,
                                                      subject_dim=3, linear_out=True))
    torch.manual_seed(3)
    heads = torch.randn(5, 32) / 32 ** 0.5
    initial = nn.Conv1d(5, 4, 1)
    subject = torch.randn(2, 4, 4) / 2
    embedding = nn.Embedding(2, 3)
    head = nn.ConvTranspose1d(8, 7, 1)
    first = nn.Conv1d(7, 8, 3)
    assert torch.equal(model.merger.heads, heads)
    assert torch.equal(model.initial[0].weight, initial.weight)
    assert torch.equal(model.subject_layers.weight, subject)
    assert torch.equal(model.embedding.embedding.weight, embedding.weight)
    assert torch.equal(model.head[0].weight, head.weight)
    assert torch.equal(model.encoders["meg"].layers[0][0].weight, first.weight)


M, D, C = dict(merger=True), dict(dropout=0.5), dict(complex_out=True)
OPTIONS = [
    ({}, dict(hidden=10)), ({}, dict(depth=2)), ({}, dict(linear_out=True)), ({}, C), ({}, dict(kernel_size=5)),
    ({}, dict(dilation_growth=3)), ({}, dict(dilation_period=2)), ({}, dict(skip=True)), ({}, dict(growth=1.5)),
    (dict(skip=True), dict(post_skip=True)), (dict(skip=True), dict(scale=0.1)), ({}, dict(rewrite=True)),
    (dict(linear_out=True), dict(groups=2)), ({}, dict(glu=1)), (dict(glu=1), dict(glu_context=1)),
    (dict(glu=1), dict(glu_glu=False)), ({}, dict(gelu=True)), (C, dict(dual_path=1)), ({}, dict(conv_dropout=0.5)),
    ({}, dict(dropout_input=0.5)), ({}, dict(batch_norm=True)), ({}, dict(relu_leakiness=0.2)),
    ({}, dict(subject_dim=4)), (dict(subject_dim=4), dict(embedding_scale=3.0)), ({}, dict(subject_layers=True)),
    (dict(subject_layers=True), dict(subject_layers_dim="hidden")),
    (dict(subject_layers=True), dict(subject_layers_id=True)), (C, dict(n_fft=8)),
    (C | dict(n_fft=8), dict(fft_complex=False)), ({}, M), (M, dict(merger_pos_dim=8)), (M, dict(merger_channels=6)),
    (M, dict(merger_dropout=0.7)), (M, dict(merger_per_subject=True)), ({}, D), (D, dict(dropout_rescale=False)),
    ({}, dict(initial_linear=5)), (dict(initial_linear=5), dict(initial_depth=2)),
    (dict(initial_linear=5), dict(initial_nonlin=True)), ({}, dict(subsample_meg_channels=3))]


@pytest.mark.parametrize("base, change", OPTIONS, ids=lambda value: ",".join(value) or "-")
def test_simpleconv_option(base, change):
    batch = make_batch(make_spec())
    outputs = []
    for options in (base, base | change):
        torch.manual_seed(0)
        model = SimpleConv(make_spec(), 6, **SMALL | options)
        torch.manual_seed(1)
        outputs.append(model(batch))
        outputs[-1].square().sum().backward()
        assert outputs[-1].shape == (4, 6, 40)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # A scaled embedding starts at the same function: only its steps differ.
    assert torch.allclose(*outputs, atol=1e-6) == ("embedding_scale" in change)


def test_every_simpleconv_option_is_tested():
    from bm.models.simpleconv import SimpleConvOptions
    tested = {name for _, change in OPTIONS for name in change} | {"concatenate", "merger_penalty"}
    assert tested == set(SimpleConvOptions.__dataclass_fields__)


RNN = dict(hidden=8, lstm=1, subject_dim=3)
RNN_OPTIONS = [
    dict(hidden=12), dict(depth=1), dict(linear_out=True), dict(complex_out=True), dict(kernel_size=5), dict(stride=1),
    dict(growth=2.0), dict(lstm=2), dict(lstm=0), dict(bidirectional_lstm=True), dict(flip_lstm=True),
    dict(attention=2), dict(attention=1, heads=2), dict(conv_dropout=0.5), dict(lstm=2, lstm_dropout=0.5),
    dict(dropout_input=0.5), dict(batch_norm=True), dict(relu_leakiness=0.2), dict(subject_dim=0),
    dict(embedding_location=["input"]), dict(embedding_location=["input", "lstm"]), dict(subject_layers=True),
    dict(subject_layers=True, subject_layers_dim="hidden")]


@pytest.mark.parametrize("change", RNN_OPTIONS, ids=lambda change: ",".join(change))
def test_convrnn_option(change):
    batch = make_batch(make_spec(times=37))
    outputs = []
    for options in ({}, change):
        torch.manual_seed(0)
        model = ConvRNN(make_spec(times=37), 6, **RNN | options)
        torch.manual_seed(1)
        outputs.append(model(batch))
        outputs[-1].square().sum().backward()
        assert outputs[-1].shape == (4, 6, 37)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not torch.allclose(*outputs, atol=1e-6)


@pytest.mark.parametrize("name, options", [
    ("simpleconv", dict(merger=True, batch_norm=True, glu=2, skip=True, subject_layers=True, complex_out=True)),
    ("simpleconv", dict(merger=True, merger_per_subject=True)), ("simpleconv", dict(merger=True, dropout=0.2)),
    ("simpleconv", dict(merger=True, linear_out=True, n_fft=8, subject_dim=2, dual_path=1)), ("convrnn", {}),
    ("convrnn", dict(attention=1, batch_norm=True))])
def test_conformity(name, options):
    options = (SMALL if name == "simpleconv" else RNN) | options
    check_model(lambda spec: build_model(name, spec, 7, **options), make_spec(), out_channels=7,
                merges_sensors=name == "simpleconv")


def test_conformity_of_feature_model():
    check_model(lambda spec: build_model("deep_mel", spec, 7, n_hidden_channels=8, n_hidden_layers=3),
                make_spec(features=MEL), out_channels=7, call=lambda model, batch: model(batch.features["mel"]))


@pytest.mark.parametrize("name, options", [
    ("simpleconv", dict(linear_out=True)), ("simpleconv", dict(concatenate=True)), ("simpleconv", C | dict(n_fft=8)),
    ("convrnn", {}), ("convrnn", dict(concatenate=True, linear_out=True))])
def test_two_branches(name, options):
    """Encoding: brain and features in, sensors out; the configuration given is not changed (Q32)."""
    options = (SMALL if name == "simpleconv" else RNN) | dict(hidden={"meg": 8, "features": 4}) | options
    in_channels = {"meg": 6, "features": 4}
    check_model(lambda spec: build_model(name, spec, 6, in_channels=in_channels, **options),
                make_spec(features=MEL), out_channels=6)
    assert in_channels == {"meg": 6, "features": 4} and options["hidden"] == {"meg": 8, "features": 4}


def test_concatenate_makes_one_encoder():
    spec = make_spec(features=MEL)
    model = SimpleConv(spec, 6, in_channels={"meg": 6, "features": 4}, **SMALL | dict(concatenate=True))
    assert list(model.encoders) == ["all"] and model.encoders["all"].layers[0][0].in_channels == 10


def test_errors_name_the_nearest():
    with pytest.raises(ValueError, match="nearest is 'simpleconv'"):
        build_model("simple_conv", make_spec(), 3)
    with pytest.raises(ValueError, match="nearest is 'merger_dropout'"):
        build_model("simpleconv", make_spec(), 3, merger_droput=0.1)
    with pytest.raises(ValueError, match="must be odd"):
        SimpleConv(make_spec(), 3, kernel_size=4)
    with pytest.raises(ValueError, match=r"\[242, 288\]"):  # Q26
        SimpleConv(make_spec(), 3, merger=True, merger_pos_dim=256)
    with pytest.raises(ValueError, match="need linear_out"):
        SimpleConv(make_spec(features=MEL), 3, in_channels={"meg": 6, "features": 4}, **SMALL)
    model = SimpleConv(make_spec(features=MEL), 3, in_channels={"meg": 6, "features": 4}, **SMALL | C)
    with pytest.raises(ValueError, match="also need"):
        model(make_batch(make_spec()))
    with pytest.raises(ValueError, match="is taken by SimpleConv"):
        register("simpleconv")(BrainModel)


def test_spectral_penalty():
    model = nn.Sequential(nn.Conv1d(20, 30, 3), nn.Linear(30, 20), nn.Conv1d(2, 3, 1))
    exact = sum(torch.linalg.matrix_norm(m.weight.flatten(1), 2) ** 2 for m in model[:2])
    penalty = spectral_penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(exact.item(), rel=0.02)
    assert model[0].weight.grad.isfinite().all() and model[2].weight.grad is None
