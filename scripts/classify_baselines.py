"""A network beside classical classifiers on the same folds, subject by subject.

    python -m scripts.classify_baselines [--grid eeg_rest] [--methods network bandpower …] [OVERRIDES …]

Runs the XPs of a grid that are not finished, in this process, and prints for each method the metrics pooled over folds
with 95 % intervals, then the paired differences of subjects' balanced accuracies to the first method. Where a grid has
several settings of a method on a fold, the one with the lowest validation loss is taken: test segments choose nothing.
`bandpower_centred` uses the unlabelled test segments of a subject (transductive), the others do not.
"""
import argparse
import importlib
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from bm.config import ConfigError, check_config, to_plain
from bm.metrics.classification import Predictions, by_subject, from_tables, paired, summary
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


def choose(settings: dict[str, Path]) -> tuple[str, Path]:
    """Of several settings (name → folder) on one fold, that of the lowest validation loss; the first of two equal ones.

    Raises:
        ValueError: a setting without a validation loss.
    """
    losses = {name: json.loads((folder / "result.json").read_text()).get("best_loss")
              for name, folder in settings.items()}
    unknown = [name for name, loss in losses.items() if loss is None or loss != loss]
    if unknown:
        raise ValueError(f"the setting {unknown[0]} has no validation loss to choose by: give each fold a valid split")
    best = min(losses, key=lambda name: losses[name])
    return best, settings[best]


def read(folders: list[Path]) -> Predictions:
    """The test segments of all folds of one method.

    Raises:
        ValueError: a segment is tested twice, or the folds have different classes.
    """
    tables = [pd.read_parquet(folder / "test_segments.parquet") for folder in folders]
    if twice := pd.concat(tables).duplicated(["recording", "first"]).sum():
        raise ValueError(f"{twice} segments are tested twice: expected folds of one experiment")
    return from_tables(tables)


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
            folds: dict[int, list[list[str]]] = {}
            for one in listed:
                if one.xp.cfg.classify.method == method:
                    folds.setdefault(one.xp.cfg.dset.fold, []).append(one.xp.argv)
            for fold, argvs in folds.items():
                settings = {}
                for argv in argvs:
                    own = " ".join(arg for arg in argv if any(arg not in other for other in argvs)) or "the preset's"
                    print(f"{method}, fold {fold}" + (f": {own}" if len(argvs) > 1 else ""), flush=True)
                    settings[own] = finish([*argv, *args.overrides])
                name, folder = choose(settings) if len(argvs) > 1 else next(iter(settings.items()))
                if len(argvs) > 1:
                    print(f"  lowest validation loss: {name}", flush=True)
                found.setdefault(method, []).append(folder)
        print("\n" + report({method: read(folders) for method, folders in found.items()}))
    except (ModuleNotFoundError, FileNotFoundError, ValueError, ConfigError) as error:
        raise SystemExit(f"classify_baselines: {error}") from None


if __name__ == "__main__":
    main()
