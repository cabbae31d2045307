"""Contracts of features: vectors that describe the stimulus, at the feature's own rate or one per event.

A feature is found by its class name (`dset.features`), with the keyword arguments under `dset.features_params.NAME`.
Two of one class have names of their own: `dset.features=[early, late]`, `early: {feature: SpeechModel, layers: [1]}`.
"""
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from bm.config import nearest


@dataclass(frozen=True)
class FeatureContext:
    """Where features are computed; none of it decides a value, so it enters neither a signature nor an identity.

    `models`: the folder of the networks' weights (config key `features_models`); `device`: "auto" is cuda where there
    is one. A feature whose constructor has an argument `context` is given it.
    """

    models: Path = Path("features_models")
    device: str = "auto"


class Feature(ABC):
    """One representation of the stimulus: a `SoundFeature` or an `EventFeature`.

    Class attributes: `kind` of event it describes, `normalize` (whether values are standardised before a model sees
    them), `n_classes` (for categorical features: labels are whole numbers from 0, nothing, to n_classes − 1), `dtype`
    in which rows are kept ("float16" halves those of a thousand dimensions).
    """

    kind: ClassVar[str]
    normalize: ClassVar[bool] = True
    n_classes: int | None = None
    dtype: ClassVar[Literal["float32", "float16"]] = "float32"

    #: numbers per row, and the value where nothing is heard
    dim: int
    default: float
    #: Hz of the middle of each column, where columns are bands of sound
    bands_hz: np.ndarray | None = None
    #: its name in this XP, where that is not its class's
    label: str | None = None

    @property
    def name(self) -> str:
        """Its name in the XP, by default the registered one."""
        return self.label or type(self).__name__

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain data that, with the content of the stimulus, decides the values: the cache key."""


class SoundFeature(Feature):
    """A track: rows at a rate of its own, computed from the samples of each chunk of sound alone.

    Attributes: `rate` in rows per second, `context_s` (seconds of sound beyond an instant that its row depends on; rows
    near a chunk's edge see padding instead; infinite where a row depends on its whole chunk), `shift_equivariant`
    (whether sound that begins a whole number of rows later has the same rows, but for those within `context_s` of an
    edge).
    """

    kind = "sound"
    shift_equivariant: bool = False
    #: True: given to models at its own rate, for networks that learn from the sound itself; not brought to the brain's
    native: ClassVar[bool] = False
    rate: float
    context_s: float

    @abstractmethod
    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        """Rows `(n, dim)` float32 of one chunk: `audio` is `(samples,)` mono float at `rate` Hz; row 0 is at its
        first sample."""

    def compute_many(self, chunks: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Rows of several chunks `(audio, rate)`; a network may take them in batches."""
        return [self.compute(audio, rate) for audio, rate in chunks]


class EventFeature(Feature):
    """One vector per event of `kind`, held while the event lasts.

    Class attributes: `columns` of the events table that decide the vector (it is computed once for each different
    combination of their values), `pulse_s` (seconds; the vector is held that long only; None: the whole event).
    """

    columns: ClassVar[tuple[str, ...]]
    pulse_s: float | None = None

    @abstractmethod
    def values(self, events: pd.DataFrame) -> np.ndarray:
        """Vectors `(n, dim)` float32 of n different events, whose table has `columns`."""


FEATURES: dict[str, type[Feature]] = {}


def register_feature(cls: type[Feature]) -> type[Feature]:
    """Class decorator: makes a feature known by its class name."""
    if FEATURES.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"two features are called {cls.__name__!r}")
    return cls


def build_feature(name: str, params: dict[str, Any], context: FeatureContext | None = None) -> Feature:
    """The feature called `name`, of the class `params["feature"]` if there is that, else of that name.

    `context` is handed to those that take one.

    Raises:
        ValueError: unknown name or parameter, with the nearest known one.
    """
    params = dict(params)
    kind = params.pop("feature", name)
    if kind not in FEATURES:
        raise ValueError(f"dset.features: unknown feature {kind!r}; known: {', '.join(sorted(FEATURES))}"
                         + nearest(kind, FEATURES))
    if "context" in inspect.signature(FEATURES[kind]).parameters:
        params["context"] = context or FeatureContext()
    try:
        feature = FEATURES[kind](**params)
    except TypeError as error:
        raise ValueError(f"dset.features_params.{name}: {error}") from error
    if kind != name:
        feature.label = name
    return feature
