import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bm.studies.arpabet import ARPABET, UNKNOWN, phoneme_id
from bm.studies.gentle import gentle_events, read_gentle
from bm.studies.sentences import Sentence, assign_sentences, by_punctuation, by_spacy


def test_phonemes_have_identities():
    assert len(set(ARPABET)) == 39
    assert phoneme_id("dh_B") == phoneme_id("DH") == phoneme_id("dh") != phoneme_id("d_B")
    assert phoneme_id("ah0_I") == phoneme_id("ah1_E") == ARPABET.index("ah")
    assert phoneme_id("oov_S") == phoneme_id("sil") == UNKNOWN == 39


def test_sentences_by_punctuation():
    text = '“Is it far?” he asked. "No!" she said... It isn’t. (Mr. Hill knew.) Numbers like 3.5 stay\nwhole'
    assert [sentence.text for sentence in by_punctuation(text)] == [
        "“Is it far?” he asked.", '"No!" she said...', "It isn’t.", "(Mr. Hill knew.)", "Numbers like 3.5 stay whole"]
    assert by_punctuation(text)[2].words == ("It", "isn’t")
    assert by_punctuation(" ... !") == []


def test_words_get_the_sentence_they_are_matched_with():
    sentences = by_punctuation("He came late. It rained, and he didn't mind. He came late.")
    spoken = ["well", "he", "came", "late", "it", "uh", "rained", "and", "he", "didn’t", "he", "came", "late", "end"]
    table, matched = assign_sentences(spoken, sentences)
    assert matched == 11
    assert table["sequence_id"].tolist()[1:-1] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert np.isnan(table["sequence_id"].iloc[[0, -1]]).all()
    assert table["word_index"].tolist() == [-1, 0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2, -1]
    assert table["word_sequence"].iloc[4] == "it uh rained and he didn’t" and table["word_sequence"].iloc[0] == ""
    assert table["sequence_uid"].iloc[5] == "It rained, and he didn't mind."
    assert table["sequence_uid"].isna().tolist() == [True] + 12 * [False] + [True]
    nothing, none = assign_sentences(["a", "b"], sentences)
    assert none == 0 and (nothing["word_index"] == -1).all()


def test_sentences_by_spacy(monkeypatch):
    class Span:
        def __init__(self, text):
            self.text = text

        def __iter__(self):
            return (SimpleNamespace(text=token) for token in self.text.split())

    def nlp(text):
        return SimpleNamespace(sents=[Span(part) for part in text.split("|")])
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name: {"en_core_web_md": nlp}[name]))
    assert by_spacy("He did n't .|...|Go !") == [Sentence("He did n't .", ("He", "did", "nt")),
                                                 Sentence("Go !", ("Go",))]
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ValueError, match="pip install spacy"):
        by_spacy("x")


def entry(word, start, **more):
    return {"case": "success", "word": word, "alignedWord": word, "start": start, "end": start + 0.5, **more}


def test_gentle(tmp_path):
    path = tmp_path / "align.json"
    phones = [{"phone": "dh_B", "duration": 0.2}, {"phone": "ah_E", "duration": 0.25}]
    path.write_text(json.dumps({"words": [
        entry("the", 1.0, phones=phones), {"case": "not-found-in-audio", "word": "old"},
        entry("Xyz", 2.0, alignedWord="<unk>", phones=[{"phone": "oov_S", "duration": 0.5}]), entry("man", 3.0)]}))
    words, lost = read_gentle(path)
    assert lost == 1 and [word["word"] for word in words] == ["the", "Xyz", "man"]
    assert [word["recognised"] for word in words] == [True, False, True]
    table, _ = assign_sentences(["the", "Xyz", "man"], by_punctuation("The old man."))
    events = gentle_events(words, table)
    phonemes = events[events["kind"] == "phoneme"]
    assert phonemes["start"].tolist() == pytest.approx([1.0, 1.2, 2.0])
    assert phonemes["phoneme"].tolist() == ["dh_B", "ah_E", "oov_S"]
    assert phonemes["phoneme_id"].tolist() == [ARPABET.index("dh"), ARPABET.index("ah"), UNKNOWN]
    assert phonemes["word_index"].tolist() == [0, 0, 1] and (events["sequence_id"] == 0).all()


@pytest.mark.parametrize("content, message", [
    ("{", "expected JSON of Gentle"), ("{}", "list `words`"),
    (json.dumps({"words": [{"case": "success", "word": "late"}]}), "word 0 \\('late'\\): KeyError"),
])
def test_broken_alignments_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_gentle(tmp_path / "a.json")
    assert "a.json" in str(error.value)
