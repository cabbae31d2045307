"""Features of words that need nothing but the events table."""
from typing import Any

import numpy as np
import pandas as pd

from bm.features.base import EventFeature, register_feature


@register_feature
class WordSegment(EventFeature):
    """Whether a word is heard: class 1, else 0."""

    kind, columns = "word", ("kind",)
    normalize, n_classes = False, 2
    dim, default = 1, 0.0

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1}

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return np.ones((len(events), 1), dtype=np.float32)
