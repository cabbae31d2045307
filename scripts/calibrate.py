"""What minutes of a new person's data are worth to a trained decoder.

    python -m scripts.calibrate SIG [--minutes 0 1 2 5] [--start average|nearest] [--epochs 40] [--device auto]

For test subjects whom the XP never trained on (dset.split_by=subject, or a smaller dset.n_subjects than
dset.n_subjects_test): fits the weights that the model has for each subject, and nothing else, on the first so many
minutes of their data outside of the test, and tests again. Writes calibration.csv and calibration.png into
`<dora.dir>/eval/signatures/SIG`; the report shows them.
"""
import argparse
import logging
import os
from pathlib import Path


def main(argv: list[str] | None = None) -> Path:
    """Writes the curve and returns the path of its table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.calibrate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sig", help="signature of the XP")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0, 1, 2, 5], help="of calibration (0 1 2 5)")
    parser.add_argument("--start", default="average", help="weights before it: average or nearest")
    parser.add_argument("--epochs", type=int, default=40, help="at most (40)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    from bm.analysis.calibrate import Calibration, calibrate
    from bm.analysis.plots.calibration import plot_calibration
    from bm.analysis.xp import NotRestorable, find_xp
    from bm.train import main as train
    try:
        how = Calibration(tuple(args.minutes), args.start, args.epochs)
        table = calibrate(find_xp(args.sig), how, args.device)
    except (NotRestorable, ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    folder = Path(train.dora.dir) / "eval" / "signatures" / args.sig
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "calibration.csv"
    table.to_csv(path, index=False)
    k = int(table["topk"].max())
    plot_calibration(table, k).savefig(folder / "calibration.png")
    for row in table[(table["subject"] == "all") & (table["topk"] == k)].itertuples():
        print(f"{row.minutes:g} min: top-{k} {row.accuracy:.1%} [{row.low:.1%}, {row.high:.1%}], chance "
              f"{row.chance:.2%}, {row.n} segments")
    print(os.path.relpath(path))
    return path


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
