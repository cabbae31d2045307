"""bm: how the brain hears speech."""
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bm.analysis.trained import Trained

__version__ = "0.1.0"


def load(source: str | Path, device: str = "cpu") -> "Trained":
    """A trained decoder: an exported folder, or an XP by its signature (see `bm.analysis.load`)."""
    from bm.analysis.load import load as read
    return read(source, device)
