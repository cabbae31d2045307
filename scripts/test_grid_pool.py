"""The pool's decisions, with processes that train nothing: order, GPUs, locks, failures, kills, nothing left behind."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bm.xp_lock import start_time, state_of
from scripts.grid_pool import LOG, Job, Pool

ROOT = Path(__file__).parents[1]
#: what trains: holds the lock as `bm.train` does, says when and on which GPUs it ran, sleeps, ends
TRAIN = """
import json, os, subprocess, sys, time
from pathlib import Path
from bm.xp_lock import hold
folder, seconds, code = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
with hold(folder, 0, 1):
    begin = time.time()
    child = subprocess.Popen(["sleep", "100"])  # as a loader's worker
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(seconds)
    print("the end of", folder.name, flush=True)
    if code:
        sys.exit(code)
    child.kill()
    (folder / "result.json").write_text(json.dumps(
        {"begin": begin, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "grid": os.environ["BM_GRID"]}))
"""


@dataclass
class Toy:
    folder: Path
    seconds: float = 0.1
    code: int = 0

    @property
    def sig(self) -> str:
        return self.folder.name


def command(job: Job) -> list[str]:
    return [sys.executable, "-c", TRAIN, str(job.folder), str(job.xp.seconds), str(job.xp.code)]


def jobs(root: Path, *seconds: float, gpus: int = 1) -> list[Job]:
    return [Job(Toy(root / f"xp{i}", time), gpus) for i, time in enumerate(seconds)]


def run(pool: Pool, until=None, limit: float = 60) -> list[str]:
    """Steps until the pool is done, or `until()`."""
    end = time.monotonic() + limit
    while not (until() if until else pool.done()):
        assert time.monotonic() < end, [job.status for job in pool.jobs]
        pool.step()
        time.sleep(0.02)
    return [job.status for job in pool.jobs]


def results(some: list[Job]) -> list[dict]:
    return [json.loads((job.folder / "result.json").read_text()) for job in some]


def alive(folder: Path) -> list[int]:
    return [pid for pid in map(int, (folder / "pids").read_text().split()) if start_time(pid)]


@pytest.fixture(autouse=True)
def _home(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_order_gpus_and_size(tmp_path):
    lines: list[str] = []
    some = jobs(tmp_path, 0.3, 0.3, 0.3, 0.3)
    some[2].gpus = 2
    pool = Pool(some, 2, ["3", "5"], "toys", say=lines.append, command=command)
    with_most = 0
    while not pool.done():
        pool.step()
        with_most = max(with_most, len(pool.running()))
        busy = [gpu for job in pool.running() for gpu in job.devices]
        assert all(busy.count(gpu) <= 2 for gpu in busy)  # two jobs that may want two each: GPUs are shared
        time.sleep(0.02)
    pool.stop()
    found = results(some)
    assert with_most == 2 and [one["gpus"] for one in found][:3] == ["3", "5", "3,5"] and found[0]["grid"] == "toys"
    assert found[0]["begin"] < found[2]["begin"] and sorted(pool.free) == ["3", "3", "5", "5"]
    assert sum("started on GPU" in line for line in lines) == 4 and sum("finished after" in line for line in lines) == 4


def test_without_gpus_and_more_wanted_than_there_are(tmp_path):
    some = jobs(tmp_path, 0.0, gpus=4)
    pool = Pool(some, 1, ["0", "1"], command=command)
    assert run(pool) == ["finished"] and results(some)[0]["gpus"] == "0,1" and some[0].gpus == 2
    pool.stop()
    cpu = [Job(Toy(tmp_path / "cpu"), 0)]
    pool = Pool(cpu, 1, ["0"], command=command)
    assert run(pool) == ["finished"] and results(cpu)[0]["gpus"] == ""
    pool.stop()


def test_finished_failed_and_retried(tmp_path):
    lines: list[str] = []
    some = jobs(tmp_path, 0.0, 0.0)
    some[1].xp.code = 3
    pool = Pool(some, 2, say=lines.append, command=command)
    assert run(pool) == ["finished", "failed"]
    pool.stop()
    said = next(line for line in lines if "FAILED" in line)
    assert "exit code 3" in said and "  | the end of xp1" in said and str(some[1].folder / LOG) in said
    assert not alive(some[1].folder)  # what the failed one started has ended with it
    before = results(some[:1])
    again = Pool(jobs(tmp_path, 0.0, 0.0), 2, say=lines.append, command=command)
    assert again.done() and [job.status for job in again.jobs] == ["finished", "failed"]
    third = Pool(jobs(tmp_path, 0.0, 0.0), 2, retry=True, say=lines.append, command=command)
    assert run(third) == ["finished", "finished"] and results(some[:1]) == before
    third.stop()
    assert (some[1].folder / LOG).read_text().count("the end of xp1") == 2


def test_one_that_is_killed_can_be_resumed(tmp_path):
    lines: list[str] = []
    some = jobs(tmp_path, 30.0, 0.0)
    pool = Pool(some, 2, say=lines.append, command=command)
    run(pool, until=(some[0].folder / "pids").exists)
    os.kill(some[0].process.pid, signal.SIGKILL)
    assert run(pool) == ["interrupted", "finished"] and not alive(some[0].folder)
    assert any("killed by SIGKILL" in line for line in lines)
    pool.stop()
    again = Pool(jobs(tmp_path, 0.0, 0.0), 1, say=lines.append, command=command)
    assert run(again) == ["finished", "finished"]
    again.stop()


def test_an_xp_that_runs_elsewhere_is_waited_for(tmp_path):
    lines: list[str] = []
    (other,) = jobs(tmp_path, 3.0)
    first = Pool([other], 1, say=lines.append, command=command)
    run(first, until=(other.folder / "pids").exists)
    some = jobs(tmp_path, 0.0, 0.0)
    pool = Pool(some, 1, say=lines.append, command=command)
    run(pool, until=lambda: some[1].status == "finished")
    assert some[0].status == "elsewhere" and some[0].process is None
    assert any(f"run by process {other.process.pid} on" in line for line in lines)
    run(first)
    assert run(pool) == ["finished", "finished"] and some[0].process is None
    for one in (first, pool):
        one.stop()


def test_stop_ends_all_that_was_started(tmp_path):
    some = jobs(tmp_path, 30.0, 30.0, 30.0)
    pool = Pool(some, 2, command=command)
    run(pool, until=lambda: all((job.folder / "pids").exists() for job in some[:2]))
    pool.stop()
    assert [job.status for job in some] == ["interrupted", "interrupted", "waiting"]
    assert not [pid for job in some[:2] for pid in alive(job.folder)]
    assert [state_of(job.folder) for job in some] == ["interrupted", "interrupted", "new"]


DRIVE = """
import sys
from pathlib import Path
from scripts.grid_pool import Pool, drive
from scripts.test_grid_pool import command, jobs
sys.exit(drive(Pool(jobs(Path(sys.argv[1]), 60.0, 60.0), 2, command=command), lambda: None, 1.0))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_the_runner_ends_its_processes(tmp_path, number):
    runner = subprocess.Popen([sys.executable, "-c", DRIVE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "BM_OUTPUTS": str(tmp_path / "outputs")})
    pids = [tmp_path / f"xp{i}" / "pids" for i in range(2)]
    end = time.monotonic() + 60
    while not all(path.exists() for path in pids):
        assert time.monotonic() < end and runner.poll() is None
        time.sleep(0.1)
    runner.send_signal(number)
    out, _ = runner.communicate(timeout=30)
    assert runner.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert "the next run goes on" in out
    end = time.monotonic() + 10
    while any(alive(path.parent) for path in pids):
        assert time.monotonic() < end, "processes are left behind"
        time.sleep(0.05)
    assert [state_of(path.parent) for path in pids] == ["interrupted", "interrupted"]
