"""The target is learned from the sound by a network that goes on learning."""
from pathlib import Path

import pytest
import torch

from bm.solvers.decode import DecodeSolver
from bm.solvers.test_decode import solver

CONFIG = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
          "conv_dim": (8, 8, 8), "conv_kernel": (10, 4, 4), "conv_stride": (10, 8, 4), "num_feat_extract_layers": 3,
          "feat_extract_norm": "layer", "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
OPTIONS = ["feature_model=wav2vec2", "feature_model_params.model=tiny/net", "feature_model_params.n_out_channels=16",
           "feature_model_params.layers=[1,2]", "optim.epochs=1", "optim.max_batches=2", "optim.batch_size=8",
           "optim.lr=0.01", "task.offset_meg_ms=120"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2Model
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**CONFIG)).save_pretrained(folder / "features_models" / "tiny--net")
    return folder


def test_it_learns_from_the_sound(root):
    one = solver(root, "chunk", *OPTIONS)
    assert isinstance(one, DecodeSolver)
    one.build()
    raw = next(iter(one.loaders["train"]))
    assert raw.features["Wav2VecChunk"].shape == (8, 1, 39 * 640)
    batch = one.finish(raw)
    # the last 120 ms of sound go with the first of the brain
    assert batch.features["Wav2VecChunk"].shape[-1] == 36 * 640 and batch.brain.shape[-1] == 36
    assert batch.features["Wav2VecChunk"].std() > 0.3
    before = {name: p.clone() for name, p in one.feature_model.named_parameters()}
    assert one.target(batch).shape == (8, 16, 36)
    one.restore()
    one.run_epoch(1)
    changed = {name for name, p in one.feature_model.named_parameters() if not torch.equal(p, before[name])}
    assert any("encoder.layers" in name for name in changed)
    assert not any("feature_extractor" in name for name in changed)
    assert 0 <= one.last_test["top10"] <= 1 or one.last_test == {}


@pytest.mark.parametrize("overrides, message", [
    (["feature_model_params.n_out_channels=20"], "n_out_channels=20, but .* has 16"),
    (["feature_model_params.layers=[3]"], "expected some of 0 to 2"),
    (["dset.features=[MelSpectrum]"], r"set dset.features=\[Wav2VecChunk\]"),
    (["resident=true"], "use resident=false with Wav2VecChunk"),
])
def test_what_cannot_be(root, overrides, message):
    with pytest.raises(ValueError, match=message):
        solver(root, "x", *OPTIONS, *overrides).build()


def test_a_network_that_is_missing(root):
    with pytest.raises(FileNotFoundError, match="scripts.features fetch nobody/net"):
        solver(root, "y", *OPTIONS, "feature_model_params.model=nobody/net").build()
    with pytest.raises(ValueError, match="feature_model=wav2vec2"):
        solver(root, "z", "dset.features=[Wav2VecChunk]").build()
