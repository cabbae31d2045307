"""Attention GRUs: weights in one call, a planted latency, and whether attention follows a sound or a lag."""
import numpy as np
import pytest
import torch
from dora.link import Link
from torch import nn

from bm.analysis.attention import record_attention
from bm.analysis.encoder_attention import attention_weights, lag_profile, received, time_lock
from bm.batch import BatchSpec
from bm.data import test_responses
from bm.models import build_model
from bm.models.check import make_batch
from bm.models.encoders import build_encoder
from bm.models.encoders.attention_gru import GRUS
from bm.solvers import build_solver

WINDOW = 8
ramp, people = test_responses.ramp, test_responses.people  # fixtures


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    params = {"window": WINDOW, "hidden": 5, "layers": 2, "dropout": 0.4, **options}
    return build_encoder({"name": name, "params": params}, n_bands=4, rate=50.0, n_out=3)


@pytest.mark.parametrize("name, heads", [
    ("gru_attention", 1), ("cnn_gru_attention", 1), ("gru_attention_multihead", 4), ("gru_attention_shared", 3),
    ("gru_attention_per_target", 3), ("gru_attention_concat", 6)])
def test_weights_in_one_call(name, heads):
    model, sound = small(name, chunk=11), torch.randn(2, 1, 4, 20)
    model.core.eval()  # one part is in another mode than the rest
    before, modes = model(sound), [module.training for module in model.modules()]
    weights = attention_weights(model, sound)
    assert weights.shape == (2, heads, 20, WINDOW) and not weights.requires_grad
    torch.testing.assert_close(weights.sum(3), torch.ones(2, heads, 20), rtol=0, atol=1e-6)
    assert torch.equal(model(sound), before) and [module.training for module in model.modules()] == modes
    assert model.core.sink is None
    padded = torch.cat([torch.zeros(2, 1, 4, WINDOW - 1), sound], 3)
    with torch.no_grad(), record_attention(model) as attention:
        model.core.attend(padded[:, 0, :, 9:9 + WINDOW].transpose(1, 2))
    torch.testing.assert_close(attention.weights, weights[:, :, [9]], rtol=0, atol=1e-6)


def test_weights_of_a_trained_state():
    """A checkpoint's state in a new model has the same weights; sounds of other lengths come forward by forward."""
    model, other = small("gru_attention").eval(), small("gru_attention", chunk=7).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    other.load_state_dict(model.state_dict())
    sound = torch.randn(1, 1, 4, 30)
    torch.testing.assert_close(attention_weights(other, sound), attention_weights(model, sound))
    with torch.no_grad(), record_attention(model) as attention:
        model(sound), model(sound[..., :12])
    assert [tuple(weights.shape) for weights in attention.forwards] == [(1, 1, 30, 8), (1, 1, 12, 8)]
    with pytest.raises(ValueError, match="different lengths"):
        attention.weights  # noqa: B018


def test_weights_of_a_trained_xp(people, monkeypatch, tmp_path):
    """Of the solver that trained, and of one that read its checkpoint."""
    test_responses.register(monkeypatch, people)
    cfg = test_responses.planted_config(
        "dset.features=[WordPulse]", "encoder.name=gru_attention", "+encoder.params={window: 6, hidden: 4}",
        "optim.epochs=2", "optim.batch_size=8", "encode.window_s=1.5", "test.n_boot=10")
    one, again = (build_solver(cfg, tmp_path / name, tmp_path, Link(tmp_path / name / "history.json"))
                  for name in ("one", "again"))
    one.folder.mkdir()
    one.run()
    again.build()
    again.load_state_dict(torch.load(one.checkpoint_path, weights_only=True)["solver"])
    trials = one.responses.of("test")
    sound = one.windows(trials, [(0, 0, 20)])
    with one.use_best(), again.use_best():
        weights = attention_weights(one.model, sound)
        torch.testing.assert_close(attention_weights(again.model, sound), weights, rtol=0, atol=0)
    assert one.history == 5 and weights.shape == (1, 1, 25, 6)
    assert lag_profile(weights)[0, 0].sum() == pytest.approx(1, abs=1e-5)


def test_models_without_such_attention():
    with pytest.raises(ValueError, match="has no attention"):
        attention_weights(small("gru"), torch.randn(1, 1, 4, 20))
    with pytest.raises(ValueError, match="several kinds"), \
            record_attention(nn.ModuleList([small("gru_attention"), small("gru_attention")])):
        pass
    spec = BatchSpec(4, 40, 160.0, 0.0, ("a",))
    transformer = build_model("eeg_transformer", spec, 2, dim=8, heads=2, layers=1)
    with pytest.raises(ValueError, match="expected an attention GRU"):
        attention_weights(transformer, make_batch(spec))


def test_received():
    """Frame s at lag l is weight W − 1 − l of output frame s + l."""
    weights = np.random.default_rng(0).random((30, 5))
    found = received(weights)
    assert found.shape == (22, 5)
    for row, lag in ((0, 0), (3, 4), (21, 2)):
        assert found[row, lag] == weights[4 + row + lag, 4 - lag]
    np.testing.assert_allclose(lag_profile(weights), weights[4:].mean(0)[::-1])
    with pytest.raises(ValueError, match="twice as many"):
        received(weights[:9])
    with pytest.raises(ValueError, match="at least one full window"):
        lag_profile(weights[:4])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def planted(seed: int, kind: str, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (n, W), features (n, 3), and the frames that attract attention where `kind` is "follows"."""
    rng = np.random.default_rng(seed)
    attractive = rng.random(n) < 0.1
    features = rng.standard_normal((n, 3))
    features[:, 1] += 2.0 * attractive
    lags = np.arange(WINDOW)[::-1]
    centre = np.full(n, 3.0)
    if kind == "drifts":  # between lags 1 and 6, slowly
        centre = 3.5 + 2.5 * np.sin(np.arange(n) / 15 + rng.random())
    logits = -0.5 * (lags - centre[:, None]) ** 2 + 0.3 * rng.standard_normal((n, WINDOW))
    if kind == "follows":
        frame = np.arange(n)[:, None] - lags
        logits += 1.5 * np.where(frame >= 0, attractive[frame], False)
    return softmax(logits), features, attractive


def test_attention_that_follows_a_sound_is_found():
    made = [planted(seed, "follows") for seed in (0, 1)]
    found = time_lock([weights for weights, *_ in made], [features for _, features, _ in made], n_permutations=200)
    assert found.p < 0.01 and found.received.shape == (2 * (300 - 14), WINDOW)
    truth = np.array([made[sound][2][frame] for sound, frame in zip(found.sound, found.frame, strict=True)])
    assert found.followed[truth].mean() > 0.9 and found.followed[~truth].mean() < 0.1
    assert found.difference[1] > 1 and found.difference_p[1] < 0.01
    assert np.abs(found.difference[[0, 2]]).max() < 0.5 and found.difference_p[[0, 2]].min() > 0.05
    assert found.expected.argmax() == 3 and found.score[truth].mean() > 1.3


@pytest.mark.parametrize("kind", ["lag", "drifts"])
def test_attention_to_lags_is_not_significant(kind):
    p = []
    for seed in range(12):
        weights, features, _ = planted(seed, kind)
        found = time_lock([weights], [features], n_permutations=99)
        p.append(found.p)
        assert found.followed.mean() < 0.15
    assert np.mean(np.array(p) <= 0.05) <= 0.25 and np.median(p) > 0.2, p


def test_the_same_attention_in_every_window():
    weights = np.tile(softmax(np.arange(WINDOW)[None]), (60, 1))
    found = time_lock([weights], [np.random.default_rng(0).random((60, 2))], n_permutations=50)
    assert found.p == 1 and not found.followed.any() and np.isnan(found.difference).all()
    assert found.strength < 1e-9 and np.isnan(found.difference_p).all()


def test_sounds_that_do_not_fit():
    weights, features, _ = planted(0, "lag")
    for given in (([weights], []), ([], []), ([weights], [features[:-1]]), ([weights, weights[:, 1:]], [features] * 2)):
        with pytest.raises(ValueError, match="expected as many|do not fit"):
            time_lock(*given)


@pytest.mark.parametrize("name, lag", [("gru_attention", 7), ("cnn_gru_attention", 9)])
def test_attention_peaks_at_a_planted_latency(name, lag):
    """Each unit answers to the amplitude of its band `lag` frames ago, with noise; windows of 16 frames.

    With windows that are hardly longer than the latency, or one band only, some networks remember instead: see the
    module's docstring.
    """
    torch.manual_seed(0)
    bands, n, window = 8, 5000, 16
    energy = torch.randn(bands, n).abs()
    energy = (energy - energy.mean()) / energy.std()
    responses = 0.3 * torch.randn(bands, n)
    responses[:, lag:] += energy[:, :-lag]
    options = {"window": window, "hidden": 12} | ({"kernel": 1} if name == "cnn_gru_attention" else {})
    model = build_encoder({"name": name, "params": options}, n_bands=bands, rate=100.0, n_out=bands)
    windows, targets = energy.T.unfold(0, window, 1).transpose(1, 2), responses[:, window - 1:].T
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        rows = torch.randint(len(targets) - 1000, (128,))
        loss = (model.core.attend(windows[rows]) - targets[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = energy[None, None, :, -1000:]
    with torch.no_grad():
        error = (model(test)[0, :, 0, window:] - responses[:, -1000 + window:]).square().mean()
    assert error < 0.4  # 1.09 for a network that predicts nothing, 0.09 for the truth
    profile = lag_profile(attention_weights(model, test))[0, 0]
    assert abs(int(profile.argmax()) - lag) <= 1 and profile.max() > 2 / window
    assert profile[lag + 2:].sum() < 0.3  # what came before it holds nothing of it


def test_every_attention_network_can_be_recorded():
    assert {name for name in GRUS if hasattr(small(name).core, "sink")} == set(GRUS) - {"gru"}
