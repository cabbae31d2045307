"""The section on controls, on hand-made tables."""
import json
from pathlib import Path

import pandas as pd
import pytest

from bm.analysis.report.controls import controls
from bm.analysis.xp import StoredXP


def write(folder: Path, accuracy: float, low: float) -> None:
    folder.mkdir(parents=True)
    pd.DataFrame([{"topk": k, "acc_segment": k * accuracy, "low": k * low, "high": k * accuracy + 0.01,
                   "n": 80, "chance": k / 200} for k in (1, 10)]).to_csv(folder / "acc.csv", index=False)
    (folder / "complete.json").write_text(json.dumps({}))


@pytest.fixture
def xp(tmp_path) -> StoredXP:
    return StoredXP(tmp_path / "xps/0a1b2c3d", tmp_path)


def test_none_was_evaluated(xp, tmp_path):
    write(tmp_path / "eval/signatures/0a1b2c3d", 0.06, 0.03)
    (part,) = controls(xp)
    assert "run_eval_probs sigs=[0a1b2c3d] control=all" in part.content


def test_verdicts(xp, tmp_path):
    signature = tmp_path / "eval/signatures/0a1b2c3d"
    write(signature, 0.06, 0.03)
    write(signature / "control_noise_brain", 0.006, 0.001)
    write(signature / "control_other_subject", 0.05, 0.03)
    (part,) = controls(xp)
    assert "60.0 % [30.0 %, 61.0 %]" in part.content and "noise instead of the brain" in part.content
    assert "No control whose interval was measured lies above chance" in part.content
    assert "SURVIVES" not in part.content
    write(signature / "control_untrained", 0.007, 0.006)
    (part,) = controls(xp)
    assert "A CONTROL SURVIVES: before training (top-1), before training (top-10)" in part.content
    assert part.content.count("ABOVE CHANCE") == 1


@pytest.mark.parametrize(("task", "trf", "asked"), [
    ("decode", {}, True), ("linear_encode", {}, True), ("ridge", {}, False), ("rsa", {}, False), ("encode", {}, False),
    ("trf", {"direction": "forward", "candidates": "pieces"}, False),
    ("trf", {"direction": "backward", "candidates": "segments"}, True)])
def test_controls_are_offered_where_they_can_be_had(xp, task, trf, asked):
    xp.folder.mkdir(parents=True)
    (xp.folder / "config.json").write_text(json.dumps({"task": {"type": task}, "trf": trf}))
    assert bool(controls(xp)) == asked
