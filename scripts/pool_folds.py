"""Pools the test segments of cross-validation folds, and compares two sets of XPs stimulus by stimulus.

    python -m scripts.pool_folds SIG SIG … [--against SIG SIG …]
    python -m scripts.pool_folds --grid natsounds [--against natsounds_linear]

Every stimulus is a test segment of exactly one fold; several draws of the folds (`dset.split_assign_seed`) or of the
weights (`seed`) are averaged stimulus by stimulus. Prints top-k with n, chance and a 95 % bootstrap interval over
stimuli (it is about other stimuli, for the same people), and with `--against` (signatures, or one grid) the paired
difference over the same stimuli. XPs must be finished: nothing is trained here.
"""
import argparse
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from bm.metrics.stats import bootstrap_interval
from bm.train import main as train_main


@dataclass(frozen=True)
class Pool:
    """The test segments of the folds of one decoder.

    Args:
        table: `candidate` (stimulus), `draw` (number of the draw of folds and weights), top-k columns.
        chance: top-k column → chance level.
        draws: (`split_assign_seed`, `seed`, `n_folds`) of each draw.
    """

    table: pd.DataFrame
    chance: dict[str, float]
    draws: list[tuple[int, int, int]]

    @property
    def per_stimulus(self) -> pd.DataFrame:
        """Top-k of each stimulus, the mean over draws."""
        return self.table.groupby("candidate")[list(self.chance)].mean()


def grid_signatures(name: str) -> list[str]:
    """Signatures of the XPs of `grids/NAME.py`, in order; nothing is launched."""
    from grids._utils import get_all_explorer_sigs
    try:
        explorer = importlib.import_module(f"grids.{name}").explorer
    except ModuleNotFoundError as error:
        raise SystemExit(f"no grid {name!r}: {error}") from None
    return get_all_explorer_sigs(explorer)


def folder_of(sig: str) -> Path:
    """The folder of an XP. Raises SystemExit if it has no results."""
    folder = Path(train_main.dora.dir) / train_main.dora.xps / sig
    if not (folder / "test_segments.parquet").exists() or not (folder / "result.json").exists():
        raise SystemExit(f"XP {sig} has no test results in {folder}: run it first (dora run -f {sig}, or dora grid)")
    return folder


def pool(folders: list[Path]) -> Pool:
    """Pools the folds of one decoder.

    Raises:
        ValueError: folds are missing, or a stimulus is tested twice: the mean would not be over all stimuli.
    """
    parts: dict[tuple[int, int, int], dict[int, pd.DataFrame]] = {}
    chance: dict[str, list[float]] = {}
    for folder in folders:
        cfg = json.loads((folder / "config.json").read_text())
        dset, test = cfg["dset"], json.loads((folder / "result.json").read_text())["test"]
        if not dset["n_folds"]:
            raise ValueError(f"XP {folder.name} is no fold: dset.n_folds is null")
        draw = (dset["split_assign_seed"], cfg["seed"], dset["n_folds"])
        if dset["fold"] in parts.setdefault(draw, {}):
            raise ValueError(f"XP {folder.name} is fold {dset['fold']} of split_assign_seed={draw[0]}, seed={draw[1]}, "
                             "which another XP is too: pool one decoder at a time")
        parts[draw][dset["fold"]] = pd.read_parquet(folder / "test_segments.parquet")
        for k in cfg["test"]["topk"]:
            chance.setdefault(f"top{k}", []).append(test[f"top{k}_chance"])
    draws = sorted(parts)
    for draw in draws:
        missing = sorted(set(range(draw[2])) - set(parts[draw]))
        if missing:
            raise ValueError(f"folds {missing} of split_assign_seed={draw[0]}, seed={draw[1]} are missing: all "
                             f"{draw[2]} are needed, so that every stimulus is tested once")
    table = pd.concat([part.assign(draw=i) for i, draw in enumerate(draws) for part in parts[draw].values()],
                      ignore_index=True)
    twice = table.duplicated(["candidate", "draw", "recording"])
    if twice.any():
        raise ValueError(f"{twice.sum()} stimuli are tested in two folds, the first is candidate "
                         f"{table['candidate'][twice].iloc[0]}: the XPs were not made from the same data")
    if len({len(values) for values in chance.values()}) > 1:
        raise ValueError(f"XPs have different test.topk: {sorted(chance)}")
    return Pool(table, {name: fmean(values) for name, values in chance.items()}, draws)


def summary(pooled: Pool, n_boot: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Top-k in %, with chance and the interval over stimuli; the spread of the draws where there are several."""
    rows = []
    by_draw = pooled.table.groupby("draw")[list(pooled.chance)].mean()
    for name, chance in pooled.chance.items():
        interval = bootstrap_interval(pooled.table[name], pooled.table["candidate"], pooled.table["candidate"],
                                      n_boot=n_boot, seed=seed)
        row = {"": name, "chance": f"{chance:.1%}", "score": f"{interval.mean:.1%}",
               "95 %": f"[{interval.low:.1%}, {interval.high:.1%}]"}
        if len(by_draw) > 1:
            row["draws"] = " ".join(f"{value:.1%}" for value in by_draw[name])
        rows.append(row)
    return pd.DataFrame(rows)


def difference(one: Pool, other: Pool, n_boot: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Paired difference (first minus second) over the stimuli, in percentage points, with its interval.

    Raises:
        ValueError: the two did not face the same stimuli, folds or number of candidates.
    """
    if [draw[::2] for draw in one.draws] != [draw[::2] for draw in other.draws]:
        raise ValueError(f"the two are not paired: folds drawn with (split_assign_seed, seed, n_folds) {one.draws} and "
                         f"{other.draws}")
    a, b = one.per_stimulus, other.per_stimulus
    if set(a.index) != set(b.index) or one.chance != other.chance:
        raise ValueError(f"the two are not paired: {len(a)} and {len(b)} stimuli, {len(a.index.intersection(b.index))} "
                         f"of them the same; chance {one.chance} and {other.chance}")
    rows = []
    for name in one.chance:
        delta = a[name] - b[name].reindex(a.index)
        interval = bootstrap_interval(delta, delta.index, delta.index, n_boot=n_boot, seed=seed)
        rows.append({"": name, "first": f"{a[name].mean():.1%}", "second": f"{b[name].mean():.1%}",
                     "difference": f"{100 * interval.mean:+.1f}",
                     "95 %": f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"})
    return pd.DataFrame(rows)


def report(sigs: list[str], against: list[str]) -> str:
    """What the command prints."""
    one = pool([folder_of(sig) for sig in sigs])
    lines = []
    for title, pooled in [("", one)] + ([("against: ", pool([folder_of(s) for s in against]))] if against else []):
        n, draws = pooled.table["candidate"].nunique(), len(pooled.draws)
        lines += [f"{title}{len(pooled.table)} test segments, {n} different stimuli, {draws} draw{'s'[:draws > 1]} of "
                  f"{pooled.draws[0][2]} folds", summary(pooled).to_string(index=False), ""]
        if title:
            lines += ["paired difference, percentage points", difference(one, pooled).to_string(index=False), ""]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="scripts.pool_folds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sigs", nargs="*", metavar="SIG")
    parser.add_argument("--grid", help="instead of signatures: all XPs of grids/GRID.py")
    parser.add_argument("--against", nargs="+", default=[], metavar="SIG", help="signatures, or one grid")
    args = parser.parse_args(argv)
    if bool(args.sigs) == bool(args.grid):
        parser.error("give signatures or --grid")
    against = args.against
    if len(against) == 1:
        against = grid_signatures(against[0])
    try:
        print(report(grid_signatures(args.grid) if args.grid else args.sigs, against))
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
