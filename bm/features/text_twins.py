"""Tiny untrained language models, and a pipeline of spaCy with made vectors and tags, for tests of text features."""
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES = ("The old ferry left its pier at dawn, and nobody waved.", "Don't wave: the unbelievable dog left!",
             "Null and none are words, too.", "At dawn one small dog waved its tail; the ferry didn't mind.")
_SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_KINDS = ("bert", "roberta", "gpt2", "llama", "t5")
#: part of speech → words that the pipeline gives it; all others are nouns
TAGS = {"DET": ["the", "its"], "ADJ": ["old", "small"], "VERB": ["left", "waved", "wave"], "AUX": ["do", "did"]}


def make_text_model(folder: Path, kind: str = "gpt2", vocabulary: int = 90, positions: int = 64, seed: int = 0) -> str:
    """Writes a random model with a tokenizer trained on `SENTENCES`, as Hugging Face lays them out; returns the folder.

    Args:
        kind: "bert" (pieces of words), "roberta" and "gpt2" (bytes, spaces before words), "llama" and "t5" (a sign for
            the space; the latter an encoder–decoder).
        vocabulary: tokens, about.
        positions: the model's window.
    """
    import torch
    import transformers
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(_KINDS)}")
    tokenizer = _tokenizer(kind, vocabulary)
    tokenizer.save_pretrained(folder)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    common = {**_SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": positions, **ids}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "bert":
            network: Any = transformers.BertModel(transformers.BertConfig(**common))
        elif kind == "roberta":  # its positions begin after that of padding
            common["max_position_embeddings"] = positions + ids["pad_token_id"] + 1
            network = transformers.RobertaModel(transformers.RobertaConfig(**common))
        elif kind == "gpt2":
            network = transformers.GPT2LMHeadModel(transformers.GPT2Config(
                vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=positions, **ids))
        elif kind == "llama":
            network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
        else:
            network = transformers.T5Model(transformers.T5Config(
                vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, **ids))
        for parameter in network.parameters():  # larger than usual, so that context and layers make a difference
            if parameter.dim() > 1:
                parameter.data.mul_(5)
    network.save_pretrained(folder)
    return str(folder)


def _tokenizer(kind: str, vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    if kind == "bert":
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(special.values()))
    elif kind in ("roberta", "gpt2"):
        special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"} if kind == "roberta" else {
            "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary + 230, special_tokens=list(dict.fromkeys(special.values())),
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(special.values()))
    tokenizer.train_from_iterator(SENTENCES, trainer)
    around = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<s>", "</s>"), "llama": ("<s>", None), "t5": (None, "</s>")}
    first, last = around.get(kind, (None, None))
    if first or last:
        template = " ".join(part for part in (first, "$A", last) if part)
        names = [name for name in (first, last) if name]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_pipeline(folder: Path, language: str = "en", vectors: int = 300, tags: bool = True, tok2vec: bool = True,
                  seed: int = 0) -> str:
    """Writes a pipeline of spaCy: random vectors for the words of `SENTENCES`, an untrained network, fixed tags.

    Args:
        vectors: their dimension; 0 for none.
        tags: give `TAGS`.
        tok2vec: have a network, which makes tensors.
    """
    import spacy
    nlp = spacy.blank(language)
    nlp.meta["name"] = "twin"
    rng = np.random.default_rng(seed)
    if vectors:
        for word in sorted({token.text for text in SENTENCES for token in nlp.make_doc(text)}):
            vector: Any = rng.standard_normal(vectors).astype(np.float32)
            nlp.vocab.set_vector(word, vector)
    if tok2vec:
        nlp.add_pipe("tok2vec")
    spacy.util.fix_random_seed(seed)
    nlp.initialize()
    if tags:
        ruler: Any = nlp.add_pipe("attribute_ruler")
        for tag, words in TAGS.items():
            ruler.add([[{"LOWER": {"IN": words}}]], {"POS": tag})
        ruler.add([[{"LOWER": {"NOT_IN": sum(TAGS.values(), [])}}]], {"POS": "NOUN"})
    nlp.to_disk(folder)
    return str(folder)
