"""Whether the XP is above chance where nothing is to be decoded."""
import pandas as pd

from bm.analysis.controls import CONTROLS, NULLS, control_folders, survives
from bm.analysis.report.parts import Part, note, percent, table
from bm.analysis.xp import StoredXP

_MEANING = {"none": "the decoder itself", "noise_brain": "noise instead of the brain",
            "reversed_brain": "recordings backwards", "untrained": "before training",
            "other_subject": "another subject who heard the same (what people share: no null)"}


def controls(xp: StoredXP) -> list[Part]:
    """The controls that `scripts/run_eval_probs.py` evaluated, beside the decoder."""
    folders = control_folders(xp.folder.parents[1] / "eval" / "signatures" / xp.sig)
    if not set(folders) & set(CONTROLS):
        return [note("No control was evaluated", "Is it above chance on noise, on reversed recordings, or before its "
                     f"training? python -m scripts.run_eval_probs sigs=[{xp.sig}] control=all")]
    rows, surviving = [], []
    for name, folder in folders.items():
        accuracy = pd.read_csv(folder / "acc.csv")
        row = {"tested on": _MEANING[name], "n": int(accuracy["n"].iloc[0])}
        for _, line in accuracy.iterrows():
            interval = f" [{percent(line['low'])}, {percent(line['high'])}]" if line["low"] == line["low"] else ""
            row[f"top-{line['topk']:.0f} [95 %]"] = percent(line["acc_segment"]) + interval
            row[f"chance {line['topk']:.0f}"] = percent(line["chance"])
            if survives(line, name):
                surviving.append(f"{_MEANING[name]} (top-{line['topk']:.0f})")
        row["verdict"] = "–" if name not in NULLS else "ABOVE CHANCE" if any(
            survives(line, name) for _, line in accuracy.iterrows()) else "chance"
        rows.append(row)
    verdict = ("No control whose interval was measured lies above chance." if not surviving else
               f"A CONTROL SURVIVES: {', '.join(surviving)}. What is decoded there is not the brain's response to what "
               "was heard: no score here can be trusted before this is understood.")
    return [table("Controls", pd.DataFrame(rows), verdict)]
