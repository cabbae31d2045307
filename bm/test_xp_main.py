"""Configs are composed as Hydra composes them, only faster."""
import pytest
from dora.hydra import HydraMain
from hydra import initialize_config_dir

from bm.config import to_plain
from bm.train import main


@pytest.mark.parametrize("overrides", [
    [],
    ["seed=1", "preset=nmi", "dset.selections=[audio_mous]", "optim.lr=1e-4", "feature_model=deep_mel"],
    ["preset=natsounds_linear", "dset.features_params.MelSpectrum={n_mels: 20}", "dset.highpass=0.5", "dummy=null"],
    ["model=decoder_convrnn", "convrnn.hidden={meg: 64}", "+selections.simulated.story='a b'", "cache=${dora.dir}/x"],
    ["feature_model=deep_mel", "feature_model_params.kernel=5", "optim={lr: 0.1, loss: mse}", "test.topk=[1,2]"],
])
def test_as_hydra_does(overrides):
    with initialize_config_dir(str(main.full_config_path), version_base="1.3"):
        expected = HydraMain._get_config_noinit(main, overrides)
        found = main._get_config_noinit(overrides)
        assert to_plain(found) == to_plain(expected) and list(found) == list(expected)
        found.seed = 99  # what is kept for the next one is another
        assert main._get_config_noinit(overrides).seed == expected.seed
