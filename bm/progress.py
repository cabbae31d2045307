"""Progress of loops that may take minutes: a bar on a terminal, elsewhere a line in the log every `EVERY` seconds."""
import logging
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # who waits for minutes wants to know, also where a script shows warnings alone

#: s between two lines, and before the first
EVERY = 10.0


class _Log:
    """A stream whose lines are messages of the log."""

    def write(self, text: str) -> None:
        if text.strip():
            logger.info(text.strip())

    def flush(self) -> None:
        pass


def with_progress(items: Iterable[Any] | None, what: str, total: int | None = None, show: bool = True,
                  unit: str = "") -> "tqdm":
    """Iterates over `items`; without any, its `update(n)` counts.

    Args:
        what: is done, the first word of the line.
        total: number of items, where they have no length.
        show: False: nothing is said.
        unit: of what is counted by thousands, millions…: "B".
    """
    from tqdm import tqdm
    if sys.stderr.isatty() or not show:
        return tqdm(items, what, total, leave=False, disable=not show, unit=unit or "it", unit_scale=bool(unit))
    return tqdm(items, what, total, leave=False, file=_Log(), mininterval=EVERY, delay=EVERY, miniters=1,
                unit_scale=bool(unit), bar_format=f"{{desc}}: {{n_fmt}}{unit} of {{total_fmt}}{unit}, {{elapsed}} "
                                                  "passed, {remaining} left")
