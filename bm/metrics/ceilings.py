"""How well a response could be predicted at best: signal, noise and reliability from repeats of a stimulus.

All of it is a function of the covariances between the repeats of a stimulus, so the repeats are read once. Bins and
repeats may be missing (NaN): a covariance is over the bins in which both repeats were measured.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bm.metrics.reliability import spearman_brown

#: half-splits of many repeats that are drawn; ten repeats have as many (Hsu, Borst & Theunissen 2004)
N_SPLITS = 126
#: repeats up to which all half-splits are taken
ALL_SPLITS = 10
#: a mean this many standard deviations from 0 is subtracted first, lest its square drowns the variance
FAR = 1e3
#: what varies by less, as a part of its mean, is constant: rounding of the mean is all that it has
CONSTANT = 1e-12
#: units that are turned to (units, repeats, time) at once: what is multiplied stays in the processor's cache
BLOCK = 16


def check_repeats(responses: np.ndarray, name: str = "responses") -> np.ndarray:
    """`responses` as an array `(repeats, time, units)`.

    Raises:
        ValueError: another shape, or an infinite value.
    """
    array = np.asarray(responses)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}, expected (repeats, time, units)")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype}, expected real numbers")
    return array


def repeat_covariance(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances over time between the repeats of one stimulus, and the number of bins behind each.

    Args:
        responses: `(R, T, N)`, NaN where not measured.

    Shape: `(N, R, R)` float64 both; divided by the number of bins, and NaN below two.

    Raises:
        ValueError: another shape, or an infinite value.
    """
    responses = check_repeats(responses)
    n_repeats, n_bins, n_units = responses.shape
    covariance, bins = np.empty((n_units, n_repeats, n_repeats)), np.empty((n_units, n_repeats, n_repeats))
    block = np.empty((min(BLOCK, n_units), n_repeats, n_bins))
    for first in range(0, n_units, BLOCK):
        some = slice(first, min(first + BLOCK, n_units))
        values = block[:some.stop - first]
        np.copyto(values, responses[:, :, some].transpose(2, 0, 1))
        mean = values.mean(-1)
        if np.isfinite(mean).all():
            covariance[some], bins[some] = _covariance(values, mean), n_bins
        else:
            covariance[some], bins[some] = _partial_covariance(values)
    return np.where(bins >= 2, covariance, np.nan), bins


def _covariance(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Of complete repeats `(N, R, T)` with their means `(N, R)`; may change `values`."""
    n_bins = values.shape[-1]
    covariance = values @ values.transpose(0, 2, 1) / n_bins - mean[:, :, None] * mean[:, None, :]
    if (mean**2 > FAR**2 * np.einsum("nii->ni", covariance)).any():
        values -= mean[..., None]
        covariance = _without_rounding(values @ values.transpose(0, 2, 1) / n_bins, mean)
    return covariance


def _partial_covariance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of repeats with NaN, each pair over the bins that both have, and the number of these; changes `values`."""
    if np.isinf(values).any():
        raise ValueError("responses have infinite values: what was not measured is NaN")
    measured = ~np.isnan(values)
    values[~measured] = 0
    mean = values.sum(-1) / np.maximum(measured.sum(-1), 1)
    values -= mean[..., None]
    values[~measured] = 0
    mask = measured.astype(np.float64)
    bins = mask @ mask.transpose(0, 2, 1)
    count = np.maximum(bins, 1)
    shared = values @ mask.transpose(0, 2, 1)  # the sum of one repeat over the bins that it shares with another
    covariance = values @ values.transpose(0, 2, 1) / count - shared * shared.transpose(0, 2, 1) / count**2
    return _without_rounding(covariance, mean), bins


def _without_rounding(covariance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Covariances `(N, R, R)` with 0 for repeats that are constant, of means `(N, R)`."""
    varies = np.einsum("nii->ni", covariance) > (CONSTANT * mean)**2
    return covariance * (varies[:, :, None] & varies[:, None, :])


def signal_noise_power(covariance: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal and noise power `(N,)` of one stimulus: unbiased, so the signal power of noise may be below 0.

    The mean covariance of two different repeats is what Sahani & Linden (2003) call signal power,
    (R·var(mean over repeats) − mean variance) / (R − 1), and what is left of the mean variance is noise. With missing
    bins both are means over pairs and repeats, weighted by their bins. NaN below two repeats.

    Args:
        covariance, bins: `(N, R, R)` of `repeat_covariance`.
    """
    weight = np.where(np.isnan(covariance), 0, bins)
    known = np.where(np.isnan(covariance), 0, covariance)
    own, own_weight = np.einsum("nii->ni", known), np.einsum("nii->ni", weight)
    weighted = np.einsum("nij,nij->n", known, weight) - (own * own_weight).sum(-1)
    signal = _ratio(weighted, weight.sum((1, 2)) - own_weight.sum(-1))
    return signal, _ratio((own * own_weight).sum(-1), own_weight.sum(-1)) - signal


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is not positive."""
    return np.where(b > 0, a, np.nan) / np.where(b > 0, b, 1)


def half_splits(n_repeats: int, seed: int = 0) -> np.ndarray:
    """Ways to part repeats into two halves: `(splits, R)`, true for one half.

    Up to ten repeats all of them, for more 126 that are drawn. Of an odd number of repeats one half has one more than
    the other: none is left out.
    """
    half = n_repeats // 2
    if n_repeats > ALL_SPLITS:
        order = np.random.default_rng(seed).random((N_SPLITS, n_repeats)).argsort(1)
        return order < half
    chosen = list(combinations(range(n_repeats), half))
    if n_repeats % 2 == 0:  # each split comes twice: as itself and as its complement
        chosen = chosen[:len(chosen) // 2]
    splits = np.zeros((len(chosen), n_repeats), dtype=bool)
    splits[np.arange(len(chosen))[:, None], np.array(chosen)] = True
    return splits


def split_half(covariance: np.ndarray, seed: int = 0) -> np.ndarray:
    """Mean correlation `(N,)` between the means of two halves of the repeats, over half-splits.

    In closed form: with h the weights of one half (1 / its size), g those of the other, it is
    h'Cg / √(h'Ch · g'Cg). Repeats that a unit does not have at all (NaN on the diagonal) are left out for it; halves
    that do not vary do not count; NaN below two repeats.

    Args:
        covariance: `(N, R, R)` of `repeat_covariance`.
    """
    found = np.full(len(covariance), np.nan)
    has = ~np.isnan(np.einsum("nii->ni", covariance))
    for pattern in has[:1] if has.all() else np.unique(has, axis=0):
        if pattern.sum() < 2:
            continue
        units = np.flatnonzero((has == pattern).all(1))
        own = covariance[units][:, pattern][:, :, pattern]
        one = half_splits(int(pattern.sum()), seed).astype(np.float64)
        pairs = (one[:, :, None] * one[:, None, :]).reshape(len(one), -1)
        # sums over pairs of repeats: all of them, those with the first in one half, those with both in it
        total, first, both = own.sum((1, 2))[:, None], own.sum(2) @ one.T, own.reshape(len(units), -1) @ pairs.T
        size, rest = one.sum(1), (1 - one).sum(1)
        found[units] = _mean(_correlation((first - both) / (size * rest), both / size**2,
                                          (total - 2 * first + both) / rest**2))
    return found


def trial_correlation(covariance: np.ndarray) -> np.ndarray:
    """Mean correlation `(N,)` of two repeats, over pairs: the trial-to-trial correlation (TTRC)."""
    first, second = np.triu_indices(covariance.shape[-1], 1)
    power = np.einsum("nii->ni", covariance)
    return _mean(_correlation(covariance[:, first, second], power[:, first], power[:, second]))


def _correlation(ab: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From a covariance and two variances; NaN where one does not vary."""
    size = np.sqrt(np.maximum(a, 0) * np.maximum(b, 0))
    return np.clip(_ratio(ab, size), -1, 1)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is known; NaN where nothing is."""
    return _ratio(np.nansum(values, -1), np.isfinite(values).sum(-1))


@dataclass(frozen=True)
class Ceilings:
    """What repeats say of `N` units, as means over stimuli weighted by their bins; NaN without repeats.

    Args:
        signal_power, noise_power: of one repeat, in the response's unit squared (Sahani & Linden 2003).
        ccmax: the highest correlation that a prediction can have with the mean of the repeats: √(2ρ / (1 + ρ)) of the
            correlation ρ of half-splits (Hsu, Borst & Theunissen 2004); stimuli with ρ ≤ 0 do not count.
        reliability: of the mean over repeats: the correlation of half-splits after Spearman and Brown.
        trial_correlation: of single repeats.
        repeats: median number over the stimuli that the unit heard.
        signal: `(S, N)`, signal power of each stimulus; NaN without two repeats.
        bins: `(S, N)`, their weights: bins of each stimulus in which any repeat was measured.
    """

    signal_power: np.ndarray
    noise_power: np.ndarray
    ccmax: np.ndarray
    reliability: np.ndarray
    trial_correlation: np.ndarray
    repeats: np.ndarray
    signal: np.ndarray
    bins: np.ndarray

    @property
    def repeated(self) -> np.ndarray:
        """`(S, N)`, of which stimuli there are two repeats or more."""
        return np.isfinite(self.signal)

    @property
    def powers(self) -> np.ndarray:
        """What the signal power is made of, per stimulus: `(S, 2, N)`, signal power × bins and bins; 0 without two
        repeats."""
        return np.stack([np.where(self.repeated, self.signal * self.bins, 0), self.repeated * self.bins], axis=1)

    @property
    def snr(self) -> np.ndarray:
        """Signal over noise power."""
        return _ratio(self.signal_power, self.noise_power)


def noise_ceilings(responses: Sequence[np.ndarray], *, seed: int = 0) -> Ceilings:
    """Ceilings of each unit, from repeats of several stimuli.

    Args:
        responses: per stimulus `(R, T, N)`, NaN where not measured; R and T may differ between stimuli.
        seed: of the half-splits that are drawn for more than ten repeats.

    Raises:
        ValueError: no stimulus, other shapes, infinite values.
    """
    if not responses:
        raise ValueError("no stimulus was given: expected responses (repeats, time, units) of each")
    arrays = [check_repeats(one, f"responses of stimulus {number}") for number, one in enumerate(responses)]
    n_units = {array.shape[2] for array in arrays}
    if len(n_units) > 1:
        raise ValueError(f"stimuli have {sorted(n_units)} units, expected the same number in all")
    n_stimuli, most = len(arrays), max(len(array) for array in arrays)
    covariance, bins = np.full((n_stimuli, *n_units, most, most), np.nan), np.zeros((n_stimuli, *n_units, most, most))
    for number, array in enumerate(arrays):  # a stimulus with fewer repeats has some that were not measured
        own = slice(len(array))
        covariance[number, :, own, own], bins[number, :, own, own] = repeat_covariance(array)
    shape, flat = bins.shape[:2], covariance.reshape(-1, most, most)
    signal, noise = (power.reshape(shape) for power in signal_noise_power(flat, bins.reshape(flat.shape)))
    half, pair = split_half(flat, seed).reshape(shape), trial_correlation(flat).reshape(shape)
    measured = np.einsum("snii->sni", bins)
    weight = np.array([_bins(array, own) for array, own in zip(arrays, measured, strict=True)])
    positive = np.where(half > 0, half, np.nan)
    return Ceilings(_weighted(signal, weight), _weighted(noise, weight),
                    _weighted(np.sqrt(2 * positive / (1 + positive)), weight),
                    spearman_brown(_weighted(half, weight), 2), _weighted(pair, weight),
                    _median((measured > 0).sum(-1)), signal, weight)


def _bins(responses: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Number of bins `(N,)` in which any repeat was measured, of which `measured` `(N, R)` are known."""
    if (measured.max(-1) == responses.shape[1]).all():
        return np.full(len(measured), responses.shape[1])
    return (~np.isnan(responses)).any(0).sum(0)


def _median(repeats: np.ndarray) -> np.ndarray:
    """Over the stimuli that a unit heard, `(S, N)` → `(N,)`; 0 if none."""
    heard = np.where(repeats > 0, repeats, np.nan)
    heard[:, (repeats == 0).all(0)] = 0
    return np.nanmedian(heard, axis=0)


def _weighted(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean over stimuli of what is known, `(S, N)` → `(N,)`."""
    weight = np.where(np.isfinite(values), weight, 0)
    return _ratio(np.nansum(values * weight, 0), weight.sum(0))
