"""Speed of the hot paths beside the obvious way, in the same run.

`make bench`, or `python -m bm.bench [NAME …]`. Each benchmark is a function that yields `Comparison`s; ratios are
what counts, since machines differ and are busy.
"""
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    """Median seconds of each function, run in turns so that a busy moment hits all; a first turn warms up.

    Processor seconds (`time.process_time`) are counted on one thread of BLAS: those that wait for work count as well.
    """
    from threadpoolctl import threadpool_limits
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    with threadpool_limits(1 if clock is time.process_time else None):
        for _ in range(repeats):
            for function, measured in zip(functions, times, strict=True):
                begin = clock()
                function()
                measured.append(clock() - begin)
    return [statistics.median(measured) for measured in times]


def memory(field: str) -> int:
    """A field of this process's memory in bytes: "VmRSS" now, "VmHWM" at its peak (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def alone(function: Callable[..., None], *arguments: Any) -> Any:
    """What `function(*arguments, queue)` puts into its queue, in a fresh process that holds nothing else."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    found = queue.get(timeout=300)
    process.join()
    return found
