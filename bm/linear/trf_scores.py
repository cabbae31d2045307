"""How well a temporal response function predicts unseen trials, and how much of that each group of features gives."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from bm.linear.kernel import Array, to_numpy
from bm.linear.trf import TRF, estimate, power
from bm.linear.trials import Candidates, Folds, alike


@dataclass(frozen=True)
class Nested:
    """Scores of trials that neither weights nor penalties have seen.

    Shape: r `(trials, N)` Pearson correlation, NaN where a target is not measured; r2 `(N,)` 1 − Σ(y − ŷ)² / Σ(y − ȳ)²
    over all trials, ȳ the mean of those that train; alphas and scalings `(folds, N)` as chosen for each fold (NaN and
    −1 where a target is not measured); product `(bands, N)` what each band of `TRF.bands` gives of r2, their sum being
    r2 (product measure: Σ ŷ_b (2 y − ŷ) / Σ y², about ȳ), None without bands; predictions `(T, N)` of each trial, 0
    where a target is not measured in it, empty unless asked for; means `(trials, N)`: ȳ for each trial. Trials of all
    folds are pooled relative to it: the higher a fold's responses the lower the mean of the others, so that predictions
    of noise, which are this mean, would correlate negatively with the responses.
    """

    r: np.ndarray
    r2: np.ndarray
    alphas: np.ndarray
    scalings: np.ndarray
    product: np.ndarray | None
    predictions: list[np.ndarray]
    means: np.ndarray


def nested(trf: TRF, stimuli: Sequence[Any], responses: Sequence[Any], weights: Sequence[Any] | None = None, *,
           before: Sequence[Any] | None = None, after: Sequence[Any] | None = None, groups: Any = None,
           predict: bool = False) -> Nested:
    """Holds out each fold of trials in turn; the others choose penalties among themselves and learn weights.

    What is fitted without folds i and j serves both, as inner fold j of i and i of j. Arguments as in `TRF.fit`; `trf`
    gives the settings and is not fitted. `predict`: keep the predictions of all trials, each by what was fitted without
    its fold.

    Raises:
        ValueError: fewer than three folds in which a target is measured.
    """
    trials = trf.trials(stimuli, responses, weights, before, after)
    d, n = trials[0].x.shape[1], trials[0].y.shape[1]
    candidates, splits = trf.candidates(d), trf.splits(len(trials), groups)
    sets = [Folds(trials, columns, splits, trf.samples) for columns in alike(trials)]
    for own in sets:
        if len(own.present) < 3:
            raise ValueError(f"targets {own.columns[:5].tolist()} are measured in {len(own.present)} folds: nested "
                             "cross-validation needs three, one to test on and two to choose penalties with")
    error, r = _inner(sets, candidates, len(splits), n)
    bands = None if trf.band_of is None else np.tile(trf.band_of, len(trf.samples))
    out = Nested(np.full((len(trials), n), np.nan), np.zeros(n), np.full((len(splits), n), np.nan),
                 np.full((len(splits), n), -1), None if bands is None else np.zeros((int(bands.max()) + 1, n)),
                 [np.zeros(tuple(trial.y.shape)) for trial in trials] if predict else [], np.zeros((len(trials), n)))
    total, gain = np.zeros(n), np.zeros((1 if bands is None else int(bands.max()) + 1, n))
    level, size = power(sets), int(max(own.total.n for own in sets))
    for i in range(len(splits)):
        here = np.concatenate([own.columns for own in sets if i in own.present] or [np.zeros(0, int)])
        if not len(here):
            continue
        which, chosen = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        which[here], chosen[here] = trf.choose(error[i][..., here], r[i][..., here], level[here], size)
        out.alphas[i, here], out.scalings[i, here] = trf.alphas[chosen[here]], which[here]
        for own in sets:
            if i in own.present:
                at = own.columns
                *fitted, mean = _test(own, i, candidates, which[at], trf.alphas[chosen[at]], bands, out.r, gain, total)
                for trial in own.parts[i]:
                    out.means[trial, at] = to_numpy(mean)
                    if predict:
                        out.predictions[trial][:, at] = estimate(trials[trial].x, trf.samples, *fitted)
    share = gain / np.where(total > 0, total, 1)
    return replace(out, r2=share.sum(0), product=None if bands is None else share)


def _inner(sets: Sequence[Folds], candidates: Candidates, k: int, n: int) -> np.ndarray:
    """Mean squared errors and mean correlations `(2, k, S, A, N)` of the inner folds of each outer one."""
    out = np.zeros((2, k, len(candidates.gains), len(candidates.alphas), n))
    for own in sets:
        for i, j in combinations(own.present, 2):
            of_i, of_j = own.errors([i, j], [i, j], candidates)
            out[:, i, :, :, own.columns] += np.moveaxis(of_j, -1, 0)  # an index array puts its axis first
            out[:, j, :, :, own.columns] += np.moveaxis(of_i, -1, 0)
        for i in own.present:
            train, n_trials = own.train([i])
            out[0, i, :, :, own.columns] /= train.n
            out[1, i, :, :, own.columns] /= n_trials
    return out


def _test(own: Folds, i: int, candidates: Candidates, which: np.ndarray, alphas: np.ndarray, bands: np.ndarray | None,
          r: np.ndarray, gain: np.ndarray, total: np.ndarray) -> tuple[Array, Array, Array]:
    """Fits weights and intercepts without fold i, which it returns with the means of the responses, and adds its scores
    to `r`, `gain` (what bands explain) and `total` (variation)."""
    train, n_trials = own.train([i])
    coef, intercept = candidates.solve(train, n_trials, which, alphas)
    for trial, part in own.parts[i].items():
        r[trial, own.columns] = part.compare([coef], [intercept])[1][0]
    held = own.sums[i]
    gap_x, gap_y = held.x - train.x, held.y - train.y
    shared = held.xy + held.n * gap_x[:, None] * gap_y[None]
    explained = to_numpy(coef * (2 * shared - held.xx @ coef - held.n * gap_x[:, None] * (gap_x @ coef)[None]))
    for band in range(len(gain)):
        gain[band, own.columns] += (explained if bands is None else explained[bands == band]).sum(0)
    total[own.columns] += to_numpy(held.yy + held.n * gap_y ** 2)
    return coef, intercept, train.y


@dataclass(frozen=True)
class Partition:
    """Held-out R² of all features, and what each group has of it.

    Shape: names of the groups G; r2 `(N,)`; alone and unique `(G, N)`: R² of a group by itself, and what is lost
    without it; shared `(N,)`, what is left of r2 when all unique parts are taken out: for two groups what either could
    give. Held-out parts may be negative. product `(G, N)`: see `Nested`, sums to r2. whole: scores of all features.
    """

    names: list[str]
    r2: np.ndarray
    alone: np.ndarray
    unique: np.ndarray
    shared: np.ndarray
    product: np.ndarray
    whole: Nested


def partition(settings: Mapping[str, Any], groups: Mapping[str, Any], stimuli: Sequence[Any], responses: Sequence[Any],
              weights: Sequence[Any] | None = None, *, before: Sequence[Any] | None = None,
              after: Sequence[Any] | None = None, trial_groups: Any = None, predict: bool = False) -> Partition:
    """Variance partitioning: nested cross-validation with all features, without each group, and with each alone.

    Args:
        settings: arguments of a forward `TRF`; `bands` and `scalings` (columns: groups, in the given order) are of the
            groups here.
        predict: keep the predictions from all features, see `nested`.
        groups: name → columns (slice or indices) of the stimuli, which all together are each column once.

    Raises:
        ValueError: fewer than two groups, columns in none or in several, or a backward model.
    """
    if settings.get("direction", "forward") != "forward" or "bands" in settings:
        raise ValueError("partition makes forward models and sets their bands from `groups`")
    names, d = list(groups), np.asarray(stimuli[0]).shape[1]
    columns = [np.atleast_1d(np.arange(d)[groups[name]]) for name in names]
    if len(names) < 2 or sorted(np.concatenate(columns).tolist()) != list(range(d)):
        raise ValueError(f"expected two groups or more that have each of {d} columns once, got "
                         f"{ {name: len(own) for name, own in zip(names, columns, strict=True)} }")
    scalings = None if settings.get("scalings") is None else np.asarray(settings["scalings"], dtype=np.float64)

    def run(members: Sequence[int]) -> Nested:
        chosen = np.concatenate([columns[g] for g in members])
        band = np.concatenate([np.full(len(columns[g]), place) for place, g in enumerate(members)])
        own = {key: value for key, value in settings.items() if key != "scalings"} | {"bands": band}
        if scalings is not None and len(members) > 1:
            some = scalings[:, list(members)]
            own["scalings"] = some[some.sum(1) > 0]
        parts = [None if around is None else [np.asarray(x)[:, chosen] for x in around] for around in (before, after)]
        return nested(TRF(**own), [np.asarray(x)[:, chosen] for x in stimuli], responses, weights, before=parts[0],
                      after=parts[1], groups=trial_groups, predict=predict and len(members) == len(names))

    everyone = range(len(names))
    whole = run(list(everyone))
    alone = np.stack([run([g]).r2 for g in everyone])
    rest = alone[::-1] if len(names) == 2 else np.stack([run([h for h in everyone if h != g]).r2 for g in everyone])
    unique = whole.r2 - rest
    assert whole.product is not None
    return Partition(names, whole.r2, alone, unique, whole.r2 - unique.sum(0), whole.product, whole)
