import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bm.config import ConfigError, check_config, check_stored, config_difference, to_plain

CONF = Path(__file__).parents[1] / "conf"


def plain(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", list(overrides)))


def test_every_preset_and_model_is_valid():
    for group in ("preset", "model", "feature_model"):
        for path in (CONF / group).glob("*.yaml"):
            check_config(plain(f"{group}={path.stem}"))


def test_the_paper():
    cfg = check_config(plain("preset=nmi"))
    assert (cfg.optim.batch_size, cfg.optim.epochs, cfg.optim.max_batches) == (256, 200, 1200)
    assert cfg.dset.sample_rate == 120
    assert (cfg.simpleconv["depth"], cfg.simpleconv["merger_channels"], cfg.task.offset_meg_ms) == (10, 270, 150)
    assert cfg.dset.feature_resampling == "nearest" and cfg.dset.features_params["MelSpectrum"]["n_mels"] == 120
    small = check_config(plain("preset=nmi", "model=clip_conv_small"))
    assert small.simpleconv["depth"] == 4 and small.dset.sample_rate == 120


@pytest.mark.parametrize("override, message", [
    ("optim.lr=-1", "optim.lr=-1: input should be greater than 0"),
    ("optim.lr=fast", 'optim.lr="fast": input should be a valid number'),
    ("optim.epochs=2.5", "optim.epochs=2.5: .*valid integer"),
    ("optim.loss=clp", "optim.loss=\"clp\": input should be 'clip', 'l1'"),
    ("+optim.learning_rate=1", "unknown key 'optim.learning_rate'"),
    ("+optm={lr: 1}", "unknown key 'optm'; did you mean 'optim'"),
    ("+dset.sampling_rate=100", "unknown key 'dset.sampling_rate'; did you mean 'dset.sample_rate'"),
    ("dset.tmin=3", r"dset.tmin \(3.0\) must be below dset.tmax"),
    ("dset.test_ratio=0.95", "nothing is left to train on"),
    ("dset.test_ratio=-0.1", "dset.test_ratio=-0.1: input should be greater than or equal to 0"),
    ("dset.highpass=30", "must be below half of dset.sample_rate"),
    ("dset.selections=[gwiliams]", "unknown selection 'gwiliams'"),
    ("dset.selections=[]", "dset.selections=.*at least 1 item"),
    ("task.offset_meg_ms=4000", "leaves nothing of a window of 3 s"),
    ("dset.features=MelSpectrum", "dset.features=\"MelSpectrum\": input should be a valid list"),
])
def test_faults_are_one_clear_line(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(plain(override))
    assert "\n" not in str(caught.value)


def test_deep_mel_needs_a_contrast():
    with pytest.raises(ConfigError, match="won by a constant"):
        check_config(plain("feature_model=deep_mel", "optim.loss=mse"))


def test_stored_config(tmp_path):
    old = plain()
    check_stored(tmp_path, "abc", old, ["device", "study_paths.*"])
    assert json.loads((tmp_path / "config.json").read_text()) == old
    check_stored(tmp_path, "abc", plain("device=cpu", "study_paths.simulated=/elsewhere"), ["device", "study_paths.*"])
    moved = json.loads((tmp_path / "config.json").read_text())
    assert moved["study_paths"]["simulated"] == "/elsewhere" and moved["device"] == "cpu"  # as it was last started
    with pytest.raises(ConfigError, match=r"optim.beta2: 0.999 → 0.5.*--clear"):
        check_stored(tmp_path, "abc", plain("optim.beta2=0.5"), ["device"])
    new = plain("selections.simulated.seed=7")
    with pytest.raises(ConfigError, match=r"selections.simulated.seed: 0 → 7"):
        check_stored(tmp_path, "abc", new, [])
    del old["optim"]["beta2"], old["trf"]  # an XP from before there were these keys
    (tmp_path / "config.json").write_text(json.dumps(old))
    check_stored(tmp_path, "abc", plain(), [])
    with pytest.raises(ConfigError, match="optim.beta2: 0.999 → 0.5"):
        check_stored(tmp_path, "abc", plain("optim.beta2=0.5"), [])
    other = plain()
    other["selections"]["another"] = {"study": "simulated"}  # a selection this XP does not use
    check_stored(tmp_path, "abc", other, [])
    assert config_difference({"a": {"b": 1}}, {"a": {"b": 1, "c": {}}}, []) == ["a.c: (absent) → {}"]


@pytest.mark.parametrize("arguments, message", [
    (["optm.lr=1"], "config: unknown key 'optm.lr'; did you mean 'optim.lr'?"),
    (["lr=1"], "config: unknown key 'lr'; did you mean 'optim.lr'?"),
    (["preset=[lyers,trff]"], "config: unknown preset 'lyers'; did you mean 'layers'? unknown preset 'trff'; did "
                              "you mean 'trf'? known: eeg_motor, "),
    (["fast"], "config: cannot read the argument 'fast': expected key=value"),
    (["slurm.gpus=2"], "config: 'slurm.gpus=2' has no effect on an XP: set it in conf/config.yaml"),
])
def test_command_line_faults(arguments, message, tmp_path):
    done = subprocess.run([sys.executable, "-m", "dora", "run", *arguments], capture_output=True, text=True,
                          cwd=CONF.parent, env={"BM_OUTPUTS": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 1 and message in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
