"""Attention beside physiology: does a model look where two conditions differ in the power of a rhythm?"""
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def power_difference(power: np.ndarray, label: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Log power in segments of label 1 minus that of label 0: means of each subject, then of subjects.

    A constant factor of a channel, such as its scale, has no effect.

    Args:
        power: log power in bands (`bm.solvers.classify_baseline.log_band_power`). label: 0 or 1; others are left out.
        subject: of each segment.

    Shape: power `(N, C, bands)` → `(bands, C)`. Errors: ValueError if no subject has both labels.
    """
    differences = [power[own & (label == 1)].mean(0) - power[own & (label == 0)].mean(0)
                   for one in np.unique(subject) if {0, 1} <= set(label[own := subject == one])]
    if not differences:
        raise ValueError(f"none of the {len(np.unique(subject))} subjects has segments of both conditions")
    return np.mean(differences, axis=0).T


def map_correlation(one: np.ndarray, other: np.ndarray, n_permutations: int = 9999, seed: int = 0
                    ) -> tuple[float, float]:
    """Pearson's r of two maps over channels, and its two-sided p-value from permuted channels.

    Neighbouring channels resemble each other, which a permutation destroys: the p-value is too small for smooth maps.
    See `spin_p` for one that keeps neighbours together.

    Shape: `(C,)`, finite. Errors: ValueError for other shapes or a constant map.
    """
    a, b = _standard(one, other)
    rng = np.random.default_rng(seed)
    null = rng.permuted(np.tile(a, (n_permutations, 1)), axis=1) @ b
    return float(a @ b), float((1 + (np.abs(null) >= abs(a @ b) - 1e-12).sum()) / (1 + n_permutations))


def spin_p(one: np.ndarray, other: np.ndarray, positions: np.ndarray, n_permutations: int = 999, seed: int = 0
           ) -> float:
    """Two-sided p-value of the correlation of two maps when one of them is rotated at random over the head, so that
    neighbours stay neighbours: "spin test" (Alexander-Bloch et al. 2018, doi:10.1016/j.neuroimage.2018.05.070).

    A cap of electrodes is no closed sphere: where a rotation brings nothing, the nearest channel is taken.

    Shape: maps `(C,)`, positions `(C, 3)`, finite.
    """
    from scipy.spatial.transform import Rotation
    a, b = _standard(one, other)
    place = positions - sphere_centre(positions)
    place = place / np.linalg.norm(place, axis=1, keepdims=True)
    null = []
    for turn in Rotation.random(n_permutations, rng=np.random.default_rng(seed)):
        spun, still = a[(place @ turn.apply(place).T).argmax(1)], b
        deviation = spun.std() * still.std()
        null.append(((spun - spun.mean()) * (still - still.mean())).mean() / deviation if deviation > 0 else 0.0)
    return float((1 + (np.abs(null) >= abs(a @ b) - 1e-12).sum()) / (1 + n_permutations))


def sphere_centre(positions: np.ndarray) -> np.ndarray:
    """The centre of the sphere that fits positions `(C, 3)` best (least squares)."""
    a = np.c_[2 * positions, np.ones(len(positions))]
    return np.linalg.lstsq(a, (positions ** 2).sum(1), rcond=None)[0][:3]


def _standard(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps with mean 0 and norm 1, float64."""
    maps = [np.asarray(x, dtype=float) for x in (one, other)]
    if maps[0].shape != maps[1].shape or maps[0].ndim != 1 or not np.isfinite(maps).all():
        raise ValueError("expected two finite maps over the same channels, got shapes "
                         f"{maps[0].shape}, {maps[1].shape}")
    centred = [x - x.mean() for x in maps]
    if not all(np.linalg.norm(x) > 0 for x in centred):
        raise ValueError("a map that is the same at all channels correlates with nothing")
    return centred[0] / np.linalg.norm(centred[0]), centred[1] / np.linalg.norm(centred[1])


def compare(maps: Mapping[str, np.ndarray], power: np.ndarray, bands: Sequence[Sequence[float]], positions: np.ndarray,
            seed: int = 0) -> pd.DataFrame:
    """A row per attention map and band: `r` over channels with the power difference, `p` (channels permuted), `p_spin`
    (NaN where a place is unknown) and `n` channels.

    Shape: maps name → `(C,)`, NaN where ignored; power `(bands, C)`; positions `(C, 3)`.
    """
    rows = []
    for name, values in maps.items():
        keep = np.isfinite(values)
        for band, difference in zip(bands, power, strict=True):
            r, p = map_correlation(values[keep], difference[keep], seed=seed)
            known = np.isfinite(positions[keep]).all()
            spin = spin_p(values[keep], difference[keep], positions[keep], seed=seed) if known else np.nan
            rows.append({"map": name, "band": f"{band[0]:g}–{band[1]:g} Hz", "r": r, "p": p, "p_spin": spin,
                         "n": int(keep.sum())})
    return pd.DataFrame(rows)
