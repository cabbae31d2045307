"""Encoders side by side: one table, figures, one HTML page.

    python -m scripts.encoders SIG SIG … [--reference NAME] [--output FOLDER]
    python -m scripts.encoders --grid NAME

XPs (finished, of task encode or trf) that differ in fold or seed alone are one encoder; folds are pooled, so that each
stimulus is tested once. The others are compared with the reference (by default a TRF) unit by unit. Writes
encoders.csv, units.csv (r of each unit), the figures as PNG and encoders.html to FOLDER.
"""
import argparse
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bm.analysis.xp import NotRestorable, StoredXP, find_xp

if TYPE_CHECKING:
    from bm.analysis.encoders import Encoder


def choose_xps(sigs: list[str], grid: str | None) -> list[StoredXP]:
    """XPs of signatures, or those of a launched grid. Raises SystemExit if there are none."""
    from bm.analysis.grids import grid_signatures
    from bm.train import main as train
    try:
        if grid is not None:
            sigs = grid_signatures(grid, Path(train.dora.dir))
        return [find_xp(sig) for sig in dict.fromkeys(sigs)]
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None


def check_units(encoders: list["Encoder"]) -> None:
    """Raises SystemExit unless there are units that all encoders predict: there is nothing to compare."""
    common = encoders[0].units.index
    for one in encoders[1:]:
        common = common.intersection(one.units.index)
        if not len(common):
            described = "; ".join(f"XP {own.xps[0].sig} ({own.name}) has {len(own.units)}, the first is "
                                  f"{'/'.join(map(str, own.units.index[0]))}" for own in (encoders[0], one))
            raise SystemExit(f"these encoders predict no unit in common: {described}. Give XPs of the same recordings, "
                             "or one page for each study")


def main(argv: list[str] | None = None) -> Path:
    """Writes the page and returns its path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.encoders", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sigs", nargs="*", metavar="SIG", help="signatures of XPs")
    parser.add_argument("--grid", help="instead of signatures: a grid that was launched")
    parser.add_argument("--reference", help="label of the encoder that the others are compared with")
    parser.add_argument("--rename", nargs="+", default=[], metavar="OLD=NEW", help="other labels (cut at the last =)")
    parser.add_argument("--no-sound", action="store_true", help="beside them the mean train response by time since the "
                        "start, which knows no sound, and r without this course (the data must be there)")
    parser.add_argument("--output", type=Path, help="folder, by default <outputs>/encoders/<first signature or grid>")
    args = parser.parse_args(argv)
    if bool(args.sigs) == bool(args.grid):
        parser.error("give signatures or --grid")
    from bm.analysis.encoder_views import beyond_course, without_sound
    from bm.analysis.encoders import caution, choose_reference, encoder_table, pretty, read_encoders, unit_table
    from bm.analysis.report.encoding import comparison
    from bm.analysis.report.parts import fill, new_report
    from bm.train import main as train
    xps = choose_xps(args.sigs, args.grid)
    renamed = {old: new for old, _, new in (pair.rpartition("=") for pair in args.rename)}
    try:
        encoders = read_encoders(xps, renamed)
        check_units(encoders)
        base = choose_reference(encoders, args.reference)
        table = encoder_table([*encoders, without_sound(base)] if args.no_sound else encoders, base.name)
        if args.no_sound:
            beyond = {encoder.name: beyond_course(encoder) for encoder in encoders}
            table["r_beyond"] = table["encoder"].map(beyond)
    except (FileNotFoundError, ValueError, KeyError, NotRestorable) as error:
        raise SystemExit(str(error.args[0])) from None
    print(pretty(table).to_string(index=False))
    if caution(encoders):
        print(caution(encoders))
    folder = args.output or Path(train.dora.dir) / "encoders" / (args.grid or xps[0].sig)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "encoders.csv", index=False)
    unit_table(encoders).to_csv(folder / "units.csv", index=False)
    report = new_report("Encoders")
    for section, parts in comparison(encoders, table, base.name).items():
        for part in parts:
            if isinstance(part.content, Figure):
                part.content.savefig(folder / f"{re.sub(r'[^a-z0-9]+', '_', part.title.lower())}.png")
        fill(report, section, parts)
    page = folder / "encoders.html"
    report.save(page, overwrite=True, open_browser=False, verbose=False)
    print(os.path.relpath(page))
    return page


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
