import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from bm.features import build_feature
from bm.features.phonemes import ARPABET, ARTICULATION, IPA, SAMPA_NL


def words(*texts, **columns):
    return pd.DataFrame({"kind": "word", "word": texts, "word_index": range(len(texts)), "language": "en",
                         "modality": "audio", **columns})


def phonemes(*labels):
    return pd.DataFrame({"kind": "phoneme", "phoneme": labels})


def values(name, events, **params):
    feature = build_feature(name, params)
    out = feature.values(events)
    assert out.dtype == np.float32 and out.shape == (len(events), feature.dim)
    if feature.n_classes:
        assert ((out >= 0) & (out < feature.n_classes) & (out % 1 == 0)).all()
    return out


def test_numbers_of_words():
    events = words("the", "ferry", "left", modality=["audio", "visual", "audio"])
    assert values("WordLength", events)[:, 0].tolist() == [3, 5, 4]
    assert values("WordIndex", events)[:, 0].tolist() == [1, 2, 3]
    assert values("WordSegment", events)[:, 0].tolist() == [1, 1, 1]
    assert values("Modality", events)[:, 0].tolist() == [1, 2, 1]
    assert build_feature("WordPulse", {"duration_ms": 50}).pulse_s == pytest.approx(0.05)
    with pytest.raises(ValueError, match="'smell'"):
        values("Modality", words("a", modality="smell"))
    with pytest.raises(ValueError, match="positive"):
        build_feature("WordPulse", {"duration_ms": 0})


def test_frequencies_are_zipf_and_know_their_language():
    frequent, rare, none = values("WordFrequency", words("the", "ferry", "qzxjw"))[:, 0]
    assert frequent > 7 and 2 < rare < 5 and none == 0
    dutch = values("WordFrequency", words("de", language="nl"))[0, 0]
    assert dutch > 7 > values("WordFrequency", words("de"))[0, 0]
    with pytest.raises(ValueError, match="'english'.*'en'"):
        values("WordFrequency", words("the", language="english"))


def test_a_hash_is_the_same_everywhere():
    here = values("WordHash", words("Ferry.", "ferry", "left"), buckets=1000)[:, 0]
    assert here[0] == here[1] != here[2]
    code = ("import pandas as pd; from bm.features import build_feature; "
            "print(build_feature('WordHash', {'buckets': 1000}).values(pd.DataFrame({'word': ['ferry']}))[0, 0])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={"PYTHONHASHSEED": "7"})
    assert float(out.stdout) == here[0]


def test_phonemes_by_identity():
    assert len(SAMPA_NL) == 43 and len(ARPABET) == 39
    assert values("Phoneme", phonemes("AA1", "aa", "ZH_E", "ae0_B"))[:, 0].tolist() == [1, 1, 39, 2]
    assert values("Phoneme", phonemes("d", "O:"), notation="sampa_nl")[:, 0].tolist() == [1, 43]
    with pytest.raises(ValueError, match="spn.*unknown=nothing"):
        values("Phoneme", phonemes("aa", "spn"))
    assert values("Phoneme", phonemes("aa", "spn"), unknown="nothing")[:, 0].tolist() == [1, 0]
    with pytest.raises(ValueError, match="set notation=ipa"):
        values("Phoneme", phonemes("ˈɛ", "tʃ"))
    with pytest.raises(ValueError, match="did you mean 'arpabet'"):
        build_feature("Phoneme", {"notation": "arpabeth"})


def test_every_label_is_articulated():
    for table in (ARPABET, SAMPA_NL):
        assert all(symbol in IPA or symbol == "ː" for ipa in table.values() for symbol in ipa)
    assert all(name in ARTICULATION for row in IPA.values() for name in row)
    assert len(set(IPA.values())) > 40


@pytest.mark.parametrize("label, notation, expected", [
    ("b", "arpabet", {"plosive", "bilabial", "voiced"}), ("S", "sampa_nl", {"fricative", "postalveolar"}),
    ("tʃ", "ipa", {"plosive", "alveolar", "fricative", "postalveolar"}),
    ("iː", "ipa", {"vowel", "high", "front", "voiced"})])
def test_how_sounds_are_made(label, notation, expected):
    row = values("Articulation", phonemes(label), notation=notation)[0]
    assert {name for name, value in zip(ARTICULATION, row, strict=True) if value} == expected


def test_two_features_of_one_class():
    short, long = (build_feature(name, {"feature": "WordPulse", "duration_ms": ms})
                   for name, ms in [("short", 10), ("long", 100)])
    assert (short.name, long.name) == ("short", "long") and short.pulse_s < long.pulse_s
    with pytest.raises(ValueError, match="unknown feature 'WordPuls'.*did you mean 'WordPulse'"):
        build_feature("short", {"feature": "WordPuls"})
