"""Features of words that need nothing but the events table (and, for frequencies, a list of them)."""
from typing import Any

import numpy as np
import pandas as pd

from bm.features.base import EventFeature, register_feature
from bm.store import stable_id


class _WordFeature(EventFeature):
    """One number per word."""

    kind = "word"
    dim, default = 1, 0.0

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1}


def _column(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)[:, None]


@register_feature
class WordSegment(_WordFeature):
    """Whether a word is heard: class 1, else 0."""

    columns = ("kind",)
    normalize, n_classes = False, 2

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return _column(np.ones(len(events)))


@register_feature
class WordPulse(_WordFeature):
    """1 for the first `duration_ms` of each word, else 0: its onset.

    Args:
        duration_ms: rounded to samples, at least one.
    """

    columns = ("kind",)
    normalize = False

    def __init__(self, duration_ms: float = 50.0) -> None:
        self.pulse_s = pulse(duration_ms)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "pulse_s": self.pulse_s}

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return _column(np.ones(len(events)))


def pulse(duration_ms: float) -> float:
    """Seconds of a pulse. Errors: ValueError if it is not positive."""
    if not duration_ms > 0:
        raise ValueError(f"duration_ms={duration_ms}: expected a positive number of milliseconds")
    return duration_ms / 1000


@register_feature
class Modality(_WordFeature):
    """How a word is presented: class 1 heard, 2 read, 0 no word."""

    columns = ("modality",)
    normalize, n_classes = False, 3

    def values(self, events: pd.DataFrame) -> np.ndarray:
        numbers = events["modality"].map({"audio": 1, "visual": 2})
        if numbers.isna().any():
            other = events["modality"][numbers.isna()].iloc[0]
            raise ValueError(f"Modality: words are 'audio' or 'visual', got {other!r}")
        return _column(numbers)


@register_feature
class WordLength(_WordFeature):
    """Number of letters."""

    columns = ("word",)

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return _column(events["word"].str.len())


@register_feature
class WordIndex(_WordFeature):
    """Place in the sentence, from 1."""

    columns = ("word_index",)

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return _column(events["word_index"].astype(int) + 1)


@register_feature
class WordFrequency(_WordFeature):
    """Zipf frequency: log10 of how often a word occurs in a billion words; 0 for one that the list lacks.

    Source: the package wordfreq (Speer 2022, doi:10.5281/zenodo.7199437), a snapshot of 2021; scale of van Heuven et
    al. 2014 (doi:10.1080/17470218.2013.850521).

    Errors: ImportError without the package; ValueError for a language without a list.
    """

    columns = ("word", "language")

    def values(self, events: pd.DataFrame) -> np.ndarray:
        try:
            from wordfreq import available_languages, zipf_frequency
        except ImportError as error:
            raise ImportError("WordFrequency needs the package wordfreq: pip install 'bm[text]'") from error
        known = available_languages()
        unknown = sorted(set(events["language"]) - set(known))
        if unknown:
            raise ValueError(f"WordFrequency has no list for the language {unknown[0]!r} of these words: expected a "
                             f"code like 'en' or 'nl' ({', '.join(sorted(known))})")
        return _column([zipf_frequency(word, language)
                        for word, language in zip(events["word"], events["language"], strict=True)])


@register_feature
class WordHash(_WordFeature):
    """A class per word, from a digest that is the same in every process: 1 + digest mod `buckets`, 0 for no word.

    Case and full stops do not matter. Different words may share a class: of 2,000 words in 100,000 buckets about 20
    pairs do.
    """

    columns = ("word",)
    normalize = False

    def __init__(self, buckets: int = 100_000) -> None:
        if not 1 <= buckets < 2 ** 24:
            raise ValueError(f"buckets={buckets}: expected 1 to {2 ** 24 - 1}, what float32 holds exactly")
        self.buckets, self.n_classes = buckets, 1 + buckets

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "buckets": self.buckets}

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return _column([1 + stable_id(word.lower().strip(".")) % self.buckets for word in events["word"]])
