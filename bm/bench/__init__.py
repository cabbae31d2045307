"""Speed of the hot paths beside the obvious way, in the same run.

`make bench`, or `python -m bm.bench [NAME …]`. Each benchmark is a function that yields `Comparison`s; ratios are
what counts, since machines differ and are busy.
"""
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """`ours` and `other` in `unit` (medians); `ratio` = other / ours, more is better; `target` is asked of it."""

    name: str
    what: str
    ours: float
    other: float
    target: float | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float:
        return self.other / self.ours


def interleaved(*functions: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter
                ) -> list[float]:
    """Median seconds of each function, run in turns so that a busy moment hits all; a first turn warms up."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, measured in zip(functions, times, strict=True):
            begin = clock()
            function()
            measured.append(clock() - begin)
    return [statistics.median(measured) for measured in times]
