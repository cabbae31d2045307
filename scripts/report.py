"""One HTML file about an XP: config, curves, test, subjects, sensors, examples, leaks.

    python -m scripts.report SIG [--output FILE] [--skip "Retrieved segments" …]

Works from the XP's folder and its stored config, also while it is still training. The file needs no network.
"""
import argparse
import logging
import os
import time
from pathlib import Path

from bm.config import nearest


def main(argv: list[str] | None = None) -> Path:
    """Writes the report and returns its path."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sig", help="signature of the XP (the name of its folder)")
    parser.add_argument("--output", type=Path, help="where to write it (by default report.html in the XP's folder)")
    parser.add_argument("--skip", nargs="+", default=[], metavar="SECTION", help="sections to leave out")
    args = parser.parse_args(argv)
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
    path = args.output or xp.folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save(path, overwrite=True, open_browser=False, verbose=False)
    print(f"{os.path.relpath(path)}: {path.stat().st_size / 2 ** 20:.1f} MB, made in {time.monotonic() - begin:.0f} s")
    return path


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
