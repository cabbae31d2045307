"""Networks side by side: which of their layers are like the brain, from finished ridge and RSA XPs.

    python -m scripts.layers GRID_OR_SIG [MORE …] [--output FOLDER]

Prints scores of networks with their controls, differences with p values, positions of the best layers by region, and
effective dimensionality against scores; writes every table as CSV, every figure as PNG, and all in one HTML page that
needs no network, by default in `<outputs>/layers/<first name>`. Only folders of XPs are read.
"""
import argparse
import os
import re
from pathlib import Path

import pandas as pd

#: tables that are printed, and their titles
PRINTED = {"networks": "networks", "pairs": "differences", "regions": "best layer by region",
           "primary_test": "primary and other regions, over networks", "dimensionality": "dimensionality and score"}


def main(argv: list[str] | None = None) -> Path:
    """Writes the page and returns its path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.layers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="GRID_OR_SIG", help="launched grids and signatures of XPs")
    parser.add_argument("--output", type=Path, help="folder of tables, figures and page")
    args = parser.parse_args(argv)
    from matplotlib.figure import Figure

    from bm.analysis.layers import all_tables, find_layers
    from bm.analysis.report.layers import comparison
    from bm.analysis.report.parts import fill, new_report
    from bm.train import main as train_main
    outputs = Path(train_main.dora.dir)
    try:
        xps = find_layers(args.names, outputs)
        tables = all_tables(xps)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    folder = args.output or outputs / "layers" / args.names[0]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        if len(rows):
            rows.to_csv(folder / f"{name}.csv", index=False)
    for name, title in PRINTED.items():
        if len(tables[name]):
            print(f"{title}\n{_text(tables[name])}\n")
    sections = comparison(xps, tables)
    report = new_report("Layers: " + ", ".join(args.names))
    for section, parts in sections.items():
        fill(report, section, parts)
        for part in parts:
            if isinstance(part.content, Figure):
                part.content.savefig(folder / (re.sub(r"\W+", "_", f"{section} {part.title}").lower() + ".png"))
    page = folder / "layers.html"
    report.save(page, overwrite=True, open_browser=False, verbose=False)
    print(os.path.relpath(page))
    return page


def _text(rows: pd.DataFrame) -> str:
    return rows.to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–")


if __name__ == "__main__":
    main()
