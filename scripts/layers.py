"""Networks side by side: which of their layers are like the brain, from finished ridge and RSA XPs.

    python -m scripts.layers GRID_OR_SIG [MORE …] [--output FOLDER]
    python -m scripts.layers layers --run

Prints scores of networks with their controls and of each layer, differences with p values, positions of the best layers
by region, and effective dimensionality against scores; writes every table as CSV, every figure as PNG, values on the
cortex as GIFTI (extra `surface`), and all in one HTML page that needs no network, by default in
`<outputs>/layers/<first name>`. Only folders of XPs are read; with `--run` what a grid lacks is trained before, as
`scripts.run_grid` does.
"""
import argparse
import os
import re
from pathlib import Path

import pandas as pd

#: tables that are printed, and their titles
PRINTED = {"networks": "networks", "curves": "layers", "pairs": "differences", "regions": "best layer by region",
           "primary_test": "primary and other regions, over networks", "dimensionality": "dimensionality and score",
           "responses": "dimensionality of responses"}


def main(argv: list[str] | None = None) -> Path:
    """Writes the page and returns its path."""
    parser = argparse.ArgumentParser(prog="python -m scripts.layers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="GRID_OR_SIG", help="launched grids and signatures of XPs")
    parser.add_argument("--output", type=Path, help="folder of tables, figures and page")
    parser.add_argument("--run", action="store_true", help="first train what is missing of the named grids, here")
    args = parser.parse_args(argv)
    from bm.train import main as train_main
    outputs = Path(train_main.dora.dir)
    if args.run:  # what is the signature of an XP is there already
        from scripts.run_grid import main as run_grid
        grids = [name for name in args.names if not (outputs / "xps" / name).is_dir()]
        if failed := [name for name in grids if run_grid([name])]:
            raise SystemExit(f"XPs of {', '.join(failed)} failed: see above")
    from matplotlib.figure import Figure

    from bm.analysis.layer_tables import all_tables
    from bm.analysis.layers import find_layers, groups
    from bm.analysis.report.layers import comparison
    from bm.analysis.report.parts import fill, new_report
    from bm.analysis.report.places import write_surfaces
    try:
        xps = find_layers(args.names, outputs)
        tables = all_tables(xps)
        sections = comparison(xps, tables)
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
    for (responses, _), own in groups(xps).items():
        write_surfaces(own, folder, responses)
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
