"""Text → sentences of words, and the words of a recording → the sentences they come from."""
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bm.studies.align import match_sequences

# What ends a sentence: . ! ? … with the quotes and brackets that close there. "Yes?" he said. goes on: a lower-case
# letter follows. A title before a name ends nothing.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[^a-z\s]|\s*$)")
_TITLES = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof)\.$")
# A word as the aligner Gentle reads it: letters and digits, apostrophes inside.
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Sentence:
    """A sentence as written, and its words."""

    text: str
    words: tuple[str, ...]


def by_punctuation(text: str) -> list[Sentence]:
    """Sentences end at . ! ? or … unless a lower-case letter follows; words are runs of letters with apostrophes.

    >>> [s.words for s in by_punctuation('"Why?" he asked. Mr. Perez didn’t say.')]
    [('Why', 'he', 'asked'), ('Mr', 'Perez', 'didn’t', 'say')]
    """
    pieces, begin = [], 0
    for end in _END.finditer(text):
        if not _TITLES.search(text[begin:end.end()]):
            pieces.append(text[begin:end.end()])
            begin = end.end()
    pieces.append(text[begin:])
    sentences = [Sentence(" ".join(piece.split()), tuple(_WORD.findall(piece))) for piece in pieces]
    return [sentence for sentence in sentences if sentence.words]


def by_spacy(text: str) -> list[Sentence]:
    """Sentences and tokens of spaCy's `en_core_web_md`; contractions are cut ("do", "n't").

    Raises:
        ValueError: spaCy or its model is not installed.
    """
    try:
        import spacy

        nlp = spacy.load("en_core_web_md")
    except (ImportError, OSError) as error:
        raise ValueError(f"sentences=spacy: {error}. Install it with `pip install spacy` and `python -m spacy download "
                         "en_core_web_md`, or use sentences=punctuation, which needs neither") from error
    sentences = []
    for piece in nlp(text).sents:
        words = (re.sub(r"\W+", "", token.text) for token in piece)
        sentences.append(Sentence(" ".join(piece.text.split()), tuple(word for word in words if word)))
    return [sentence for sentence in sentences if sentence.words]


SPLITTERS: dict[str, Callable[[str], list[Sentence]]] = {"punctuation": by_punctuation, "spacy": by_spacy}


def assign_sentences(words: list[str], sentences: list[Sentence]) -> tuple[pd.DataFrame, int]:
    """Which sentence each of the `words` of a recording belongs to.

    Words are matched with the text by edit distance, whatever the case; a word that the text has not belongs to the
    sentence of the word before. Those before the first match and after the last have no sentence.

    Returns:
        One row per word, `sequence_id` (number of the sentence, NaN if none), `sequence_uid` (its text), `word_index`
        (0 for the first word of the sentence that is *in the recording*, -1 if none), `word_sequence` (the words of
        the sentence that are in the recording, "" if none); and how many words were matched.
    """
    numbers = [number for number, sentence in enumerate(sentences) for _ in sentence.words]
    text = [_plain(word) for sentence in sentences for word in sentence.words]
    own, theirs = match_sequences([_plain(word) for word in words], text)
    sequence = pd.Series(np.full(len(words), np.nan))
    sequence.iloc[own] = np.array(numbers, dtype=float)[theirs]
    first, last = (int(own[0]), int(own[-1])) if len(own) else (0, -1)
    sequence.iloc[first:last + 1] = sequence.iloc[first:last + 1].ffill()
    told = sequence.notna()
    said = pd.Series(words, dtype=object)[told].groupby(sequence[told])
    table = pd.DataFrame({"sequence_id": sequence})
    table["sequence_uid"] = [sentences[int(i)].text if known else None for i, known in zip(sequence, told, strict=True)]
    table["word_index"] = said.cumcount().reindex(table.index, fill_value=-1).astype(int)
    table["word_sequence"] = ""
    if told.any():
        table.loc[told, "word_sequence"] = said.transform(" ".join)
    return table, len(own)


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")
