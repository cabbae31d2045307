"""What pipelines of spaCy say of a word by itself: vectors and part of speech."""
import logging
from abc import abstractmethod
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from bm.config import nearest
from bm.features.base import EventFeature, register_feature
from bm.store import digest, file_sha256

logger = logging.getLogger(__name__)

#: language → spaCy's packages for it, without their size
PACKAGES = {"da": "da_core_news", "de": "de_core_news", "en": "en_core_web", "fr": "fr_core_news", "it": "it_core_news",
            "nb": "nb_core_news", "nl": "nl_core_news", "xx": "xx_ent_wiki"}
#: English names that stand for codes by mistake
_NAMES = {"danish": "da", "german": "de", "english": "en", "french": "fr", "italian": "it", "norwegian": "nb",
          "dutch": "nl"}
#: coarse parts of speech: the k-th is class k, from 1
POS = ("ADJ", "ADP", "ADV", "AUX", "CONJ", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT",
       "SCONJ", "SYM", "VERB", "X", "EOL", "SPACE")


class _SpacyFeature(EventFeature):
    """One pipeline for each language, one word at a time, without its sentence; of a word's tokens the first counts.

    Args:
        lang: "auto", the `language` of each event (they may differ), or the code of the language of all words.
        model: an installed package or a folder in place of the usual package; with `lang=auto`, code → package or
            folder.

    Raises:
        ImportError: no spaCy, or no such package, with the command that installs it.
        ValueError: a language without a package.
    """

    kind, columns = "word", ("word", "language")
    default = 0.0
    size: ClassVar[str]

    def __init__(self, lang: str = "auto", model: str | Mapping[str, str] | None = None) -> None:
        if isinstance(model, str) and lang == "auto":
            raise ValueError(f"{self.name}: model={model!r} with lang=auto: say for which language, as in lang=en or "
                             f"model={{en: {model}}}")
        self.lang = lang
        self.models = {lang: model} if isinstance(model, str) else dict(model or {})
        if lang != "auto":
            self.package(lang)

    def package(self, language: str) -> str:
        """The package or folder for a language. Errors: ValueError if there is none."""
        if language in self.models:
            return self.models[language]
        cure = f"set dset.features_params.{self.name}.model={{{language}: PACKAGE_OR_FOLDER}}"
        if language not in PACKAGES:
            code = _NAMES.get(str(language).lower())
            meant = f"; did you mean {code!r}?" if code else nearest(language, PACKAGES)
            raise ValueError(f"{self.name}: no spaCy package is known for the language {language!r}, expected one of "
                             f"{', '.join(PACKAGES)}{meant}. For another one {cure}")
        if language == "xx" and self.size != "sm":
            raise ValueError(f"{self.name}: spaCy's package for many languages ('xx') has neither vectors nor tags: "
                             f"give the words' own language, or {cure}")
        return f"{PACKAGES[language]}_{self.size}"

    def identity(self) -> dict[str, Any]:
        codes = sorted({*PACKAGES, *self.models}) if self.lang == "auto" else [self.lang]
        known = {code: _content(self.package(code)) for code in codes
                 if code in self.models or code != "xx" or self.size == "sm"}
        return {"feature": self.name, "version": 1, "lang": self.lang,
                "pipelines": {code: content for code, content in known.items() if content}}

    def values(self, events: pd.DataFrame) -> np.ndarray:
        words = events["word"].astype(str).str.strip()
        if (words == "").any():
            raise ValueError(f"{self.name}: {(words == '').sum()} words are empty: drop them in the study's reader")
        languages = events["language"] if self.lang == "auto" else pd.Series(self.lang, events.index)
        out = np.empty((len(events), self.dim), np.float32)
        for language in sorted(set(languages)):
            own = (languages == language).to_numpy()
            out[own] = self.rows(_load(self.package(language)), words[own].tolist())
        return out

    @abstractmethod
    def rows(self, nlp: Any, words: list[str]) -> np.ndarray:
        """`(n, dim)` of n words of one language."""

    def _sized(self, nlp: Any, rows: list[np.ndarray], what: str) -> np.ndarray:
        if any(row.shape != (self.dim,) for row in rows):
            raise ValueError(f"{self.name}: {_name(nlp)} has {what} of shape {rows[0].shape}, expected "
                             f"({self.dim},), as spaCy's own _{self.size} packages")
        return np.stack(rows)


def _name(nlp: Any) -> str:
    return f"{nlp.lang}_{nlp.meta['name']}"


def _content(package: str) -> str | None:
    """What a package or folder is: its version, or a digest of its files; None if it is not there."""
    folder = Path(package)
    if folder.is_dir():
        return digest({str(file.relative_to(folder)): file_sha256(file)
                       for file in folder.rglob("*") if file.is_file()})
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def _load(package: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise ImportError("features of spaCy need it: pip install 'bm[text]'") from error
    try:
        return spacy.load(package, exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        if Path(package).is_dir():
            raise
        raise ImportError(f"spaCy's package {package} is not installed: python -m spacy download {package}") from error


@register_feature
class WordEmbedding(_SpacyFeature):
    """Vector of a word by itself from spaCy's `_md` packages: 300 dimensions; 0 for one without a vector (counted).

    Args:
        lang, model: see `_SpacyFeature`.
    """

    dim, size = 300, "md"

    def rows(self, nlp: Any, words: list[str]) -> np.ndarray:
        if not nlp.vocab.vectors.size:
            raise ValueError(f"WordEmbedding: {_name(nlp)} has no vectors: expected a package such as en_core_web_md; "
                             "the tensors of small ones are WordEmbeddingSmall")
        tokens = [nlp.make_doc(word)[0] for word in words]
        lost = [word for word, token in zip(words, tokens, strict=True) if not token.has_vector]
        if lost:
            logger.info("WordEmbedding: %d of %d words have no vector in %s: %s…", len(lost), len(words), _name(nlp),
                        ", ".join(lost[:8]))
        return self._sized(nlp, [token.vector for token in tokens], "vectors")


@register_feature
class WordEmbeddingSmall(_SpacyFeature):
    """What the network of spaCy's `_sm` packages makes of a word by itself (`Doc.tensor`): 96 dimensions.

    Args:
        lang, model: see `_SpacyFeature`.
    """

    dim, size = 96, "sm"

    def rows(self, nlp: Any, words: list[str]) -> np.ndarray:
        tensors = [nlp(word).tensor for word in words]
        if any(not tensor.size for tensor in tensors):
            raise ValueError(f"WordEmbeddingSmall: {_name(nlp)} makes no tensors: expected a pipeline with tok2vec, "
                             "such as en_core_web_sm")
        return self._sized(nlp, [tensor[0] for tensor in tensors], "tensors")


@register_feature
class PartOfSpeech(_SpacyFeature):
    """Coarse part of speech of a word by itself: class 1 + its place in `POS`, 0 for no word.

    Without its sentence a word has the tag that the `_md` package finds likeliest ("watch": noun or verb).

    Args:
        lang, model: see `_SpacyFeature`.
    """

    dim, size = 1, "md"
    normalize, n_classes = False, 1 + len(POS)

    def rows(self, nlp: Any, words: list[str]) -> np.ndarray:
        tags = [nlp(word)[0].pos_ for word in words]
        lost = [word for word, tag in zip(words, tags, strict=True) if tag not in POS]
        if lost:
            raise ValueError(f"PartOfSpeech: {_name(nlp)} has no coarse tag for {len(lost)} words ({lost[0]!r}…): "
                             "expected a pipeline with a tagger, such as en_core_web_md")
        return np.array([[1 + POS.index(tag)] for tag in tags], np.float32)
