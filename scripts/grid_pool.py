"""Runs XPs in a pool of processes on this machine: each in a process group of its own, pinned to GPUs, never twice.

The pool decides and watches; the training process itself holds the XP's lock and keeps what is needed to resume
(`bm/xp_lock.py`, `bm/solvers/base.py`). So a pool may be stopped or killed at any moment.
"""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bm.xp_lock import (
    BUSY,
    FAILED,
    GRID_VARIABLE,
    failure_of,
    is_running,
    note_failure,
    owner_of,
    start_time,
    state_of,
)

LOG = "local.log"
#: s that training processes have to end before they are killed
GRACE = 10.0
#: s between two looks at the processes
BEAT = 0.1
#: s between two looks at an XP that another process runs
LOOK = 2.0


@dataclass
class Job:
    """An XP in the pool; Dora's tables take it for one of its own jobs.

    Args:
        xp: with `sig` and `folder`.
        gpus: how many processes train it; 0 and 1 are one.
        name: for messages.
    """

    xp: Any
    gpus: int
    name: str = ""
    status: str = "waiting"     # then running, elsewhere, finished, failed, interrupted
    process: subprocess.Popen | None = None
    devices: list[str] = field(default_factory=list)
    begin: float = 0.0
    look_at: float = 0.0

    @property
    def folder(self) -> Path:
        return self.xp.folder

    @property
    def current_job_id(self) -> str | None:
        return str(self.process.pid) if self.process and self.status == "running" else None

    def state(self) -> str:
        return self.status.upper()

    def is_done(self) -> bool:
        return self.status in ("finished", "failed", "interrupted")


def dora_command(job: Job) -> list[str]:
    """What trains an XP: the same as typed by hand."""
    command = [sys.executable, "-m", "dora", "-P", "bm", "run"]
    if job.gpus > 1:
        command += ["-d", "--ddp_workers", str(job.gpus)]
    return [*command, "--", *job.xp.argv]


class Pool:
    """At most `size` XPs at once.

    Args:
        jobs: in the order in which they start; those finished or failed before are left alone.
        gpus: names for CUDA_VISIBLE_DEVICES. An XP gets as many as it wants, or all there are; several XPs share one
            when `size` asks for more than there are. Without any, all run on the CPU.
        grid: whose XPs they are; noted by the training processes.
        retry: also those that failed.
        say: takes one line about what happened.
        command: what trains an XP.
    """

    def __init__(self, jobs: Sequence[Job], size: int, gpus: Sequence[str] = (), grid: str = "", retry: bool = False,
                 say: Callable[[str], None] = print, command: Callable[[Job], list[str]] = dora_command) -> None:
        self.jobs, self.size, self.grid, self.say, self.command = list(jobs), size, grid, say, command
        if gpus:
            for job in self.jobs:
                job.gpus = min(job.gpus, len(gpus))
        wanted = max((job.gpus for job in self.jobs), default=1) or 1
        self.gpus = list(gpus)
        self.free = self.gpus * max(1, -(-size * wanted // max(1, len(gpus))))
        for job in self.jobs:
            state = state_of(job.folder)
            if state == "finished" or (state == "failed" and not retry):
                job.status = state
        self._reaper: subprocess.Popen | None = None

    def running(self) -> list[Job]:
        return [job for job in self.jobs if job.status == "running"]

    def done(self) -> bool:
        return all(job.is_done() for job in self.jobs)

    def step(self) -> bool:
        """Notes what ended and starts what can start; whether anything changed. Call it again and again."""
        before = [job.status for job in self.jobs]
        for job in self.running():
            if _has_ended(job.process):
                self._end(job)
        for job in self.jobs:
            if job.status == "elsewhere" and time.monotonic() >= job.look_at:
                self._look(job)
            if job.status == "waiting" and len(self.running()) < self.size:
                self._start(job)
        return before != [job.status for job in self.jobs]

    def _look(self, job: Job) -> None:
        state = state_of(job.folder)
        job.look_at = time.monotonic() + LOOK
        if state != "running":
            job.status = state if state in ("finished", "failed") else "waiting"
            self.say(f"{job.xp.sig} is free: {state}")

    def _start(self, job: Job) -> None:
        devices: list[str] | None = self._take(job.gpus)
        if devices is None:
            return
        if is_running(job.folder):
            self.free += devices
            self._elsewhere(job)
            return
        environment = {**os.environ, GRID_VARIABLE: self.grid}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if self.size > 1:  # else each process would use all cores
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.size)))
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / FAILED).unlink(missing_ok=True)
        with open(job.folder / LOG, "a") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(self.command(job))}\n")
            log.flush()
            # a group of its own: a Ctrl-C reaches the pool alone, and all that an XP started ends with it
            job.process = subprocess.Popen(self.command(job), env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=subprocess.STDOUT, start_new_session=True)
        self._tell_reaper(f"+ {job.process.pid} {start_time(job.process.pid)}")
        job.devices, job.begin, job.status = devices, time.monotonic(), "running"
        where = f" on GPU {','.join(devices)}" if devices else ""
        self.say(f"{job.xp.sig} started{where}: {job.name or 'the base config'} (process {job.process.pid})")

    def _take(self, n: int) -> list[str] | None:
        """So many different free GPUs, the least busy first; None if there are too few right now."""
        names = sorted((name for name in self.gpus if name in self.free), key=lambda name: -self.free.count(name))[:n]
        if len(names) < n and self.gpus:
            return None
        for name in names:
            self.free.remove(name)
        return sorted(names)

    def _elsewhere(self, job: Job) -> None:
        job.status, job.look_at = "elsewhere", time.monotonic() + LOOK
        self.say(f"{job.xp.sig} is run by {owner_of(job.folder) or 'another process'}: waiting for it")

    def _end(self, job: Job) -> None:
        assert job.process is not None
        _kill_group(job.process.pid, signal.SIGKILL)  # before the leader is waited for, the number is nobody else's
        code = job.process.wait()
        self._tell_reaper(f"- {job.process.pid}")
        self.free += job.devices
        took = f"after {time.monotonic() - job.begin:.0f} s"
        if code == 0:
            job.status = "finished"
            self.say(f"{job.xp.sig} finished {took}")
        elif code == BUSY:
            self._elsewhere(job)
        elif code < 0:
            job.status = "interrupted"
            self.say(f"{job.xp.sig} was killed by {signal.Signals(-code).name} {took}: run the grid again to resume it")
        else:
            job.status = "failed"
            note_failure(job.folder, f"exit code {code}")
            self.say(f"{job.xp.sig} FAILED {took}, exit code {code}: {failure_of(job.folder)}\n"
                     f"{tail(job.folder / LOG)}\n  all of it: {job.folder / LOG}")

    def stop(self) -> None:
        """Ends all training processes and what they started; they can be resumed."""
        running = self.running()
        for job in running:
            assert job.process is not None
            _kill_group(job.process.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and not all(_has_ended(job.process) for job in running):
            time.sleep(0.02)
        for job in running:
            assert job.process is not None
            _kill_group(job.process.pid, signal.SIGKILL)
            code = job.process.wait()
            self._tell_reaper(f"- {job.process.pid}")
            self.free += job.devices
            job.status = "finished" if code == 0 else "interrupted"
        if self._reaper is not None:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()
            self._reaper.wait()
            self._reaper = None

    def _tell_reaper(self, line: str) -> None:
        if self._reaper is None or self._reaper.poll() is not None:
            self._reaper = subprocess.Popen(
                [sys.executable, "-ES", str(Path(__file__).with_name("reaper.py"))], stdin=subprocess.PIPE, text=True,
                start_new_session=True)
            line = "\n".join([line, *(f"+ {job.process.pid} {start_time(job.process.pid)}" for job in self.running()
                                      if job.process)])
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(line + "\n")
        self._reaper.stdin.flush()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Gives a list that fills with the signals that ask to stop, instead of being ended by them."""
    seen: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, frame: seen.append(got)) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def drive(pool: Pool, show: Callable[[], None], interval: float) -> int:
    """Runs the pool to its end; returns the exit code."""
    with stop_signals() as signals:
        try:
            due = 0.0
            while not pool.done() and not signals:
                changed = pool.step()
                if changed or time.monotonic() >= due:
                    show()
                    due = time.monotonic() + interval
                time.sleep(BEAT)
        finally:
            pool.stop()
    show()
    if signals:
        print(f"stopped by {signal.Signals(signals[0]).name}: the next run goes on from the last checkpoints")
        return 128 + signals[0]
    return int(any(job.status != "finished" for job in pool.jobs))


def _has_ended(process: subprocess.Popen | None) -> bool:
    """Whether a child has ended; it stays a zombie, so that its number is not given to another yet."""
    assert process is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: a group of zombies
        return


def tail(path: Path, lines: int = 6) -> str:
    """The last lines of a log, indented."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  | {line}" for line in text[-lines:])
