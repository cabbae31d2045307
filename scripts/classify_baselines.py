"""A network beside classical classifiers on the same folds, subject by subject.

    python -m scripts.classify_baselines [--grid eeg_rest] [--methods network bandpower …] [OVERRIDES …]

Runs the XPs of a grid that are not finished, in this process, and prints for each method the metrics pooled over folds
with 95 % intervals, then the paired differences of subjects' balanced accuracies to the first method. Those of
`bandpower_centred` use the unlabelled test segments of a subject (transductive), the others do not.
"""
import argparse
import importlib
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from bm.config import ConfigError, check_config, to_plain
from bm.metrics.classification import Predictions, by_subject, paired, summary
from bm.train import main as train_main
from bm.train import run as run_xp
from bm.xp_lock import hold
from grids._utils import collect

SHOWN = ("balanced_accuracy", "roc_auc", "macro_f1")
NOTE = {"bandpower_centred": " (transductive)"}


def finish(argv: list[str]) -> Path:
    """Runs an XP unless it is finished; its folder."""
    xp = train_main.get_xp(argv)
    if not (xp.folder / "result.json").exists():
        train_main.init_xp(xp)
        with hold(xp.folder, 0, 1), xp.enter():
            run_xp(check_config(to_plain(xp.cfg)), xp.folder, Path.cwd(), xp.link)
    return xp.folder


def read(folders: list[Path]) -> Predictions:
    """The test segments of all folds of one method.

    Raises:
        ValueError: a segment is tested twice, or the folds have different classes.
    """
    tables = [pd.read_parquet(folder / "test_segments.parquet") for folder in folders]
    classes = [[name for name in table if name.startswith("p_")] for table in tables]
    table = pd.concat(tables, ignore_index=True)
    twice = table.duplicated(["recording", "first"]).sum()
    if twice or any(one != classes[0] for one in classes):
        raise ValueError(f"{twice} segments are tested twice, classes {classes}: expected folds of one experiment")
    number = {name[2:]: i for i, name in enumerate(classes[0])}
    return Predictions(table["label"].map(number).to_numpy(int), table[classes[0]].to_numpy(float),
                       table["subject"].to_numpy(object), table["block"].to_numpy(object))


def report(found: dict[str, Predictions], n_boot: int = 2000) -> str:
    """Two tables: pooled metrics of each method, and differences to the first one over subjects."""
    rows, people = [], {method: by_subject(predictions) for method, predictions in found.items()}
    for method, predictions in found.items():
        scores = summary(predictions, n_boot=n_boot)
        cells = {"method": method + NOTE.get(method, ""), "n": scores["n"]}
        for name in SHOWN:
            limits = [scores.get(f"{name}_{side}", np.nan) for side in ("low", "high")]
            cells[name] = f"{scores.get(name, np.nan):.3f} [{limits[0]:.3f}, {limits[1]:.3f}]"
        rows.append({**cells, "p": f"{scores['p']:.3g}"})
    first = next(iter(found))
    subjects = pd.DataFrame({method: table.set_index("subject")["balanced_accuracy"]
                             for method, table in people.items()})
    lines = [pd.DataFrame(rows).to_string(index=False), "", "balanced accuracy of each subject",
             subjects.round(3).to_string()]
    others = [method for method in found if method != first]
    if others and len(subjects) > 1:
        compared = [{"": f"{first} − {method}", **paired(people[first], people[method])} for method in others]
        table = pd.DataFrame(compared).round(3)
        lines += ["", f"paired differences over {len(subjects)} subjects: mean, 95 % t interval, Wilcoxon's p",
                  table.to_string(index=False)]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(prog="python -m scripts.classify_baselines", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="eeg_rest", help="whose XPs (classify.method and dset.fold) to run")
    parser.add_argument("--methods", nargs="+", help="those of the grid to compare, the first with the others")
    parser.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE", help="for all XPs, such as seed=1")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    found: dict[str, list[Path]] = {}
    try:
        listed = collect(importlib.import_module(f"grids.{args.grid}").explorer)
        known = list(dict.fromkeys(one.xp.cfg.classify.method for one in listed))
        methods = args.methods or known
        if wrong := sorted(set(methods) - set(known)):
            raise SystemExit(f"--methods {' '.join(wrong)}: grid {args.grid} has {', '.join(known)}")
        for method in methods:
            for one in listed:
                if one.xp.cfg.classify.method == method:
                    print(f"{method}, fold {one.xp.cfg.dset.fold}", flush=True)
                    found.setdefault(method, []).append(finish([*one.xp.argv, *args.overrides]))
        print("\n" + report({method: read(folders) for method, folders in found.items()}))
    except (ModuleNotFoundError, FileNotFoundError, ValueError, ConfigError) as error:
        raise SystemExit(f"classify_baselines: {error}") from None


if __name__ == "__main__":
    main()
