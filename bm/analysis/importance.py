"""Which sensors does the decoder need? Each is spoiled in turn and the test asked again (permutation importance)."""
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from bm.analysis.breakdown import interval
from bm.analysis.rerun import Rerun
from bm.batch import Batch
from bm.progress import with_progress

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

How = Literal["shuffle", "mean"]


def sensor_table(solver: "DecodeSolver", by: Literal["sensor", "region"] = "sensor") -> tuple[pd.DataFrame, np.ndarray]:
    """The groups of sensors to spoil, and whose channel is in which: `(G, R, C)` bool of recordings and channels.

    Sensors of different recordings are the same if they have the same name. Bad ones are in no group.

    Returns:
        One row per group: `group`, `layout_x`, `layout_y` (means over sensors and recordings, NaN where unknown).

    Errors: ValueError if the study knows no region.
    """
    data = solver.data
    column = "name" if by == "sensor" else "region"
    tables = [p.channels.assign(recording=r, channel=np.arange(len(p.channels)))
              for r, p in enumerate(data.prepared)]
    channels = pd.concat(tables)[lambda t: ~t["bad"].astype(bool) & (pd.concat(tables)[column] != "")]
    if channels.empty:
        raise ValueError("the channels of this study have no region: by=sensor")
    groups = channels.groupby(column, sort=False)
    place = groups[["layout_x", "layout_y"]].mean().rename_axis("group").reset_index()
    member = np.zeros((len(place), *data.montages.valid.shape), dtype=bool)
    for number, (_, own) in enumerate(groups):
        member[number, own["recording"], own["channel"]] = True
    return place, member


def sensor_importance(solver: "DecodeSolver", *, by: Literal["sensor", "region"] = "sensor", how: How = "shuffle",
                      n_segments: int | None = 1000, progress: bool = True) -> pd.DataFrame:
    """How much accuracy is lost when a sensor says nothing of the segment, with all else as it was.

    "shuffle" gives it what it recorded in another segment of the recording, half of it away: its own spectrum and
    artifacts, at the wrong time. "mean" sets it to its centre (0 after scaling). Of sensors that say the same none is
    needed, so that small drops all over do not mean that nothing is there: spoil whole regions (`by`).

    Returns:
        Columns of `sensor_table` and `n_sensors` (the mean over recordings), `topk` (the largest), `accuracy` without
        the group, `whole` (with all), `drop` and its 95 % interval `low`, `high` (over subjects and blocks), `n`,
        `n_subjects`.
    """
    if how not in ("shuffle", "mean"):
        raise ValueError(f"how={how}: expected shuffle or mean")
    table, member = sensor_table(solver, by)
    rerun = Rerun(solver, n_segments)
    k, cfg = max(solver.cfg.test.topk), solver.cfg
    other = torch.from_numpy(_elsewhere(rerun.rows)).to(rerun.brain.device)
    of_group = torch.from_numpy(member).to(rerun.brain.device)
    whole = rerun.accuracy(rerun.ask(), k)

    def spoil(batch: Batch, group: int) -> Batch:
        assert batch.brain is not None
        instead = rerun.brain[other[batch.segment.to(other.device)]] if how == "shuffle" else torch.zeros_like(
            batch.brain)
        return batch.replace(brain=torch.where(of_group[group][batch.recording][:, :, None], instead, batch.brain))

    lines = []
    for group in with_progress(range(len(table)), by, show=progress):
        without = rerun.accuracy(rerun.ask(lambda batch, group=group: spoil(batch, group)), k)  # type: ignore[misc]
        low, high = interval(whole - without, rerun.rows, cfg.test.n_boot, cfg.seed)
        lines.append({"n_sensors": member[group].sum(1).mean(), "topk": k, "accuracy": without.mean(),
                      "whole": whole.mean(), "drop": (whole - without).mean(), "low": low, "high": high,
                      "n": len(whole), "n_subjects": rerun.rows["subject_uid"].nunique()})
    return pd.concat([table, pd.DataFrame(lines)], axis=1)


def _elsewhere(rows: pd.DataFrame) -> np.ndarray:
    """For each row the place of another one of its recording, half of the recording away."""
    out = np.arange(len(rows))
    for at in rows.groupby("recording").indices.values():
        ordered = at[np.argsort(rows["start"].to_numpy()[at], kind="stable")]
        out[ordered] = np.roll(ordered, len(ordered) // 2)
    return out
