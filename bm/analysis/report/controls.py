"""Whether the XP is above chance where nothing is to be decoded."""
import pandas as pd

from bm.analysis.controls import CONTROLS, NULLS, TRAINING, control_folders, survives, training_controls
from bm.analysis.report.parts import Part, note, percent, table
from bm.analysis.xp import StoredXP

#: tasks whose estimates are always compared with candidates
DECODING = ("decode", "linear_decode", "linear_encode")
_MEANING = {"none": "the decoder itself", "noise_brain": "noise instead of the brain",
            "reversed_brain": "recordings backwards", "untrained": "before training",
            "other_subject": "another subject who heard the same (what people share: no null)",
            "noise_training": "trained and tested on noise (above chance: the splits leak)",
            "shuffled_pairs": "trained on wrong pairs of brain and sound",
            "random_features": "trained on features of a network with random weights (a comparison: no null)"}


def _has_candidates(xp: StoredXP) -> bool:
    """Whether these controls can be asked for: they compare estimates with candidates."""
    if not (xp.folder / "config.json").exists() or xp.get("task.type") in DECODING:
        return True
    return (xp.get("task.type") == "trf" and xp.get("trf.direction") == "backward"
            and xp.get("trf.candidates") == "segments")


def controls(xp: StoredXP) -> list[Part]:
    """The controls that `scripts/run_eval_probs.py` evaluated, beside the decoder, and XPs that are controls of it."""
    if not _has_candidates(xp):
        return []
    home = xp.folder.parents[1] / "eval" / "signatures"
    folders = control_folders(home / xp.sig)
    trained = training_controls(xp) if (xp.folder / "config.json").exists() else {}
    waiting = [other.sig for other in trained.values() if not (home / other.sig / "complete.json").exists()]
    folders |= {name: home / other.sig for name, other in trained.items() if other.sig not in waiting}
    parts = []
    if waiting:
        parts.append(note("Controls that were trained, but not evaluated", "python -m scripts.run_eval_probs "
                          f"sigs=[{','.join(waiting)}]"))
    if not set(folders) & {*CONTROLS, *TRAINING}:
        return [*parts, note("No control was evaluated", "Is it above chance on noise, on reversed recordings, or "
                             "before its training? python -m scripts.run_eval_probs "
                             f"sigs=[{xp.sig}] control=all. Or when it is trained on wrong pairs? Train it again with "
                             "task.shuffle_pairs=true, and evaluate that")]
    rows, surviving = [], []
    for name, folder in folders.items():
        accuracy = pd.read_csv(folder / "acc.csv")
        xp_of = f" (XP {trained[name].sig})" if name in TRAINING else ""
        row = {"tested on": _MEANING[name] + xp_of, "n": int(accuracy["n"].iloc[0])}
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
    return [table("Controls", pd.DataFrame(rows), verdict), *parts]
