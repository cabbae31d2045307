"""The ceiling of an XP on simulated data: an observer who knows all but what was heard, on the same segments.

    python -m scripts.ideal_observer SIG

It knows each person's response to every candidate and the spectrum of the noise at every sensor (not the artifacts),
and picks the candidate under which the segment is most likely: but for artifacts, no decoder can do better on average.
Writes `ideal_observer.json` into the XP's folder.
"""
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from dora.git_save import to_absolute_path

from bm.analysis.xp import find_xp
from bm.config import check_config
from bm.data.assemble import Data, assemble
from bm.data.prepare import prepare_signal
from bm.metrics.retrieval import top_credit
from bm.metrics.stats import bootstrap_interval
from bm.studies.base import Signal
from bm.studies.simulated import SimulatedRecording, load_truth, whittle_scores


@dataclass(frozen=True)
class Ceiling:
    """`credit`: k → `(N,)` probability to be among the k best, for the test segments `table`."""

    credit: dict[int, np.ndarray]
    table: pd.DataFrame


def observe(data: Data, highpass: float, ks: list[int]) -> Ceiling:
    """Scores the test segments of all recordings against all different ones."""
    table = data.segments[data.segments["split"] == "test"]
    candidates = table.drop_duplicates("candidate").reset_index(drop=True)
    rate, dataset = round(data.spec.sample_rate), data.dataset("test")
    n = dataset.samples
    truths = [_truth(recording) for recording in data.recordings]
    # what each candidate makes the sources do, in the recording where it is first heard
    heard = {}
    for recording in candidates["recording"].unique():
        signal = Signal.from_array(truths[recording].sources, truths[recording].rate, pd.DataFrame())
        heard[recording] = prepare_signal(signal, rate, highpass, data.recordings[recording].name)
    sources = np.stack([heard[row.recording][row.first:row.first + n] for row in candidates.itertuples()])
    credit: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for recording, own in table.groupby("recording"):
        good = np.flatnonzero(data.montages.valid[recording])
        scores = whittle_scores(dataset.gather_brain(own.index.to_numpy()), sources @ truths[recording].patterns.T,
                                truths[recording].noise_csd, rate, fmax=min(20.0, 0.4 * rate), channels=good)
        true = pd.Index(candidates["candidate"]).get_indexer(own["candidate"])
        mine = scores[np.arange(len(own)), true][:, None]
        for k in ks:
            credit[k].append(top_credit((scores > mine).sum(1), (scores == mine).sum(1), k))
    order = np.argsort(np.concatenate([own.index for _, own in table.groupby("recording")]))
    return Ceiling({k: np.concatenate(parts)[order] for k, parts in credit.items()}, table)


def _truth(recording):
    if not isinstance(recording, SimulatedRecording):
        raise SystemExit(f"{recording} was measured, not simulated: nobody knows the truth about it")
    return load_truth(recording)


def compare(sig: str) -> pd.DataFrame:
    """Chance, decoder, ideal observer and their ratio, for each k of the XP's test. Errors: FileNotFoundError for no
    such XP."""
    folder = find_xp(sig).folder
    result_path = folder / "result.json"
    if not result_path.exists():
        raise SystemExit(f"XP {sig} is not finished: no {result_path}; run it first (dora run -f {sig})")
    test = json.loads(result_path.read_text())["test"]
    cfg = check_config(json.loads((folder / "config.json").read_text()))
    data = assemble(cfg, Path(to_absolute_path(".")))
    ceiling = observe(data, cfg.dset.highpass, cfg.test.topk)
    subject = np.asarray(data.subjects)[ceiling.table["recording"]]
    rows, saved = [], {}
    for k, credit in ceiling.credit.items():
        ideal = bootstrap_interval(credit, subject, ceiling.table["block"], n_boot=cfg.test.n_boot, seed=cfg.seed)
        saved[f"top{k}"], saved[f"top{k}_low"], saved[f"top{k}_high"] = ideal.mean, ideal.low, ideal.high
        score = test[f"top{k}"]
        rows.append({"": f"top {k}", "chance": f"{test[f'top{k}_chance']:.1%}",
                     "decoder [95 %]": f"{score:.1%} [{test[f'top{k}_low']:.1%}, {test[f'top{k}_high']:.1%}]",
                     "ideal observer [95 %]": f"{ideal.mean:.1%} [{ideal.low:.1%}, {ideal.high:.1%}]",
                     "decoder / ideal": f"{score / ideal.mean:.0%}"})
    (folder / "ideal_observer.json").write_text(json.dumps(saved, indent=2))
    out = pd.DataFrame(rows)
    out.attrs |= {"n": test["n"], "n_candidates": test["n_candidates"]}
    return out


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    try:
        print(compare(sys.argv[1]).to_string(index=False))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
