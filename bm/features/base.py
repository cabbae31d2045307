"""Contract of a feature: from a chunk of stimulus to rows of vectors at the feature's own rate.

A feature is found by its class name (`dset.features`), with the keyword arguments under `dset.features_params.NAME`.
"""
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np

from bm.config import nearest


class Feature(ABC):
    """One representation of the stimulus.

    Class attributes: `kind` of event it describes, `normalize` (whether values are standardised before a model sees
    them), `n_classes` (for categorical features), `context_s` (seconds of stimulus beyond an instant that its row
    depends on; rows near a chunk's edge see padding instead).
    """

    kind: ClassVar[Literal["sound"]]
    normalize: ClassVar[bool] = True
    n_classes: ClassVar[int | None] = None

    #: rows of one vector, rows per second, value where nothing is heard, and context in seconds
    dim: int
    rate: float
    default: float
    context_s: float

    @property
    def name(self) -> str:
        """The registered name."""
        return type(self).__name__

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain data that, with the content of the stimulus, decides the values: the cache key."""

    @abstractmethod
    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Rows `(n, dim)` float32 of one chunk: `audio` is `(samples,)` mono float at `rate` Hz; row 0 is at its
        first sample."""


FEATURES: dict[str, type[Feature]] = {}


def register_feature(cls: type[Feature]) -> type[Feature]:
    """Class decorator: makes a feature known by its class name."""
    if FEATURES.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"two features are called {cls.__name__!r}")
    return cls


def build_feature(name: str, params: dict[str, Any]) -> Feature:
    """The feature called `name`.

    Raises:
        ValueError: unknown name or parameter, with the nearest known one.
    """
    if name not in FEATURES:
        raise ValueError(f"dset.features: unknown feature {name!r}; known: {', '.join(sorted(FEATURES))}"
                         + nearest(name, FEATURES))
    try:
        return FEATURES[name](**params)
    except TypeError as error:
        raise ValueError(f"dset.features_params.{name}: {error}") from error
