"""Encoders side by side, from the folders of their XPs (tasks encode and trf): which predicts which unit how well.

    encoders = read_encoders([find_xp(sig) for sig in sigs])
    print(pretty(encoder_table(encoders)))

XPs that differ in fold or seed alone are one encoder. Of several folds each stimulus is tested once; what is summed
over them is centred within each fold, as every fold has a model of its own.
"""
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bm.analysis.grids import decoder_names, settings
from bm.analysis.xp import StoredXP
from bm.metrics.compare import fdr, signed_rank
from bm.metrics.encoding import (
    bootstrap_ccnorm,
    bootstrap_r,
    correlation,
    explained_variance,
    few_stimuli,
    median_interval,
    pooled_ccnorm,
)

logger = logging.getLogger(__name__)

TASKS = ("encode", "trf")
#: scores with a noise ceiling: where stimuli were repeated
CEILINGS = ("ccnorm", "ccmax", "reliability")
#: what names a unit
UNIT = ["subject_name", "name"]
#: keys that distinguish no encoder
_FREE = ("dset.fold", "encode.predictions", "test.n_boot", "num_workers")


@dataclass(frozen=True)
class Encoder:
    """The XPs of one encoder.

    Args:
        name: label.
        xps: its folds and seeds.
        units: a row per unit, indexed by `UNIT`: columns of the study's channels, `r`, `r2` and `CEILINGS`.
        stimuli: test stimuli, sorted.
        moments: `(seeds, stimuli, 7, units)`, see `bm.metrics.encoding.stimulus_moments`.
        parameters: that were trained; None if unknown.
        powers: `(seeds, stimuli, 2, units)`, see `bm.metrics.ceilings.Ceilings.powers`; None if nothing was repeated,
            or they are not stored.
    """

    name: str
    xps: tuple[StoredXP, ...]
    units: pd.DataFrame
    stimuli: list[str]
    moments: np.ndarray
    parameters: int | None
    powers: np.ndarray | None = None

    @property
    def n_folds(self) -> int:
        return len({xp.get("dset.fold") for xp in self.xps}) if self.xps[0].get("dset.n_folds") else 1

    def found(self, score: str, stimuli: Sequence[int] | None = None) -> np.ndarray:
        """r or ccnorm `(N,)` over some stimuli, mean over seeds; NaN where it is not known."""
        rows = slice(None) if stimuli is None else list(stimuli)
        if score == "r":
            return np.mean([correlation(one[rows]) for one in self.moments], axis=0)
        if self.powers is None:
            return np.full(self.moments.shape[-1], np.nan)
        return np.mean([pooled_ccnorm(one[rows], power[rows])
                        for one, power in zip(self.moments, self.powers, strict=True)], axis=0)

    def drawn(self, n_boot: int, seed: int, stimuli: Sequence[int] | None = None, score: str = "r") -> np.ndarray:
        """The same `(n_boot, N)` of stimuli drawn with replacement; the same draws for all encoders and scores."""
        rows = slice(None) if stimuli is None else list(stimuli)
        if score == "r":
            return np.mean([bootstrap_r(one[rows], n_boot=n_boot, seed=seed) for one in self.moments], axis=0)
        if self.powers is None:
            return np.full((n_boot, self.moments.shape[-1]), np.nan)
        return np.mean([bootstrap_ccnorm(one[rows], power[rows], n_boot=n_boot, seed=seed)
                        for one, power in zip(self.moments, self.powers, strict=True)], axis=0)

    def repeated(self, stimuli: Sequence[int]) -> int:
        """How many of these stimuli were repeated to any unit."""
        return 0 if self.powers is None else int((self.powers[0, list(stimuli), 1] > 0).any(1).sum())


def key_of(xp: StoredXP) -> str:
    """The same for XPs that differ in fold or seed alone."""
    return json.dumps({key: value for key, value in settings(xp.config).items() if key not in _FREE}, sort_keys=True,
                      default=str)


def encoder_names(xps: Sequence[StoredXP]) -> list[str]:
    """A label for each XP, the same for folds and seeds: the encoder's name, and what distinguishes it from others."""
    plain = []
    for xp in xps:
        config: dict[str, Any] = json.loads(json.dumps(xp.config))
        config["dset"]["fold"], config["encode"]["predictions"] = 0, False
        config["test"]["n_boot"], config["num_workers"] = 0, 0
        plain.append(config)
    keys = [key_of(xp) for xp in xps]
    labels = [xp.get("encoder.name") if xp.get("task.type") == "encode" else "trf" for xp in xps]
    for label in dict.fromkeys(labels):
        _distinguish(labels, [i for i, own in enumerate(labels) if own == label], plain, keys)
    return labels


def _distinguish(labels: list[str], own: list[int], configs: list[dict[str, Any]], keys: list[str]) -> None:
    """Adds to equal labels of different encoders what differs, until they are told apart."""
    if len({keys[i] for i in own}) < 2:
        return
    for i, name in zip(own, decoder_names([configs[i] for i in own])[0], strict=True):
        labels[i] += "" if name == "reference" else f" {name}"
    for label in dict.fromkeys(labels[i] for i in own):
        same = [i for i in own if labels[i] == label]
        if len(same) < len(own):
            _distinguish(labels, same, configs, keys)


def count_parameters(xp: StoredXP) -> int | None:
    """Trained parameters: weights of a network, or a TRF's kernels and intercepts; None if neither is kept."""
    kernels = xp.folder / "kernels.npz"
    if kernels.exists():
        with np.load(kernels) as stored:
            fitted = np.isfinite(stored["kernels"])
            return int(fitted.sum() + fitted.any((0, 1)).sum())
    optimizer = ((xp.checkpoint or {}).get("solver", {}).get("optimizer") or {}).get("state", {})
    return sum(own["exp_avg"].numel() for own in optimizer.values()) or None


def read_encoders(xps: Sequence[StoredXP], names: Mapping[str, str] | None = None) -> list[Encoder]:
    """The encoders of finished XPs, in that order.

    Args:
        names: found label → label to show.

    Raises:
        FileNotFoundError: an XP has no test scores. ValueError: another task; folds of one encoder that test a
            stimulus twice or other units.
    """
    for xp in xps:
        if xp.get("task.type") not in TASKS or xp.get("trf.direction") != "forward":
            raise ValueError(f"XP {xp.sig} is of task {xp.get('task.type')}: expected encode, or trf with "
                             "trf.direction=forward")
        for name in ("result.json", "encoding.parquet", "encoding_moments.npz"):
            if not (xp.folder / name).exists():
                raise FileNotFoundError(f"XP {xp.sig} has no {name}: it is not finished, has no test stimuli or was "
                                        f"made by an older version (dora run -f {xp.sig}, with --clear in that case)")
    groups: dict[str, list[tuple[str, StoredXP]]] = {}
    for label, xp in zip(encoder_names(xps), xps, strict=True):
        groups.setdefault(key_of(xp), []).append(((names or {}).get(label, label), xp))
    encoders = [_pool(group[0][0], [xp for _, xp in group]) for group in groups.values()]
    shown = [one.name for one in encoders]
    if len(set(shown)) < len(shown):
        twice = sorted({name for name in shown if shown.count(name) > 1})
        raise ValueError(f"several encoders would be called {', '.join(twice)}: give them other names")
    return encoders


def _pool(name: str, xps: list[StoredXP]) -> Encoder:
    """One encoder from its folds and seeds."""
    tables = [pd.read_parquet(xp.folder / "encoding.parquet").set_index(UNIT) for xp in xps]
    moments: dict[int, dict[str, np.ndarray]] = {}
    powers: dict[int, dict[str, np.ndarray]] = {}
    for xp, table in zip(xps, tables, strict=True):
        if not table.index.equals(tables[0].index):
            raise ValueError(f"XP {xp.sig} tested other units than XP {xps[0].sig}, another fold or seed of "
                             f"{name!r}")
        with np.load(xp.folder / "encoding_moments.npz") as stored:
            own = moments.setdefault(xp.get("seed"), {})
            twice = sorted(own.keys() & set(stored["stimulus"].tolist()))
            if twice:
                raise ValueError(f"XP {xp.sig} tests {len(twice)} stimuli that another fold of {name!r} tests too, "
                                 f"the first is {twice[0]!r}: give each fold once")
            own |= dict(zip(stored["stimulus"].tolist(), stored["moments"].astype(float), strict=True))
            if "powers" in stored:
                powers.setdefault(xp.get("seed"), {}).update(
                    zip(stored["stimulus"].tolist(), stored["powers"].astype(float), strict=True))
            elif table["ccnorm"].notna().any():
                logger.warning("XP %s was made by an older version: CCnorm of %r has no interval (dora run -f %s "
                               "--clear makes it anew)", xp.sig, name, xp.sig)
    stimuli = sorted(next(iter(moments.values())))
    if any(sorted(own) != stimuli for own in moments.values()):
        raise ValueError(f"the seeds of {name!r} were not tested on the same stimuli: give the same folds of each")
    stacked = np.stack([[own[stimulus] for stimulus in stimuli] for own in moments.values()])
    whole = {seed for seed, own in powers.items() if sorted(own) == stimuli} == set(moments)
    repeats = np.stack([[powers[seed][stimulus] for stimulus in stimuli] for seed in moments]) if whole else None
    units = tables[0].drop(columns=[column for column in tables[0] if column in _SCORES])
    units = units.assign(r2=np.mean([explained_variance(one) for one in stacked], axis=0),
                         **{column: _weighted(tables, column) for column in CEILINGS})
    encoder = Encoder(name, tuple(xps), units, stimuli, stacked, count_parameters(xps[0]),
                      repeats if repeats is not None and repeats.any() else None)
    return replace(encoder, units=with_scores(encoder))


def with_scores(encoder: Encoder) -> pd.DataFrame:
    """Its units with `r` and, where it can be had from sums, `ccnorm` over all its stimuli."""
    scores = {"r": encoder.found("r")} | ({} if encoder.powers is None else {"ccnorm": encoder.found("ccnorm")})
    return encoder.units.assign(**scores)


_SCORES = ("r", "r_low", "r_high", "r2", "n_samples", "n_stimuli", "n_repeats", "ccnorm_low", "ccnorm_high",
           "ccnorm_hsu", "signal_power", "noise_power", "snr", *CEILINGS)


def _weighted(tables: list[pd.DataFrame], column: str) -> np.ndarray:
    """Mean over XPs, by the samples that each was tested on; NaN where no XP has a value."""
    values, n = (np.stack([table[name].to_numpy(float) for table in tables]) for name in (column, "n_samples"))
    weight = np.where(np.isfinite(values), n, 0)
    total = weight.sum(0)
    return np.where(total > 0, (np.where(weight > 0, values, 0) * weight).sum(0) / np.maximum(total, 1), np.nan)


def choose_reference(encoders: Sequence[Encoder], name: str | None = None) -> Encoder:
    """The one that the others are compared with: `name`, else the first TRF, else the first.

    Raises:
        KeyError: there is no such encoder.
    """
    if name is not None:
        found = [one for one in encoders if one.name == name]
        if not found:
            raise KeyError(f"reference {name!r} is none of the encoders {[one.name for one in encoders]}")
        return found[0]
    return next((one for one in encoders if one.xps[0].get("task.type") == "trf"), encoders[0])


def paired(one: Encoder, other: Encoder, n_boot: int = 2000, seed: int = 0) -> dict[str, Any] | None:
    """The difference `one` − `other` of r over the units and stimuli that both have; None if they share none.

    `difference` is the median over units, with the 95 % bootstrap interval over stimuli, and `ccnorm_difference` that
    of CCnorm, of the same draws; `better` the share of units in which `one` has the higher r; `p` that of the two-sided
    signed-rank test over units, NaN for one. Units of one person share stimuli, noise and often sources: they are not
    independent, so p is too small. The interval does not suppose it.
    """
    stimuli = [name for name in one.stimuli if name in set(other.stimuli)]
    common = one.units.index.intersection(other.units.index)
    if not stimuli or not len(common):
        return None
    sides = [(encoder, [encoder.stimuli.index(name) for name in stimuli], encoder.units.index.get_indexer(common))
             for encoder in (one, other)]
    values = [encoder.found("r", rows)[columns] for encoder, rows, columns in sides]
    difference = values[0] - values[1]
    known = np.isfinite(difference)
    if not known.any():
        return None
    return {"n_common": int(known.sum()), "stimuli_common": len(stimuli),
            "better": float((difference[known] > 0).mean()), **_difference(sides, "r", "difference", n_boot, seed),
            "p": signed_rank(values[0][known], values[1][known]).p if known.sum() > 1 else np.nan,
            **_difference(sides, "ccnorm", "ccnorm_difference", n_boot, seed)}


def _difference(sides: Sequence[tuple[Encoder, list[int], np.ndarray]], score: str, name: str, n_boot: int, seed: int
                ) -> dict[str, float]:
    """`name`: median over units of the difference of a score between two (encoder, stimuli, units), with limits."""
    values = [encoder.found(score, rows)[columns] for encoder, rows, columns in sides]
    known = np.isfinite(values[0] - values[1])
    if not known.any():
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
    low = high = np.nan
    if min(len(rows) if score == "r" else encoder.repeated(rows) for encoder, rows, _ in sides) > 1:
        draws = [encoder.drawn(n_boot, seed, rows, score)[:, columns[known]] for encoder, rows, columns in sides]
        low, high = median_interval(draws[0] - draws[1])
    return {name: float(np.median((values[0] - values[1])[known])), f"{name}_low": low, f"{name}_high": high}


def encoder_table(encoders: Sequence[Encoder], reference: str | None = None, *, n_boot: int = 2000, seed: int = 0
                  ) -> pd.DataFrame:
    """One row per encoder: sizes, median scores over units, and the difference to the reference (see `paired`).

    Columns: `encoder`, `n_units` (with a finite r), `n_parameters`, `n_stimuli`, `n_folds`, `n_seeds`, median `r` with
    `r_low` and `r_high` (95 % bootstrap over stimuli of the median over units), `r2`, `CEILINGS`, of `ccnorm` with
    limits as of r, those of `paired`, and `p_fdr` (Benjamini–Hochberg over the rows).

    Raises:
        KeyError: no such reference.
    """
    base = choose_reference(encoders, reference)
    rows = []
    for one in encoders:
        known = np.isfinite(one.units["r"].to_numpy())
        row: dict[str, Any] = {
            "encoder": one.name, "n_units": int(known.sum()), "n_parameters": one.parameters,
            "n_stimuli": len(one.stimuli), "n_folds": one.n_folds, "n_seeds": len(one.moments),
            "r": float(one.units["r"].median()), "r_low": np.nan, "r_high": np.nan,
            "r2": float(one.units["r2"].median()),
            **{name: float(one.units[name].median()) for name in CEILINGS}, "ccnorm_low": np.nan, "ccnorm_high": np.nan}
        if len(one.stimuli) > 1 and known.any():
            row["r_low"], row["r_high"] = median_interval(one.drawn(n_boot, seed)[:, known])
        if one.repeated(range(len(one.stimuli))) > 1:
            row["ccnorm_low"], row["ccnorm_high"] = median_interval(one.drawn(n_boot, seed, score="ccnorm"))
        rows.append(row | ({} if one is base else paired(one, base, n_boot, seed) or {}))
    table = pd.DataFrame(rows)
    if "p" in table:
        tested = table["p"].notna()
        table["p_fdr"] = np.nan
        if tested.any():
            table.loc[tested, "p_fdr"] = fdr(table.loc[tested, "p"])
    return table


def caution(encoders: Sequence[Encoder]) -> str:
    """What is to be said of the intervals of a table: that some are over few stimuli; "" if they are not."""
    return few_stimuli(min(len(one.stimuli) for one in encoders))


def unit_table(encoders: Sequence[Encoder]) -> pd.DataFrame:
    """A row per unit, with r of each encoder as a column of its name."""
    first = encoders[0].units.drop(columns=["r", "r2", *CEILINGS])
    return first.join([one.units["r"].rename(one.name) for one in encoders]).reset_index()


def pretty(table: pd.DataFrame) -> pd.DataFrame:
    """The table as one would print it."""
    def number(value: float, form: str = ".3f") -> str:
        return "–" if value is None or value != value else format(value, form)

    def interval(row: Any, name: str, form: str = ".3f") -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return "" if low != low else f" [{number(low, form)}, {number(high, form)}]"

    out = []
    for _, row in table.iterrows():
        line = {"encoder": row["encoder"], "units": row["n_units"], "parameters": number(row["n_parameters"], ",.0f"),
                "stimuli": row["n_stimuli"], "folds": row["n_folds"], "seeds": row["n_seeds"],
                "r [95 %]": number(row["r"]) + interval(row, "r"), "r2": number(row["r2"])}
        if table["ccnorm"].notna().any():
            line["ccnorm [95 %]"] = number(row["ccnorm"]) + interval(row, "ccnorm")
        line |= {name: number(row[name]) for name in CEILINGS[1:] if table[name].notna().any()}
        if "r_beyond" in table:
            line["r beyond the mean course"] = number(row["r_beyond"])
        if "difference" in table:
            known = row["difference"] == row["difference"]
            line |= {"better in": f"{100 * row['better']:.0f} %" if known else "",
                     "difference [95 %]": number(row["difference"], "+.3f") + interval(row, "difference", "+.3f")
                     if known else "", "p": number(row["p"], ".2g") if known else "",
                     "p_fdr": number(row["p_fdr"], ".2g") if known else ""}
            if table["ccnorm_difference"].notna().any():
                known = row["ccnorm_difference"] == row["ccnorm_difference"]
                line["ccnorm difference [95 %]"] = (number(row["ccnorm_difference"], "+.3f") + interval(
                    row, "ccnorm_difference", "+.3f") if known else "")
        out.append(line)
    return pd.DataFrame(out)
