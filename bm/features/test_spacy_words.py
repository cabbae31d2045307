import numpy as np
import pandas as pd
import pytest
import spacy

from bm.features import build_feature
from bm.features.spacy_words import POS
from bm.features.text_twins import make_pipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {"en": make_pipeline(root / "en"), "nl": make_pipeline(root / "nl", "nl", seed=1),
            "plain": make_pipeline(root / "plain", vectors=0, tags=False, tok2vec=False),
            "narrow": make_pipeline(root / "narrow", vectors=50)}


def words(*texts, language="en"):
    return pd.DataFrame({"word": texts, "language": language})


def test_vectors_of_words_by_themselves(folders, caplog):
    caplog.set_level("INFO")
    rows = build_feature("WordEmbedding", {"model": {"en": folders["en"]}}).values(
        words("ferry", "don't", "hydrofoil", " ferry "))
    vocab = spacy.load(folders["en"]).vocab
    assert rows.shape == (4, 300) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows[0], vocab["ferry"].vector)
    np.testing.assert_array_equal(rows[1], 0)  # its first token is "do"
    np.testing.assert_array_equal(rows[3], rows[0])
    assert "2 of 4 words have no vector" in caplog.text and "hydrofoil" in caplog.text


def test_each_word_has_its_language(folders):
    """Also when two features are used together (the reference kept one language for all)."""
    both = {"en": folders["en"], "nl": folders["nl"]}
    mixed = words("ferry", "ferry", "left", language=["nl", "en", "nl"])
    feature, english = (build_feature("WordEmbedding", params) for params in (
        {"model": both}, {"lang": "en", "model": folders["en"]}))
    rows = feature.values(mixed)
    np.testing.assert_array_equal(english.values(mixed)[0], rows[1])
    np.testing.assert_array_equal(rows[0], spacy.load(folders["nl"]).vocab["ferry"].vector)
    assert not np.allclose(rows[0], rows[1])


def test_tensors_of_small_pipelines(folders):
    feature = build_feature("WordEmbeddingSmall", {"model": {"en": folders["en"]}})
    rows = feature.values(words("ferry", "old"))
    np.testing.assert_array_equal(rows[0], spacy.load(folders["en"])("ferry").tensor[0])
    assert rows.shape == (2, 96) and not np.allclose(rows[0], rows[1])


def test_part_of_speech(folders):
    feature = build_feature("PartOfSpeech", {"model": {"en": folders["en"]}})
    rows = feature.values(words("The", "old", "ferry", "left"))[:, 0]
    assert [POS[int(k) - 1] for k in rows] == ["DET", "ADJ", "NOUN", "VERB"]
    assert rows.tolist() == [7, 1, 9, 17] and feature.n_classes == 21 and not feature.normalize


def test_languages(folders):
    for name in ("WordEmbedding", "WordEmbeddingSmall", "PartOfSpeech"):
        with pytest.raises(ValueError, match="'english'.*did you mean 'en'"):
            build_feature(name, {}).values(words("the", language="english"))
        with pytest.raises(ValueError, match="'english'.*did you mean 'en'"):
            build_feature(name, {"lang": "english"})
    with pytest.raises(ValueError, match="'sv'.*PACKAGE_OR_FOLDER"):
        build_feature("PartOfSpeech", {}).values(words("och", language="sv"))
    with pytest.raises(ValueError, match="'xx'.*neither vectors nor tags"):
        build_feature("WordEmbedding", {"lang": "xx"})
    with pytest.raises(ImportError, match="python -m spacy download it_core_news_md"):
        build_feature("WordEmbedding", {}).values(words("nave", language="it"))
    with pytest.raises(ImportError, match="python -m spacy download xx_ent_wiki_sm"):
        build_feature("WordEmbeddingSmall", {}).values(words("nave", language="xx"))
    with pytest.raises(ValueError, match="say for which language"):
        build_feature("WordEmbedding", {"model": folders["en"]})


@pytest.mark.parametrize("name, pipeline, message", [
    ("WordEmbedding", "plain", "has no vectors"), ("WordEmbedding", "narrow", r"\(50,\), expected \(300,\)"),
    ("WordEmbeddingSmall", "plain", "makes no tensors"), ("PartOfSpeech", "plain", "no coarse tag for 1 words")])
def test_pipelines_that_lack_something(name, pipeline, message, folders):
    feature = build_feature(name, {"lang": "en", "model": folders[pipeline]})
    with pytest.raises(ValueError, match=message):
        feature.values(words("ferry"))
    with pytest.raises(ValueError, match="1 words are empty"):
        feature.values(words("ferry", " "))


def test_identity_is_the_content(folders, tmp_path):
    one = build_feature("WordEmbedding", {"lang": "en", "model": folders["en"]}).identity()
    assert make_pipeline(tmp_path / "again") and folders["en"] not in str(one)
    same = build_feature("WordEmbedding", {"lang": "en", "model": str(tmp_path / "again")}).identity()
    assert same == one
    assert build_feature("WordEmbedding", {"lang": "en", "model": folders["nl"]}).identity() != one
