"""Backward response functions: how well the sound is had back from the brain, and what of the brain says so."""
import numpy as np
import pandas as pd

from bm.analysis.plots.sensors import plot_topomaps
from bm.analysis.report.parts import Part, note, percent, table
from bm.analysis.xp import StoredXP

#: rows of the table of columns, above which they are put together by feature; maps shown
MOST_COLUMNS, N_MAPS = 40, 6


def reconstruction(xp: StoredXP) -> list[Part]:
    """The section of an XP of task trf, direction backward."""
    path = xp.folder / "reconstruction.parquet"
    if xp.get("task.type") != "trf" or xp.get("trf.direction") != "backward" or xp.result is None or not path.exists():
        return []
    scores = pd.read_parquet(path)
    return [_columns(scores), *_identification(xp), _patterns(xp, scores)]


def _columns(scores: pd.DataFrame) -> Part:
    """r of each column of features."""
    name = scores["feature"] if scores["feature"].nunique() <= MOST_COLUMNS else scores["feature"].str.partition("[")[0]
    rows = []
    for feature, own in scores.groupby(name, sort=False):
        of_subjects = own.groupby("subject_name")["r"].mean()
        row = {"feature": feature, "subjects": len(of_subjects), "r": of_subjects.mean().round(3),
               "lowest": of_subjects.min().round(3), "highest": of_subjects.max().round(3),
               "r2": own["r2"].mean().round(3)}
        if len(own) == 1:
            row["95 % interval"] = f"[{own['r_low'].iloc[0]:.3f}, {own['r_high'].iloc[0]:.3f}]"
        rows.append(row)
    return table("Reconstructed features", pd.DataFrame(rows), "Correlation r of reconstructed and true features over "
                 "all test stimuli, mean over subjects (and columns), with the lowest and highest subject"
                 + ("; interval: bootstrap over stimuli." if "95 % interval" in rows[0] else "."))


def _identification(xp: StoredXP) -> list[Part]:
    """Which segment was heard: accuracies with chance."""
    test = xp.test or {}
    rows = [{"top-k": k, "accuracy": percent(test[f"top{k}"]),
             "95 % interval": f"[{percent(test[f'top{k}_low'])}, {percent(test[f'top{k}_high'])}]",
             "chance": percent(test[f"top{k}_chance"])} for k in xp.get("test.topk") if f"top{k}" in test]
    if not rows:
        return []
    how = ("the test segments of decoding, each from its own window" if xp.get("trf.candidates") == "segments"
           else "pieces of the test stimuli")
    return [table("Identified segments", pd.DataFrame(rows), f"{test['n']} reconstructions, each among "
                  f"{test['n_candidates']} candidates: {how}; by the features' summed correlation over "
                  "the root of how many vary in the candidate.")]


def _patterns(xp: StoredXP, scores: pd.DataFrame) -> Part:
    """Maps of the patterns of the column that is reconstructed best, of its best subject."""
    best = scores.loc[scores["r"].idxmax()]
    subject, title = int(best["subject"]), "Patterns"
    with np.load(xp.folder / "kernels.npz") as stored:
        if "layout" not in stored:
            return note(title, "This XP was made by an older version, which kept no places of channels.")
        patterns, channels = stored[f"patterns_{subject}"], stored[f"channels_{subject}"]
        pattern = patterns[stored["features"].tolist().index(best["feature"])]
        lags, layout = 0 - stored["lags"][::-1], stored["layout"][channels]
    placed = np.isfinite(layout).all(1)
    if len(np.unique(layout[placed].round(5), axis=0)) < 4:
        return note(title, "No map: fewer than four channels have a place in a flat layout.")
    shown = np.unique(np.linspace(0, len(lags) - 1, N_MAPS).round().astype(int))
    most = float(np.abs(pattern[:, placed]).max()) or 1.0
    figure = plot_topomaps(pattern[shown][:, placed], layout[placed], [f"{1000 * lags[i]:.0f} ms" for i in shown],
                           "pattern", signed=range(len(shown)), limits=(-most, most))
    caption = (f"What the brain does that much after one unit of {best['feature']} as reconstructed, of "
               f"{best['subject_name']} (the highest r). Weights of a decoder are no such maps: they take noise away "
               "too (Haufe et al. 2014).")
    return Part(title, figure, caption)
