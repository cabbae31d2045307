"""Sentences → tokens of a language model, and which word each token belongs to; batches of them for a network."""
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bm.store import file_sha256

if TYPE_CHECKING:
    import torch

#: whatever of these a tokenizer has decides its tokens
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
         "vocab.json", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model")


@dataclass(frozen=True)
class Encoded:
    """A sentence as tokens: `ids`, and `words (tokens,)`, the number of each token's word; -1 for special tokens."""

    text: str
    ids: list[int]
    words: np.ndarray

    def counts(self) -> np.ndarray:
        """Tokens of each word `(words,)`."""
        return np.bincount(self.words[self.words >= 0], minlength=self.text.count(" ") + 1)


def tokenizer_identity(folder: Path) -> dict[str, str]:
    """File name → SHA-256 of the files of a model's tokenizer.

    Raises:
        FileNotFoundError: it has none.
    """
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} has no tokenizer (one of {', '.join(FILES)}): copy the whole folder of the "
                                "model")
    return {file.name: file_sha256(file) for file in files}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder.

    Raises:
        ValueError: one that cannot tell which characters a token is made of.
    """
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {folder} ({type(tokenizer).__name__}) does not tell which characters its "
                         "tokens are made of: expected one with a tokenizer.json (a 'fast' one)")
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str], special: bool) -> list[Encoded]:
    """Tokens of sentences whose words are parted by single spaces.

    A sentence is tokenised as it is written and its tokens are given to words by the characters they are made of; a
    space belongs to the word after it. (`is_split_into_words` loses the spaces that byte-level tokenizers read, and
    `word_ids()` calls a whole sentence one word where the tokenizer does not part it first, as Llama's and Gemma's:
    issues 25082 and 31437 of transformers.)

    Args:
        special: add the special tokens that the tokenizer adds.

    Raises:
        ValueError: a token is part of two words.
    """
    if not texts:
        return []
    out = tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=True,
                    return_special_tokens_mask=True, verbose=False)
    return [Encoded(text, list(ids), _words_of(text, offsets, mask)) for text, ids, offsets, mask in zip(
        texts, out["input_ids"], out["offset_mapping"], out["special_tokens_mask"], strict=True)]


def _words_of(text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> np.ndarray:
    owner = np.cumsum(np.array(list(text)) == " ")  # of each character: the number of spaces up to it
    words = np.full(len(offsets), -1)
    for token, ((start, stop), is_special) in enumerate(zip(offsets, special, strict=True)):
        # a special token that is written in the sentence (a word such as "[UNK]") has characters
        if is_special and start == stop:
            continue
        last = start + len(text[start:stop].rstrip(" ")) - 1
        words[token] = owner[min(start, len(text) - 1)]
        if last > start and owner[last] != words[token]:
            raise ValueError(f"the tokenizer makes one token of {text[start:stop]!r} in {text!r}: no word has it for "
                             "itself; choose a model whose tokens end with words")
    return words


def plain(word: str) -> str:
    """Letters and digits, whatever the case; the word itself where it has none.

    >>> plain("Don’t,") == plain("dont")
    True
    """
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(letter for letter in folded if letter.isalnum()) or folded


def place(events: pd.DataFrame, nearest: bool = False) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The sentence of each word event, its words parted by single spaces, and where the event is in it.

    Args:
        nearest: look for an event that is not at its `word_index` elsewhere: the last place before it, else the first
            after it, that reads the same.

    Returns:
        n texts (that of a word without a sentence is the word); `(n, 2)` numbers of the first word of the event and of
        the one after its last, -1 for an event that is not there (case and punctuation do not matter); `(n,)` whether
        it is elsewhere than at `word_index`.
    """
    texts, spans, moved = [], np.full((len(events), 2), -1), np.zeros(len(events), dtype=bool)
    rows = zip(events["word_sequence"].astype(str), events["word_index"], events["word"].astype(str), strict=True)
    for number, (sequence, index, word) in enumerate(rows):
        sentence, own, expected = sequence.split(), word.split(), int(index)
        here = [plain(w) for w in sentence]
        there = [plain(w) for w in own]
        first = expected if expected >= 0 and own and here[expected:expected + len(own)] == there else -1
        if first < 0 and nearest and own:
            same = [at for at in range(len(here)) if here[at:at + len(own)] == there]
            first = max((at for at in same if at <= expected), default=min(same, default=-1))
            moved[number] = first >= 0
        if first >= 0:
            spans[number] = first, first + len(own)
        texts.append(" ".join(sentence or own))
    return texts, spans, moved


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Numbers of sentences to compute together, longest first: at most `budget` tokens with padding, or one."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def pad(sentences: Sequence[Encoded], filler: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """`(batch, tokens)` ids, filled up on the right, and the mask of what is a sentence."""
    import torch
    ids = torch.full((len(sentences), max(len(s.ids) for s in sentences)), filler)
    mask = torch.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, :len(sentence.ids)] = torch.tensor(sentence.ids)
        mask[row, :len(sentence.ids)] = 1
    return ids, mask


def window(tokenizer: Any, network: Any) -> int:
    """The most tokens that a network takes at once."""
    import torch
    sizes = [tokenizer.model_max_length, getattr(network.config.get_text_config(), "max_position_embeddings", None)]
    # RoBERTa's positions begin after the one of padding
    sizes += [module.num_embeddings - module.padding_idx - 1 for name, module in network.named_modules()
              if isinstance(module, torch.nn.Embedding) and "position" in name and module.padding_idx is not None]
    return min(size for size in sizes if size)
