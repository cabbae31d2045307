"""How good the XP is on its test segments, in all, by subject, and in examples."""
from typing import Any

import numpy as np
import pandas as pd
import torch

from bm.analysis.plots.retrieval import plot_ranks, plot_subjects
from bm.analysis.report.parts import Part, note, paragraph, percent, table, table_html
from bm.analysis.xp import NotRestorable, StoredXP
from bm.metrics.stats import MIN_SUBJECTS, bootstrap_interval
from bm.solvers.decode import DecodeSolver

_LABELS = {"mrr": "mean reciprocal rank", "median_rank": "median rank", "wer": "word error among the best segments",
           "wer_vocab": "word error among the best words", "soft_wer": "1 − probability of the word",
           "independent_r": "r of each voxel's layer, chosen on other splits",
           "independent_r2": "R² of each voxel's layer, chosen on other splits",
           "position": "median position of the best layer, 0 first, 1 last"}
#: percentiles of the rank at which examples are taken
PERCENTILES = (0, 10, 25, 50, 75, 90, 100)


def _is_fraction(name: str) -> bool:
    return name.startswith("top") or "wer" in name


def _show(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return "–" if value != value else percent(value) if _is_fraction(name) else f"{value:.4g}"


def _chance(name: str, test: dict[str, Any]) -> float | None:
    """Chance of a metric: the stored one, or that of a random order of the candidates."""
    n = test.get("n_candidates")
    if n and name == "median_rank":
        return (n + 1) / 2
    if n and name == "mrr":  # the mean of 1 / rank over all ranks
        return float((1 / np.arange(1, n + 1)).mean())
    return test.get(f"{name}_chance")


def metric_rows(test: dict[str, Any], ideal: dict[str, float]) -> pd.DataFrame:
    """One row per metric: value, interval, chance, and the ideal observer where it was asked. Counts are no metrics."""
    rows = []
    if "similarity" in test:  # RSA's interval and p have no name in front
        test = {f"similarity_{name}" if name in ("low", "high", "p") else name: value for name, value in test.items()}
    for name, value in test.items():
        kind = name.rpartition("_")[2]
        if not isinstance(value, float) or name == "duration" or kind in ("low", "high", "chance", "p"):
            continue
        label = name if name not in _LABELS else f"{_LABELS[name]} ({name})"
        if name.startswith("top"):
            label = f"top-{name[3:]} accuracy"
        row = {"metric": label, "value": _show(name, value),
               "95 % interval": "–", "chance": _show(name, _chance(name, test))}
        if f"{name}_low" in test:
            row["95 % interval"] = f"[{_show(name, test[f'{name}_low'])}, {_show(name, test[f'{name}_high'])}]"
        if f"{name}_chance_low" in test:
            row["chance"] += f" [{_show(name, test[f'{name}_chance_low'])}, {_show(name, test[f'{name}_chance_high'])}]"
        if f"{name}_p" in test:
            row["p"] = f"{test[f'{name}_p']:.3g}"
        if ideal:
            row["ideal observer"] = _show(name, ideal.get(name))
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def _of_task(xp: StoredXP) -> str:
    """What intervals and p of tasks without candidates are."""
    task, test = xp.get("task.type"), xp.test or {}
    if task == "rsa":
        said = "Similarity: median over splits, mean over people, with the layer chosen on other sounds. "
        if "ceiling_low" in test:
            said += f"Noise ceiling: {test['ceiling_low']:.4g} to {test['ceiling_high']:.4g}. Interval: over people. "
        return said + ("p: of the best of all layers on all sounds, under 1,000 relabellings of them. " * ("p" in test))
    if "r_low" in test:
        return (f"Intervals of r and ccnorm: bootstrap, {xp.get('test.n_boot')} draws of test stimuli (other stimuli, "
                "the same units). ")
    return ""


def metrics(xp: StoredXP) -> list[Part]:
    """The test table and the curve of all ranks."""
    test = xp.test
    if test is None:
        return [note("No test yet", f"{len(xp.history)} of at most {xp.get('optim.epochs', '?')} epochs are done and "
                                    "none was tested: the test comes at the end (or every eval_every epochs).")]
    caption = "" if xp.result else "Not final: the last test so far of an XP that is not finished. "
    if "n" in test and "n_candidates" in test:
        caption += f"{test['n']} test segments, each among {test['n_candidates']} candidates"
        caption += f" ({test['description']}). " if test.get("description") else ". "
    if test.get("n_nan"):
        caption += f"{test['n_nan']} estimates were not finite and count as failures. "
    caption += _of_task(xp)
    if any(name.endswith("_low") for name in set(test) - {"r_low", "ccnorm_low", "ceiling_low"}):
        caption += (f"Intervals: bootstrap, {xp.get('test.n_boot')} draws of subjects (of subjects and of blocks of "
                    f"stimulus where there are fewer than {MIN_SUBJECTS} subjects). ")
    if any(name.endswith("_chance_low") for name in test):
        caption += (f"Chance [95 %] and p: {xp.get('test.n_permutations')} pairings of estimates and segments, "
                    "permuted within each recording.")
    parts = [table("Metrics", metric_rows(test, xp.ideal), caption)]
    segments = xp.segments
    if segments is not None and "rank" in segments and test.get("n_candidates"):
        parts.append(Part("Accuracy by number of guesses", plot_ranks(segments["rank"].to_numpy(),
                                                                      test["n_candidates"])))
    return parts


def subject_table(segments: pd.DataFrame, ks: list[int], names: dict[int, str], n_boot: int, seed: int) -> pd.DataFrame:
    """Accuracy of each subject, with the interval over blocks of stimulus (NaN where there is only one block)."""
    rows = []
    for subject, own in segments.groupby("subject"):
        row: dict[str, Any] = {"subject": names[subject], "n": len(own), "blocks": own["block"].nunique()}
        for k in ks:
            row |= {f"top{k}": own[f"top{k}"].mean(), f"top{k}_low": np.nan, f"top{k}_high": np.nan}
            if row["blocks"] > 1:
                interval = bootstrap_interval(own[f"top{k}"], own["subject"], own["block"], n_boot=n_boot, seed=seed)
                row |= {f"top{k}_low": interval.low, f"top{k}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def subjects(xp: StoredXP) -> list[Part]:
    """Accuracy of each subject."""
    segments, test = xp.segments, xp.test or {}
    ks = [k for k in xp.get("test.topk", []) if segments is not None and f"top{k}" in segments]
    if segments is None or "subject" not in segments or not ks:
        return []
    names = {subject: xp.subject_name(subject) for subject in segments["subject"].unique()}
    rows = subject_table(segments, ks, names, xp.get("test.n_boot", 2000), xp.get("seed", 0))
    chance = {k: test[f"top{k}_chance"] for k in ks if f"top{k}_chance" in test}
    caption = "Bars: 95 % bootstrap over the blocks of stimulus that the subject heard."
    if chance:
        caption += f" Dashed: chance {', '.join(f'{percent(value)} (top-{k})' for k, value in chance.items())}."
    shown = rows[["subject", "n", "blocks"]].copy()
    for k in ks:
        shown[f"top-{k} [95 %]"] = [
            percent(value) + (f" [{percent(low)}, {percent(high)}]" if low == low else " (one block: no interval)")
            for value, low, high in rows[[f"top{k}", f"top{k}_low", f"top{k}_high"]].itertuples(index=False)]
    return [Part("Accuracy by subject", plot_subjects(rows, ks, chance), caption), table("Numbers", shown)]


def choose(segments: pd.DataFrame) -> dict[str, int]:
    """Name → segment id of the examples: fixed percentiles of the rank, ties in the order of the ids."""
    ordered = segments.assign(id=segments.index).sort_values(["rank", "id"])["id"].to_numpy()
    names = {0: "best", 50: "median", 100: "worst"}
    return {names.get(p, f"percentile {p}"): int(ordered[round(p / 100 * (len(ordered) - 1))]) for p in PERCENTILES}


def top_candidates(solver: DecodeSolver, segments: pd.DataFrame, ids: np.ndarray, n: int) -> list[pd.DataFrame]:
    """The `n` best candidates of each test segment of `ids`, with their probability among all candidates.

    Returns:
        One table per segment, best first: `probability`, and of the candidate `word`, `sentence`, `stimulus`,
        `stimulus_start`, `stimulus_stop`, `true` (whether it is the segment's own).

    Errors: NotRestorable if the data are no longer those that were tested.
    """
    table = solver.data.segments
    if segments.index.max() >= len(table) or not table["candidate"].reindex(segments.index).equals(
            segments["candidate"]):
        raise NotRestorable("the data have changed since the test")
    candidates = segments.drop_duplicates("candidate")
    size = solver.cfg.optim.batch_size
    with solver.use_best(), torch.no_grad():
        solver.scorer.eval()
        estimate = torch.cat(list(solver.estimates(ids)))
        chunks = [candidates.index.to_numpy()[i:i + size] for i in range(0, len(candidates), size)]
        scores = torch.cat([solver.scorer.scores(estimate, solver.targets(chunk).to(estimate.device))
                            for chunk in chunks], dim=1)
    best = scores.softmax(dim=1).cpu().topk(min(n, len(candidates)), dim=1)
    columns = ["word", "sentence", "stimulus", "stimulus_start", "stimulus_stop", "candidate"]
    out = []
    for i, (probability, index) in enumerate(zip(best.values.numpy(), best.indices.numpy(), strict=True)):
        found = candidates[columns].iloc[index].reset_index(drop=True)
        found.insert(0, "probability", probability)
        out.append(found.assign(true=found["candidate"] == segments.loc[ids[i], "candidate"]).drop(columns="candidate"))
    return out


def _heard(row: Any) -> str:
    """What a segment is: its word and sentence, or its place in the sound."""
    if row.word:
        return f"“{row.word}” in “{row.sentence}”" if row.sentence else f"“{row.word}”"
    return f"{row.stimulus_start:.1f}–{row.stimulus_stop:.1f} s of sound {row.stimulus or '?'}"


def examples(xp: StoredXP, n: int = 5) -> list[Part]:
    """Some test segments, chosen by a rule, with what was found for them."""
    segments, test = xp.segments, xp.test or {}
    if segments is None or "rank" not in segments:
        return []
    chosen = choose(segments)
    rule = (f"Test segments at fixed percentiles of the rank ({', '.join(map(str, PERCENTILES))}), ties in the order "
            "of the segments: nothing is picked by hand. ")
    try:
        found = top_candidates(xp.restored(), segments, np.array(list(chosen.values())), n)
        rule += f"Under each, the {n} best candidates and the probability the model gives them among all of them."
        if xp.result is None:
            rule += " Ranks are those of the last test; the candidates are those of the best state since."
    except NotRestorable as error:
        found = None
        rule += f"Their candidates are not shown, because {error}."
    parts = [paragraph(rule)]
    for i, (name, segment) in enumerate(chosen.items()):
        row = segments.loc[segment]
        where = xp.subject_name(row["subject"]) if "subject" in segments else f"segment {segment}"
        parts.append(f"<h6>{name}: rank {row['rank']:g} of {test.get('n_candidates', '?')}</h6>"
                     + paragraph(f"{where} heard {_heard(row)}."))
        if found is not None:
            parts.append(table_html(pd.DataFrame({
                "": ["✓" if true else "" for true in found[i]["true"]], "probability": found[i]["probability"].map(
                    percent), "candidate": [_heard(candidate) for candidate in found[i].itertuples()]})))
    return [Part("Examples", "\n".join(parts))]

