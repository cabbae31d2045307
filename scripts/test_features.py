import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bm.conftest import shared_data as shared_data  # a fixture
from bm.features.check import speechlike
from bm.features.model_files import fetch_command
from bm.solvers.test_decode import TINY
from scripts.features import main
from scripts.test_commands import ROOT, dora, environment


@pytest.fixture
def hub(monkeypatch):
    """The hub, replaced by a list of files; what is asked of it is kept."""
    import huggingface_hub
    asked = {}

    def download(name, local_dir, allow_patterns):
        asked.update(name=name, local_dir=Path(local_dir), patterns=allow_patterns)
        Path(local_dir).mkdir(parents=True)
        (Path(local_dir) / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: asked["files"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


@pytest.mark.parametrize("files, weights", [
    (["config.json", "model.safetensors", "pytorch_model.bin"], "*.safetensors"),
    (["config.json", "pytorch_model.bin", "flax_model.msgpack"], "pytorch_model*.bin")])
def test_fetch_takes_one_kind_of_weights(hub, tmp_path, capsys, files, weights):
    hub["files"] = files
    command = fetch_command("org/name", tmp_path).split()
    assert command[:3] == ["python", "-m", "scripts.features"]
    main(command[3:])
    assert hub["local_dir"] == tmp_path / "org--name" and capsys.readouterr().out.strip().endswith("org--name")
    assert hub["patterns"][-1] == weights


def test_fetch_says_what_is_wrong(hub, monkeypatch, tmp_path):
    hub["files"] = ["README.md"]
    with pytest.raises(SystemExit, match="has no weights"):
        main(["fetch", "org/name", "--to", str(tmp_path)])

    def fail(name):
        raise OSError("no route to host\nmore")
    monkeypatch.setattr("huggingface_hub.list_repo_files", fail)
    with pytest.raises(SystemExit, match="no route to host. Is the name right"):
        main(["fetch", "org/name", "--to", str(tmp_path)])


def test_weights_that_are_there_are_not_fetched(hub, tmp_path, capsys):
    folder = tmp_path / "org--name"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first, second = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": first, "b": second}}))
    (folder / first).touch()
    hub["files"] = []
    with pytest.raises(SystemExit, match="has no weights"):  # half of them: the hub is asked
        main(["fetch", "org/name", "--to", str(tmp_path)])
    (folder / second).touch()
    capsys.readouterr()
    main(["fetch", "org/name", "--to", str(tmp_path)])
    said = capsys.readouterr()
    assert said.out.strip() == str(folder) and said.err.startswith("org/name is there already")


def test_an_xp_without_features_over_time_is_one_line(tmp_path, monkeypatch):
    from bm.config import to_plain
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    xp = train.get_xp(["preset=layers"])
    xp.folder.mkdir(parents=True)
    (xp.folder / "config.json").write_text(json.dumps(to_plain(xp.cfg)))
    with pytest.raises(SystemExit, match=f"^XP {xp.sig} .task.type=ridge. compares layers .* no features over time"):
        main(["show", xp.sig])
    with pytest.raises(SystemExit, match="^'sound.wav' is no file, and there is no XP 'sound.wav' in "):
        main(["show", "sound.wav"])


GRID = """File type = "ooTextFile"
Object class = "TextGrid"
0
3
<exists>
2
"IntervalTier"
"words"
0
3
2
0
1.2
"ferry"
1.2
3
""
"IntervalTier"
"phones"
0
3
1
0.1
0.4
"F"
"""


def test_show_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BM_OUTPUTS", str(tmp_path / "outputs"))
    soundfile.write(tmp_path / "x.wav", speechlike(3.0), 16_000)
    (tmp_path / "x.TextGrid").write_text(GRID)
    out = tmp_path / "pictures" / "x.png"
    main(["show", str(tmp_path / "x.wav"), "--features", "Envelope,MelSpectrum,Pitch", "--start", "0.5", "--out",
          str(out)])
    assert out.read_bytes()[:4] == b"\x89PNG" and "Pitch, 0.5 to 3" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="show an XP"):
        main(["show", str(tmp_path / "x.wav"), "--features", "WordLength", "--out", str(out)])


@pytest.mark.slow
def test_computed_ahead_and_shown(tmp_path, shared_data):
    """The XP finds what `compute` has made, and `show` draws what its model saw."""
    import subprocess
    env = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}
    models = tmp_path / "models" / "openai--whisper-tiny.en"
    shutil.copytree(shared_data("whisper_tiny_en_encoder"), models)
    overrides = [*TINY, "dset.features=[SpeechModel,Envelope]", f"features_models={tmp_path / 'models'}",
                 "dset.feature_resampling=nearest", "optim.epochs=1"]

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "scripts.features", *arguments], cwd=ROOT, env=env,
                              capture_output=True, text=True)
    done = call("compute", *overrides)
    assert done.returncode == 0, done.stderr
    assert "SpeechModel:" in done.stdout and "of 384 (float16" in done.stdout
    made = sorted((tmp_path / "cache").rglob("rows.npy"))
    run = dora(tmp_path, "run", *overrides)
    assert run.returncode == 0, run.stderr
    assert sorted((tmp_path / "cache").rglob("rows.npy")) == made
    sig = (run.stdout + run.stderr).split("XP ")[1].split(" ")[0]
    out = tmp_path / "x.png"
    done = call("show", sig, "--seconds", "5", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 10_000
    rows = np.load(next(path for path in made if "bank/SpeechModel" in str(path)), mmap_mode="r")
    assert rows.dtype == np.float16 and rows.shape[1] == 384


@pytest.mark.slow
def test_computed_by_jobs(tmp_path):
    """An array of jobs, here as processes of this machine; one that fails is named."""
    import subprocess
    env = environment(tmp_path) | {"PYTHONPATH": str(ROOT)}

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "scripts.features", "compute", *arguments, "--cluster", "local",
                               "--gpus", "0"], cwd=ROOT, env=env, capture_output=True, text=True)
    done = call(*TINY, "dset.features=[Envelope,WordLength]")
    assert done.returncode == 0, done.stderr
    assert "2 jobs" in done.stdout and "Envelope: done" in done.stdout and "WordLength: done" in done.stdout
    assert {path.parents[1].name for path in (tmp_path / "cache" / "bank").rglob("rows.npy")} == {"Envelope",
                                                                                                "WordLength"}
    done = call(*TINY, "dset.features=[Envelope,SpeechModel]", "dset.features_params.SpeechModel.model=nobody/net")
    assert done.returncode == 1 and "SpeechModel: " in done.stderr and "nobody/net" in done.stderr
