"""The guides in docs/ are followed to the letter: every block of code in them, in order, in a clone of its own."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- (?P<what>file|edit): (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
                   re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(tmp_path) -> Path:
    """What of the repository the commands need, to write into."""
    for folder in ("bm", "conf", "grids", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    shutil.copy(ROOT / "bm" / "test_checks.py", tmp_path / "bm")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def edited(file: Path, diff: str) -> str:
    """The text of a file after a diff without line numbers; each of its parts must fit one place."""
    text = file.read_text()
    for part in diff.rstrip("\n").split("\n\n"):
        old, new = ("\n".join(line[1:] for line in part.split("\n") if line[0] in signs) for signs in (" -", " +"))
        assert text.count(old) == 1, f"{file.name} has {text.count(old)} places for: {old}"
        text = text.replace(old, new)
    return text


def follow(page: str, clone: Path) -> list[str]:
    """Writes the files and runs the commands of a page; returns what each command printed."""
    blocks = list(BLOCK.finditer((ROOT / "docs" / page).read_text()))
    assert len(blocks) == (ROOT / "docs" / page).read_text().count("```") / 2, "a block of code has no language"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    outside = {key: value for key, value in os.environ.items() if key not in ("BM_DATA", "BM_CACHE", "BM_OUTPUTS")}
    printed = []
    for block in blocks:
        if block["file"]:
            file = clone / block["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(edited(file, block["code"]) if block["what"] == "edit" else block["code"])
            continue
        assert block["language"] == "sh", f"{page}: a block of {block['language']} that names no file"
        done = subprocess.run(["bash", "-e", "-c", block["code"]], cwd=clone, capture_output=True, text=True,
                              env={**outside, "PATH": path, "PYTHONPATH": str(clone)}, check=False)
        assert done.returncode == 0, f"{page}: {block['code']}{done.stdout[-2000:]}{done.stderr[-4000:]}"
        printed.append(done.stdout + done.stderr)
    return printed


@pytest.mark.slow
def test_add_your_data(clone):
    _, checked, trained, own = follow("add_your_data.md", clone)
    assert "bids-my_study/sub-02_task-listen (" in checked and "{'word': 320, 'sound': 1}" in checked
    assert "epoch 3/3" in trained and "leak audit" in trained and "my_lab passes" in own
    top10, chance = (float(re.findall(rf"\b{key}[= ]([\d.]+)", trained)[-1]) for key in ("top10", "top10_chance"))
    assert top10 > 1.5 * chance


@pytest.mark.slow
@pytest.mark.parametrize("page", ["add_a_feature.md", "add_a_model.md"])
def test_add_a_part(clone, page):
    printed = follow(page, clone)
    assert "passed" in printed[-2] and "epoch 1/1" in printed[-1]


@pytest.mark.slow
def test_sweeps(clone):
    dry, listed, removed = follow("sweeps.md", clone)
    assert "4 of 4 XPs would start" in dry and dry.count(" finished after ") == 4
    assert listed.count("finished") == 4 and "feature_model=deep_mel" in listed and "removed 4 XPs" in removed


def test_every_option_is_in_the_guide():
    from bm.studies.bids_options import COLUMNS, BidsOptions
    page = (ROOT / "docs" / "add_your_data.md").read_text()
    assert [key for key in BidsOptions.model_fields if f"`{key}`" not in page] == []
    assert ", ".join(COLUMNS) in page
