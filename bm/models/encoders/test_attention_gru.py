"""Attention GRUs: sizes, equivalence of windows and spectrograms, and what each variant computes, by hand."""
import numpy as np
import pytest
import torch

from bm.models.encoders import build_encoder
from bm.models.encoders.attention_gru import GRUS, AttentionGRU, TimeAttention, WindowGRU, window_chunks

SMALL = {"window": 6, "hidden": 5, "layers": 2}


def make(name: str, n_out: int = 3, in_channels: int = 1, **options) -> WindowGRU:
    torch.manual_seed(0)
    return GRUS[name](in_channels=in_channels, n_bands=4, n_out=n_out, rate=50.0, **{**SMALL, **options}).double()


@pytest.mark.parametrize("name, layers, parameters", [
    ("gru", 1, 82_652), ("gru_attention", 2, 218_703), ("gru_attention_shared", 2, 219_154),
    ("gru_attention_per_target", 2, 218_854), ("gru_attention_multihead", 2, 218_250 + 4 * 151 + 2 * 601),
    ("gru_attention_concat", 2, 218_250 + 2 * 2 * 151 + 2 * 301)])
def test_number_of_parameters(name, layers, parameters):
    model = build_encoder({"name": name, "params": {"hidden": 150, "layers": layers}}, n_bands=31, rate=50.0, n_out=2)
    assert sum(values.numel() for values in model.parameters()) == parameters and model.history == 24


@pytest.mark.parametrize("name", GRUS)
@pytest.mark.parametrize("options", [
    {}, {"bidirectional": True, "dropout": 0.3, "post": [7], "layers": 3}, {"window": 1, "layers": 1, "filters": 2}])
def test_windows_and_spectrogram_agree(name, options):
    model = make(name, in_channels=2, chunk=7, **options).eval()
    x = torch.randn(2, 2, 4, 20).double()
    out = model(x)
    assert out.shape == (2, 3, 20)
    padded = torch.cat([torch.zeros(2, 2, 4, model.window - 1), x], 3)
    for frame in range(20):
        window = padded[..., frame:frame + model.window].flatten(1, 2).transpose(1, 2)
        torch.testing.assert_close(model.attend(window), out[:, :, frame], rtol=0, atol=1e-12)
    model.chunk = 4096
    torch.testing.assert_close(model(x), out, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", GRUS)
def test_only_the_window_matters(name):
    model, x = make(name), torch.randn(1, 1, 4, 15).double().requires_grad_()
    model(x)[0, 1, 9].backward()
    touched = x.grad.abs().sum((0, 1, 2)) > 0
    assert touched.tolist() == [4 <= frame <= 9 for frame in range(15)]
    used = [parameter.grad is not None for parameter in model.parameters()]
    assert all(used)


def test_weights_are_a_softmax():
    attention, states = TimeAttention(5, 2), torch.randn(3, 6, 5) * 30
    contexts, weights = attention(states)
    powers = (attention.logits(states) - attention.logits(states).amax(1, keepdim=True)).exp()
    expected = powers / (powers.sum(1, keepdim=True) + 1e-7)
    torch.testing.assert_close(weights, expected.transpose(1, 2))
    torch.testing.assert_close(contexts, torch.einsum("bwk,bwh->bkh", expected, states))
    assert ((1 - weights.sum(2)).abs() < 1e-6).all()


def test_each_variant_against_its_formula():
    """With the states of `torch.nn.GRU`, given the weights of our layers."""
    windows = torch.randn(5, 6, 4).double()
    for name in GRUS:
        model = make(name, filters=0)
        whole = torch.nn.GRU(4, 5, 2, batch_first=True).double()
        first, second = torch.nn.GRU(4, 5, batch_first=True).double(), whole
        for layer, gru in enumerate(model.layers):
            for key, values in gru.state_dict().items():
                whole.get_parameter(key.replace("l0", f"l{layer}")).data.copy_(values)
        first.load_state_dict(model.layers[0].state_dict())
        states = [first(windows)[0], second(windows)[0]]
        model.sink = []
        found = model.attend(windows)
        if name == "gru":
            expected = model.out(states[1][:, -1])
        elif name in ("gru_attention", "gru_attention_shared", "gru_attention_multihead", "cnn_gru_attention"):
            a = model.attention.logits(states[1]).softmax(1)
            heads = {"gru_attention_shared": 3, "gru_attention_multihead": 4}.get(name, 1)
            contexts = [(a[..., [k]] * states[1]).sum(1) for k in range(heads)]
            expected = model.out(torch.cat(contexts, 1))
        elif name == "gru_attention_per_target":
            a = model.attention.logits(states[1]).softmax(1)
            expected = torch.cat([own((a[..., [k]] * states[1]).sum(1)) for k, own in enumerate(model.own)], 1)
        else:
            a = [attention.logits(states[layer]).softmax(1) for layer, attention in enumerate(model.attentions)]
            expected = torch.cat([own(torch.cat([(a[layer][..., [k]] * states[layer]).sum(1) for layer in (0, 1)], 1))
                                  for k, own in enumerate(model.own)], 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        if name != "gru":
            weights = torch.cat(a if isinstance(a, list) else [a], 2).transpose(1, 2)[:, :, None]
            torch.testing.assert_close(model.sink, [weights], rtol=0, atol=1e-6)


def test_a_convolution_before_and_hidden_layers_behind():
    """In numpy: ReLU of the causal convolution of the window alone, attention with 1e-7 in the denominator, ReLU."""
    model = make("cnn_gru_attention", filters=3, kernel=4, layers=1, post=[7])
    windows = torch.randn(5, 6, 4).double()
    p = {name: values.numpy() for name, values in model.state_dict().items()}
    padded = np.pad(windows.numpy(), [(0, 0), (3, 0), (0, 0)])
    heard = np.stack([np.einsum("bkc,fck->bf", padded[:, t:t + 4], p["conv.weight"]) for t in range(6)], 1)
    heard = np.maximum(heard + p["conv.bias"], 0)
    with torch.no_grad():
        states = model.layers[0](torch.from_numpy(heard))[0].numpy()
        found = model.attend(windows).numpy()
    logits = states @ p["attention.logits.weight"].T + p["attention.logits.bias"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    context = (powers / (powers.sum(1, keepdims=True) + 1e-7) * states).sum(1)
    hidden = np.maximum(context @ p["out.0.weight"].T + p["out.0.bias"], 0)
    np.testing.assert_allclose(found, hidden @ p["out.2.weight"].T + p["out.2.bias"], rtol=1e-10, atol=1e-12)
    assert make("cnn_gru_attention").conv.out_channels == 32


def test_the_plain_gru_reads_both_directions():
    model = make("gru", bidirectional=True, layers=1)
    windows = torch.randn(2, 6, 4).double()
    _, last = model.layers[0](windows)
    torch.testing.assert_close(model.attend(windows), model.out(torch.cat([last[0], last[1]], 1)))


def test_own_heads_are_blind_to_one_another():
    """A target's own readout does not depend on another target's head; the shared one does."""
    windows = torch.randn(2, 6, 4).double()
    for name, mixes in (("gru_attention_per_target", False), ("gru_attention_shared", True)):
        model = make(name)
        before = model.attend(windows)
        with torch.no_grad():
            model.attention.logits.weight[0] += 1
        changed = (model.attend(windows) - before).abs().amax(0) > 1e-9
        assert changed.tolist() == [True, mixes, mixes]


def test_dropout_is_between_layers():
    x = torch.randn(1, 1, 4, 9).double()
    one, two = make("gru_attention", layers=1, dropout=0.5), make("gru_attention", dropout=0.5)
    assert torch.equal(one(x), one(x)) and not torch.equal(two(x), two(x))
    assert torch.equal(two.eval()(x), two(x))


def test_windows_are_views():
    frames = torch.randn(2, 50, 3)
    chunks = list(window_chunks(frames, 5, 20))
    assert [chunk.shape for chunk in chunks] == [(2, 10, 5, 3)] * 5
    whole = torch.cat([torch.zeros(2, 4, 3), frames], 1).unfold(1, 5, 1).transpose(2, 3)
    assert torch.equal(torch.cat(chunks, 1), whole)
    first = frames.untyped_storage().data_ptr()
    assert [chunk.untyped_storage().data_ptr() == first for chunk in chunks] == [False, True, True, True, True]


def test_wrong_use():
    for options, message in (({"window": 0}, "window of AttentionGRU"), ({"layers": 0}, "layers of AttentionGRU"),
                             ({"dropout": 1.0}, "dropout=1.0"), ({"heads": 2}, "gru_attention_multihead only"),
                             ({"post": [3, 0]}, "post of AttentionGRU"), ({"filters": -1}, "filters=-1")):
        with pytest.raises(ValueError, match=message):
            make("gru_attention", **options)
    model = make("gru_attention")
    with pytest.raises(ValueError, match=r"expected \(B, 6, 4\)"):
        model.attend(torch.zeros(2, 5, 4).double())
    with pytest.raises(ValueError, match=r"expected \(B, 1, 4, T\)"):
        model(torch.zeros(2, 1, 5, 9).double())
    with pytest.raises(ValueError, match="nearest is 'hidden'"):
        build_encoder({"name": "gru", "params": {"hiden": 3}}, n_bands=4, rate=50.0, n_out=1)
    assert isinstance(make("gru_attention_multihead", heads=2), AttentionGRU)
