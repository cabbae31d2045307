"""Parts of a brain that are compared by themselves: each person's voxels, all of them and those of each region."""
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bm.metrics.rdm import effective_dimensionality

#: names in the files of RSA: for a region, all of a person's voxels; for a layer, the units of all of them side by side
#: (`encoding.concatenated`); beside the matrices of words or phonemes, 1 where a pair counts
WHOLE, CONCATENATED, COUNTED = "all", "all layers", "pairs that count"
#: voxels of a person that a region has at least: correlations over fewer are coarse, over two they are 1 or −1
LEAST_VOXELS = 5


@dataclass(frozen=True)
class Group:
    """A person's voxels (channels) of a region, at a latency (s) where there are any; `columns` of the responses."""

    subject: str
    region: str
    latency: float | None
    columns: np.ndarray


def groups_of(voxels: pd.DataFrame, least: int) -> tuple[list[Group], list[str]]:
    """Groups, ordered by region (all voxels first), latency and person; and a phrase about each person's region that
    was left out as it has fewer than `least` voxels.

    Args:
        voxels: a row per target with `subject`, `region` ("" where unknown) and perhaps `latency`.

    Raises:
        ValueError: a region is named as all of them are.
    """
    if (voxels["region"].astype(str) == WHOLE).any():
        raise ValueError(f"a region of {voxels.loc[voxels['region'] == WHOLE, 'subject'].iloc[0]} is named {WHOLE!r}, "
                         "which means all of a person's voxels: rename it in the study's channels")
    subjects = list(dict.fromkeys(voxels["subject"]))
    times: list[float | None] = [*dict.fromkeys(voxels["latency"])] if "latency" in voxels else [None]
    out, small = [], []
    for region in [WHOLE, *sorted(set(voxels["region"].astype(str)) - {""})]:
        for latency in times:
            for subject in subjects:
                own = voxels["subject"] == subject
                if region != WHOLE:
                    own &= voxels["region"] == region
                if latency is not None:
                    own &= voxels["latency"] == latency
                columns = np.flatnonzero(own)
                if region == WHOLE or len(columns) >= least:
                    out.append(Group(subject, region, latency, columns))
                elif latency == times[0]:
                    small.append(f"{region} of {subject}: {len(columns)}")
    return out, small


def scale_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over rows, infinite where it is what rounding makes of a constant column."""
    mean, spread = x.mean(0), x.std(0)
    return mean, np.where(spread > 1e-7 * np.abs(mean), spread, np.inf)


def response_dimensionality(values: np.ndarray, voxels: pd.DataFrame, standardise: bool) -> pd.DataFrame:
    """Effective dimensionality of the responses `(sounds, targets, repetitions)` of each person and region.

    Of means over repetitions; voxels about their mean over sounds, and with `standardise` of variance 1, as layers are.

    Returns:
        Columns `subject`, `region`, `n_units`, `dimensionality` (and `latency`); NaN for fewer than `LEAST_VOXELS`.
    """
    rows = []
    for group in groups_of(voxels, 2)[0]:
        y = values[:, group.columns].mean(2, dtype=np.float64)
        center, scale = scale_of(y)
        y = (y - center) / scale if standardise else y - center
        rows.append({"subject": group.subject, "region": group.region, "n_units": len(group.columns),
                     "dimensionality": effective_dimensionality(y) if y.shape[1] >= LEAST_VOXELS else np.nan}
                    | ({} if group.latency is None else {"latency": group.latency}))
    return pd.DataFrame(rows)
