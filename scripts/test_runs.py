"""The list of XPs on disk, how two differ, and what may be removed."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import runs

ROOT = Path(__file__).parents[1]
HOLD = "import sys; from pathlib import Path; from bm.xp_lock import hold\n" \
       "with hold(Path(sys.argv[1]), 0, 1): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Four XPs: finished, failed, interrupted, and never started; two grids."""
    monkeypatch.setenv("BM_OUTPUTS", str(tmp_path))
    for name, loss, files in [
            ("aaaa1111", 2.0, {"result.json": {"best_epoch": 1, "best_loss": 2.0, "test": {"top10": 0.5, "n": 7}}}),
            ("aabb2222", 1.5, {"failed.json": {"error": "ValueError: too loud"}}), ("cccc3333", 1.0, {}),
            ("dddd4444", None, {})]:
        folder = tmp_path / "xps" / name
        folder.mkdir(parents=True)
        config = {"seed": int(name[-1]), "optim": {"lr": 1.0}, "dora": {"dir": name}}
        files = {"config.json": config, ".argv.json": ["optim.lr=1.0", f"seed={name[-1]}"], **files}
        if loss is not None:
            files["history.json"] = [{"train": {"loss": 9.0}, "valid": {"loss": loss}},
                                     {"train": {"loss": 8.0}, "valid": {"loss": loss + 1}}]
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))
    for grid, sig in [("one", "aaaa1111"), ("one", "cccc3333"), ("nmi.two", "aaaa1111")]:
        (tmp_path / "grids" / grid).mkdir(parents=True, exist_ok=True)
        (tmp_path / "grids" / grid / sig).symlink_to(tmp_path / "xps" / sig)
    return tmp_path


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "xps").iterdir())


def test_ls(root, capsys):
    assert runs.main(["ls"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["aaaa1111"][1] == "finished" and lines["aaaa1111"][-5:] == ["2.0000", "top10", "0.500", "nmi.two,one",
                                                                            "seed=1"]
    assert [lines[sig][1] for sig in ("aabb2222", "cccc3333", "dddd4444")] == ["failed", "interrupted", "new"]
    runs.main(["ls", "--grid", "one", "--state", "interrupted"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["sig", "cccc3333"]
    with pytest.raises(SystemExit, match="no XP of a grid 'two'; grids with XPs: nmi.two, one"):
        runs.main(["ls", "--grid", "two"])


def test_show_and_diff(root, capsys):
    runs.main(["show", "aab"])
    out = capsys.readouterr().out
    assert "XP aabb2222: failed, 2 epochs" in out and "ValueError: too loud" in out and "last valid: loss 2.5" in out
    assert "again: dora run optim.lr=1.0 seed=2" in out
    runs.main(["diff", "aaa", "c"])
    assert capsys.readouterr().out == "seed: 1 → 3\n"
    with pytest.raises(SystemExit, match="'aa' begins 2 signatures: aa"):
        runs.main(["show", "aa"])
    with pytest.raises(SystemExit, match="'x' begins 0 signatures"):
        runs.main(["diff", "aaa", "x"])


def test_clean_asks_and_chooses(root, capsys):
    assert runs.main(["clean"]) == 1 and len(left(root)) == 4
    out = capsys.readouterr().out
    assert "aabb2222" in out and "dddd4444" in out and "aaaa1111" not in out and "cccc3333" not in out
    assert "nothing removed (--yes removes without asking)" in out
    assert runs.main(["clean", "--older-than", "1", "--yes"]) == 0 and len(left(root)) == 4
    day_ago = time.time() - 90_000
    for path in (root / "xps/aabb2222").iterdir():
        os.utime(path, (day_ago, day_ago))
    assert runs.main(["clean", "--older-than", "1", "--yes"]) == 0
    assert left(root) == ["aaaa1111", "cccc3333", "dddd4444"]
    assert runs.main(["clean", "--grid", "nmi.two", "--yes"]) == 0 and left(root) == ["cccc3333", "dddd4444"]
    assert sorted(path.name for path in (root / "grids").glob("*/*")) == ["cccc3333"]


def test_a_running_one_is_never_removed(root, capsys):
    folder = root / "xps/cccc3333"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert runs.main(["clean", "cccc", "dddd", "--yes"]) == 0
    out = capsys.readouterr().out
    assert f"cccc3333 is running (process {holder.pid} on " in out
    assert left(root) == ["aaaa1111", "aabb2222", "cccc3333"]
    one = next(run for run in runs.all_runs(root) if run.sig == "cccc3333")
    assert one.state == "running" and not runs.remove(root, one)
    assert f"by process {holder.pid}" in runs.description(one)
    holder.communicate("")
    assert runs.main(["clean", "cccc", "--yes"]) == 0 and left(root) == ["aaaa1111", "aabb2222"]


def test_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BM_OUTPUTS", str(tmp_path))
    with pytest.raises(SystemExit, match="no XPs in .*xps: dora run makes one there; BM_OUTPUTS names another"):
        runs.main(["ls"])
