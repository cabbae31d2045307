import numpy as np
import pytest
import torch

from bm.batch import FeatureSpec
from bm.metrics.regression import FeatureScores

FEATURES = (FeatureSpec("Mel", 3, 50.0), FeatureSpec("Voice", 1, 50.0, n_classes=2))


def test_against_numpy_one_recording_at_a_time():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(40, 4, 6, generator=generator)
    target[:, 3] = (target[:, 3] > 0).float()
    estimate = torch.randn(40, 5, 6, generator=generator)
    estimate[:, :3] += target[:, :3]
    recording = torch.arange(40) % 2
    scores = FeatureScores(FEATURES)
    for part in torch.arange(40).split(7):
        scores.update(estimate[part], target[part], torch.ones(len(part), 1, 6, dtype=torch.bool), recording[part])
    found = scores.summary()
    r = [np.corrcoef(estimate[own, d, t], target[own, d, t])[0, 1]
         for own in (recording == 0, recording == 1) for d in range(3) for t in range(6)]
    assert found["corr_Mel"] == pytest.approx(np.mean(r), abs=1e-6)
    assert found["l2_Mel"] == pytest.approx(float((estimate[:, :3] - target[:, :3]).square().mean().sqrt()), rel=1e-5)
    assert 0 < found["corr_Mel"] < 1 and found["r2_Mel"] < found["corr_Mel"]
    right = (estimate[:, 3:].argmax(1) == target[:, 3]).float()
    assert found["acc_Voice"] == pytest.approx(float(right.mean()), abs=1e-6)
    assert found["acc_Voice_chance"] == pytest.approx(max(float(target[:, 3].mean()), 1 - float(target[:, 3].mean())))


def test_what_is_masked_does_not_count():
    target, estimate = torch.zeros(10, 4, 5), torch.zeros(10, 5, 5)
    estimate[:, 3] = 1  # class 0, the right one
    estimate[:, :, 4] = float("nan")
    mask = torch.ones(10, 1, 5, dtype=torch.bool)
    mask[:, :, 4] = False
    scores = FeatureScores(FEATURES)
    scores.update(estimate, target, mask, torch.zeros(10))
    assert scores.summary() == {"corr_Mel": 0, "r2_Mel": 0, "l2_Mel": 0, "acc_Voice": 1, "acc_Voice_chance": 1}


def test_nothing_seen():
    with pytest.raises(ValueError, match="no batch"):
        FeatureScores(FEATURES).summary()


def test_a_feature_after_classes():
    """Q42: two logits and one label come before it: its rows in the estimate are not those in the target."""
    generator = torch.Generator().manual_seed(0)
    values, label = torch.randn(20, 3, 6, generator=generator), torch.randint(2, (20, 1, 6), generator=generator)
    estimate = torch.cat([torch.cat([1.0 - label, label.float()], 1), values], 1)
    scores = FeatureScores(FEATURES[::-1])
    scores.update(estimate, torch.cat([label.float(), values], 1), torch.ones(20, 1, 6, dtype=torch.bool),
                  torch.zeros(20, dtype=torch.int64))
    found = scores.summary()
    assert found["l2_Mel"] == 0 and found["acc_Voice"] == 1
    assert found["corr_Mel"] == pytest.approx(1) and found["r2_Mel"] == pytest.approx(1)
