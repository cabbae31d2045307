"""One run of an XP at a time: a lock in its folder, who holds it, and how the last run ended.

The training process itself takes the lock, whoever started it: `dora run`, a SLURM job, `scripts/run_grid.py`. It is a
`filelock`, freed by the system when the process dies, however it dies. Of several processes of one run, rank 0 takes it
and the others wait for that.
"""
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

LOCK, OWNER, FAILED = "run.lock", "running.json", "failed.json"
#: exit code of a start that was refused because the XP is running (EX_TEMPFAIL)
BUSY = 75
#: set by `scripts/run_grid.py`: the grid it runs
GRID_VARIABLE = "BM_GRID"
#: s; who only looks whether a lock is held holds it for a moment
PATIENCE = 3.0
#: s; other ranks may start much later than the first, and network disks show files late
RANKS_WAIT = 600.0


@dataclass(frozen=True)
class Owner:
    """The process that runs an XP.

    Args:
        since: s since 1970.
        started: when the kernel started the process (`start_time`); with `pid` it names one process for ever.
        launch: the same for all processes of one run.
        grid: whose runner started it, if one did.
    """

    host: str
    pid: int
    since: float
    started: int
    launch: str
    grid: str | None = None

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"

    @property
    def is_here(self) -> bool:
        """Whether it is alive on this machine."""
        return self.host == socket.gethostname() and bool(self.started) and start_time(self.pid) == self.started


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since the machine did; 0 if it is gone, or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if stat[0] in "ZX" else int(stat[19])


def owner_of(folder: Path) -> Owner | None:
    """Who holds an XP, or held it when it was killed."""
    try:
        return Owner(**json.loads((folder / OWNER).read_text()))
    except FileNotFoundError:
        return None


def is_running(folder: Path) -> bool:
    """Whether a process holds the XP's lock."""
    from filelock import FileLock, Timeout
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except PermissionError:  # another user's: what it says of itself must do
        return (folder / OWNER).exists()


def state_of(folder: Path) -> str:
    """`new`, `running`, `finished`, `failed` or `interrupted`."""
    if is_running(folder):
        return "running"
    for name, state in [("result.json", "finished"), (FAILED, "failed"), (LOCK, "interrupted")]:
        if (folder / name).exists():
            return state
    return "interrupted" if (folder / "history.json").exists() else "new"


def busy_message(folder: Path) -> str:
    """One line that says who runs an XP."""
    return (f"XP {folder.name} is running already ({owner_of(folder) or 'who it is, is not known'}): wait for it, or "
            f"stop it there. Lock: {folder / LOCK}")


def note_failure(folder: Path, error: BaseException | str) -> None:
    """Writes down why a run ended, for `state_of` and tables; the first reason is kept."""
    path = folder / FAILED
    if path.exists():
        return
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    _write(path, {"error": text, "at": time.time(), "host": socket.gethostname()})


def failure_of(folder: Path) -> str:
    """Why the last run failed; empty if it did not."""
    path = folder / FAILED
    return json.loads(path.read_text())["error"] if path.exists() else ""


@contextmanager
def hold(folder: Path, rank: int, world_size: int) -> Iterator[None]:
    """Holds an XP as long as it runs; a run that fails is noted in its folder.

    Raises:
        SystemExit: another run holds it (exit code `BUSY`), after a line that says who.
    """
    from filelock import FileLock, Timeout
    launch = _launch(world_size)
    if rank > 0:
        _wait_for_master(folder, launch)
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        print(busy_message(folder), file=sys.stderr, flush=True)
        raise SystemExit(BUSY) from None
    try:
        (folder / FAILED).unlink(missing_ok=True)
        _write(folder / OWNER, asdict(Owner(socket.gethostname(), os.getpid(), time.time(), start_time(os.getpid()),
                                            launch, os.environ.get(GRID_VARIABLE))))
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # -1: submitit, which has put the job back in the queue
        if not isinstance(error, SystemExit) or error.code not in (None, 0, -1):
            note_failure(folder, error)
        raise
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _launch(world_size: int) -> str:
    """A name that the processes of one run share, and no other run has."""
    env = os.environ
    if world_size > 1 and "SLURM_PROCID" in env:
        return " ".join(env.get(f"SLURM_{key}", "") for key in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    if "TORCHELASTIC_RUN_ID" in env:
        return " ".join(env.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
                                                     "MASTER_ADDR", "MASTER_PORT"))
    parent = os.getppid()
    return f"{socket.gethostname()} {parent} {start_time(parent)}"


def _wait_for_master(folder: Path, launch: str) -> None:
    end = time.monotonic() + RANKS_WAIT
    while time.monotonic() < end:
        holder = owner_of(folder)
        if holder is not None and holder.launch == launch:
            return
        time.sleep(0.05)
    raise SystemExit(f"XP {folder.name}: rank 0 of this run has not started within {RANKS_WAIT:.0f} s; "
                     f"{folder / OWNER} names {owner_of(folder) or 'nobody'}")


def _write(path: Path, content: dict) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2))
    os.replace(temporary, path)
