"""HiPlot: a page, for this machine only, where XPs of sweeps are lines through axes of parameters and metrics.

    python -m scripts.hiplot [--port 5005] [GRID | SIG …]
    python -m scripts.hiplot GRID --html FILE      writes the page as one file instead, to keep or to send

Prints the address to open. In the page, type other grids or signatures, and `explorer=NAME` for another class of
`grids/_hiplot.py` than MainHP.
"""
import argparse
import json
import shlex
from pathlib import Path
from urllib.parse import quote

import dora.hiplot
from hiplot import Experiment
from hiplot.fetchers import NoFetcherFound

EXPLORER = "MainHP"


class Refused(NoFetcherFound):
    """What the page shows instead of lines."""

    def __init__(self, problem: str) -> None:
        Exception.__init__(self, problem)


def unknown(names: list[str], outputs: Path) -> str | None:
    """What is wrong with names that should be grids or signatures in Dora's folder; None if nothing is."""
    grids = sorted(path.name for path in (outputs / "grids").glob("*"))
    for name in names:
        if name not in grids and not (outputs / "xps" / name).is_dir():
            return (f"{name!r} is neither a grid that was launched ({', '.join(grids) or 'there is none yet'}) nor the "
                    f"signature of an XP in {outputs / 'xps'}")
    return None


def load(uri: str) -> Experiment:
    """The XPs that a line typed into the page asks for.

    Raises:
        Refused: no such grid, XP or explorer, or an XP whose config is no longer accepted; the page says so.
    """
    from bm.train import main
    from grids import _hiplot
    tokens = shlex.split(uri)
    options = dict(token.split("=", 1) for token in tokens if "=" in token)
    problem = unknown([token for token in tokens if "=" not in token], main.dora.dir)
    explorer = options.get("explorer", EXPLORER)
    if "explorer_module" not in options and not hasattr(_hiplot, explorer):
        problem = f"explorer={explorer}: grids/_hiplot.py has no such class"
    if problem:
        raise Refused(problem)
    if "explorer" not in options:
        tokens.append(f"explorer={explorer}")
    try:
        return dora.hiplot.load(shlex.join(tokens))
    except ValueError as error:
        raise Refused(str(error)) from error


def address(port: int, names: list[str]) -> str:
    """Of the page that shows these grids and XPs."""
    query = "?hip.load_uri=" + quote(json.dumps(" ".join(names))) if names else ""
    return f"http://127.0.0.1:{port}/{query}"


def main(argv: list[str] | None = None) -> None:
    """The command; runs until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m scripts.hiplot", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="GRID | SIG", help="what to show first")
    parser.add_argument("--port", type=int, default=5005)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there and end")
    args = parser.parse_args(argv)
    from bm.train import main as train
    problem = unknown(args.names, train.dora.dir)
    if problem:
        raise SystemExit(problem)
    if args.html:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        try:
            load(shlex.join(args.names)).to_html(args.html)
        except Refused as error:
            raise SystemExit(str(error)) from None
        return
    from hiplot.server import run_server
    print(f"Open {address(args.port, args.names)}", flush=True)
    run_server([load], port=args.port)


if __name__ == "__main__":
    main()
