"""What predicts how sure the decoder is of a segment? A linear model of the probability that it gives to the true one.

The analysis of Défossez et al. 2023 (doi:10.1038/s42256-023-00714-5): ridge regressions from phonemes, word frequency,
part of speech, and embeddings of the word and of the phrase, each by itself.
"""
import logging
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from bm.analysis.breakdown import read
from bm.analysis.words import frequency, plain, word_class
from bm.features import EventFeature, FeatureContext, build_feature
from bm.linear import Moments, folds, moment_errors, moment_solve
from bm.linear.select import select
from bm.metrics.compare import fdr, over_subjects, signed_rank

logger = logging.getLogger(__name__)

#: of a table of segments, features `(n, p)`; ImportError, FileNotFoundError or ValueError say why there are none
Family = Callable[[pd.DataFrame], np.ndarray]

N_FOLDS, ALPHAS = 5, tuple(10.0 ** np.arange(0, 9))


def phonemes(table: pd.DataFrame) -> np.ndarray:
    """How often each phoneme is heard in the segment."""
    if "phoneme_segment_strings" not in table or not table["phoneme_segment_strings"].any():
        raise ValueError("the evaluation has no phonemes: the study gives none, or it was made before they were kept "
                         "(overwrite=true)")
    labels, number = _parts(table["phoneme_segment_strings"])
    code, names = pd.factorize(labels)
    out = np.zeros((len(table), len(names)))
    np.add.at(out, (number, code), 1)
    return out


def word_frequency(table: pd.DataFrame) -> np.ndarray:
    """Frequency of the word; the mean where it is not known."""
    found = frequency(table)
    if found is None:
        raise ValueError("the segments have no words")
    return found[1].fillna(found[1].mean()).to_numpy(float)[:, None]


def part_of_speech(table: pd.DataFrame) -> np.ndarray:
    """Class of the word, as indicators (see `word_class`)."""
    found = word_class(table)
    if found is None:
        raise ValueError("the events tell no part of speech, and there is no list of function words of the language")
    return pd.get_dummies(found[1]).to_numpy(float)


def word_embedding(feature: EventFeature) -> Family:
    """The vector of the word, by a feature of single words such as `WordEmbedding`."""
    return lambda table: _vectors(feature, plain(table["word"]), table)


def bag_of_words(feature: EventFeature) -> Family:
    """The mean vector of the words in the segment, in whatever order."""
    def family(table: pd.DataFrame) -> np.ndarray:
        words, number = _parts(table["word_segment_strings"])
        return _mean(_vectors(feature, plain(words), table.iloc[number]), number, len(table))
    return family


def phrase_embedding(feature: EventFeature) -> Family:
    """The mean, over the words in the segment, of what a language model has for each when it reads them in a row."""
    def family(table: pd.DataFrame) -> np.ndarray:
        words, number = _parts(table["word_segment_strings"])
        events = pd.DataFrame({
            "word": words.to_numpy(), "word_sequence": table["word_segment_strings"].to_numpy()[number],
            "word_index": pd.Series(number).groupby(number).cumcount()})
        return _mean(_rows(feature, events), number, len(table))
    return family


def _parts(texts: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """All words (or labels) of all segments, and the number of the segment that each is in."""
    lists = texts.str.split()
    number = np.repeat(np.arange(len(texts)), lists.str.len())
    return pd.Series([word for words in lists for word in words], dtype=str), number


def _mean(rows: np.ndarray, number: np.ndarray, n: int) -> np.ndarray:
    """Mean of the rows of each segment; 0 for one without."""
    out = np.zeros((n, rows.shape[1]))
    np.add.at(out, number, rows)
    return out / np.maximum(np.bincount(number, minlength=n), 1)[:, None]


def _vectors(feature: EventFeature, words: pd.Series, table: pd.DataFrame) -> np.ndarray:
    language = table["language"].replace("", "en") if "language" in table else pd.Series("en", table.index)
    told = (words != "").to_numpy()
    out = np.zeros((len(words), feature.dim))
    out[told] = _rows(feature, pd.DataFrame({"word": words.to_numpy(), "language": language.to_numpy()})[told])
    return out


def _rows(feature: EventFeature, events: pd.DataFrame) -> np.ndarray:
    """Values of a feature, computed once for each different event."""
    columns = list(feature.columns)
    different = events[columns].drop_duplicates(ignore_index=True)
    values = feature.values(different)
    return values[pd.MultiIndex.from_frame(different).get_indexer(pd.MultiIndex.from_frame(events[columns]))]


def families(word: str | None = "WordEmbedding", text: str | None = None,
             context: FeatureContext | None = None) -> dict[str, Family]:
    """The paper's families, in rising level.

    Args:
        word: a registered feature of single words, for the embedding of the word and the bag of words; None: without.
        text: a language model (`org/name` in `features_models`, or a folder) for that of the phrase; None: without.
    """
    def later(make: Callable[[EventFeature], Family], name: str, options: dict[str, object]) -> Family:
        def family(table: pd.DataFrame) -> np.ndarray:  # built here: what is missing is said, and the others go on
            feature = build_feature(name, options, context)
            if not isinstance(feature, EventFeature):
                raise ValueError(f"{name} is no feature of words")
            return make(feature)(table)
        return family

    found: dict[str, Family] = {"phonemes": phonemes, "word frequency": word_frequency,
                                "part of speech": part_of_speech}
    if word is not None:
        found |= {"word embedding": later(word_embedding, word, {}), "bag of words": later(bag_of_words, word, {})}
    if text is not None:
        found["phrase embedding"] = later(phrase_embedding, "TextModel", {"model": text, "mismatch": "sentence"})
    return found


def explain(folder: Path, kinds: dict[str, Family], *, n_boot: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How well each family predicts the probability of the true segment: cross-validated Pearson R within subjects.

    Probabilities are z-scored within each subject and put together; features are z-scored on what trains. Five folds
    of whole blocks of stimulus, so that what one person hears in training no other hears in the test; the penalty is
    chosen on the training folds alone. R is taken within each subject and fold, and averaged over folds: put
    together, folds would correlate by their means.

    Args:
        folder: of an evaluation.
        kinds: name → features of the segments.

    Returns:
        A row per family, "all" last (all that could be made, side by side): `family`, `dims`, `r` (mean over
        subjects), `low`, `high` (95 % bootstrap over subjects; NaN for fewer than 3), `p` (signed-rank test over
        subjects that R is 0), `p_fdr`, `n`, `n_subjects`, `missing` (why a family is not there).

    Errors: ValueError for fewer than five blocks of stimulus.
    """
    table, _ = read(folder)
    table = table.reset_index(drop=True)
    made, missing = {}, {}
    for name, family in kinds.items():
        try:
            made[name] = family(table)
        except (ImportError, FileNotFoundError, ValueError) as error:
            missing[name] = str(error).splitlines()[0]
            logger.warning("explain: no %s: %s", name, missing[name])
    if len(made) > 1:
        made["all"] = np.concatenate(list(made.values()), axis=1)
    y = table.groupby("subject_uid")["probability"].transform(lambda p: (p - p.mean()) / (p.std() or 1)).to_numpy()
    rows = []
    for name, x in made.items():
        r = within_subjects(x, y, table["subject_uid"], table["block"])
        low, high = over_subjects(r.to_numpy(), n_boot, seed)
        rows.append({"family": name, "dims": x.shape[1], "r": r.mean(), "low": low, "high": high,
                     "p": signed_rank(r, np.zeros(len(r))).p, "n": len(y), "n_subjects": len(r), "missing": ""})
    out = pd.DataFrame(rows + [{"family": name, "missing": why} for name, why in missing.items()])
    if made:
        out.loc[out["missing"] == "", "p_fdr"] = fdr(out.loc[out["missing"] == "", "p"])
    return out


def within_subjects(x: np.ndarray, y: np.ndarray, subjects: pd.Series, blocks: pd.Series) -> pd.Series:
    """Cross-validated correlation of each subject, the mean over folds; a constant prediction has 0.

    Penalties are chosen for each fold on the four others, each of which is held out in turn: sums over samples of the
    five are all that is needed.
    """
    alphas = np.array(ALPHAS)
    held = folds(len(y), N_FOLDS, blocks)
    sums = [Moments.of(x[test], y[test, None]) for _, test in held]
    parts = []
    for number, (_, test) in enumerate(held):
        others = [part for i, part in enumerate(sums) if i != number]
        train = reduce(Moments.__add__, others)
        std = np.sqrt(train.xx.diagonal() / train.n)
        gain = np.diag(1 / np.where(std > 1e-9 * np.abs(train.x), std, np.inf))
        scaled = [part.turned(gain) for part in others]
        chosen = select(moment_errors(scaled, alphas), alphas, train.yy / train.n, int(train.n))
        coef, intercept = moment_solve(reduce(Moments.__add__, scaled), alphas[chosen])
        pairs = pd.DataFrame({"subject": subjects.iloc[test].to_numpy(), "truth": y[test],
                              "guess": x[test] @ (gain @ coef)[:, 0] + intercept[0]})
        parts.append(pairs.groupby("subject")[["truth", "guess"]].apply(_pearson))
    return pd.concat(parts, axis=1).mean(axis=1)


def _pearson(pair: pd.DataFrame) -> float:
    a, b = pair["truth"] - pair["truth"].mean(), pair["guess"] - pair["guess"].mean()
    size = np.sqrt((a ** 2).sum() * (b ** 2).sum())
    return float((a * b).sum() / size) if size > 1e-12 * len(pair) else 0.0
