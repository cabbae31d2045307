"""Losses against numbers of the reference and slow versions of themselves."""
import pytest
import torch
from torch.nn import functional as F

from bm.batch import BatchSpec, FeatureSpec
from bm.losses import (
    ClipLoss,
    MaskedLoss,
    NegativesPool,
    RegressionClassificationLoss,
    build_loss,
    class_weights,
)

FEATURES = (FeatureSpec("mel", 3, 100.0), FeatureSpec("phone", 1, 100.0, n_classes=4))
SPEC = BatchSpec(6, 300, 100.0, -0.5, ("a",), FEATURES)


def golden():
    estimates = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 3, 4)
    return estimates, torch.arange(60, dtype=torch.float64).cos().reshape(5, 3, 4)


def test_clip_golden():
    loss = ClipLoss()
    expected = torch.tensor([[-.2264, -.3980, -.4521, -.3735, -.1694], [-.4024, -.4512, -.3698, -.1760, .0845]])
    assert torch.allclose(loss.scores(*golden()).float(), expected, atol=6e-5)
    assert loss(*golden()).item() == pytest.approx(1.6679595, abs=1e-6)
    assert torch.allclose(loss.probabilities(*golden()).sum(1), torch.ones(2, dtype=torch.float64))


def test_clip_windows_are_of_the_segment():
    """Q34: seconds from the trigger, rounded, with the segment's own start."""
    loss = build_loss("clip", SPEC, tmin=0.0, tmax=1.0, tmin_train=0.29)
    x = torch.arange(300.0).expand(2, 3, 300)
    assert loss.eval().trim(x)[0, 0].tolist() == list(range(50, 150))
    assert loss.train().trim(x)[0, 0].tolist() == list(range(79, 300))  # (0.29 + 0.5)·100 is 78.99999
    assert loss.eval().trim(x, segment_tmin=-1.0)[0, 0].tolist() == list(range(100, 200))
    assert build_loss("clip", SPEC, tmax=9.0).trim(x).shape == x.shape
    with pytest.raises(ValueError, match=r"window \[-0.6, None\] s is not inside"):
        build_loss("clip", SPEC, tmin=-0.6).trim(x)
    with pytest.raises(ValueError, match="needs sample_rate"):
        ClipLoss(tmin=0.0)


@pytest.mark.parametrize("twin", [True, False])
def test_clip_linear_projects_channels(twin):
    """Q33: it has parameters, acts on channels, and is trained."""
    loss = ClipLoss(dim=3, linear=2, twin=twin)
    assert {tuple(p.shape) for p in loss.state_dict().values()} == {(2, 3, 1), (2,)}
    assert len(list(loss.parameters())) == (2 if twin else 4)
    a, b = (x.float() for x in golden())
    loss(a, b).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    plain = ClipLoss().scores(F.conv1d(a, loss.estimate_map.weight, loss.estimate_map.bias),
                              F.conv1d(b, loss.candidate_map.weight, loss.candidate_map.bias))
    assert torch.allclose(loss.scores(a, b), plain, atol=1e-6)


def test_clip_pool_and_center():
    a, b = golden()
    pooled, plain = ClipLoss(pool=True).scores(a, b), ClipLoss().scores(a.mean(2, True), b.mean(2, True))
    assert torch.allclose(pooled, plain)
    assert torch.allclose(ClipLoss(center=True).scores(a, b), ClipLoss(center=True).scores(a + 3, b - 5))


def test_clip_dedupe():
    a, b = golden()
    ids = torch.tensor([7, 8, 7, 9, 8])
    scores = ClipLoss().scores(a, b)
    expected = -(scores[0, 0] - scores[0, [0, 1, 3, 4]].logsumexp(0)) - (scores[1, 1] - scores[1, :4].logsumexp(0))
    assert torch.allclose(ClipLoss(dedupe=True)(a, b, candidate_ids=ids), expected / 2)
    with pytest.raises(ValueError, match="needs candidate_ids"):
        ClipLoss(dedupe=True)(a, b)


@pytest.mark.parametrize("dedupe", [False, True])
def test_clip_does_not_depend_on_how_the_batch_is_cut(dedupe):
    """Gathered candidates, in whatever place, give the loss of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 3, 5, generator=generator), torch.randn(8, 3, 5, generator=generator)
    ids = torch.tensor([0, 1, 2, 3, 0, 1, 6, 7])
    loss = ClipLoss(dedupe=dedupe)
    whole = loss(a, b, candidate_ids=ids)
    halves = [loss(a[s:s + 4], b, targets=torch.arange(s, s + 4), candidate_ids=ids) for s in (0, 4)]
    order = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    own_first = loss(a[4:], b[order], candidate_ids=ids[order])
    assert torch.allclose(whole, torch.stack(halves).mean()) and torch.allclose(own_first, halves[1])


def test_clip_mask_and_sizes():
    """Q35: no mask is a full mask."""
    a, b = golden()
    loss = ClipLoss()
    assert loss(a, b, None) == loss(a, b, torch.ones(2, 1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be all true"):
        loss(a, b, torch.zeros(2, 1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least as many"):
        loss(b, a)
    with pytest.raises(ValueError, match="same channels"):
        loss(a[:, :2], b)


@pytest.mark.parametrize("kind", ["l1", "mse"])
def test_masked_losses(kind):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 3, 5, generator=generator), torch.randn(4, 3, 5, generator=generator)
    mask = torch.rand(4, 5, generator=generator) > 0.4
    loss, plain = MaskedLoss(kind), {"l1": F.l1_loss, "mse": F.mse_loss}[kind]
    assert torch.allclose(loss(a, b), plain(a, b))
    full = mask[:, None].expand(4, 3, 5)
    assert torch.allclose(loss(a, b, mask), plain(a[full], b[full]))
    assert torch.allclose(loss(a, b, mask[:, None]), plain(a[full], b[full]))
    assert loss(a, b.masked_fill(~full, torch.nan), mask).isfinite()
    assert loss(a, b, torch.zeros_like(mask)) == 0


def test_regression_classification():
    generator = torch.Generator().manual_seed(0)
    estimate = torch.randn(4, 7, 5, generator=generator, requires_grad=True)
    label = torch.randint(4, (4, 1, 5), generator=generator)
    target = torch.cat([torch.randn(4, 3, 5, generator=generator), label.float()], 1)
    mask = torch.rand(4, 5, generator=generator) > 0.4
    weights = class_weights(torch.tensor([10.0, 0.0, 30.0, 20.0]))
    loss = build_loss("regression_classification", SPEC)
    for weight in (torch.ones(4), weights):
        loss.set_class_weights({"phone": weight})  # Q36: once the classes are counted
        full = mask[:, None].expand(4, 3, 5)
        logits = estimate[:, 3:].transpose(1, 2)
        expected = F.mse_loss(estimate[:, :3][full], target[:, :3][full])
        expected = expected + F.cross_entropy(logits[mask], label[:, 0][mask], weight)
        assert torch.allclose(loss(estimate, target, mask), expected)
        plain = F.mse_loss(estimate[:, :3], target[:, :3]) + F.cross_entropy(estimate[:, 3:], label[:, 0], weight)
        assert torch.allclose(loss(estimate, target), plain)  # Q35
    empty = loss(estimate, target, torch.zeros_like(mask))
    empty.backward()
    assert empty == 0 and estimate.grad.isfinite().all()
    assert "weight_phone" in loss.state_dict()
    with pytest.raises(ValueError, match="do not fit"):
        loss.set_class_weights({"mel": torch.ones(3)})
    with pytest.raises(ValueError, match="the features need 7 and 4"):
        loss(estimate[:, 1:], target)


def test_class_weights():
    counts = torch.tensor([10.0, 0.0, 30.0, 20.0])
    weights = class_weights(counts)
    assert (weights * counts / counts.sum()).sum().item() == pytest.approx(1) and weights[1] == 0
    assert (weights[0] / weights[2]).item() == pytest.approx(3 ** 0.5)


def test_negatives_pool():
    """Q39: positives keep their gradient, and only the batch enters the pool."""
    pool = NegativesPool(6, pool_size=8)
    x = torch.arange(4.0).reshape(4, 1, 1).requires_grad_()
    out, ids = pool.extend(x, torch.arange(4))
    assert torch.equal(out, x) and len(pool) == 4
    y = torch.arange(4.0, 8.0).reshape(4, 1, 1).requires_grad_()
    out, ids = pool.extend(y, torch.arange(4, 8))
    assert out.shape == (6, 1, 1) and torch.equal(out.flatten().long(), ids) and set(ids[4:].tolist()) <= {0, 1, 2, 3}
    out.sum().backward()
    assert torch.equal(y.grad, torch.ones_like(y)) and x.grad is None
    assert len(pool) == 8
    state = torch.get_rng_state()
    for start in range(8, 40, 4):
        out, ids = pool.extend(torch.arange(start, start + 4.0).reshape(4, 1, 1), torch.arange(start, start + 4))
        assert len(out) == 6 and set(ids[4:].tolist()) <= set(range(start - 8, start)) and len(set(ids.tolist())) == 6
    assert torch.equal(torch.get_rng_state(), state)
    out, ids = pool.extend(torch.zeros(9, 1, 1))
    assert len(out) == 9 and ids is None
    with pytest.raises(ValueError, match="at least as large"):
        NegativesPool(6, 5)


def test_build_loss():
    assert build_loss("clip", SPEC, linear=5).estimate_map.in_channels == 4
    assert isinstance(build_loss("l1", SPEC), MaskedLoss)
    assert isinstance(build_loss("regression_classification", SPEC), RegressionClassificationLoss)
    with pytest.raises(ValueError, match="unknown loss 'cilp'"):
        build_loss("cilp", SPEC)
