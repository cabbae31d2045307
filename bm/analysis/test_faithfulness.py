"""Deletion of tokens: what is deleted, in which order, and what is said of it."""
import numpy as np
import pytest
import torch

from bm.analysis.faithfulness import (
    LEAST,
    MOST,
    RANDOM,
    Deletion,
    curve_table,
    delete,
    deletion_curves,
    pool_deletions,
    ranks,
    verdict,
)
from bm.batch import BatchSpec
from bm.models.check import make_batch

SPEC = BatchSpec(3, 11, 100.0, 0.0, ("a",))


def test_a_deleted_token_is_the_mean():
    brain, mean = torch.randn(2, 3, 11), torch.arange(33.0).view(3, 11)
    gone = torch.zeros(2, 3, 2, dtype=torch.bool)
    gone[1, 2, 1] = True
    found = delete(brain, gone, mean, 5)
    expected = brain.clone()
    expected[1, 2, 5:10] = mean[2, 5:10]  # the last sample belongs to no token
    assert torch.equal(found, expected)


def test_order():
    attention = torch.tensor([[[0.1, 0.9], [torch.nan, torch.nan], [0.5, 0.3]]])
    generator = torch.Generator().manual_seed(0)
    assert ranks(attention, MOST, generator)[0].tolist() == [[3, 0], [4, 5], [1, 2]]
    assert ranks(attention, LEAST, generator)[0].tolist() == [[0, 3], [4, 5], [2, 1]]
    drawn = torch.stack([ranks(attention, RANDOM, generator)[0].flatten() for _ in range(50)])
    assert (drawn[:, [2, 3]] >= 4).all() and len({tuple(row.tolist()) for row in drawn}) > 10


def test_a_model_of_one_token():
    """The class is the sign of channel 0 in the second half; attention says so, or the contrary."""
    torch.manual_seed(0)
    batch = make_batch(SPEC, size=40)
    target = (batch.brain[:, 0, 5:10].mean(1) > 0).long()
    batch = batch.replace(target=target)

    def predict(b):
        x = 20 * b.brain[:, 0, 5:10].mean(1)
        return torch.stack([-x, x], 1)
    attention = torch.full((40, 3, 2), 0.2)
    attention[:, 0, 1] = 1
    attention[:, 1] = torch.nan  # three tokens are left beside it
    found = deletion_curves(predict, lambda: iter([batch[:30], batch[30:]]), attention, 5, (0, 0.25, 0.5, 1), draws=40)
    assert found.correct[MOST][0].mean() == 1 and found.correct[MOST][1].mean() < 0.7
    assert found.correct[LEAST][2].mean() == 1
    assert found.correct[RANDOM][2].mean() == pytest.approx((1 + found.correct[MOST][1].mean()) / 2, abs=0.05)
    table = curve_table(found)
    assert len(table) == 12 and table["accuracy"][0] == 1
    blocks = [str(i) for i in range(40)]
    assert verdict(found, ["a"] * 40, blocks, "correct").low > 0
    wrong = deletion_curves(predict, lambda: iter([batch]), -attention, 5)
    assert "hurts LESS" in str(verdict(wrong, ["a"] * 40, blocks, "correct"))
    both = pool_deletions([found, found])
    assert both.correct[MOST].shape == (4, 80) and both.area("correct").mean() == found.area("correct").mean()
    with pytest.raises(ValueError, match="other shares"):
        pool_deletions([found, wrong])


def test_nothing_to_draw_from_is_no_proof(caplog):
    flat = {MOST: np.zeros((2, 3)), RANDOM: np.ones((2, 3)), LEAST: np.ones((2, 3))}
    found = verdict(Deletion(np.array([0.0, 1.0]), flat, flat), ["a"] * 3, ["b"] * 3)
    assert found.area == 1 and np.isnan(found.low) and "NOT shown" in str(found) and "no interval" in caplog.text


def test_wrong_arguments():
    batch = make_batch(SPEC)
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        deletion_curves(lambda b: b.brain, lambda: iter([batch]), torch.rand(4, 3, 2), 5, (0, 0.5))
    with pytest.raises(ValueError, match="4 segments in the batches, attention of 3"):
        deletion_curves(lambda b: b.brain, lambda: iter([batch]), torch.rand(3, 3, 2), 5)
