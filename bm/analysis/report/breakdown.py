"""Where the accuracy comes from: what `scripts/breakdown.py` wrote."""
import pandas as pd

from bm.analysis.plots.breakdown import figure_of
from bm.analysis.report.parts import Part, note, percent, table
from bm.analysis.xp import StoredXP

_TITLES = {"breakdown": "By word and subject", "sensors": "By sensor", "timing": "In time",
           "explained": "What predicts its probabilities"}
_CAPTIONS = {
    "breakdown": "Bars: 95 % bootstrap over subjects (over subjects and blocks of stimulus where there are few); none "
                 "where there is nothing to draw from. Dashed: chance, the same for all, as the candidates are.",
    "sensors": "Accuracy lost when a sensor has what it recorded elsewhere, or its mean, all else as it was. Of "
               "sensors that say the same none is needed: small losses all over do not mean that nothing is there.",
    "timing": "The trained decoder, given the brain in a window only and compared with candidates there. Nothing is "
              "trained again: a decoder trained on that window alone can only be expected to do better.",
    "explained": "Ridge regressions of the probability of the true segment, z-scored within subjects; five folds of "
                 "whole blocks of stimulus. Bars: 95 % bootstrap over subjects. In brackets: dimensions."}


def breakdown(xp: StoredXP) -> list[Part]:
    """Figures of the tables that are there; of those older than the evaluation it is said that they are."""
    folder = xp.folder.parents[1] / "eval" / "signatures" / xp.sig
    marker, parts = folder / "complete.json", []
    for name, title in _TITLES.items():
        path = folder / f"{name}.csv"
        if not path.exists():
            continue
        values = pd.read_csv(path, keep_default_na=False, na_values=[""])
        figure = figure_of(name, values)
        old = marker.exists() and path.stat().st_mtime < marker.stat().st_mtime
        caption = ("OLDER THAN THE EVALUATION: " if old else "") + _CAPTIONS[name]
        if figure is not None:
            parts.append(Part(title, figure, caption))
        if name == "explained":
            lacking = values[values["missing"].notna()]
            parts += [note(f"No {row.family}", str(row.missing)) for row in lacking.itertuples()]
        if name == "sensors":
            best = values.sort_values("drop", ascending=False).head(8)
            parts.append(table("Sensors that are missed most", pd.DataFrame({
                "without": best["group"], "accuracy lost [95 %]": [
                    f"{percent(row.drop)} [{percent(row.low)}, {percent(row.high)}]" for row in best.itertuples()],
                "n": best["n"]})))
    return parts
