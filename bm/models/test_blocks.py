"""Blocks one by one, most against a slow and obvious version."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bm.models.blocks.attention import LocalAttention
from bm.models.blocks.conv import ConvOptions, ConvSequence, LayerScale
from bm.models.blocks.dual_path import DualPathRNN
from bm.models.blocks.fourier import fourier_embedding
from bm.models.blocks.spatial import ChannelDropout, Montages, SpatialAttention, draw_disc, keep_probability
from bm.models.blocks.stft import STFT
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers
from bm.models.check import make_batch
from bm.models.test_models import make_spec


def montages(batch, by_subject=False):
    return Montages.of(batch.layout, batch.channel_mask, batch.recording, batch.subject, by_subject)


@pytest.mark.parametrize("recordings, per_subject", [(1, False), (3, False), (3, True)])
def test_spatial_attention_sample_by_sample(recordings, per_subject):
    batch = make_batch(make_spec(7, 2), 6, recordings)
    block = SpatialAttention(5, 32, n_subjects=2 if per_subject else None).eval()
    out = block(batch.brain, montages(batch, per_subject))
    for b in range(6):
        heads = block.heads[batch.subject[b]] if per_subject else block.heads
        known = batch.channel_mask[b] & batch.layout[b].isfinite().all(-1)
        weights = (heads @ fourier_embedding(batch.layout[b][known], 32).T).softmax(-1)
        assert torch.allclose(out[b], weights @ batch.brain[b][known], atol=1e-5)


def test_positions_are_embedded_once_per_recording(monkeypatch):
    seen = []
    from bm.models.blocks import spatial
    monkeypatch.setattr(spatial, "fourier_embedding", lambda x, dim: seen.append(x.shape) or fourier_embedding(x, dim))
    batch = make_batch(make_spec(7), 12, 3)
    SpatialAttention(5, 32)(batch.brain, montages(batch))
    assert seen == [(3, 7, 2)]


def test_unknown_layout_is_like_masked():
    batch = make_batch(make_spec(7), 2, 1)
    layout, mask = batch.layout.clone(), batch.channel_mask.clone()
    layout[:, 3], mask[:, 3] = torch.nan, False
    block = SpatialAttention(5, 32, dropout=0.2)
    for other in (batch.replace(layout=layout), batch.replace(channel_mask=mask)):
        weights = block.eval().weights(montages(other))
        assert (weights[..., 3] == 0).all() and torch.allclose(weights.sum(-1), torch.ones(1, 5))
        assert not ChannelDropout(0.1).eval()(other.brain, montages(other))[:, 3].any()


def test_montage_errors():
    batch = make_batch(make_spec(7), 4, 2)
    mask = batch.channel_mask.clone()
    mask[batch.recording == 1] = False
    with pytest.raises(ValueError, match=r"recordings \[1\].*no valid channel"):
        montages(batch.replace(channel_mask=mask))
    with pytest.raises(ValueError, match="no valid channel"):
        montages(batch.replace(layout=batch.layout * torch.nan))
    mask = batch.channel_mask.clone()
    mask[2, 0] = False
    with pytest.raises(ValueError, match="channel_mask differs"):
        montages(batch.replace(channel_mask=mask))
    layout = batch.layout.clone()
    layout[2, 0] += 0.1
    with pytest.raises(ValueError, match="layout differs"):
        montages(batch.replace(layout=layout))


def test_disc_is_dropped_in_training_only():
    batch = make_batch(make_spec(60), 4, 2)
    block, m = SpatialAttention(5, 32, dropout=0.3), montages(batch)
    assert ((block.eval().weights(m) == 0).sum(-1) == (~m.valid).sum(-1)[:, None]).all()
    torch.manual_seed(0)
    kept = draw_disc(m, 0.3)
    torch.manual_seed(0)
    centre = torch.rand(2)
    assert torch.equal(kept, m.valid & ((m.layout - centre).norm(dim=-1) > 0.3))
    torch.manual_seed(0)
    assert torch.equal(block.train().weights(m) > 0, kept[:, None].expand(-1, 5, -1))


def test_disc_over_all_sensors_drops_none():
    m = montages(make_batch(make_spec(7), 4, 2))
    block = SpatialAttention(5, 32, dropout=2.0)
    assert torch.equal(draw_disc(m, 2.0), m.valid) and block.weights(m).isfinite().all()


def test_merger_penalty_has_a_gradient():
    """Q28: it falls when attention spreads, and is taken once."""
    spec = make_spec(7)
    from bm.models import SimpleConv
    model = SimpleConv(spec, 3, hidden=4, merger=True, merger_penalty=2.0, merger_dropout=0.0, merger_pos_dim=32)
    batch = make_batch(spec, 2, 1)
    model(batch)
    penalty = model.take_penalty()
    assert model.take_penalty() is None
    penalty.backward()
    assert model.merger.heads.grad.abs().max() > 0
    with torch.no_grad():
        model.merger.heads.zero_()
    model(batch)
    assert model.take_penalty().item() == pytest.approx(2 / 7, rel=1e-5) and penalty > 2 / 7
    model.eval()(batch)
    assert model.take_penalty() is None


def test_keep_probability():
    """Q29: computed, not sampled."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.rand(20, 2, generator=generator)
    layout[0] = 0.0
    centres = torch.rand(100_000, 2, generator=generator)
    sampled = ((centres[:, None] - layout).norm(dim=-1) > 0.3).float().mean(0)
    assert (keep_probability(layout, 0.3) - sampled).abs().max() < 6e-3
    assert keep_probability(layout, 0.3)[0].item() == pytest.approx(1 - torch.pi * 0.09 / 4, abs=1e-3)


def test_channel_dropout_keeps_the_mean():
    batch = make_batch(make_spec(30), 2, 1)
    block, m, x = ChannelDropout(0.3).train(), montages(batch), torch.ones(2, 30, 1)
    torch.manual_seed(0)
    mean = torch.stack([block(x, m) for _ in range(3000)]).mean(0)
    assert (mean - 1).abs().max() < 0.1
    assert torch.equal(block.eval()(batch.brain, m), batch.brain)
    assert block(x, m).max() == 1


def test_subject_blocks():
    x, subject = torch.randn(3, 4, 5), torch.tensor([1, 0, 1])
    layers = SubjectLayers(4, 6, 2)
    expected = torch.stack([layers.weight[s].T @ item for s, item in zip(subject, x, strict=True)])
    assert torch.allclose(layers(x, subject), expected, atol=1e-6)
    assert torch.allclose(SubjectLayers(4, 4, 2, init_id=True)(x, subject), x / 2)
    out = SubjectEmbedding(2, 3, scale=2.0)(x, subject)
    assert out.shape == (3, 7, 5) and torch.equal(out[0, 4:], out[2, 4:]) and not torch.equal(out[0, 4:], out[1, 4:])
    with pytest.raises(IndexError):
        layers(x, torch.tensor([0, 1, 2]))


def test_dilations_and_gates():
    model = ConvSequence([2] * 8, ConvOptions(kernel=3, dilation_growth=2, dilation_period=3, glu=2))
    assert [layer[0].dilation[0] for layer in model.layers] == [1, 2, 4, 1, 2, 4, 1]
    assert [not isinstance(gate, nn.Identity) for gate in model.gates] == [False, True] * 3 + [False]
    assert model(torch.randn(1, 2, 30)).shape == (1, 2, 30)
    assert torch.allclose(LayerScale(2, 0.3)(torch.ones(1, 2, 1)), torch.tensor(0.3))


def test_stft_is_aligned_and_complete():
    """Q30: the padded signal is transformed; frame k is centred on the middle of hop k."""
    x = torch.zeros(1, 1, 43)
    x[..., 34] = 1.0
    spectrum = STFT(8, complex=False)(x)
    assert spectrum.shape == (1, 5, 11) and STFT(8)(x).shape == (1, 10, 11)
    assert spectrum.square().sum(1).argmax() == 34 // 4


def test_dual_path_chunks():
    """Q27: the first LSTM sees chunks: a change in one chunk does not reach the others through it."""
    torch.manual_seed(0)
    model = DualPathRNN(3, 1, chunk=5)
    x = torch.randn(2, 3, 23)
    chunked = F.pad(x, (0, 2)).reshape(2, 3, 5, 5).permute(3, 0, 2, 1).reshape(5, 10, 3)
    expected = model.lstms[0](chunked)[0].reshape(5, 2, 5, 3).permute(1, 3, 2, 0).reshape(2, 3, 25)
    first = {}
    model.lstms[1].register_forward_pre_hook(lambda _, args: first.update(x=args[0]))
    assert model(x).shape == x.shape
    got = first["x"].reshape(5, 5, 2, 3).permute(2, 3, 0, 1).reshape(2, 3, 25)
    assert torch.allclose(got, F.pad(x, (0, 2)) + expected, atol=1e-6)
    with torch.no_grad():
        for lstm in model.lstms:
            for parameter in lstm.parameters():
                parameter.zero_()
    assert torch.equal(model(x), x)  # residual, and time comes back the right way round


def test_attention_is_local():
    """Q31: nothing beyond the radius; the relative terms as in a loop over pairs."""
    torch.manual_seed(0)
    block = LocalAttention(4, heads=2, radius=3).eval()
    x = torch.randn(2, 4, 12)
    weights = block.weights(x)
    time = torch.arange(12)
    far = (time[:, None] - time).abs() > 3
    assert (weights[..., far] == 0).all() and (weights[..., ~far] > 0).all()
    q, k, v = ([p.reshape(2, 2, 12).transpose(1, 2) for p in conv(x)] for conv in
               (block.query, block.key, block.content))
    out = torch.zeros(2, 4, 12)
    for b in range(2):
        for h in range(2):
            for t in range(12):
                near = range(max(0, t - 3), min(12, t + 4))
                e = torch.stack([block.embedding[t - s + 3] for s in near])
                w = torch.stack([q[b][h, t] @ (k[b][h, s] + 0.3 * block.embedding[t - s + 3]) for s in near]).softmax(0)
                out[b, 2 * h:2 * h + 2, t] = w @ (v[b][h, list(near)] + 0.3 * e)
    assert torch.allclose(block(x), block.gain(block.norm(block.out(out)).relu()), atol=1e-5)
