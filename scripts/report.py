"""One HTML file about an XP: config, curves, test, subjects, sensors, examples, leaks; or about all XPs of a grid.

    python -m scripts.report SIG [--output FILE] [--skip "Retrieved segments" …]
    python -m scripts.report --grid NAME [--topk 10] [--reference DECODER] [--output FILE]

Of an XP, it works from its folder and its stored config, also while it is still training. Of a grid, it evaluates the
XPs that were not yet evaluated (scripts.run_eval_probs) and compares them: the main table, with intervals, chance and
paired tests over subjects, is also written beside the report as CSV and LaTeX. The file needs no network.
"""
import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bm.config import nearest

if TYPE_CHECKING:
    import mne


def main(argv: list[str] | None = None) -> Path:
    """Writes the report and returns its path."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sig", nargs="?", help="signature of the XP (the name of its folder)")
    parser.add_argument("--grid", help="name of a grid that was launched, here or on SLURM, instead of an XP")
    parser.add_argument("--topk", type=int, default=10, help="of a grid: the accuracy that is compared")
    parser.add_argument("--reference", help="of a grid: the decoder that the others are compared with")
    parser.add_argument("--output", type=Path, help="where to write it (by default report.html in the XP's folder)")
    parser.add_argument("--skip", nargs="+", default=[], metavar="SECTION", help="sections of an XP to leave out")
    args = parser.parse_args(argv)
    if (args.sig is None) == (args.grid is None):
        parser.error("give either the signature of an XP or --grid NAME")
    path, report = grid_report(args) if args.grid else xp_report(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save(path, overwrite=True, open_browser=False, verbose=False)
    print(f"{os.path.relpath(path)}: {path.stat().st_size / 2 ** 20:.1f} MB, made in {time.monotonic() - begin:.0f} s")
    return path


def xp_report(args: argparse.Namespace) -> tuple[Path, "mne.Report"]:
    """The report of an XP and where it belongs."""
    from bm.analysis.report import SECTIONS, make_report
    from bm.analysis.xp import find_xp
    for name in args.skip:
        if name not in SECTIONS:
            raise SystemExit(f"--skip {name!r}: no such section{nearest(name, SECTIONS)}; there are: "
                             + ", ".join(SECTIONS))
    try:
        xp = find_xp(args.sig)
        xp.require_result()
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    report = make_report(xp, {name: section for name, section in SECTIONS.items() if name not in args.skip})
    return args.output or xp.folder / "report.html", report


def grid_report(args: argparse.Namespace) -> tuple[Path, "mne.Report"]:
    """The report of a grid and where it belongs; its tables are written there."""
    from bm.analysis.grids import find_evaluated, pretty
    from bm.analysis.report.grid import grid_tables, make_grid_report
    from bm.train import main as train_main
    from scripts.run_eval_probs import find_xps, parse, run_one
    home, options = Path(train_main.dora.dir) / "eval", parse([f"grid_name={args.grid}"])
    sigs = []
    for xp in find_xps(options):
        folders = run_one(xp, options.evaluations, home / "signatures", overwrite=False)
        if isinstance(folders, str):
            print(f"left out: {folders}", file=sys.stderr)
        else:
            sigs.append(xp.sig)
    if not sigs:
        raise SystemExit(f"no XP of the grid {args.grid} could be evaluated")
    evaluated = find_evaluated(home / "signatures", sigs)
    known = evaluated[0].accuracy.index.tolist()
    if args.topk not in known:
        raise SystemExit(f"--topk {args.topk}: the XPs were tested with {', '.join(map(str, known))} (test.topk)")
    path = args.output or home / "grids" / args.grid / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tables = grid_tables(evaluated, args.topk, args.reference)
    except (KeyError, ValueError) as error:
        raise SystemExit(str(error.args[0])) from None
    for name, table in tables.items():
        table.to_csv(path.with_name(f"{name}.csv"), index=name == "subjects")
    shown = pretty(tables["main_table"])
    path.with_name("main_table.tex").write_text(shown.to_latex(index=False, escape=True))
    print(shown.to_string(index=False))
    return path, make_grid_report(args.grid, evaluated, tables, args.topk, path.parent)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
