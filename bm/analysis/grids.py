"""The tables of a paper, from the evaluation files of many XPs (`scripts/run_eval_probs.py`) and nothing else.

XPs that differ in their seed alone are one decoder; it is called by what distinguishes its config from the others'.
"""
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.controls import NULLS, survives
from bm.config import nearest, relevant
from bm.flat import flatten
from bm.metrics.compare import SEGMENT, compare, fdr, paired_interval, signed_rank
from bm.metrics.stats import bootstrap_interval

logger = logging.getLogger(__name__)

#: keys that distinguish no decoder
_IGNORED = ("seed", "dummy", "cache", "features_models", "device", "num_", "verbose", "show", "resident",
            "study_paths.", "dora.", "slurm.", "hydra.", "tensorboard", "wandb.")


@dataclass(frozen=True)
class Evaluated:
    """One evaluation folder: an XP tested on one study's segments, or on all of its studies together."""

    sig: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config that the XP was made with."""
        from omegaconf import OmegaConf
        return OmegaConf.to_container(OmegaConf.load(self.folder / "solver_config.yaml"))  # type: ignore[return-value]

    @cached_property
    def segments(self) -> pd.DataFrame:
        """One row per test segment, with its rank and hits."""
        return pd.read_parquet(self.folder / "metadata.parquet")

    @cached_property
    def accuracy(self) -> pd.DataFrame:
        """One row per k: accuracy, interval, chance."""
        return pd.read_csv(self.folder / "acc.csv").set_index("topk")

    @cached_property
    def data(self) -> pd.DataFrame:
        """What each split of each study holds (see `bm.analysis.evaluate.describe`)."""
        return pd.read_csv(self.folder / "data.csv")

    @property
    def study(self) -> str:
        """The study, or studies, of its test segments."""
        return "+".join(sorted(self.segments["study"].unique()))

    @property
    def seed(self) -> int:
        return self.config["seed"]

    def controls(self) -> dict[str, pd.DataFrame]:
        """`acc.csv` of each control that was evaluated, by its name."""
        return {path.name.removeprefix("control_"): pd.read_csv(path / "acc.csv")
                for path in sorted(self.folder.glob("control_*")) if (path / "complete.json").exists()}


def find_evaluated(home: Path, sigs: Iterable[str]) -> list[Evaluated]:
    """Finished evaluations of the XPs `sigs` under `home` (`<dora.dir>/eval/signatures`), in that order.

    Raises:
        FileNotFoundError: an XP without one; says how to make it.
    """
    found, missing = [], []
    for sig in sigs:
        studies = home / sig / "studies.json"
        folders = [home / sig] if not studies.exists() or (home / sig / "complete.json").exists() else [
            home / sig / study for study in json.loads(studies.read_text())]
        done = [Evaluated(sig, folder) for folder in folders if (folder / "complete.json").exists()]
        found += done
        if not done:
            missing.append(sig)
    if missing or not found:
        raise NotMade(f"{len(missing)} XPs have no evaluation in {home} ({', '.join(missing[:5])}): python -m "
                      f"scripts.run_eval_probs 'sigs=[{','.join(missing[:5])}]'")
    return found


class NotMade(FileNotFoundError):
    """Grids, XPs or evaluations that are not there: one line that says what to run, in notebooks too."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


def split_names(text: str) -> list[str]:
    """Names with blanks or commas between them.

    >>> split_names("a,b c, d")
    ['a', 'b', 'c', 'd']
    """
    return text.replace(",", " ").split()


def chosen_names(grid: str) -> list[str]:
    """What a notebook is about: the signatures in `BM_SIGS` (or `BM_SIG`), else what `BM_GRID` names, else `grid`."""
    chosen = (split_names(os.environ.get(name, "")) for name in ("BM_SIGS", "BM_SIG", "BM_GRID"))
    return next((names for names in chosen if names), [grid])


def find_outputs() -> Path:
    """The folder of XPs: `BM_OUTPUTS`, or else `outputs` here or one folder up."""
    own = os.environ.get("BM_OUTPUTS")
    places = [Path(own)] if own else [Path("outputs"), Path("../outputs")]
    return next((place for place in places if place.is_dir()), places[0])


def grid_signatures(name: str, outputs: Path) -> list[str]:
    """Signatures of a launched grid, sorted: what Dora's folder of it links to.

    Raises:
        FileNotFoundError: no such grid; names those there are.
    """
    home = outputs / "grids"
    sigs = sorted(path.name for path in (home / name).glob("*") if path.is_dir())
    if not sigs:
        known = sorted(path.name for path in home.glob("*") if path.is_dir())
        raise NotMade(f"no grid {name!r} in {home}{nearest(name, known)}; there are: "
                      f"{', '.join(known) or 'none (dora grid)'}. Launch it first: python -m scripts.run_grid {name}")
    return sigs


def xp_folders(names: Iterable[str], outputs: Path | None = None) -> dict[str, Path]:
    """Signature → folder of XPs, of launched grids (by name) or signatures.

    Args:
        outputs: the folder of XPs; None: that of `find_outputs`.

    Raises:
        FileNotFoundError: no such grid or XP.
    """
    outputs = outputs or find_outputs()
    folders: dict[str, Path] = {}
    for name in names:
        launched = (outputs / "grids" / name).is_dir()
        for sig in grid_signatures(name, outputs) if launched else [name]:
            folders[sig] = outputs / "xps" / sig
            if not folders[sig].is_dir():
                grid = "NAME" if re.fullmatch("[0-9a-f]{8}", sig) else sig
                raise NotMade(f"{sig!r} is neither a launched grid nor an XP in {outputs}: python -m scripts.run_grid "
                              f"{grid}, or dora run")
    return folders


def load_grid(name: str, outputs: Path | None = None) -> list[Evaluated]:
    """All evaluated XPs of a launched grid.

    Args:
        outputs: the folder of XPs; None: that of `find_outputs`.

    Raises:
        FileNotFoundError: no such grid, or XPs of it that were not evaluated.
    """
    outputs = outputs or find_outputs()
    return find_evaluated(outputs / "eval" / "signatures", grid_signatures(name, outputs))


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat key → value of what may distinguish one decoder from another."""
    return {key: value for key, value in flatten(relevant(dict(config))).items() if not key.startswith(_IGNORED)}


def decoder_names(configs: list[dict[str, Any]]) -> tuple[list[str], str]:
    """A name for each config, equal for those that differ in the seed alone, and the name of the reference.

    The reference is the config with the most common values; the others are named by where they differ from it.

    >>> base = {"seed": 1, "dset": {"selections": []}, "selections": {}, "optim": {"lr": 1}, "depth": 5}
    >>> decoder_names([base, {**base, "seed": 2}, {**base, "depth": 3}])
    (['reference', 'reference', 'depth=3'], 'reference')
    """
    flat = [settings(config) for config in configs]
    keys = sorted({key for one in flat for key in one})
    values = {key: [json.dumps(one.get(key, "(absent)"), default=str) for one in flat] for key in keys}
    varying = [key for key in keys if len(set(values[key])) > 1 and not key.startswith(("dset.selections",
                                                                                        "selections."))]
    # of values as common as each other the first in the alphabet, whatever the order of the XPs
    common = {key: min((-n, value) for value, n in Counter(values[key]).items())[1] for key in varying}
    scores = [sum(values[key][i] == common[key] for key in varying) for i in range(len(flat))]
    base = int(np.argmax(scores))
    # where a choice brings keys of its own, the choice is name enough
    chosen = [key for key in varying if all(key in one for one in flat)] or varying
    names = []
    for i, one in enumerate(flat):
        own = [key for key in chosen if values[key][i] != values[key][base]] or [
            key for key in varying if values[key][i] != values[key][base]]
        short = [f"{key.rpartition('.')[2]}={_text(one.get(key))}" for key in own]
        names.append(" ".join(short) or "reference")
    return names, names[base]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def main_table(evaluated: list[Evaluated], k: int = 10, *, names: Mapping[str, str] | None = None,
               reference: str | None = None, n_boot: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Each decoder on each study: top-k accuracy, chance, and its difference to the reference over subjects.

    Args:
        names: found name (`decoder_names`) → name to show; the order is that of the table.
        reference: shown name of the one that the others are compared with; None: that of `decoder_names`.

    Returns:
        Columns of `bm.metrics.compare.compare`, with `study` in front, `n_seeds`, and `sd`, the deviation over seeds
        (NaN for one). Intervals are over subjects, of fewer than three over subjects and blocks of stimulus. `p_fdr` is
        corrected within each study.

    Errors: KeyError for a reference that there is not; ValueError if decoders were tested on other subjects.
    """
    found, base = decoder_names([one.config for one in evaluated])
    shown = [(names or {}).get(name, name) for name in found]
    base = reference or (names or {}).get(base, base)
    order = list(dict.fromkeys([*(names or {}).values(), *shown]))
    tables = []
    for study in dict.fromkeys(one.study for one in evaluated):
        own = [(name, one) for name, one in zip(shown, evaluated, strict=True) if one.study == study]
        decoders = {name: [one for other, one in own if other == name] for name in order
                    if any(other == name for other, _ in own)}
        here = base if base in decoders else next(iter(decoders))
        if reference is not None and reference not in decoders:
            raise KeyError(f"reference {reference!r} is none of the decoders {sorted(decoders)} of {study}")
        table = compare({name: [one.segments for one in those] for name, those in decoders.items()}, here, f"top{k}",
                        chances={name: those[0].accuracy["chance"][k] for name, those in decoders.items()},
                        n_boot=n_boot, seed=seed)
        _fill_intervals(table, decoders, here, k, n_boot, seed)
        seeds = {name: [one.segments[f"top{k}"].mean() for one in those] for name, those in decoders.items()}
        table.insert(0, "study", study)
        table["n_seeds"] = table["decoder"].map(lambda name, seeds=seeds: len(seeds[name]))
        table["sd"] = table["decoder"].map(
            lambda name, seeds=seeds: np.std(seeds[name], ddof=1) if len(seeds[name]) > 1 else np.nan)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _fill_intervals(table: pd.DataFrame, decoders: Mapping[str, list[Evaluated]], reference: str, k: int, n_boot: int,
                    seed: int) -> None:
    """Of too few subjects to draw from alone, intervals over subjects and blocks of stimulus."""
    means = {name: over_seeds([one.segments for one in those], f"top{k}") for name, those in decoders.items()}
    for row, name in table["decoder"].items():
        own = means[name]
        if pd.isna(table.loc[row, "low"]) and own["block"].nunique() > 1:
            interval = bootstrap_interval(own[f"top{k}"], own["subject_uid"], own["block"], n_boot=n_boot, seed=seed)
            table.loc[row, ["low", "high"]] = interval.low, interval.high
        if name != reference and pd.isna(table.loc[row, "difference_low"]) and own["block"].nunique() > 1:
            paired = paired_interval(own, means[reference], f"top{k}", n_boot=n_boot, seed=seed)
            table.loc[row, ["difference_low", "difference_high"]] = paired["low"], paired["high"]


def over_seeds(tables: list[pd.DataFrame], metric: str) -> pd.DataFrame:
    """The first table, its metric averaged over all of them, segment by segment."""
    first = tables[0]
    mean = pd.concat([table[[*SEGMENT, metric]] for table in tables]).groupby(SEGMENT)[metric].mean().reset_index()
    return first.drop(columns=metric).merge(mean, on=SEGMENT, validate="one_to_one")


def subjects_table(evaluated: list[Evaluated], k: int = 10, names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Top-k accuracy of each subject with each decoder, mean over seeds: index (study, subject), a column each."""
    found, _ = decoder_names([one.config for one in evaluated])
    rows = [one.segments.groupby(["study", "subject_uid"])[f"top{k}"].mean().rename("accuracy").reset_index().assign(
        decoder=(names or {}).get(name, name)) for name, one in zip(found, evaluated, strict=True)]
    table = pd.concat(rows, ignore_index=True)
    return table.pivot_table(index=["study", "subject_uid"], columns="decoder", values="accuracy", sort=False)


def pooled_tests(subjects: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Each decoder against the reference over the subjects of all studies: the p values of the paper's ablations.

    Args:
        subjects: of `subjects_table`.

    Returns:
        One row per other decoder: `n` subjects that both have, `difference` of the means, `sem`, rank-biserial
        `effect`, two-sided signed-rank `p`, and `p_fdr` over the rows.
    """
    if reference not in subjects:
        raise KeyError(f"reference {reference!r} is none of the decoders {sorted(subjects)}")
    rows = []
    for name in subjects.columns.drop(reference):
        both = subjects[[reference, name]].dropna()
        test = signed_rank(both[name], both[reference])
        difference = both[name] - both[reference]
        rows.append({"decoder": name, "n": len(both), "difference": difference.mean(),
                     "sem": difference.sem() if len(both) > 1 else np.nan, "effect": test.effect, "p": test.p})
    out = pd.DataFrame(rows)
    return out.assign(p_fdr=fdr(out["p"])) if len(out) else out


def controls_table(evaluated: list[Evaluated], k: int = 10) -> pd.DataFrame:
    """Controls of all XPs: accuracy, interval, chance, and whether one that should be at chance is above it."""
    found, _ = decoder_names([one.config for one in evaluated])
    rows = []
    for name, one in zip(found, evaluated, strict=True):
        for control, table in one.controls().items():
            line = table.set_index("topk").loc[k]
            rows.append({"study": one.study, "decoder": name, "seed": one.seed, "control": control,
                         "accuracy": line["acc_segment"], "low": line["low"], "high": line["high"],
                         "chance": line["chance"], "survives": control in NULLS and bool(survives(line, control))})
    return pd.DataFrame(rows)


def studies_table(evaluated: list[Evaluated]) -> pd.DataFrame:
    """What the studies hold, one row per study (Table 1): from the first evaluation of each."""
    first = {one.study: one for one in reversed(evaluated)}
    return pd.concat([one.data for one in reversed(first.values())]).drop_duplicates("study").reset_index(drop=True)


def pretty(table: pd.DataFrame) -> pd.DataFrame:
    """The main table in percent and words, as one would print it."""
    def percent(value: float) -> str:
        return "–" if value != value else f"{100 * value:.1f}"
    columns: dict[str, list[Any]] = {"study": table["study"].tolist(), "decoder": table["decoder"].tolist()}
    columns["subjects"] = table["n_subjects"].tolist()
    columns["seeds"] = table["n_seeds"].tolist()
    columns["accuracy (%)"] = [f"{percent(mean)} ± {percent(sd)}" if sd == sd else percent(mean)
                               for mean, sd in zip(table["mean"], table["sd"], strict=True)]
    for name, first in (("95 %", ""), ("difference", "difference_")):
        if f"{first}low" not in table:
            continue
        ends = [f"[{percent(low)}, {percent(high)}]" if low == low else "–"
                for low, high in zip(table[f"{first}low"], table[f"{first}high"], strict=True)]
        columns[name] = ends if not first else [
            "" if value != value else f"{100 * value:+.1f} {end}"
            for value, end in zip(table["difference"], ends, strict=True)]
    columns["chance (%)"] = [percent(value) for value in table["chance"]]
    for name in ("effect", "p", "p_fdr"):
        if name in table:
            columns[name] = ["" if value != value else f"{value:.2g}" for value in table[name]]
    return pd.DataFrame(columns)

