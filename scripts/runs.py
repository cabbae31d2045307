"""The XPs on disk: what they are, how they ended, how they differ, and what may go.

    python -m scripts.runs ls [--grid NAME] [--state STATE]   state, age, size, epochs, best loss, metrics, grids
    python -m scripts.runs show SIG                           all about one; the beginning of a signature will do
    python -m scripts.runs diff SIG SIG                       where their configs differ
    python -m scripts.runs clean [SIG …] [--grid NAME] [--state STATE] [--older-than DAYS] [--yes]

States: new (never started), running, finished, interrupted (the next start resumes it), failed. `clean` without a
choice proposes the failed, interrupted and new ones that no grid links to; it asks first, and never touches one that
runs. The folder is that of the config (`dora.dir`: the environment variable BM_OUTPUTS, or ./outputs).
"""
import argparse
import math
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bm.analysis.xp import StoredXP
from bm.config import config_difference
from bm.xp_lock import LOCK, failure_of, is_running, owner_of, state_of
from scripts.cache import CONFIG, age_text, size_text

STATES = ("new", "running", "finished", "interrupted", "failed")
#: beginnings of names of test metrics; the list shows the first that an XP has
METRICS = ("top10", "correlation", "acc_", "corr_")


@dataclass(frozen=True)
class Run:
    """An XP's folder, and the grids that link to it."""

    folder: Path
    grids: tuple[str, ...]

    @property
    def sig(self) -> str:
        return self.folder.name

    @cached_property
    def state(self) -> str:
        return state_of(self.folder)

    @cached_property
    def stored(self) -> StoredXP:
        return StoredXP(self.folder, self.folder.parents[1])

    @cached_property
    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    @property
    def changed(self) -> float:
        """When its history, result or log was last written, s since 1970."""
        return max((path.stat().st_mtime for path in self.files if path.name != LOCK),
                   default=self.folder.stat().st_mtime)

    @property
    def best(self) -> float:
        """Lowest validation loss so far."""
        return min((epoch["valid"]["loss"] for epoch in self.stored.history if "valid" in epoch), default=math.nan)

    @property
    def metric(self) -> str:
        """The test metric of its kind."""
        test = self.stored.test or {}
        return next((f"{name} {value:.3f}" for start in METRICS for name, value in test.items()
                     if name.startswith(start)), "")


def show(metrics: dict) -> str:
    """Metrics on one line."""
    return ", ".join(f"{name} {value:.5g}" for name, value in metrics.items() if isinstance(value, float | int))


def outputs() -> Path:
    """The folder that the config names."""
    from omegaconf import OmegaConf
    return Path(OmegaConf.load(CONFIG).dora.dir)


def all_runs(root: Path) -> list[Run]:
    """Every XP below `root`, the latest last.

    Raises:
        FileNotFoundError: there are none.
    """
    grids: dict[str, list[str]] = {}
    for link in sorted((root / "grids").glob("*/*")):
        if link.is_symlink():
            grids.setdefault(link.name, []).append(link.parent.name)
    runs = [Run(folder, tuple(grids.get(folder.name, ()))) for folder in (root / "xps").glob("*")
            if folder.is_dir() and ((folder / "config.json").exists() or (folder / ".argv.json").exists())]
    if not runs:
        raise FileNotFoundError(f"no XPs in {root / 'xps'}: dora run makes one there; BM_OUTPUTS names another folder")
    return sorted(runs, key=lambda run: run.changed)


def find(runs: list[Run], sig: str) -> Run:
    """The XP whose signature begins so.

    Raises:
        ValueError: none does, or several.
    """
    match = [run for run in runs if run.sig.startswith(sig)]
    if len(match) != 1 or not sig:
        raise ValueError(f"{sig!r} begins {len(match)} signatures{': ' * bool(match)}"
                         f"{', '.join(run.sig for run in match[:5])}; python -m scripts.runs ls shows all")
    return match[0]


def choose(runs: list[Run], grid: str | None, state: str | None) -> list[Run]:
    """The XPs of a grid and a state, if they are given.

    Raises:
        ValueError: no XP belongs to that grid.
    """
    if grid is not None and not any(grid in run.grids for run in runs):
        known = sorted({name for run in runs for name in run.grids})
        raise ValueError(f"no XP of a grid {grid!r}; grids with XPs: {', '.join(known) or 'none'}")
    return [run for run in runs if grid in (None, *run.grids) and state in (None, run.state)]


def table(runs: list[Run]) -> str:
    """One line per XP; of their overrides those that they do not all have."""
    now = time.time()
    shared = set.intersection(*(set(run.stored.overrides) for run in runs)) if len(runs) > 1 else set()
    rows = [("sig", "state", "age", "size", "epochs", "best", "test", "grids", "overrides")]
    for run in runs:
        best = "" if math.isnan(run.best) else f"{run.best:.4f}"
        rows.append((run.sig, run.state, age_text(now - run.changed), size_text(run.size), str(len(run.stored.history)),
                     best, run.metric, ",".join(run.grids),
                     " ".join(text for text in run.stored.overrides if text not in shared)))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)),
                                row[-1] if len(row[-1]) <= 100 else row[-1][:99] + "…"]).rstrip() for row in rows)


def description(run: Run) -> str:
    """All about one XP."""
    stored = run.stored
    lines = [f"XP {run.sig}: {run.state}, {len(stored.history)} epochs, {size_text(run.size)} in {run.folder}"]
    if run.state == "running":
        lines.append(f"by {owner_of(run.folder)}")
    if run.state == "failed":
        lines.append(failure_of(run.folder))
    lines += [f"grids: {', '.join(run.grids) or 'none'}", f"again: dora run {' '.join(stored.overrides)}"]
    if stored.history:
        lines += [f"last {stage}: {show(values)}" for stage, values in stored.history[-1].items() if stage != "test"]
    if stored.result:
        lines.append(f"best: epoch {stored.result['best_epoch']}, validation loss {stored.result['best_loss']:.5f}")
    if stored.test:
        lines += ["test:", *(f"  {name}: {value}" for name, value in stored.test.items())]
    lines += [f"log: {path}" for name in ("train.log", "local.log") if (path := run.folder / name).exists()]
    return "\n".join(lines)


def removable(runs: list[Run], args: argparse.Namespace) -> list[Run]:
    """The XPs that `clean` would remove."""
    if args.sigs:
        chosen = [find(runs, sig) for sig in args.sigs]
    elif args.grid or args.state:
        chosen = choose(runs, args.grid, args.state)
    else:
        chosen = [run for run in runs if run.state in ("new", "interrupted", "failed") and not run.grids]
    old = time.time() - 86_400 * args.older_than
    return [run for run in chosen if run.changed <= old]


def remove(root: Path, run: Run) -> bool:
    """Removes an XP and the links of grids to it; False, with nothing changed, if it runs."""
    from filelock import FileLock, Timeout
    try:
        with FileLock(run.folder / LOCK, blocking=False):
            shutil.rmtree(run.folder)
    except Timeout:
        return False
    for grid in run.grids:
        (root / "grids" / grid / run.sig).unlink(missing_ok=True)
    return True


def clean(root: Path, runs: list[Run], args: argparse.Namespace) -> int:
    chosen = removable(runs, args)
    busy = [run for run in chosen if is_running(run.folder)]
    chosen = [run for run in chosen if run not in busy]
    for run in busy:
        print(f"{run.sig} is running ({owner_of(run.folder)}): left alone")
    if not chosen:
        print("nothing to remove")
        return 0
    print(table(chosen))
    print(f"{len(chosen)} XPs, {size_text(sum(run.size for run in chosen))}")
    if not args.yes and (not sys.stdin.isatty() or input("Remove them? [y/N] ").strip().lower() != "y"):
        print("nothing removed (--yes removes without asking)")
        return 1
    left = [run for run in chosen if not remove(root, run)]
    for run in left:
        print(f"{run.sig} was started meanwhile: left alone")
    print(f"removed {len(chosen) - len(left)} XPs")
    return 0


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog="scripts.runs", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = out.add_subparsers(dest="command", required=True)
    ls, details, diff, cleaning = (commands.add_parser(name) for name in ("ls", "show", "diff", "clean"))
    details.add_argument("sig")
    diff.add_argument("sigs", nargs=2, metavar="SIG")
    cleaning.add_argument("sigs", nargs="*", metavar="SIG")
    for command in (ls, cleaning):
        command.add_argument("--grid", help="XPs of this grid")
        command.add_argument("--state", choices=STATES)
    cleaning.add_argument("--older-than", type=float, default=0.0, metavar="DAYS", help="since they were last written")
    cleaning.add_argument("--yes", action="store_true", help="do not ask")
    return out


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    root = outputs()
    try:
        runs = all_runs(root)
        if args.command == "ls":
            print(table(choose(runs, args.grid, args.state)))
        elif args.command == "show":
            print(description(find(runs, args.sig)))
        elif args.command == "diff":
            one, other = (find(runs, sig).stored.config for sig in args.sigs)
            print("\n".join(config_difference(one, other, ["dora.*"])) or "their configs are the same")
        else:
            return clean(root, runs, args)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
