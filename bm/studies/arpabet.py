"""Identities of English phonemes as forced aligners write them."""
import re

#: the 39 phonemes of the CMU pronouncing dictionary, without stress; their place is their identity
ARPABET = ("aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy",
           "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y",
           "z", "zh")
#: identity of what is no phoneme of the table: noise, unknown words
UNKNOWN = len(ARPABET)

_DECORATION = re.compile(r"\d?(_[BIES])?$")


def plain(label: str) -> str:
    """A label without stress and position in the word, in lower case.

    >>> plain("AH0_I")
    'ah'
    """
    return _DECORATION.sub("", label).lower()


def phoneme_id(label: str) -> int:
    """Place of a phoneme in `ARPABET`, `UNKNOWN` if it has none. Stress and position in the word do not matter.

    >>> phoneme_id("ah0_I") == phoneme_id("AH") == 2
    True
    """
    name = plain(label)
    return ARPABET.index(name) if name in ARPABET else UNKNOWN
