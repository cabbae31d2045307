"""Phonemes: their identity, their onsets, and how they are articulated."""
import logging
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd

from bm.config import nearest
from bm.features.base import EventFeature, register_feature
from bm.features.words import pulse
from bm.studies.arpabet import plain

logger = logging.getLogger(__name__)

_ARPABET = """
aa=ɑ ae=æ ah=ʌ ao=ɔ aw=aʊ ay=aɪ b=b ch=tʃ d=d dh=ð eh=ɛ er=ɜ ey=eɪ f=f g=ɡ hh=h ih=ɪ iy=i jh=dʒ k=k l=l m=m n=n ng=ŋ
ow=oʊ oy=ɔɪ p=p r=ɹ s=s sh=ʃ t=t th=θ uh=ʊ uw=u v=v w=w y=j z=z zh=ʒ
"""
_SAMPA_NL = """
d=d @=ə b=b A=ɑ n=n s=s i=i E=ɛ r=r x=x p=p o:=oː y=y l=l E:=ɛː Ei=ɛi N=ŋ e:=eː O=ɔ m=m t=t I=ɪ G=ɣ w=ʋ k=k h=h v=v
j=j a:=aː u=u z=z Y=ʏ f=f 9y=œy S=ʃ ui=ui Au=ɑu Z=ʒ 9:=œː 2:=øː g=ɡ J=ɲ O:=ɔː
"""


def _pairs(table: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in table.split())


#: ARPAbet of the CMU pronouncing dictionary → IPA
ARPABET = _pairs(_ARPABET)
#: the Dutch SAMPA of the WebMAUS aligner, in the order of the paper's code → IPA
SAMPA_NL = _pairs(_SAMPA_NL)
#: symbols of the International Phonetic Alphabet that Germanic languages use → what the articulators do
_TABLE = """
p plosive bilabial | b plosive bilabial voiced | t plosive alveolar | d plosive alveolar voiced | k plosive velar |
ɡ plosive velar voiced | ʔ plosive glottal | ʈ plosive alveolar | ɾ approximant alveolar voiced |
f fricative labiodental | v fricative labiodental voiced | θ fricative dental | ð fricative dental voiced |
s fricative alveolar | z fricative alveolar voiced | ʃ fricative postalveolar | ʒ fricative postalveolar voiced |
ç fricative palatal | x fricative velar | ɣ fricative velar voiced | χ fricative velar | h fricative glottal |
m nasal bilabial voiced | n nasal alveolar voiced | ŋ nasal velar voiced | ɲ nasal palatal voiced |
ɹ approximant alveolar voiced | r approximant alveolar voiced | ʁ fricative velar voiced | l lateral alveolar voiced |
ɫ lateral alveolar voiced | j approximant palatal voiced | w approximant bilabial voiced rounded |
ʋ approximant labiodental voiced | ʍ approximant bilabial rounded |
i vowel high front voiced | y vowel high front rounded voiced | ɪ vowel high front voiced |
ʏ vowel high front rounded voiced | e vowel mid front voiced | ø vowel mid front rounded voiced |
ɛ vowel mid front voiced | œ vowel mid front rounded voiced | æ vowel low front voiced | a vowel low front voiced |
ə vowel mid central voiced | ɜ vowel mid central voiced | ɐ vowel low central voiced | ɚ vowel mid central voiced |
ᵻ vowel high central voiced | ɨ vowel high central voiced | ʉ vowel high central rounded voiced |
ɑ vowel low back voiced | ɒ vowel low back rounded voiced | ʌ vowel mid back voiced |
ɔ vowel mid back rounded voiced | o vowel mid back rounded voiced | ʊ vowel high back rounded voiced |
u vowel high back rounded voiced
"""
IPA = {entry.split()[0]: frozenset(entry.split()[1:]) for entry in _TABLE.split("|")}
#: dimensions of `Articulation`, in order
ARTICULATION = ("plosive", "fricative", "nasal", "approximant", "lateral", "vowel", "bilabial", "labiodental", "dental",
                "alveolar", "postalveolar", "palatal", "velar", "glottal", "high", "mid", "low", "front", "central",
                "back", "rounded", "voiced")


def _arpabet(label: str) -> str | None:
    return ARPABET.get(plain(label))


def _ipa(label: str) -> str | None:
    """The label without marks of stress and length and in one spelling of g, if it is one sound that is known."""
    label = "j" if label == "ʲ" else re.sub("[ˈˌː:ˑ̩̃ʰʲ͡]", "", label).replace("g", "ɡ")
    known = label != "" and all(symbol in IPA for symbol in label)
    # an affricate has two consonants; only vowels glide further
    one = len(label) <= 2 or all("vowel" in IPA.get(symbol, ()) for symbol in label)
    return label if known and one else None


#: notation → label to IPA, None for what it does not know
NOTATIONS: dict[str, Callable[[str], str | None]] = {"arpabet": _arpabet, "sampa_nl": SAMPA_NL.get, "ipa": _ipa}
Unknown = Literal["error", "nothing"]


class _PhonemeFeature(EventFeature):
    """What is known of each phoneme by its label.

    Args:
        notation: in which the study writes phonemes: "arpabet" (with or without stress and position), "sampa_nl" or
            "ipa".
        unknown: what is done with other labels: "error", or "nothing", as if nothing was heard (counted in the log).
    """

    kind, columns = "phoneme", ("phoneme",)
    normalize = False
    default = 0.0

    def __init__(self, notation: str = "arpabet", unknown: Unknown = "error") -> None:
        if notation not in NOTATIONS:
            raise ValueError(f"notation={notation!r}: expected one of {', '.join(NOTATIONS)}"
                             + nearest(notation, NOTATIONS))
        if unknown not in ("error", "nothing"):
            raise ValueError(f"unknown={unknown!r}: expected 'error' or 'nothing'")
        self.notation, self.unknown = notation, unknown

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, "notation": self.notation, "unknown": self.unknown}

    def ipa(self, events: pd.DataFrame) -> list[str | None]:
        """The IPA of each phoneme, None for what is not known.

        Raises:
            ValueError: a label that the notation does not know, and the notation that knows them all if there is one.
        """
        labels = events["phoneme"].astype(str)
        found = [NOTATIONS[self.notation](label) for label in labels]
        lost = sorted({label for label, ipa in zip(labels, found, strict=True) if ipa is None})
        if lost and self.unknown == "error":
            fitting = [name for name, read in NOTATIONS.items() if all(read(label) for label in labels)]
            cure = f"all of them are in {fitting[0]!r}: set notation={fitting[0]}" if fitting else \
                "unknown=nothing treats them as silence"
            raise ValueError(f"{self.name}: {len(lost)} labels are not in the notation {self.notation!r}: "
                             f"{', '.join(lost[:8])}; {cure} (dset.features_params.{self.name})")
        if lost:
            logger.info("%s: %d labels treated as silence: %s", self.name, len(lost), ", ".join(lost))
        return found


@register_feature
class Phoneme(_PhonemeFeature):
    """Which phoneme is heard: class 1 + its place in the notation, 0 for none.

    In "ipa" the class is that of the first sound of the label (so a diphthong counts as its first vowel).

    Args:
        notation, unknown: see `_PhonemeFeature`: "arpabet", "sampa_nl" or "ipa"; "error" or "nothing".
    """

    dim = 1

    def __init__(self, notation: str = "arpabet", unknown: Unknown = "error") -> None:
        super().__init__(notation, unknown)
        sounds = {"arpabet": ARPABET.values(), "sampa_nl": SAMPA_NL.values(), "ipa": IPA}[notation]
        self.classes = {sound: 1 + place for place, sound in enumerate(sounds)}
        self.n_classes = 1 + len(self.classes)

    def values(self, events: pd.DataFrame) -> np.ndarray:
        short = self.notation == "ipa"
        return np.array([[0 if ipa is None else self.classes[ipa[:1] if short else ipa]] for ipa in self.ipa(events)],
                        dtype=np.float32)


@register_feature
class Articulation(_PhonemeFeature):
    """How a phoneme is made: manner, place, height, backness, rounding, voicing; 0 or 1 each (`ARTICULATION`).

    Diphthongs and affricates have the features of both their sounds.

    Args:
        notation, unknown: see `_PhonemeFeature`: "arpabet", "sampa_nl" or "ipa"; "error" or "nothing".
    """

    dim = len(ARTICULATION)

    def values(self, events: pd.DataFrame) -> np.ndarray:
        rows = [frozenset().union(*(IPA.get(symbol, frozenset()) for symbol in ipa or "")) for ipa in self.ipa(events)]
        return np.array([[name in row for name in ARTICULATION] for row in rows], dtype=np.float32)


@register_feature
class PhonemePulse(EventFeature):
    """1 for the first `duration_ms` of each phoneme, else 0: its onset.

    Args:
        duration_ms: rounded to samples, at least one.
    """

    kind, columns = "phoneme", ("kind",)
    normalize = False
    dim, default = 1, 0.0

    def __init__(self, duration_ms: float = 16.0) -> None:
        self.pulse_s = pulse(duration_ms)

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, "pulse_s": self.pulse_s}

    def values(self, events: pd.DataFrame) -> np.ndarray:
        return np.ones((len(events), 1), dtype=np.float32)
