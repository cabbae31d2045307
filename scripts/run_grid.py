"""Runs a grid on this machine, without SLURM: the same file, signatures and folders as `dora grid`.

    python -m scripts.run_grid nmi.main_table --gpus 0,1 [PATTERN …]

XPs that are finished are left alone, those that were interrupted go on, those that failed need --retry. Patterns choose
XPs by name as for `dora grid` (`lr=0.001`, `'!deep_mel'`, a number for an index). What the file no longer asks for is
stopped, if an earlier run of this grid started it here. Ctrl-C stops all XPs; the next run resumes them.
"""
import argparse
import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

from dora import Explorer
from dora.grid import RunGridArgs, _filter_grid_sheeps, monitor

from bm.config import ConfigError
from bm.train import main as train_main
from bm.xp_lock import busy_message, is_running, owner_of, state_of
from grids._utils import collect
from scripts.grid_pool import LOG, Job, Pool, drive


def load_explorer(name: str) -> Explorer:
    """The explorer of `grids/NAME.py`.

    Raises:
        SystemExit: no such grid; names those there are.
    """
    folder = Path(__file__).parents[1] / "grids"
    known = sorted(".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")
                   if not path.name.startswith(("_", "test_")))
    if name not in known:
        raise SystemExit(f"no grid {name!r}; there are: {', '.join(known)}")
    explorer = getattr(importlib.import_module(f"grids.{name}"), "explorer", None)
    if not isinstance(explorer, Explorer):
        raise SystemExit(f"grids/{name.replace('.', '/')}.py has no explorer: write `@DecodeExplorer` above a function "
                         "`explorer(launcher)`")
    return explorer


def grid_folder(name: str) -> Path:
    """Where links to a grid's XPs lie; HiPlot and `dora grid` look there too."""
    return train_main.dora.dir / train_main.dora._grids / name


def choose(jobs: list[Job], patterns: list[str], only: list[str]) -> list[Job]:
    """The jobs that fit all patterns, and whose signatures begin with one of `only`, if any is given."""
    try:
        jobs = _filter_grid_sheeps(list(patterns), train_main, jobs)
    except IndexError:
        raise SystemExit(f"{' '.join(patterns)}: indices go from 0 to {len(jobs) - 1}") from None
    for sig in only:
        if not any(job.xp.sig.startswith(sig) for job in jobs):
            raise SystemExit(f"--only {sig}: the grid has no such XP; it has {', '.join(job.xp.sig for job in jobs)}")
    return [job for job in jobs if not only or job.xp.sig.startswith(tuple(only))]


def link(name: str, asked: set[str], jobs: list[Job]) -> None:
    """Makes the folders of the XPs and links to them; drops links to what the grid no longer asks for, and stops it.

    Only what a runner of this grid started on this machine is stopped.
    """
    folder = grid_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if not (folder / job.xp.sig).is_symlink():
            (folder / job.xp.sig).symlink_to(job.folder.resolve())
    for old in sorted(folder.iterdir()):
        if old.name in asked or not old.is_symlink():
            continue
        owner = owner_of(old)
        if owner is not None and is_running(old):
            if owner.grid == name and owner.is_here:
                os.killpg(os.getpgid(owner.pid), signal.SIGTERM)
                print(f"{old.name} is no longer asked for: stopped ({owner})")
            else:
                print(f"{old.name} is no longer asked for, but was not started here by this grid: left to {owner}")
        old.unlink()


def clear(name: str, jobs: list[Job], yes: bool) -> None:
    """Removes the folders of XPs, after asking; refuses while one of them runs."""
    there = [job for job in jobs if job.folder.exists()]
    for job in there:
        if is_running(job.folder):
            raise SystemExit(busy_message(job.folder))
    if there and not yes:
        print(f"{len(there)} XPs of the grid {name} start anew; what they have learned is removed.")
        if not sys.stdin.isatty() or input("Sure? [y/N] ").strip().lower() != "y":
            raise SystemExit("nothing removed (--yes removes without asking)")
    for job in there:
        shutil.rmtree(job.folder)


def visible_gpus(wanted: str | None) -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES: those of `--gpus`, or all there are; "none" for the CPU."""
    if wanted is not None:
        return [] if wanted in ("", "none") else [name.strip() for name in wanted.split(",")]
    import torch
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    return known.split(",") if known else [str(i) for i in range(torch.cuda.device_count())]


class Table:
    """The grid's own table, printed when it has changed."""

    def __init__(self, explorer: Explorer, jobs: list[Job]) -> None:
        self.explorer, self.jobs, self.shown = explorer, jobs, ""

    def show(self) -> None:
        *base, text = self._lines()
        if base and not self.shown:
            print("\n".join(["", *base]), flush=True)  # what all XPs share, once
        if text != self.shown:
            print(f"\n{text}", flush=True)
            self.shown = text

    def _lines(self) -> list[str]:
        lines: list[str] = []
        monitor(RunGridArgs(), train_main, self.explorer, self.jobs, lambda *parts: lines.append(" ".join(parts)))
        return lines


def run(args: argparse.Namespace) -> int:
    """The command, with its arguments read."""
    explorer = load_explorer(args.grid)
    listed = collect(explorer)
    everything = [Job(one.xp, one.slurm.gpus) for one in listed]
    jobs = choose(everything, args.patterns, args.only)
    if not jobs:
        raise SystemExit(f"grid {args.grid}: no XP fits {' '.join([*args.patterns, *args.only])}")
    names, _ = train_main.get_names([job.xp for job in jobs])
    for job, name in zip(jobs, names, strict=True):
        job.name = name
    gpus = visible_gpus(args.gpus)
    size = args.jobs or max(1, len(gpus) // max(1, *(job.gpus for job in jobs), 1))
    table = Table(explorer, jobs)
    if args.dry_run:
        for job in jobs:
            job.status = state_of(job.folder)
        table.show()
        alone = ("finished", "running") if args.retry else ("finished", "running", "failed")
        print(f"{sum(job.status not in alone for job in jobs)} of {len(jobs)} XPs would start, {size} at once, on "
              f"{'GPUs ' + ','.join(gpus) if gpus else 'the CPU'}")
        return 0
    if args.clear:
        clear(args.grid, jobs, args.yes)
    for job in jobs:
        try:
            train_main.init_xp(job.xp)
        except ConfigError as error:
            raise SystemExit(f"{error}; or of the grid: --only {job.xp.sig} --clear") from None
    link(args.grid, {one.xp.sig for one in listed}, jobs)
    pool = Pool(jobs, size, gpus, args.grid, args.retry, say=lambda line: print(line, flush=True))
    left = [job for job in jobs if job.status == "failed"]
    code = drive(pool, table.show, args.interval)
    if left:
        print(f"{len(left)} XPs failed before and were left alone (--retry starts them again): "
              + "; ".join(f"{job.xp.sig}, log {job.folder / LOG}" for job in left))
    return code


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog="scripts.run_grid", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("grid", help="grids/NAME.py, with dots for folders")
    out.add_argument("patterns", nargs="*", metavar="PATTERN")
    out.add_argument("-j", "--jobs", type=int, help="XPs at once (default: as many as the GPUs hold; 1 without)")
    out.add_argument("--gpus", help="e.g. 0,1 (default: all; none: the CPU)")
    out.add_argument("--only", action="append", default=[], metavar="SIG", help="only this XP; may be repeated")
    out.add_argument("-r", "--retry", action="store_true", help="also those that failed")
    out.add_argument("--clear", action="store_true", help="start anew: removes the XPs' folders, after asking")
    out.add_argument("--yes", action="store_true", help="do not ask")
    out.add_argument("--dry_run", action="store_true", help="show the table and what would run; write nothing")
    out.add_argument("-i", "--interval", type=float, default=30.0, metavar="S", help="s between tables (default 30)")
    return out


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)  # patterns may stand behind options
    if args.jobs is not None and args.jobs < 1:
        raise SystemExit(f"--jobs {args.jobs}: expected at least 1")
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
