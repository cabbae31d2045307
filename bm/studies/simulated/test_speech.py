"""The spoken stories: what is said when."""
import importlib.util

import numpy as np
import pytest

from bm.studies.simulated.speech import RATE, Speech, synthesize
from bm.studies.simulated.stories import STORIES

SENTENCES = STORIES["choir"].split("\n")[:6]  # with "of the", which eSpeak speaks as one word


@pytest.fixture(scope="module")
def speech() -> Speech:
    return synthesize({"choir": SENTENCES})["choir"]


def test_stories_are_large_and_repeat_a_few_sentences():
    sentences = [line for story in STORIES.values() for line in story.split("\n")]
    assert sum(len(line.split()) for line in sentences) > 2400
    assert len(sentences) - len(set(sentences)) == 4
    assert all(line.isascii() and line == line.strip() for line in sentences)


def test_words_are_those_of_the_text(speech):
    for number, sentence in enumerate(SENTENCES):
        words = [row for row in speech.words if row["sentence"] == number]
        assert " ".join(row["word"] for row in words) == sentence.replace(",", "").rstrip(".")
        assert [row["word_index"] for row in words] == list(range(len(words)))


def test_times_are_ordered_and_every_word_has_phonemes(speech):
    for rows in (speech.words, speech.phonemes):
        start, duration = (np.array([row[key] for row in rows]) for key in ("start", "duration"))
        assert (duration > 0).all()
        assert (duration < 1).all()
        assert (start[1:] >= (start + duration)[:-1] - 1e-9).all()
    assert {(r["sentence"], r["word_index"]) for r in speech.phonemes} == {(r["sentence"], r["word_index"])
                                                                         for r in speech.words}
    assert speech.stops[-1] == pytest.approx(speech.duration)


def test_words_are_loud_and_pauses_are_silent(speech):
    inside = np.zeros(len(speech.audio), dtype=bool)
    for row in speech.words:
        inside[round(row["start"] * RATE):round((row["start"] + row["duration"]) * RATE)] = True
    power = speech.audio.astype(float) ** 2
    assert 0.6 < inside.mean() < 0.95
    assert power[inside].mean() > 100 * power[~inside].mean()


def test_same_samples_each_time(speech):
    again = synthesize({"choir": SENTENCES})["choir"]
    assert np.array_equal(again.audio, speech.audio)
    assert again.words == speech.words


def test_cut_keeps_whole_sentences(speech):
    short = speech.cut(speech.stops[2] + 0.1)
    assert short.stops == speech.stops[:3]
    assert short.duration == pytest.approx(speech.stops[2])
    assert max(row["start"] + row["duration"] for row in short.words) < short.duration
    assert speech.cut(0.5).words == []


def test_missing_espeak_names_the_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[demo\]'"):
        synthesize({"choir": SENTENCES})
