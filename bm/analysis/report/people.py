"""People whom the model never saw: what some minutes of their data are worth."""
import pandas as pd

from bm.analysis.plots.calibration import plot_calibration
from bm.analysis.report.parts import Part, percent, table
from bm.analysis.xp import StoredXP


def calibration(xp: StoredXP) -> list[Part]:
    """The curve that `scripts/calibrate.py` wrote."""
    path = xp.folder.parents[1] / "eval" / "signatures" / xp.sig / "calibration.csv"
    if not path.exists():
        return []
    curve = pd.read_csv(path)
    k = int(curve["topk"].max())
    caption = ("Weights that the model has for each person are fitted on the first so many minutes of that person's "
               "data outside of the test; all else is as trained. 0 minutes: what stands in for them (the mean of the "
               "trained people's). Thin: each person. Band: 95 % bootstrap over people and blocks of stimulus.")
    everyone = curve[curve["subject"] == "all"]
    rows = [{"minutes asked": f"{minutes:g}", "used, mean": f"{own['used'].iloc[0]:.2g}",
             "segments": int(own["segments"].iloc[0])}
            | {f"top-{line.topk} [95 %]": f"{percent(line.accuracy)} [{percent(line.low)}, {percent(line.high)}]"
               for line in own.itertuples()} for minutes, own in everyone.groupby("minutes")]
    return [Part("Minutes of calibration", plot_calibration(curve, k), caption),
            table("Accuracy after calibration", pd.DataFrame(rows))]
