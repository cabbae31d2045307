"""The demo's sweep, really run: what a runner does to it, and what happens when parts of it are killed."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bm.xp_lock import BUSY, start_time, state_of
from grids._utils import collect
from grids.demo import explorer
from scripts import run_grid
from scripts.grid_pool import LOG, Job, Pool

ROOT = Path(__file__).parents[1]
#: two seeds, and one with a network on top of the mel bands
SOME = ("0", "1", "4")


@pytest.fixture(scope="module")
def listed() -> list:
    every = collect(explorer)
    return [every[int(i)] for i in SOME]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Where the simulated study is made and cached, once for all tests here."""
    return tmp_path_factory.mktemp("data")


def environment(home: Path, data: Path) -> dict[str, str]:
    return {"BM_OUTPUTS": str(home / "outputs"), "BM_CACHE": str(data / "cache"), "BM_DATA": str(data / "data"),
            "OMP_NUM_THREADS": "1"}


def start(home: Path, data: Path, module: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-u", "-m", module, *arguments], cwd=ROOT, text=True,
                            env={**os.environ, **environment(home, data)}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def history(folder: Path) -> list[dict]:
    """All that was measured but for how long it took."""
    epochs = json.loads((folder / "history.json").read_text()) if (folder / "history.json").exists() else []
    return [{stage: {name: value for name, value in values.items() if name != "duration"}
             for stage, values in epoch.items()} for epoch in epochs]


def wait(condition, process: subprocess.Popen | None = None, limit: float = 120) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)


def process_of(folder: Path) -> int:
    return json.loads((folder / "running.json").read_text())["pid"]


def trains(folder: Path) -> bool:
    return (folder / "running.json").exists() and (folder / "checkpoint.th").exists() and len(history(folder)) > 0


def left_behind(home: Path) -> list[str]:
    """Processes, zombies too, that still know this test's folder, or whose parent is this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            knows = str(home / "outputs").encode() in (path / "environ").read_bytes()
        except OSError:
            continue
        if knows or (state == "Z" and int(parent) == os.getpid()):
            found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_arguments(capsys, monkeypatch, tmp_path):
    for arguments, said in [(["dmo"], "no grid 'dmo'; there are: demo, "), (["demo", "--jobs", "0"], "at least 1"),
                            (["demo", "--only", "zz"], "no such XP; it has "), (["demo", "99"], "from 0 to 7"),
                            (["demo", "no_such_name"], "no XP fits no_such_name")]:
        with pytest.raises(SystemExit, match=said):
            run_grid.main(arguments)
    monkeypatch.setattr(run_grid.train_main.dora, "dir", tmp_path)
    assert run_grid.main(["demo", "--dry_run", "--gpus", "none", "feature_model", "!seed"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out  # no terminal, no colours
    assert "2 of 2 XPs would start, 1 at once, on the CPU" in out and out.count("NEW") == 2
    assert not list(tmp_path.iterdir())


def test_colours_are_for_terminals(monkeypatch):
    assert explorer.get_colors() is None
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert len(explorer.get_colors()) == 2
    monkeypatch.setenv("NO_COLOR", "1")
    assert explorer.get_colors() is None


def test_what_is_no_longer_asked_for(monkeypatch, tmp_path, capsys):
    """Its link goes; it is stopped only if a runner of this grid started it here."""
    monkeypatch.setattr(run_grid.train_main.dora, "dir", tmp_path)
    code = "import sys, time; from pathlib import Path; from bm.xp_lock import hold\n" \
           "with hold(Path(sys.argv[1]), 0, 1): print('held', flush=True); time.sleep(60)"
    grid = tmp_path / "grids/toys"
    grid.mkdir(parents=True)
    started = {}
    for name, owner in [("mine", "toys"), ("other", "")]:
        (tmp_path / "xps" / name).mkdir(parents=True)
        (grid / name).symlink_to(tmp_path / "xps" / name)
        started[name] = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "xps" / name)], cwd=ROOT,
                                         env={**os.environ, "BM_GRID": owner}, stdout=subprocess.PIPE,
                                         start_new_session=True)
        assert started[name].stdout.readline() == b"held\n"
    run_grid.link("toys", set(), [])
    assert started["mine"].wait(timeout=10) == -signal.SIGTERM and started["other"].poll() is None
    out = capsys.readouterr().out
    assert "mine is no longer asked for: stopped" in out and f"left to process {started['other'].pid}" in out
    assert not list(grid.iterdir()) and (tmp_path / "xps/mine").exists()
    started["other"].kill()
    started["other"].wait()


@pytest.mark.slow
def test_the_sweep_and_what_is_killed(tmp_path, data, listed):
    """The same histories as by hand, bit for bit, also when a worker and then the runner are killed in the middle."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    by_hand = [start(alone, data, "dora", "run", *one.xp.argv) for one in listed]
    for process in by_hand:
        finish(process)
    sigs = [one.xp.sig for one in listed]
    expected = [history(alone / "outputs/xps" / sig) for sig in sigs]
    assert [len(one) for one in expected] == [6, 6, 6]

    folders = [killed / "outputs/xps" / sig for sig in sigs]
    first = start(killed, data, "scripts.run_grid", "demo", *SOME, "--jobs", "2", "--interval", "2")
    wait(lambda: trains(folders[0]), first)
    os.kill(process_of(folders[0]), signal.SIGKILL)
    wait(lambda: trains(folders[2]) or state_of(folders[2]) == "finished", first)  # the pool goes on without it
    assert state_of(folders[0]) == "interrupted"
    first.kill()
    first.wait()
    assert "was killed by SIGKILL" in first.stdout.read()
    wait(lambda: not left_behind(killed), limit=20)
    assert state_of(folders[2]) in ("interrupted", "finished")
    finish(start(killed, data, "scripts.run_grid", "demo", *SOME, "--jobs", "2"))
    assert [state_of(folder) for folder in folders] == ["finished"] * 3
    assert [history(folder) for folder in folders] == expected
    assert "resumed after epoch" in (folders[0] / LOG).read_text()
    assert {path.name for path in (killed / "outputs/grids/demo").iterdir()} == set(sigs)
    times = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    assert " started: " not in finish(start(killed, data, "scripts.run_grid", "demo", *SOME))  # nothing to do
    assert times == [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    assert not left_behind(killed)


@pytest.mark.slow
def test_no_xp_runs_twice_at_once(tmp_path, data, listed):
    """However it is started a second time: by hand, anew, by several processes; the first one is not disturbed."""
    argv = [*listed[0].xp.argv, "optim.epochs=100000", "early_stop_patience=0"]
    first = start(tmp_path, data, "dora", "run", *argv)
    try:
        wait(lambda: any(map(trains, (tmp_path / "outputs/xps").glob("*"))), first)
        (folder,) = (tmp_path / "outputs/xps").iterdir()
        more = {(): BUSY, ("--clear",): 1, ("-d", "--ddp_workers", "2"): 1}
        second = [start(tmp_path, data, "dora", "run", *arguments, "--", *argv) for arguments in more]
        for process, code in zip(second, more.values(), strict=True):
            out = finish(process, code)
            assert f"process {first.pid} on " in out and "is running already" in out
        epochs = len(history(folder))
        wait(lambda: len(history(folder)) > epochs, first)
    finally:
        first.kill()
        first.wait()
    wait(lambda: not left_behind(tmp_path), limit=20)


@pytest.mark.slow
def test_several_processes_and_a_failure(tmp_path, data, listed, monkeypatch):
    """An XP of two processes ends with all of them; one that fails says why, and stays so until it is retried."""
    for name, value in environment(tmp_path, data).items():
        monkeypatch.setenv(name, value)
    main = run_grid.train_main
    monkeypatch.setattr(main.dora, "dir", tmp_path / "outputs")
    lines: list[str] = []
    both = [Job(main.get_xp([*listed[0].xp.argv, *extra]), n) for n, extra in
            [(2, ["dummy=two"]), (0, ["dummy=broken", "study_paths.simulated=/dev/null/nowhere"])]]
    pool = Pool(both, 2, say=lines.append)
    try:
        wait(lambda: pool.step() or trains(both[0].folder))
        for rank in Path(f"/proc/{both[0].process.pid}/task/{both[0].process.pid}/children").read_text().split():
            assert os.getpgid(int(rank)) == both[0].process.pid and start_time(int(rank))
        wait(lambda: (pool.step(), pool.done())[1])
    finally:
        pool.stop()
    assert [job.status for job in both] == ["finished", "failed"]
    said = next(line for line in lines if "FAILED" in line)
    assert "nowhere" in said and str(both[1].folder / LOG) in said
    again = [Job(both[1].xp, 0) for _ in range(2)]
    assert Pool(again[:1], 1).done() and not Pool(again[1:], 1, retry=True).done()
    assert not left_behind(tmp_path)
