"""Temporal response functions: ridge regression between stimulus and brain over a range of lags."""
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from bm.linear.banded import check_scalings
from bm.linear.kernel import Array, to_backend, to_numpy
from bm.linear.lags import lag_samples, lagged, lagged_moments
from bm.linear.select import ALPHAS, check_alphas, folds, improves, select
from bm.linear.trials import Candidates, Folds, Trial, alike, make_trials, pearson

#: rows of the design matrix that are made at a time to predict
ROWS = 4096


class TRF:
    """Temporal response function between stimulus s and brain r, in continuous recordings cut into trials.

    Forward: r(t) = b + Σ_l w_l · s(t − l), l from `tmin` to `tmax`; backward: s(t) = b + Σ_l w_l · r(t + l). The
    intercept is not penalised. Penalty and scaling are chosen by holding out whole trials; one eigendecomposition per
    fold (and scaling) serves all penalties and targets, and no design matrix is made where trials are long.

    Args:
        tmin, tmax: s, both included. rate: Hz, of stimulus and brain.
        alphas: penalties α of Σ_t (y − ŷ)² + α · penalty(w), over all samples that train.
        direction: "forward", or "backward": the stimulus from the brain.
        folds: so many of whole trials; None: each trial is held out by itself.
        alpha_per_target: else one penalty (and scaling) for all.
        criterion: "mse", over all held-out samples; or "r", Pearson's, mean over trials.
        penalty: "ridge", Σ w²; or "smooth" (Tikhonov), Σ (w_{l+1} − w_l)² of each predictor.
        bands: `(D,)` labels of groups of predictors, for `scalings` and `Nested.product`.
        scalings: `(S, bands)` candidates: predictors of a band are multiplied with √γ, as in `BandedRidgeCV`; the
            columns follow the sorted labels.
        compat: "mtrf": as mTRFpy 2.1 does it: α is multiplied with the rate and the number of trials that train,
            lags are rounded outward, the criterion is r and its plain maximum wins, differences of penalty "smooth"
            go over all weights in a row, halved, and `patterns` takes the instantaneous covariance alone.
        backend: "numpy" or "torch"; device: of torch. max_bytes: bound on the weights of a batch of targets.

    Attributes (after `fit`): `alphas_` and `scalings_` (index into `scalings`), `(N,)`; `cv_r_` `(S, A, N)`, held-out
    correlation, mean over trials, and `cv_errors_`, mean squared error (NaN where there was nothing to choose);
    `coef_` `(lags × D, N)`, `intercept_` `(N,)`, of the backend.

    Source: Lalor et al. 2009, doi:10.1152/jn.90896.2008; Crosse et al. 2016, doi:10.3389/fnhum.2016.00604.

    >>> rng = np.random.default_rng(0)
    >>> sound = [rng.standard_normal((500, 1)) for _ in range(3)]
    >>> brain = [np.roll(s, 2, axis=0) for s in sound]  # an echo after 0.2 s
    >>> trf = TRF(0, 0.3, rate=10, alphas=[1e-3, 1]).fit(sound, brain)
    >>> trf.lags[np.abs(trf.kernels[0, :, 0]).argmax()]
    np.float64(0.2)
    """

    def __init__(self, tmin: float, tmax: float, rate: float, alphas: Any = ALPHAS, *,
                 direction: Literal["forward", "backward"] = "forward", folds: int | None = None,
                 alpha_per_target: bool = True, criterion: Literal["mse", "r"] = "mse",
                 penalty: Literal["ridge", "smooth"] = "ridge", bands: Any = None, scalings: Any = None,
                 compat: Literal["mtrf"] | None = None, backend: str = "numpy", device: str = "cpu",
                 max_bytes: int = 2 ** 28) -> None:
        for name, value, known in [("direction", direction, ("forward", "backward")),
                                   ("compat", compat, (None, "mtrf")), ("criterion", criterion, ("mse", "r")),
                                   ("penalty", penalty, ("ridge", "smooth"))]:
            if value not in known:
                raise ValueError(f"{name}={value!r}: expected one of {known}")
        samples = lag_samples(tmin, tmax, rate, outward=compat == "mtrf")
        self.samples = samples if direction == "forward" else -samples[::-1]
        if penalty == "smooth" and len(samples) < 2:
            raise ValueError(f"penalty='smooth' needs two lags, but {tmin} to {tmax} s are one sample at {rate} Hz")
        self.rate, self.direction, self.penalty, self.compat = rate, direction, penalty, compat
        self.alphas, self.folds, self.alpha_per_target = check_alphas(alphas), folds, alpha_per_target
        self.criterion = "r" if compat == "mtrf" else criterion
        self.backend, self.device, self.max_bytes = backend, device, max_bytes
        self.band_of: np.ndarray | None = None
        if bands is not None:
            self.band_of = np.unique(np.asarray(bands), return_inverse=True)[1]
        self.scalings = _check_scalings(scalings, self.band_of)

    @property
    def lags(self) -> np.ndarray:
        """`(lags,)` seconds by which a predictor comes before what it predicts (backward: from −tmax to −tmin)."""
        return self.samples / self.rate

    @property
    def kernels(self) -> np.ndarray:
        """`(D, lags, N)`: predicted per unit of the predictor and second: ŷ(t) = b + ∫ kernel(τ) x(t − τ) dτ."""
        coef = to_numpy(self.coef_)
        return coef.reshape(len(self.samples), -1, coef.shape[1]).transpose(1, 0, 2) * self.rate

    def trials(self, stimuli: Sequence[Any], responses: Sequence[Any], weights: Any = None, before: Any = None,
               after: Any = None) -> list[Trial]:
        """Checked trials of this direction; see `fit`."""
        xs, ys = (stimuli, responses) if self.direction == "forward" else (responses, stimuli)
        trials = make_trials(xs, ys, self.samples, weights, before, after, self.backend, self.device)
        d = trials[0].x.shape[1]
        if self.band_of is not None and len(self.band_of) != d:
            raise ValueError(f"bands labels {len(self.band_of)} predictors, but there are {d}")
        return trials

    def candidates(self, d: int) -> Candidates:
        """What is chosen from, for `d` predictors."""
        n_lags, penalty = len(self.samples), None
        gains: list[np.ndarray | None] = [None]
        if self.scalings is not None:
            gains = [np.tile(np.sqrt(gamma)[self.band_of], n_lags) for gamma in self.scalings]
        if self.penalty == "smooth":
            step = np.diff(np.eye(n_lags * d if self.compat else n_lags), axis=0)
            penalty = step.T @ step / 2 if self.compat else np.kron(step.T @ step, np.eye(d))
        return Candidates(self.alphas, gains, penalty, self.rate if self.compat else None, self.max_bytes)

    def splits(self, n: int, groups: Any = None) -> list[np.ndarray]:
        """Indices of the trials of each fold."""
        k = n if groups is None else len(np.unique(np.asarray(groups)))
        if k < 2:
            what = "one trial" if n == 1 else "all trials are of one group"
            raise ValueError(f"{what}: nothing is left to choose a penalty on; cut the recording into several trials")
        return [held for _, held in folds(n, k if self.folds is None else self.folds, groups)]

    def fit(self, stimuli: Sequence[Any], responses: Sequence[Any], weights: Sequence[Any] | None = None, *,
            before: Sequence[Any] | None = None, after: Sequence[Any] | None = None, groups: Any = None) -> "TRF":
        """Chooses penalties and scalings, and learns weights from all trials.

        Args:
            stimuli: `(T, D)` arrays, one per trial. responses: `(T, N)`. Samples of what is predicted that are NaN
                are left out, for their target alone; what predicts must be finite.
            weights: `(T,)` or `(T, N)`, how often each sample of what is predicted counts: with the mean over
                repeats and their number, the fit is that to all repeats one by one.
            before, after: what of the predictors came just before and after each trial, `(any, D)`; where it ends (or
                without), lags reach into zeros.
            groups: labels of trials that are held out together, e.g. of one stimulus.

        Raises:
            ValueError: trials that do not fit together, one trial (group) alone but several candidates.
        """
        trials = self.trials(stimuli, responses, weights, before, after)
        candidates = self.candidates(trials[0].x.shape[1])
        alone = len(trials) == 1 and len(self.alphas) * len(candidates.gains) == 1
        splits = [np.arange(1)] if alone else self.splits(len(trials), groups)
        sets = [Folds(trials, columns, splits, self.samples) for columns in alike(trials)]
        sums = [np.sum([own.errors([i], [i], candidates)[0] for i in own.present], 0)
                if not alone else np.full((2, 1, 1, len(own.columns)), np.nan) for own in sets]
        n = trials[0].y.shape[1]
        self.cv_errors_, self.cv_r_ = np.empty((2, len(candidates.gains), len(self.alphas), n))
        for own, (error, r) in zip(sets, sums, strict=True):
            self.cv_errors_[:, :, own.columns] = error / own.total.n
            self.cv_r_[:, :, own.columns] = r / own.train()[1]
        which, chosen = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        if not alone:
            which, chosen = self.choose(self.cv_errors_, self.cv_r_, power(sets), int(max(own.total.n for own in sets)))
        self.scalings_, self.alphas_ = which, self.alphas[chosen]
        first = sets[0].total.xx
        self.coef_ = to_backend(np.zeros((len(first), n)), self.backend, self.device)
        self.intercept_ = to_backend(np.zeros(n), self.backend, self.device)
        for own in sets:
            at = own.columns
            self.coef_[:, at], self.intercept_[at] = candidates.solve(*own.train(), which[at], self.alphas_[at])
        return self

    def choose(self, error: np.ndarray, r: np.ndarray, power: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices `(N,)` of scaling and penalty, from mean errors and correlations `(S, A, N)`; of those equal to
        rounding the first scaling and the largest penalty (see `select`)."""
        if self.criterion == "r":
            error, power = 1 - r, np.ones_like(power)
        best = np.full(len(power), np.inf)
        which, chosen = np.zeros(len(power), dtype=int), np.zeros(len(power), dtype=int)
        for scaling, errors in enumerate(error):
            own = select(errors, self.alphas, power, n, per_target=self.alpha_per_target,
                         compat="reference" if self.compat else None)
            mine = errors[own, np.arange(len(own))]
            better = improves(mine, best, power, n, self.alpha_per_target)
            best, chosen = np.where(better, mine, best), np.where(better, own, chosen)
            which[better] = scaling
        return which, chosen

    def predict(self, predictors: Sequence[Any], *, before: Sequence[Any] | None = None,
                after: Sequence[Any] | None = None) -> list[np.ndarray]:
        """`(T, N)` for each trial of stimuli (backward: of responses); `before` and `after` as in `fit`."""
        nothing = [np.zeros((len(x), self.coef_.shape[1])) for x in predictors]
        trials = make_trials(predictors, nothing, self.samples, None, before, after, self.backend, self.device)
        expected, got = len(self.coef_) // len(self.samples), trials[0].x.shape[1]
        if got != expected:
            raise ValueError(f"trials have {got} predictors, but the model was fitted with {expected}")
        return [estimate(trial.x, self.samples, self.coef_, self.intercept_) for trial in trials]

    def score(self, stimuli: Sequence[Any], responses: Sequence[Any], *, before: Sequence[Any] | None = None,
              after: Sequence[Any] | None = None) -> np.ndarray:
        """Pearson correlation `(N,)`, mean over the trials in which a target is measured (NaN: in none)."""
        xs, ys = (stimuli, responses) if self.direction == "forward" else (responses, stimuli)
        estimates = self.predict(xs, before=before, after=after)
        out, count = np.zeros((2, self.coef_.shape[1]))
        for guess, y in zip(estimates, ys, strict=True):
            measured = np.isfinite(to_numpy(y))
            out += pearson(guess, to_numpy(y), measured)
            count += measured.any(0)
        return np.where(count > 0, out / np.maximum(count, 1), np.nan)

    def patterns(self, responses: Sequence[Any]) -> np.ndarray:
        """What a backward model responds to: `(stimulus features, lags, channels)`, lags from tmin to tmax.

        Covariance of the lagged brain with the reconstruction ŝ, times the inverse of that of ŝ: the response that
        goes with one unit of each reconstructed feature (Haufe et al. 2014, doi:10.1016/j.neuroimage.2013.10.067).
        With compat="mtrf": covariance between channels at lag 0 (not centred), each feature by itself, times the rate.

        Raises:
            ValueError: a forward model.
        """
        if self.direction != "backward":
            raise ValueError("patterns are made of a backward model; the weights of a forward one are patterns already")
        kernels = self.kernels  # (channels, lags, features)
        estimates = self.predict(responses)
        if self.compat == "mtrf":
            brain = sum(to_numpy(r).T @ to_numpy(r) for r in responses)
            power = sum((s * s).sum(0) for s in estimates)
            return (np.einsum("cd,dlf->flc", brain, kernels) / np.asarray(power)[:, None, None])[:, ::-1]
        trials = make_trials(responses, estimates, self.samples, None, None, None, self.backend, self.device)
        sums = [lagged_moments(trial.x, len(self.samples), trial.y) for trial in trials]
        whole = sum(sums[1:], sums[0])
        coef = self.coef_
        pattern = to_numpy(whole.xy) @ np.linalg.pinv(to_numpy(coef.T @ whole.xx @ coef), hermitian=True)
        return pattern.reshape(len(self.samples), -1, pattern.shape[1]).transpose(2, 0, 1)[:, ::-1]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that `predict` needs and what was chosen, as tensors on the CPU."""
        names = ("coef_", "intercept_", "alphas_", "scalings_", "cv_r_", "cv_errors_")
        return {name: torch.as_tensor(getattr(self, name)).cpu() for name in names}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        for name in ("coef_", "intercept_"):
            setattr(self, name, to_backend(state[name], self.backend, self.device))
        for name in ("alphas_", "scalings_", "cv_r_", "cv_errors_"):
            setattr(self, name, state[name].numpy())


def estimate(x: Array, lags: np.ndarray, coef: Array, intercept: Array) -> np.ndarray:
    """Predictions `(T, N)` from `padded` predictors, some rows of the design matrix at a time."""
    n = len(x) - len(lags) + 1
    starts = range(0, n, ROWS)
    parts = [lagged(x[start:min(start + ROWS, n) + len(lags) - 1], lags) @ coef + intercept for start in starts]
    return np.concatenate([to_numpy(part) for part in parts])


def power(sets: Sequence[Folds]) -> np.ndarray:
    """Mean square `(N,)` of all targets."""
    out = np.zeros(sum(len(own.columns) for own in sets))
    for own in sets:
        out[own.columns] = to_numpy(own.total.yy / own.total.n + own.total.y ** 2)
    return out


def _check_scalings(scalings: Any, band_of: np.ndarray | None) -> np.ndarray | None:
    if scalings is None:
        return None
    if band_of is None:
        raise ValueError("scalings are of bands of predictors: they need bands=…")
    return check_scalings(scalings, int(band_of.max()) + 1)
