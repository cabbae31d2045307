"""One run of an XP at a time: who holds it, how it ended, and ranks that wait for the first."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bm.xp_lock import BUSY, OWNER, Owner, failure_of, hold, is_running, note_failure, owner_of, start_time, state_of

ROOT = Path(__file__).parents[1]
HOLD = "import sys, time; from pathlib import Path; from bm.xp_lock import hold\n" \
       "with hold(Path(sys.argv[1]), int(sys.argv[2]), 2): print('held', flush=True); exec(sys.argv[3])"


def start(folder: Path, code: str, rank: int = 0, **kwargs) -> subprocess.Popen:
    """A process that holds the XP while it runs `code`."""
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(rank), code], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def held(process: subprocess.Popen) -> subprocess.Popen:
    assert process.stdout.readline() == "held\n", process.stderr.read()
    return process


def test_a_second_start_says_who_holds_it(tmp_path):
    first = held(start(tmp_path, "time.sleep(60)"))
    assert is_running(tmp_path) and state_of(tmp_path) == "running"
    owner = owner_of(tmp_path)
    assert owner.pid == first.pid and owner.is_here and abs(owner.since - time.time()) < 30
    second = start(tmp_path, "pass")
    out, error = second.communicate(timeout=30)
    assert second.returncode == BUSY and out == ""
    assert f"process {first.pid} on {owner.host}, since 20" in error and tmp_path.name in error
    assert first.poll() is None and owner_of(tmp_path) == owner
    # however it dies, the lock is free
    first.kill()
    first.wait()
    assert not is_running(tmp_path) and state_of(tmp_path) == "interrupted" and not owner_of(tmp_path).is_here
    third = held(start(tmp_path, "pass"))
    assert third.wait(timeout=30) == 0 and owner_of(tmp_path) is None


def test_a_look_does_not_refuse_a_start(tmp_path):
    held(start(tmp_path, "pass")).wait(timeout=30)
    starting = start(tmp_path, "pass")
    while starting.poll() is None:
        is_running(tmp_path)
    assert starting.returncode == 0


def test_how_it_ended(tmp_path):
    assert state_of(tmp_path) == "new"
    with pytest.raises(RuntimeError), hold(tmp_path, 0, 1):
        raise RuntimeError("no such luck")
    assert state_of(tmp_path) == "failed" and failure_of(tmp_path) == "RuntimeError: no such luck"

    def ends_as_hydra_does() -> None:
        with hold(tmp_path, 0, 1):
            assert state_of(tmp_path) == "running" and not failure_of(tmp_path)  # another chance
            note_failure(tmp_path, ValueError("what is wrong"))
            raise SystemExit(1)

    with pytest.raises(SystemExit):
        ends_as_hydra_does()
    assert failure_of(tmp_path) == "ValueError: what is wrong"
    with pytest.raises(KeyboardInterrupt), hold(tmp_path, 0, 1):
        raise KeyboardInterrupt
    assert state_of(tmp_path) == "interrupted"
    (tmp_path / "result.json").write_text("{}")
    assert state_of(tmp_path) == "finished"


def test_ranks_wait_for_the_first(tmp_path):
    (tmp_path / OWNER).write_text('{"host": "", "pid": 1, "since": 0, "started": 0, "launch": "an older run"}')
    other = start(tmp_path, "pass", rank=1)  # of this process's own launch: the same parent
    time.sleep(1.0)
    assert other.poll() is None
    first = held(start(tmp_path, "time.sleep(60)"))
    assert other.wait(timeout=30) == 0
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == -signal.SIGTERM


def test_a_number_used_again_is_another_process():
    me = Owner("", os.getpid(), 0.0, start_time(os.getpid()), "")
    assert start_time(os.getpid()) > 0 and not me.is_here  # another host
    import socket
    assert Owner(socket.gethostname(), me.pid, 0.0, me.started, "").is_here
    assert not Owner(socket.gethostname(), me.pid, 0.0, me.started - 1, "").is_here
