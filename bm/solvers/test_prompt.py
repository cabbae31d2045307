"""Encoding with a prompt of brain: what the model is given, what it is scored on, and that it hears something."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dora.link import Link

from bm.batch import Batch
from bm.config import ConfigError
from bm.data import test_responses
from bm.data.test_responses import planted_config, register
from bm.solvers import build_solver
from bm.solvers.prompt import PromptSolver

ramp, people = test_responses.ramp, test_responses.people  # fixtures
CONVRNN = ["model=convrnn", "convrnn.hidden.meg=16", "convrnn.hidden.features=8", "convrnn.lstm=1", "optim.lr=3e-3",
           "dset.features=[WordPulse]", "dset.tmin=-0.4", "dset.tmax=0.8", "dset.condition=0.3",
           "dset.test.condition=0.3", "dset.apply_baseline=false", "dset.event_mask=false", "optim.batch_size=16",
           "optim.epochs=6", "optim.loss=mse"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prompt")


@pytest.fixture
def solver(people, monkeypatch, root):
    """`solver(name, overrides…)`: an XP of the planted study, not yet built."""
    def make(name: str, *overrides: str, base: list[str] = CONVRNN) -> PromptSolver:
        register(monkeypatch, [replace(person, noise=0.3) for person in people])
        folder = root / "xps" / name
        folder.mkdir(parents=True, exist_ok=True)
        one = build_solver(planted_config(*base, *overrides), folder, root, Link(folder / "history.json"))
        assert isinstance(one, PromptSolver)
        return one
    return make


@pytest.fixture
def built(solver):
    """`built(overrides…)`: the same, built, and a finished batch of it."""
    def make(*overrides: str) -> tuple[PromptSolver, Batch]:
        one = solver("built", *overrides)
        one.build()
        return one, one.finish(one.data.dataset("train").__getitems__(one.data.ids("train")[:4]))
    return make


def test_it_learns_and_resumes(solver):
    one = solver("whole")
    metrics = one.run()
    assert metrics["corr_meg"] > 0.3 and metrics["corr_meg"] > metrics["corr_meg_prompt"] + 0.2
    assert metrics["n_recordings"] == 3 and metrics["n"] == len(one.test_ids())
    killed = solver("killed")
    killed.build()
    killed.restore()
    killed.run_epoch(1)
    again = solver("killed")
    again.run()
    losses = [[epoch["valid"]["loss"] for epoch in json.loads((x.folder / "history.json").read_text())]
              for x in (one, again)]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_the_model_sees_the_prompt_alone(built):
    one, batch = built("task.meg_init=0.48", "task.lowpass=5")
    assert one.prompt == 12 and one.model.in_channels == {"meg": 4, "features": 1}
    one.modules.eval()
    other = batch.brain.clone()
    other[..., 12:] = torch.randn_like(other[..., 12:])
    assert torch.equal(one.estimate(batch), one.estimate(batch.replace(brain=other)))
    other[..., 3] += 1
    assert not torch.equal(one.estimate(batch), one.estimate(batch.replace(brain=other)))


def test_what_is_scored(built):
    one, _ = built()
    ids = one.data.ids("train")
    raw = one.data.dataset("train").__getitems__([*ids[:3], *ids[-3:]])
    estimate, target, mask, batch = one.process(raw)
    assert estimate.shape == target.shape == mask.shape == (6, 4, one.data.spec.times - 7)
    assert torch.equal(mask.all(2), batch.channel_mask) and torch.equal(target, batch.brain[..., 7:])
    assert not mask[-1, 1].any() and not mask[-1, 3].any()  # a bad channel, and one that this recording lacks


@pytest.mark.parametrize("options,train,test", [([], True, False), (["task.lowpass_gt=false"], False, False),
                                                (["task.lowpass_gt_test=true"], True, True)])
def test_the_target_may_be_filtered(built, options, train, test):
    one, batch = built("task.lowpass=3", *options)
    for training, expected in ((True, train), (False, test)):
        one.modules.train(training)
        assert torch.equal(one.target(batch), batch.brain) != expected
    assert np.isfinite(one.train_epoch(1)["loss"])


@pytest.mark.parametrize("hears", [True, False])
def test_what_is_tested(built, hears):
    """A prompt of 5 samples, the trigger at the 20th: correlations over a recording's segments from there on, of each
    channel that it has and each time; means over these, then over recordings."""
    one, _ = built("dset.tmin=-0.8", "task.meg_init=0.2")
    one.modules.eval()
    segments: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for segment in one.test_ids():
        batch = one.finish(one.data.dataset("test").__getitems__([segment]))
        if batch.brain.abs().max() > one.cfg.norm.max_scale:
            continue
        if not hears:
            batch = batch.replace(features={name: 0 * x for name, x in batch.features.items()})
        with torch.no_grad():
            estimate = one.forward(batch.replace(brain=torch.cat(
                [batch.brain[..., :5], torch.zeros_like(batch.brain[..., 5:])], -1)))
        segments.setdefault(int(batch.recording[0]), []).append(
            (estimate[0].numpy(), batch.brain[0].numpy(), batch.channel_mask[0].numpy()))
    scores = []
    for own in segments.values():
        estimates, brains, channels = (np.stack(values) for values in zip(*own, strict=True))
        scores.append(np.mean([np.corrcoef(estimates[:, c, t], brains[:, c, t])[0, 1]
                               for c in np.flatnonzero(channels[0]) for t in range(20, estimates.shape[2])]))
    found, n = one.correlations(hears)
    assert n == len(scores) == 3 and len({len(own) for own in segments.values()} | {0, 1}) > 2
    assert found == pytest.approx(np.mean(scores), abs=1e-5)


@pytest.mark.parametrize("empty", [True, False])
def test_segments_that_are_left_out(built, empty):
    """Those with a value out of range, and without a word where that is asked for."""
    one, batch = built(f"norm.exclude_empty_features={empty}")
    brain, words = batch.brain.clone(), torch.ones_like(batch.masks["word"])
    brain[1, 0, 3], brain[3, 0, 3], words[2] = -1.01 * one.cfg.norm.max_scale, one.cfg.norm.max_scale, False
    kept = one.kept(batch.replace(brain=brain, masks={"word": words}))
    assert kept.segment.tolist() == batch.segment[[0, 3] if empty else [0, 2, 3]].tolist()


def test_simpleconv_encodes_too(solver):
    small = ["model=clip_conv_small", "task.type=encode", "task.offset_meg_ms=0", "+simpleconv.hidden.features=8",
             "simpleconv.hidden.meg=8", "simpleconv.merger=false", *CONVRNN[5:], "optim.epochs=1"]
    assert np.isfinite(solver("simple", base=small).run()["corr_meg"])


@pytest.mark.parametrize("overrides,message", [
    (["optim.loss=clip"], "needs optim.loss=l1 or mse"), (["task.meg_init=3"], "leaves nothing to predict"),
    (["dset.features=[]"], "needs dset.features"), (["model_name=eeg_transformer"], "expected encoder, simpleconv"),
])
def test_a_bad_config_is_explained(overrides, message):
    with pytest.raises(ConfigError, match=message):
        planted_config(*CONVRNN, *overrides)
