"""From sounds and voxels to tables about layers: XPs by `dora run`, the command, the report and the notebook."""
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bm.studies.twins import make_twin
from scripts.layers import main

ROOT = Path(__file__).parents[1]
CODE = '''
import torch


class Bands(torch.nn.Module):
    """Power of filtered sound, and a mixture of these powers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.filters = torch.nn.Conv1d(1, 16, 64, 16)
        self.mix = torch.nn.Linear(16, 8)

    def forward(self, audio):
        return self.mix(self.filters(audio[:, None]).pow(2).mean(2).log())


def network():
    return Bands()
'''


def call(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_grid_from_training_to_the_notebook(tmp_path):
    pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    (tmp_path / "bands_for_tests.py").write_text(CODE)
    twin = make_twin("nh2015", tmp_path / "twin", sounds=40)
    outputs = tmp_path / "outputs"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path), "BM_OUTPUTS": str(outputs),
                   "BM_CACHE": str(tmp_path / "cache"), "BM_GRID": "tiny"}
    common = ["dora", "run", "preset=layers", "device=cpu", f"study_paths.nh2015={twin}", "dset.selections=[nh2015]",
              "+selections.nh2015.n_sounds=40", "encoding.model='bands_for_tests:network'", "encoding.n_splits=4"]
    for more in ([], ["encoding.permuted=true"], ["task.type=rsa"]):
        call(environment, *common, *more)
    sigs = [path.name for path in (outputs / "xps").iterdir()]
    (outputs / "grids/tiny").mkdir(parents=True)
    for sig in sigs:  # as dora lays out a grid
        (outputs / "grids/tiny" / sig).symlink_to(outputs / "xps" / sig)
    assert len(sigs) == 3

    said = call(environment, "scripts.layers", "tiny")
    folder = outputs / "layers/tiny"
    networks = pd.read_csv(folder / "networks.csv")
    assert networks[["task", "weights"]].to_numpy().tolist() == [
        ["ridge", "trained"], ["ridge", "permuted"], ["rsa", "trained"]]
    assert (networks["n_subjects"] == 2).all() and networks["score"].between(0, 1.5).all()
    assert "bands_for_tests:network" in said and "differences" in said
    assert {"pairs.csv", "regions.csv", "curves.csv", "dimensionality.csv", "diagnostics.csv", "responses.csv"} <= {
        path.name for path in folder.iterdir()}
    assert len(list(folder.glob("*.png"))) >= 6 and "Dimensionality" in (folder / "layers.html").read_text()

    for sig in networks["sig"].iloc[[0, -1]]:
        call(environment, "scripts.report", sig)
        page = (outputs / "xps" / sig / "report.html").read_text()
        assert "Layers" in page and ("Dissimilarity of sounds" in page) == (sig == networks["sig"].iloc[-1])
    call(environment, "scripts.notebook", "notebook_templates/layers.ipynb", "--output", str(tmp_path / "book"))
    page = (tmp_path / "book/layers.html").read_text()
    assert "<table" in page and "data:image/png" in page


def test_what_a_grid_lacks_is_run_first(monkeypatch):
    asked = []
    monkeypatch.setattr("scripts.run_grid.main", lambda argv: asked.append(argv) or 1)
    with pytest.raises(SystemExit, match="XPs of layers failed"):
        main(["layers", "--run"])
    assert asked == [["layers"]]


def test_nothing_of_that_name(tmp_path, monkeypatch):
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    with pytest.raises(SystemExit, match="neither a launched grid nor an XP"):
        main(["nothing"])


def test_signatures_are_not_run(tmp_path, monkeypatch):
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    (tmp_path / "xps/abcd1234").mkdir(parents=True)
    asked = []
    monkeypatch.setattr("scripts.run_grid.main", lambda argv: asked.append(argv) or 1)
    with pytest.raises(SystemExit, match="XPs of layers failed"):
        main(["abcd1234", "layers", "--run"])
    assert asked == [["layers"]]
