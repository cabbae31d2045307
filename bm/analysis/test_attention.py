"""Attention: weights of all layers, rollout against its definition, a planted difference that it finds, and needs."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bm.analysis.attention import channel_map, class_attention, record_attention, rollout
from bm.analysis.faithfulness import LEAST, MOST, RANDOM, deletion_curves, verdict
from bm.batch import BatchSpec
from bm.metrics.classification import weighted_auc
from bm.models import build_model
from bm.models.check import make_batch

SPEC = BatchSpec(8, 80, 160.0, 0.0, ("a",))
SMALL = {"dim": 16, "heads": 2, "layers": 2, "tokens": 4}


@pytest.fixture(scope="module")
def random_weights():
    torch.manual_seed(0)
    return torch.rand(3, 4, 2, 5, 5).double().softmax(-1)


def test_recording_changes_nothing():
    model, batch = build_model("eeg_transformer", SPEC, 2, **SMALL).eval(), make_batch(SPEC)
    before = model(batch)
    with record_attention(model) as attention:
        torch.testing.assert_close(torch.cat([model(batch[:1]), model(batch[1:])]), before, atol=1e-5, rtol=1e-5)
    assert attention.weights.shape == (4, 2, 2, 33, 33) and not attention.weights.requires_grad
    torch.testing.assert_close(attention.weights.sum(-1), torch.ones(4, 2, 2, 33))
    model(batch)
    assert len(attention.weights) == 4  # nothing is recorded afterwards


def test_wrong_use():
    model = build_model("eeg_transformer", SPEC, 2, **SMALL)
    with pytest.raises(ValueError, match="recorded already"), record_attention(model), record_attention(model):
        pass
    with pytest.raises(ValueError, match="Linear has no attention"), record_attention(nn.Linear(1, 1)):
        pass
    with record_attention(model) as attention, pytest.raises(RuntimeError, match="no attention was recorded"):
        attention.weights  # noqa: B018
    with pytest.raises(ValueError, match="expected mean, max or min"):
        rollout(torch.rand(1, 1, 1, 2, 2), "sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        rollout(torch.rand(2, 2))
    with pytest.raises(ValueError, match="3 values of tokens do not fit"):
        channel_map(torch.rand(1, 3), model)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("residual", [True, False])
def test_rollout(random_weights, fusion, residual):
    expected = torch.eye(5).double()
    for layer in range(4):
        a = {"mean": random_weights[1, layer].mean(0), "max": random_weights[1, layer].max(0).values,
             "min": random_weights[1, layer].min(0).values}[fusion]
        a = a / a.sum(1, keepdim=True)
        expected = (0.5 * a + 0.5 * torch.eye(5) if residual else a) @ expected
    found = rollout(random_weights, fusion, residual)
    torch.testing.assert_close(found[1], expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 5).double())


def test_rollout_of_the_original(random_weights):
    fused = random_weights[0].max(1).values
    found = rollout(random_weights, "max", reference=True)
    torch.testing.assert_close(found[0], fused[0] @ fused[1] @ fused[2] @ fused[3])
    assert found.sum(-1).max() > 1
    assert class_attention(found, reference=True).amax(1).min() < 1 == class_attention(found, reference=True).max()
    assert (class_attention(found).amax(1) == 1).all()


def test_map_is_channel_major():
    model = build_model("eeg_transformer", SPEC, 2, **SMALL, ignore_channels=[3])
    found = channel_map(torch.arange(28.0)[None], model)[0]
    assert found[3].isnan().all() and found[4].tolist() == [12, 13, 14, 15] and found.shape == (8, 4)


@pytest.fixture(scope="module")
def planted():
    """A trained and an untrained model, segments and their classes, which differ in the sign of a wave at two channels,
    in the third quarter of the segment, and nowhere else; and where that is `(C, K)`."""
    torch.manual_seed(0)
    wave = torch.sin(2 * torch.pi * torch.arange(20) / 10)
    truth = torch.zeros(8, 4, dtype=torch.bool)
    truth[[2, 5], 2] = True

    def make(n: int):
        target = torch.randint(2, (n,))
        brain = torch.randn(n, 8, 4, 20)
        brain[:, [2, 5], 2] += 1.0 * (2 * target - 1)[:, None, None] * wave
        return make_batch(SPEC, size=n).replace(brain=brain.flatten(2), target=target)

    model = build_model("eeg_transformer", SPEC, 2, **SMALL)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(90):
        batch = make(32)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(batch), batch.target).backward()
        optimizer.step()
    torch.manual_seed(1)
    untrained = build_model("eeg_transformer", SPEC, 2, **SMALL)
    torch.manual_seed(2)
    return model.eval(), untrained.eval(), make(200), truth


def rolled(model, batch, fusion="mean"):
    with torch.no_grad(), record_attention(model) as attention:
        model(batch)
    return channel_map(class_attention(rollout(attention.weights, fusion)), model)


def test_a_planted_difference_is_found(planted):
    model, untrained, batch, truth = planted
    with torch.no_grad():
        assert (model(batch).argmax(1) == batch.target).float().mean() > 0.9

    def auc(seen):
        return weighted_auc(seen.flatten().numpy(), truth.flatten().numpy(), torch.ones(1, 32).numpy())[0]
    for fusion in ("mean", "max"):
        assert auc(rolled(model, batch, fusion).mean(0)) >= 0.9, fusion
    assert auc(rolled(untrained, batch).mean(0)) < 0.9


def test_deleting_what_is_attended_hurts_if_the_model_has_learned(planted):
    model, untrained, batch, truth = planted
    batch, subject, block = batch[:100], ["a"] * 100, [f"b{i // 10}" for i in range(100)]

    def batches():
        return iter([batch[:60], batch[60:]])
    found = {name: deletion_curves(one, batches, rolled(one, batch), 20, draws=2)
             for name, one in (("trained", model), ("untrained", untrained))}
    trained = verdict(found["trained"], subject, block)
    assert trained.low > 0.1 and str(trained).startswith("Deleting the most attended tokens hurts more")
    # the two planted tokens are the first tenth, without which nothing is left to tell; the least attended are spare
    curves = found["trained"]
    assert curves.correct[MOST][2].mean() < 0.65 < 0.9 < curves.correct[LEAST][8].mean()
    assert (curves.correct[LEAST][0] == curves.correct[MOST][0]).all()  # nothing is deleted yet
    np.testing.assert_allclose(curves.probability[LEAST][-1], curves.probability[RANDOM][-1], atol=1e-6)
    ignorant = verdict(found["untrained"], subject, block)
    assert ignorant.low < 0 and abs(ignorant.area) < trained.area / 10
    assert "hurts more than deleting" not in str(ignorant)
    # deleting by the truth hurts at least as much as by attention
    ideal = deletion_curves(model, batches, truth[None].expand(100, -1, -1).float(), 20, draws=2)
    assert trained.area <= ideal.area("probability").mean() + 0.02
