"""The EEG transformer: sizes of the original, tokens, noise, shuffling, fused and written-out attention."""
import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from bm.batch import BatchSpec
from bm.models import build_model
from bm.models.check import make_batch
from bm.models.eeg_transformer import EEGTransformer, SelfAttention

SPEC = BatchSpec(64, 320, 160.0, 0.0, ("a",))
SMALL = BatchSpec(5, 40, 160.0, 0.0, ("a",))
QUIET = {"noise": 0.0, "token_dropout": 0.0}


def model(spec=SMALL, classes=2, **options) -> EEGTransformer:
    torch.manual_seed(0)
    return build_model("eeg_transformer", spec, classes, **({"dim": 16, "heads": 4, "layers": 2} | options))


@pytest.mark.parametrize("tokens,parameters", [(1, 1_352_380), (5, 1_319_612)])
def test_parameters_of_the_original(tokens, parameters):
    """1.352 M and 1.320 M with 61 of 64 channels, of which 640,000 are positions, most of them unused."""
    original = build_model("eeg_transformer", SPEC, 2, tokens=tokens, ignore_channels=[42, 43, 63], positions=5000)
    count = sum(p.numel() for p in original.parameters())
    assert count == parameters and original.n_tokens == 61 * tokens
    ours = build_model("eeg_transformer", SPEC, 2, tokens=tokens, ignore_channels=[42, 43, 63])
    assert sum(p.numel() for p in ours.parameters()) == count - (5000 - 61 * tokens) * 128


@pytest.mark.parametrize("options", [{}, {"tokens": 4}, {"tokens": 3, "trailing_relu": True}])
def test_fused_attention_is_the_same(options):
    batch = make_batch(SMALL)
    fused, plain = model(**options), model(**options, fused=False)
    plain.load_state_dict(fused.state_dict())
    for one in (fused.eval(), plain.eval()):
        one(batch).square().sum().backward()
    torch.testing.assert_close(fused(batch), plain(batch), atol=1e-5, rtol=1e-5)
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_attention_is_that_of_torch():
    ours, torchs = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    for own, other in [(ours.qkv.weight, torchs.in_proj_weight), (ours.qkv.bias, torchs.in_proj_bias),
                       (ours.out.weight, torchs.out_proj.weight), (ours.out.bias, torchs.out_proj.bias)]:
        other.data.copy_(own.data)
    x = torch.randn(3, 7, 16)
    expected, weights = torchs(x, x, x, average_attn_weights=False)
    ours.sink = []
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(ours.sink[0], weights)


def test_tokens_are_channel_major():
    one = model(tokens=4, ignore_channels=[1]).eval()
    batch = make_batch(SMALL)
    tokens = one.tokenize(batch.brain)
    kept = batch.brain[:, [0, 2, 3, 4]] / (1 + one.norm_in.eps) ** 0.5
    torch.testing.assert_close(tokens[:, 4 * 2 + 1], kept[:, 2, 10:20])
    other = batch.replace(brain=batch.brain.index_fill(1, torch.tensor([1]), 7.0))
    torch.testing.assert_close(one(other), one(batch))


def test_a_part_is_cropped_at_random_in_training_alone():
    one = model(tokens=2, used_samples=21, **QUIET)
    one.norm_in = nn.Identity()
    ramp = torch.arange(40.0).expand(2, 5, 40)
    assert one.length == 10
    first = {int(one.train().tokenize(ramp)[0, 0, 0]) for _ in range(200)}
    assert min(first) == 0 and max(first) == 19
    assert {int(one.eval().tokenize(ramp)[0, 0, 0]) for _ in range(5)} == {0}


@pytest.mark.parametrize("shuffle", ["channels", "temporal", "all"])
def test_shuffling(shuffle):
    one = model(tokens=4, shuffle=shuffle, **QUIET)
    one.norm_in = nn.Identity()
    number = torch.arange(20.0).repeat_interleave(10).reshape(1, 5, 40).expand(8, 5, 40)
    tokens = one.train().tokenize(number)[:, :, 0].reshape(8, 5, 4)
    channel, time = tokens // 4, tokens % 4
    assert (tokens.flatten(1).sort(1).values == torch.arange(20.0)).all()
    assert (channel == channel[:, :, :1]).all() == (shuffle != "all")
    assert (time == torch.arange(4.0)).all() == (shuffle == "channels")
    assert (channel[:, :, 0] == torch.arange(5.0)).all() == (shuffle == "temporal")
    assert not (tokens == tokens[:1]).all()  # another order for each segment
    assert torch.equal(one.eval().tokenize(number)[:, :, 0].flatten(), torch.arange(20.0).repeat(8))


def test_noise_and_dropout_in_training_alone():
    batch = make_batch(SMALL, size=64)
    one = model(tokens=2, noise=0.0, token_dropout=0.25)
    tokens = one.train().tokenize(batch.brain)
    gone = (tokens == 0).all(2)
    assert 0.15 < gone.float().mean() < 0.35 and not ((tokens == 0).any(2) & ~gone).any()
    noisy = model(noise=0.5, token_dropout=0.0)
    noisy.norm_in = nn.Identity()
    added = noisy.train().tokenize(batch.brain) - batch.brain
    assert added.std() == pytest.approx(0.5 * batch.brain.std().item(), rel=0.05)
    assert torch.equal(noisy.eval().tokenize(batch.brain), batch.brain)


def test_dropout_is_of_the_sum():
    one = model(dropout=1.0, **QUIET).train()
    assert torch.equal(one.blocks[0](torch.randn(2, 3, 16)), torch.zeros(2, 3, 16))


def test_it_does_not_depend_on_unused_positions():
    one, many = model(), model(positions=100)
    state = copy.deepcopy(one.state_dict())
    state["position"] = torch.cat([state["position"], torch.randn(95, 16)])
    many.load_state_dict(state)
    batch = make_batch(SMALL)
    torch.testing.assert_close(many.eval()(batch), one.eval()(batch))


@pytest.mark.parametrize("options,message", [
    ({"tokens": 41}, "expected tokens ≤ used_samples"), ({"used_samples": 50}, "segments have 40"),
    ({"shuffle": "time"}, "expected one of none, channels"), ({"ignore_channels": [5]}, "indices below 5"),
    ({"ignore_channels": [0, 1, 2, 3, 4]}, "at least one channel"), ({"positions": 4}, "there are 5 tokens"),
    ({"heads": 3}, "heads=3 must divide dim=16"), ({"head": 3}, "nearest is 'heads'"),
])
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_an_odd_number_of_samples_is_cropped():
    one = model(replace(SMALL, times=43), tokens=4).eval()
    assert one.length == 10 and one(make_batch(replace(SMALL, times=43))).shape == (4, 2)
