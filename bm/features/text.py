"""Words in their sentence, as language models of Hugging Face see them: hidden states and surprisal."""
import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from bm.features.base import EventFeature, FeatureContext, register_feature
from bm.features.model_files import files_identity, find_model, resolve_layers
from bm.features.tokens import (
    Encoded,
    batches,
    encode,
    load_tokenizer,
    pad,
    place,
    tokenizer_identity,
    window,
)
from bm.progress import with_progress
from bm.store import digest

logger = logging.getLogger(__name__)

Mismatch = Literal["error", "nearest", "sentence"]
Precision = Literal["float32", "bfloat16"]


class InSentence(EventFeature):
    """What all features of language models share: each different sentence is run once, whole and by itself.

    A sentence is `word_sequence`; its words are parted by white space. An event is the word at `word_index` (or the
    words, if it has several), and must read the same, case and punctuation aside.

    Args:
        model: `org/name` on the Hugging Face hub, or a folder.
        random: the untrained twin, with the weights that `seed` draws: the same in every process.
        mismatch: what is done with a word that its sentence does not have at its index, or that has no token: "error";
            "nearest": the last place before its index that reads the same, else the first after it, else an error (of
            590 such words of a MEG-MASC story, whose word_index counts words that have no event, 585 are found where
            they are); "sentence": it gets what the whole sentence has. Counted in the log.
        precision: "bfloat16" is faster on recent GPUs.

    Raises:
        FileNotFoundError: no such model here, with the command that fetches it.
    """

    kind, columns = "word", ("word_sequence", "word_index", "word")
    default = 0.0
    #: class of transformers that loads the network; what its checkpoint may lack
    loader: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ()
    #: tokens to compute together, with padding (for surprisal each has a logit for every word of the vocabulary)
    budget: ClassVar[int] = 1024

    def __init__(self, model: str, random: bool, seed: int, mismatch: Mismatch, precision: Precision,
                 context: FeatureContext) -> None:
        from transformers import AutoConfig
        if mismatch not in ("error", "nearest", "sentence") or precision not in ("float32", "bfloat16"):
            raise ValueError(f"mismatch={mismatch!r}, precision={precision!r}: expected error, nearest or sentence; "
                             "float32 or bfloat16")
        self.folder = find_model(model, context.models)
        self.model_name = model.rstrip("/").rpartition("/")[2]
        self.settings = AutoConfig.from_pretrained(self.folder)
        self.device, self.random, self.seed = context.device, random, seed
        self.mismatch, self.precision = mismatch, precision

    def _files(self) -> dict[str, Any]:
        files: dict[str, Any] = {**files_identity(self.folder, weights=not self.random),
                                 **tokenizer_identity(self.folder)}
        if self.random:  # what is drawn depends on the libraries that draw
            files |= {"seed": self.seed, "torch": version("torch"), "transformers": version("transformers")}
        return files

    def identity(self) -> dict[str, Any]:
        return {"feature": self.name, "version": 1, "model": self.model_name, "files": self._files(),
                "mismatch": self.mismatch, "precision": self.precision}

    def values(self, events: pd.DataFrame) -> np.ndarray:
        if not len(events):
            return np.zeros((0, self.dim), np.float32)
        texts, spans, moved = place(events, self.mismatch == "nearest")
        if moved.any():
            logger.warning("%s: %d of %d different words are not at their word_index in their sentence; each is taken "
                           "to be the nearest that reads the same", self.name, moved.sum(), len(events))
        tokenizer = load_tokenizer(self.folder)
        sentences = dict(zip(dict.fromkeys(texts), self.encode(tokenizer, list(dict.fromkeys(texts))), strict=True))
        self._check(events, sentences, texts, spans)
        network = self._network()
        longest, allowed = max(sentences.values(), key=lambda s: len(s.ids)), window(tokenizer, network)
        if len(longest.ids) > allowed:
            raise ValueError(f"{self.name}: a sentence of {len(longest.ids)} tokens is longer than the {allowed} that "
                             f"{self.model_name} takes: {longest.text!r}; cut it in the study's events, or choose "
                             "another model")
        sums = dict(zip(sentences, self._sums(network, list(sentences.values()), tokenizer.pad_token_id or 0),
                        strict=True))
        rows = np.empty((len(events), self.dim), np.float32)
        for number, (text, (first, stop)) in enumerate(zip(texts, spans, strict=True)):
            counts = sentences[text].counts()
            rows[number] = self.combine(sums[text], counts) if first < 0 else self.combine(
                sums[text][first:stop].sum(0, keepdims=True), counts[first:stop].sum(keepdims=True))
        if not np.abs(rows).max() <= np.finfo(self.dtype).max:
            raise ValueError(f"{self.name}: {self.model_name} gave values that {self.dtype} cannot hold (up to "
                             f"{np.abs(rows).max():g}): choose other layers")
        return rows

    def encode(self, tokenizer: Any, texts: list[str]) -> list[Encoded]:
        """What the network reads of each sentence."""
        return encode(tokenizer, texts, special=True)

    @abstractmethod
    def combine(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """`(dim,)` from the sums over tokens of each of n words `(n, dim)` and their numbers of tokens `(n,)`; n is 1
        but for a whole sentence."""

    @abstractmethod
    def states(self, network: Any, ids: Any, mask: Any) -> Any:
        """A float32 tensor `(batch, tokens, dim)`."""

    def _check(self, events: pd.DataFrame, sentences: dict[str, Encoded], texts: list[str], spans: np.ndarray) -> None:
        """Marks words without a token, with -1 in `spans`; counts what `mismatch` is about."""
        empty = [text for text, sentence in sentences.items() if not (sentence.words >= 0).any()]
        if empty:
            raise ValueError(f"{self.name}: the tokenizer of {self.model_name} makes no token of the sentence "
                             f"{empty[0]!r}: drop such events in the study's reader")
        for number, (first, stop) in enumerate(spans):
            if first >= 0 and not sentences[texts[number]].counts()[first:stop].any():
                spans[number] = -1
        lost = np.flatnonzero(spans[:, 0] < 0)
        if not len(lost):
            return
        row = events.iloc[lost[0]]
        what = (f"{self.name}: {len(lost)} of {len(events)} different words are not in their sentence at their "
                f"word_index, or have no token; the first: {row['word']!r}, word_index {row['word_index']}, of "
                f"{row['word_sequence']!r}")
        if self.mismatch != "sentence":
            raise ValueError(f"{what}. Mend the study's events, or set dset.features_params.{self.name}.mismatch: "
                             "nearest looks for the same word elsewhere in the sentence (which helps where word_index "
                             "counts words that have no event), sentence gives them what their whole sentence has")
        logger.warning("%s. They get what their whole sentence has", what)

    def _sums(self, network: Any, sentences: list[Encoded], filler: int) -> list[np.ndarray]:
        """The sum over tokens of each word `(words, dim)`, sentence by sentence."""
        import torch
        out = [np.empty(0)] * len(sentences)
        device = next(network.parameters()).device
        jobs = list(batches([len(sentence.ids) for sentence in sentences], self.budget))
        for batch in with_progress(jobs, self.name):
            ids, mask = pad([sentences[i] for i in batch], filler)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16,
                                                        enabled=self.precision == "bfloat16"):
                states = self.states(network, ids.to(device), mask.to(device)).float().cpu().numpy()
            for i, state in zip(batch, states, strict=True):
                words = sentences[i].words
                out[i] = np.zeros((len(sentences[i].counts()), self.dim))
                np.add.at(out[i], words[words >= 0], state[:len(words)][words >= 0])
        return out

    def _network(self) -> Any:
        import torch
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return _network(str(self.folder), digest(self._files()), self.loader, self.unused,
                        self.seed if self.random else None, device)


@lru_cache(maxsize=1)
def _network(folder: str, files: str, loader: str, unused: tuple[str, ...], seed: int | None, device: str) -> Any:
    """A network in evaluation mode, kept for the process; `files` tells a changed one from the one that is kept."""
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    auto = getattr(transformers, loader)
    if seed is None:
        network, told = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        missing = sorted(key for key in told["missing_keys"] if not key.startswith(unused))
        if missing:
            raise ValueError(f"the weights in {Path(folder).name} lack {len(missing)} tensors that {loader} needs "
                             f"({missing[0]}…): they are of another kind of model, and chance would take their place")
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = auto.from_config(transformers.AutoConfig.from_pretrained(folder), dtype=torch.float32)
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    return network.to(device).eval()


@register_feature
class TextModel(InSentence):
    """Hidden states of any text encoder or decoder (an encoder–decoder's encoder) of each word in its sentence.

    The sentence is read with the special tokens that the tokenizer adds. Hidden states are averaged over `layers`, then
    the tokens of a word are combined. A decoder's word knows only the words before it.

    Args:
        layers: hidden states: ints are indices (0 the input of the first layer, with its position; k the output of
            layer k), floats relative depths from 0.0 to 1.0; the last one follows the model's final norm.
        tokens: how a word's tokens are combined: "sum", "mean", or "sqrt", the sum divided by √(number of tokens).
        others: see `InSentence`.

    Raises:
        ValueError: a sentence longer than the model's window, a word that is not in its sentence (`mismatch`), values
            beyond float16.
    """

    dtype = "float16"
    loader, unused = "AutoModel", ("pooler.",)

    def __init__(self, model: str, layers: Sequence[int | float] = (0.5,),
                 tokens: Literal["sum", "mean", "sqrt"] = "mean", random: bool = False, seed: int = 0,
                 mismatch: Mismatch = "error", precision: Precision = "float32", *, context: FeatureContext) -> None:
        super().__init__(model, random, seed, mismatch, precision, context)
        if tokens not in ("sum", "mean", "sqrt"):
            raise ValueError(f"tokens={tokens!r}: expected sum, mean or sqrt")
        settings = self.settings.get_text_config()
        self.layers, self.tokens = resolve_layers(layers, settings.num_hidden_layers), tokens
        self.dim = settings.hidden_size

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "layers": self.layers, "tokens": self.tokens}

    def combine(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return sums.sum(0) / {"sum": 1, "mean": counts.sum(), "sqrt": counts.sum() ** 0.5}[self.tokens]

    def states(self, network: Any, ids: Any, mask: Any) -> Any:
        import torch
        hidden = network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return torch.stack([hidden[layer].float() for layer in self.layers]).mean(0)


@register_feature
class BertEmbedding(TextModel):
    """Mean of three middle layers of multilingual BERT, summed over a word's tokens: 768 dimensions.

    Source: the feature of that name in the code of Défossez et al. 2023, which has `mismatch=sentence`.
    """

    def __init__(self, model: str = "google-bert/bert-base-multilingual-cased",
                 layers: Sequence[int | float] = (8, 9, 10), tokens: Literal["sum", "mean", "sqrt"] = "sum",
                 random: bool = False, seed: int = 0, mismatch: Mismatch = "error", precision: Precision = "float32", *,
                 context: FeatureContext) -> None:
        super().__init__(model, layers, tokens, random, seed, mismatch, precision, context=context)


@register_feature
class XlmEmbedding(TextModel):
    """XLM-RoBERTa large: 1024 dimensions, a word's tokens summed and divided by √(their number).

    Args:
        contextual: the last layer; else the embeddings that enter the first one (which know a token's position).
        others: see `TextModel`.

    Source: the feature of that name in the code of Défossez et al. 2023.
    """

    def __init__(self, contextual: bool = False, model: str = "FacebookAI/xlm-roberta-large", random: bool = False,
                 seed: int = 0, mismatch: Mismatch = "error", precision: Precision = "float32", *,
                 context: FeatureContext) -> None:
        super().__init__(model, (1.0,) if contextual else (0,), "sqrt", random, seed, mismatch, precision,
                         context=context)


@register_feature
class Surprisal(InSentence):
    """Surprisal of each word given the words of its sentence before it: −log2 p in bits, one number.

    p(word) is the product over its tokens, each given all tokens before it; so the surprisals of a sentence add up to
    −log2 of its probability. White space belongs to the word after it, as the tokens of these models have it: a word's
    surprisal has the cost of its own beginning, not of its end (Oh & Schuler 2024, arXiv:2406.10851, on what that
    does; nothing is reallocated here). The first word is given the tokenizer's token of beginning (BOS), or if it has
    none that of ending (as GPT-2 was trained); a tokenizer without either is an error. No end of sentence is counted.

    With `mismatch=sentence` a word that is not in its sentence gets the mean over the sentence's words.

    Args:
        model: a causal language model, such as "openai-community/gpt2".
        others: see `InSentence`.

    Raises:
        ValueError: the model sees the words to come, or has no language head; a sentence longer than its window.
    """

    dim = 1
    loader = "AutoModelForCausalLM"

    def __init__(self, model: str = "openai-community/gpt2", random: bool = False, seed: int = 0,
                 mismatch: Mismatch = "error", precision: Precision = "float32", *, context: FeatureContext) -> None:
        super().__init__(model, random, seed, mismatch, precision, context)
        if self.settings.is_encoder_decoder:
            raise ValueError(f"Surprisal: {self.model_name} is an encoder–decoder, expected a causal language model, "
                             "such as openai-community/gpt2")

    def encode(self, tokenizer: Any, texts: list[str]) -> list[Encoded]:
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if begin is None:
            raise ValueError(f"Surprisal: the tokenizer of {self.model_name} has no token of beginning or ending, so "
                             "the first word is given nothing; choose a causal language model, such as "
                             "openai-community/gpt2")
        return [Encoded(s.text, [begin, *s.ids], np.concatenate([[-1], s.words]))
                for s in encode(tokenizer, texts, special=False)]

    def combine(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return sums.mean(0)

    def states(self, network: Any, ids: Any, mask: Any) -> Any:
        import torch
        logits = network(input_ids=ids, attention_mask=mask).logits.float()
        self._check_causal(network, ids[:1, :int(mask[0].sum())], logits[0])
        nats = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        return torch.nn.functional.pad(nats / np.log(2), (1, 0))[:, :, None]

    def _check_causal(self, network: Any, ids: Any, logits: Any) -> None:
        """Raises if another last token changes what was expected before it."""
        other = ids.clone()
        other[:, -1] = (other[:, -1] + 1) % logits.shape[-1]
        before = network(input_ids=other).logits[0, :-1].float()
        change = (before - logits[:before.shape[0]]).abs().max() / logits.std()
        if change > (0.1 if self.precision == "bfloat16" else 1e-3):
            raise ValueError(f"Surprisal: {self.model_name} sees the words to come; expected a causal language model, "
                             "such as openai-community/gpt2")
