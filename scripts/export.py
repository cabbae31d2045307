"""A trained decoder as a folder that `bm.load` reads anywhere: weights, config.json and a card.

    python -m scripts.export SIG [--output FOLDER]
"""
import argparse
import logging
import os
from pathlib import Path

from bm.analysis.xp import NotRestorable
from bm.train import main as train_main


def main(argv: list[str] | None = None) -> Path:
    """Writes the folder and returns its path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sig", help="signature of a trained XP")
    parser.add_argument("--output", type=Path, help="the folder to make (by default <dora.dir>/exports/SIG)")
    args = parser.parse_args(argv)
    from bm.analysis.load import export, load
    folder = args.output or Path(train_main.dora.dir) / "exports" / args.sig
    try:
        if folder.exists():
            raise FileExistsError(f"{folder} exists: remove it, or choose another with --output")
        export(load(args.sig), folder)
    except (OSError, NotRestorable, ValueError) as error:
        raise SystemExit(str(error)) from None
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2 ** 20
    print(f"{os.path.relpath(folder)}: {size:.1f} MB; bm.load({str(folder)!r}) reads it")
    return folder


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
