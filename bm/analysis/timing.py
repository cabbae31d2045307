"""When does the decoder know? The brain outside of a window is taken away, and the test is asked again."""
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bm.analysis.breakdown import interval
from bm.analysis.rerun import Rerun
from bm.batch import Batch
from bm.progress import with_progress

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver


def windows(tmin: float, tmax: float, step: float, width: float) -> list[tuple[str, float, float]]:
    """`(kind, start, stop)` in s: "growing" ones from `tmin` on, and "sliding" ones of `width`, every `step`.

    Errors: ValueError if none fits.

    >>> windows(0, 1, 0.5, 0.5)
    [('growing', 0, 0.5), ('growing', 0, 1.0), ('sliding', 0.0, 0.5), ('sliding', 0.5, 1.0)]
    """
    if not 0 < step <= tmax - tmin or not 0 < width <= tmax - tmin:
        raise ValueError(f"step={step:g} and width={width:g} s must be positive and at most {tmax - tmin:g} s")
    stops = np.round(tmin + step * np.arange(1, int((tmax - tmin) / step + 1e-9) + 1), 9)
    starts = np.round(tmin + step * np.arange(int((tmax - tmin - width) / step + 1e-9) + 1), 9)
    return [("growing", tmin, float(stop)) for stop in stops] + [
        ("sliding", float(start), round(float(start) + width, 9)) for start in starts]


def accuracy_in_time(solver: "DecodeSolver", *, step: float = 0.25, width: float = 0.5,
                     n_segments: int | None = 1000, progress: bool = True) -> pd.DataFrame:
    """Accuracy of the trained decoder when it has the brain, and is compared with candidates, in a window only.

    Nothing is trained again. So this shows what the decoder makes of a part of its input, in which it was never tested
    in training; a decoder trained on that part alone can only be expected to do better. Times are those of the sound,
    from the trigger: of the brain the same stretch is kept, `task.offset_meg_ms` later. Outside of it the brain is 0,
    its centre; estimates near the edges of a window read it. With `clip.tmin` and `clip.tmax` windows lie within them.

    Returns:
        A row per window (`kind`, `start`, `stop` in s) and `topk`: `accuracy`, its 95 % interval `low`, `high` over
        subjects and blocks, `n`, `n_candidates`, `chance`.
    """
    rate, cfg = solver.data.spec.sample_rate, solver.cfg
    rerun = Rerun(solver, n_segments)
    origin = cfg.dset.test_window[0]
    ends = origin, origin + rerun.brain.shape[-1] / rate
    tmin, tmax = (end if given is None else given for end, given in
                  zip(ends, (cfg.clip.tmin, cfg.clip.tmax), strict=True))
    lines = []
    for kind, start, stop in with_progress(windows(tmin, min(tmax, ends[1]), step, width), "windows",
                                           show=progress):
        first, last = round((start - origin) * rate), round((stop - origin) * rate)

        def keep(batch: Batch, first: int = first, last: int = last) -> Batch:
            assert batch.brain is not None
            brain = batch.brain.clone()
            brain[..., :first] = 0
            brain[..., last:] = 0
            return batch.replace(brain=brain)

        found = rerun.ask(keep, (start, stop))
        for k in found.ks:
            values = rerun.accuracy(found, k)
            low, high = interval(values, rerun.rows, cfg.test.n_boot, cfg.seed)
            lines.append({"kind": kind, "start": start, "stop": stop, "topk": k, "accuracy": values.mean(), "low": low,
                          "high": high, "n": len(values), "n_candidates": found.n_candidates,
                          "chance": found.chance(k)})
    return pd.DataFrame(lines)
