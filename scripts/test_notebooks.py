"""From nothing to a paper's tables: the demo's sweep, its report, and the notebooks that read the evaluation files."""
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bm.analysis import grids

ROOT = Path(__file__).parents[1]
DECODING = ["table1_studies", "table2_main", "table4_ablations", "figures", "own_data"]


def call(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_names_and_what_is_not_made_yet(monkeypatch, tmp_path):
    for name in ("BM_SIGS", "BM_SIG", "BM_GRID"):
        monkeypatch.delenv(name, raising=False)
    assert grids.chosen_names("layers") == ["layers"]
    monkeypatch.setenv("BM_GRID", "one, other")
    assert grids.chosen_names("layers") == ["one", "other"]
    monkeypatch.setenv("BM_SIGS", "ab,cd ef")
    assert grids.chosen_names("layers") == ["ab", "cd", "ef"]
    with pytest.raises(grids.NotMade, match="scripts.run_grid layers, or dora run") as caught:
        grids.xp_folders(["layers"], tmp_path)
    assert caught.value._render_traceback_() == [str(caught.value)]  # what a notebook shows


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The demo grid, trained."""
    pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    folder = tmp_path_factory.mktemp("paper")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BM_GRID": "demo"} | {
        f"BM_{name.upper()}": str(folder / name) for name in ("outputs", "cache", "data")}
    call(environment, "scripts.run_grid", "demo", "--jobs", "2")
    return environment


@pytest.mark.slow
def test_two_commands_make_the_main_table(environment):
    said = call(environment, "scripts.report", "--grid", "demo")
    folder = Path(environment["BM_OUTPUTS"]) / "eval/grids/demo"
    table = pd.read_csv(folder / "main_table.csv")
    assert len(table) == 4 and (table["n_seeds"] == 2).all() and (table["mean"] > table["low"]).all()
    assert (table["low"] > table["chance"]).all() and "lr=0.003" in said
    assert "\\toprule" in (folder / "main_table.tex").read_text()
    page = (folder / "report.html").read_text()
    assert "Main table" in page and "No control was evaluated" in page


@pytest.mark.slow
def test_notebooks(environment, tmp_path):
    call(environment, "scripts.run_eval_probs", "grid_name=demo")
    call(environment, "scripts.run_eval_probs", "grid_name=demo", "control=untrained")
    books = [f"notebook_templates/{name}.ipynb" for name in DECODING]
    call(environment, "scripts.notebook", *books, "--output", str(tmp_path))
    for name in DECODING:
        page = (tmp_path / f"{name}.html").read_text()
        assert "<table" in page and ("data:image/png" in page) == (name != "table1_studies"), name


def test_templates_hold_no_outputs():
    import json
    for path in (ROOT / "notebook_templates").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), f"clear the outputs of {path.name}"
