"""What is off by default: negatives, classes, other numerics, starting from another XP, other people's curves."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bm.config import ConfigError
from bm.features.base import FEATURES, SoundFeature
from bm.models.penalties import spectral_penalty
from bm.solvers.base import Solver
from bm.solvers.decode import DecodeSolver
from bm.solvers.test_decode import _comparable, config, solver

MSE = ["optim.loss=mse", "optim.epochs=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("options")


def built(root: Path, name: str, *overrides: str) -> DecodeSolver:
    one = solver(root, name, *overrides)
    assert isinstance(one, DecodeSolver)
    one.build()
    one.restore()
    return one


def test_negatives_come_from_earlier_batches(root, monkeypatch):
    one = built(root, "negatives", "optim.negatives=100", "optim.batch_size=40", "clip.dedupe=true")
    sizes, forward = [], one.loss.forward

    def watch(estimates, candidates, *args, candidate_ids, **kwargs):
        sizes.append((len(estimates), len(candidates), len(candidate_ids)))
        return forward(estimates, candidates, *args, candidate_ids=candidate_ids, **kwargs)

    monkeypatch.setattr(one.loss, "forward", watch)
    one.train_epoch(1)
    batches = [n for n, _, _ in sizes]
    assert [n for _, n, _ in sizes] == [min(100, sum(batches[:i + 1])) for i in range(len(batches))]
    assert all(n == ids for _, n, ids in sizes)


def test_negatives_resume_exactly(root, monkeypatch):
    options = ["optim.negatives=100", "optim.batch_size=40", "optim.epochs=3"]
    whole = solver(root, "pool-whole", *options)
    whole.run()
    one = solver(root, "pool-killed", *options)
    monkeypatch.setattr(one, "valid_epoch", lambda epoch: (_ for _ in ()).throw(KeyboardInterrupt) if epoch == 2
                        else DecodeSolver.valid_epoch(one, epoch))
    with pytest.raises(KeyboardInterrupt):
        one.run()
    solver(root, "pool-killed", *options).run()
    history, state = _comparable(one.folder)
    expected, expected_state = _comparable(whole.folder)
    assert history == expected
    assert all(torch.equal(state["modules"][key], value) for key, value in expected_state["modules"].items())


class Loud(SoundFeature):
    """Whether a tenth of a second is louder than most: 1, else 0."""

    normalize, n_classes = False, 2
    dim, rate, default, context_s = 1, 10.0, 0.0, 0.1

    def identity(self):
        return {"feature": "Loud"}

    def compute(self, audio, rate):
        power = np.square(audio[:len(audio) // (rate // 10) * (rate // 10)]).reshape(-1, rate // 10).mean(1)
        return (power > np.quantile(power, 0.8)).astype(np.float32)[:, None]


def test_classes_with_weights(root, monkeypatch):
    monkeypatch.setitem(FEATURES, "Loud", Loud)
    options = ["dset.features=[MelSpectrum,Loud]", "dset.feature_resampling=nearest", "optim.epochs=2",
               "optim.loss=regression_classification", "dset.event_mask=false", "optim.use_weighting=true"]
    one = solver(root, "classes", *options)
    metrics = one.run()
    weight = one.loss.get_buffer("weight_Loud")
    assert weight[1] > 1.5 * weight[0] > 0  # the rare class weighs more
    assert 0 <= metrics["acc_Loud"] <= 1 and 0.5 < metrics["acc_Loud_chance"] < 0.95
    assert -1 < metrics["corr_MelSpectrum"] < 1 and np.isfinite(metrics["r2_MelSpectrum"])
    assert "top10" not in metrics  # there is no product of classes


def test_regression_also_reports_correlation(root):
    metrics = solver(root, "mse", *MSE).run()
    assert {"top10", "corr_MelSpectrum", "r2_MelSpectrum", "l2_MelSpectrum"} <= set(metrics)


@pytest.mark.parametrize("best", [True, False])
def test_starts_from_another_xp(root, best):
    source = solver(root, "source", *MSE, "optim.epochs=2", "optim.lr=0.05", "seed=5")
    if not source.result_path.exists():
        source.run()
    one = built(root, f"continued-{best}", "optim.epochs=1", "continue_sig=source", f"continue_best={best}".lower())
    state = torch.load(source.folder / "checkpoint.th", weights_only=True)["solver"]
    wanted = state["best" if best else "modules"]
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, wanted[f"model.{key}"]), key
    assert one.epoch == 0 and not one.optimizer.state


def test_a_start_that_cannot_be(root):
    source = solver(root, "source", *MSE, "optim.epochs=2", "optim.lr=0.05", "seed=5")
    if not source.result_path.exists():
        source.run()
    with pytest.raises(FileNotFoundError, match="continue_sig=nobody.*XPs with one:.*source"):
        built(root, "from-nobody", "continue_sig=nobody")
    with pytest.raises(ValueError, match="another network.*has shape"):
        built(root, "from-larger", "continue_sig=source", "simpleconv.hidden.meg=32")
    with pytest.raises(ValueError, match="weights for each of its 2 subjects"):
        built(root, "from-others", "continue_sig=source", "selections.simulated.subjects=3")


def first_epoch(one: Solver) -> float:
    return one.train_epoch(1)["loss"]


def test_other_numerics_change_little(root):
    plain = first_epoch(built(root, "plain"))
    assert first_epoch(built(root, "bf16", "optim.amp=true")) == pytest.approx(plain, rel=0.02)
    assert first_epoch(built(root, "bf16", "optim.amp=true")) != plain
    # a clipped gradient moves Adam only through its variance, so that the loss differs but hardly
    clipped = built(root, "clipped", "optim.clip_grad=1e-3")
    assert first_epoch(clipped) != plain
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in clipped.model.parameters()]))
    assert norm <= 1.01e-3


def test_penalties_and_filters_act(root):
    plain = built(root, "plain")
    first_epoch(plain)
    svd = built(root, "svd", "optim.svd=0.1")
    first_epoch(svd)
    largest = [float(spectral_penalty(one.model).detach()) for one in (plain, svd)]
    assert largest[1] < 0.9 * largest[0]
    low = built(root, "low", "task.lowpass=2")
    batch = low.finish(next(iter(low.loaders["valid"])))
    low.modules.eval()
    changed = low.estimate(batch)
    assert not torch.allclose(changed, low.model(batch), atol=1e-3)


@pytest.mark.slow
def test_compiled_is_the_same_model(root):
    quiet = ["simpleconv.conv_dropout=0.", "simpleconv.merger_dropout=0."]  # compiled code draws other random numbers
    plain = first_epoch(built(root, "quiet", *quiet))
    compiled = built(root, "compiled", *quiet, "optim.compile=true")
    assert first_epoch(compiled) == pytest.approx(plain, rel=1e-3)
    assert not any("_orig_mod" in key for key in compiled.state_dict()["modules"])


def test_only_the_recordings_of_a_study(root):
    one = built(root, "study", "test.wer_study=simulated")
    assert len(one.test_ids()) == len(one.data.ids("test"))
    with pytest.raises(ValueError, match="test.wer_study=other.*only of simulated"):
        built(root, "study-other", "test.wer_study=other").test_ids()


def test_tensorboard_follows_the_history(root):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    one = solver(root, "board", "tensorboard=true", "optim.epochs=2")
    one.run()
    events = EventAccumulator(str(one.folder / "tensorboard"))
    events.Reload()
    written = {e.step: e.value for e in events.Scalars("train/loss")}
    history = json.loads((one.folder / "history.json").read_text())
    assert written == pytest.approx({i + 1: epoch["train"]["loss"] for i, epoch in enumerate(history)})
    assert "test/top10" in events.Tags()["scalars"]


def test_weights_and_biases_offline(root, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    one = solver(root, "wandb", "wandb.use_wandb=true", "wandb.mode=offline", "optim.epochs=1")
    one.run()
    assert list((one.folder / "wandb").glob("offline-run-*/run-wandb.wandb"))


@pytest.mark.parametrize("overrides, message", [
    (["optim.negatives=10", "optim.loss=mse"], "only optim.loss=clip"),
    (["optim.negatives=10", "optim.negative_pool_size=5"], "at least"),
    (["optim.use_weighting=true"], "regression_classification"),
    (["task.lowpass=20"], "below half"),
    (["clip.dedupe=true", "optim.loss=l1"], "clip.dedupe"),
])
def test_what_cannot_be_is_refused_at_once(overrides, message):
    with pytest.raises(ConfigError, match=message):
        config(*overrides)
