"""Where an accuracy comes from: planted in a hand-made evaluation, and asked of a trained XP."""
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dora.link import Link

from bm.analysis.breakdown import breakdown, groupings
from bm.analysis.conftest import tiny_config
from bm.analysis.evaluate import test_table as segments_of  # its name is that of a test
from bm.analysis.explain import explain, families, within_subjects
from bm.analysis.importance import sensor_importance, sensor_table
from bm.analysis.report.breakdown import breakdown as section
from bm.analysis.timing import accuracy_in_time, windows
from bm.analysis.words import frequency, plain, word_class
from bm.analysis.xp import StoredXP
from bm.config import check_config
from bm.features import EventFeature
from bm.features.base import FEATURES
from bm.solvers import build_solver
from bm.store import stable_id
from bm.studies.base import Signal
from bm.studies.simulated import SimulatedRecording

WORDS = ["the", "ferry", "of", "lantern", "and", "harbour", "it", "captain", "was", "remembered"]
PEOPLE, BLOCKS, V = 12, 10, 200


def make(folder: Path, seed: int = 0) -> pd.DataFrame:
    """An evaluation in which content words are found three times as often as function words, and the probability of a
    segment follows its number of the phoneme "k"."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for person in range(PEOPLE):
        for block in range(BLOCKS):
            for i, word in enumerate(WORDS):
                sounds = rng.integers(0, 3, 3)
                found = rng.random() < (0.6 if len(word) > 3 else 0.2)
                rows.append({"subject_uid": f"s/{person:02}", "block": f"b{block}", "word": word.capitalize() + ",",
                             "word_index": i, "sentence": f"{' '.join(WORDS)} {block}", "language": "en", "pos": "",
                             "word_segment_strings": " ".join(WORDS[i:i + 5]), "top10": float(found), "top1": 0.0,
                             "phoneme_segment_strings": " ".join(np.repeat(["a", "k", "s"], sounds)),
                             "probability": 0.1 + 0.05 * sounds[1] + 0.05 * rng.standard_normal()})
    table = pd.DataFrame(rows)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "metadata.parquet")
    pd.DataFrame({"topk": [1, 10], "chance": [1 / V, 10 / V]}).to_csv(folder / "acc.csv", index=False)
    (folder / "complete.json").write_text(json.dumps({}))
    return table


def test_of_which_words(tmp_path):
    table = make(tmp_path)
    found = breakdown(tmp_path, n_boot=200).set_index(["by", "group", "topk"])
    content, function = (found.loc[("word class (closed-class list)", group, 10)] for group in ("content", "function"))
    listed = plain(table["word"]).isin(["the", "of", "and", "it", "was"])
    for row, own in [(content, table[~listed]), (function, table[listed])]:
        assert row["accuracy"] == pytest.approx(own["top10"].mean()) and row["n"] == len(own) == PEOPLE * BLOCKS * 5
        assert row["low"] < row["accuracy"] < row["high"] and row["chance"] == 10 / V and row["n_subjects"] == PEOPLE
    assert content["low"] > function["high"]
    names = found.index.get_level_values("by").unique().tolist()
    assert names == ["word class (closed-class list)", "word frequency (Zipf)", "place in the sentence, from 1",
                     "letters of the word", "words in the segment", "subject"]
    for by, own in found.xs(10, level="topk").groupby("by"):
        assert own["n"].sum() == len(table), by
    places = found.loc["place in the sentence, from 1"].xs(10, level="topk")
    assert places.index.tolist() == ["up to 1", "2–3", "4–6", "7–11"] and places["n"].tolist()[:2] == [120, 240]
    assert len(found.loc["subject"].xs(10, level="topk")) == PEOPLE
    with pytest.raises(FileNotFoundError, match="no finished evaluation in .*run_eval_probs"):
        breakdown(tmp_path / "none")


def test_what_a_word_is(monkeypatch):
    table = pd.DataFrame({"word": ["The", "boat", "", "Niet"], "language": ["en", "en", "en", "nl"], "pos": "",
                          "sentence": ["The boat sank", "The boat sank", "", "Niet the boat"]})
    name, kind = word_class(table)
    assert name.endswith("(closed-class list)") and kind.tolist()[:2] == ["function", "content"]
    assert kind.isna().tolist() == [False, False, True, False] and kind[3] == "function"
    assert word_class(table.assign(pos=["DET", "NOUN", "", "ADV"]))[0] == "part of speech"
    assert word_class(table.assign(language="fi")) is None
    zipf = frequency(table)
    assert zipf[0] == "word frequency (Zipf)" and 7 < zipf[1][0] < 8 and np.isnan(zipf[1][2])
    name, counts = frequency(table.drop(columns="language"))
    assert name == "count in the test's sentences" and counts.tolist()[:2] == [2, 2] and np.isnan(counts[2])
    assert frequency(table.assign(word="")) is None


def test_what_predicts_the_probability(tmp_path, monkeypatch):
    table = make(tmp_path)

    class Letters(EventFeature):
        kind, columns, dim, default = "word", ("word", "language"), 2, 0.0

        def identity(self):
            return {}

        def values(self, events):
            return np.stack([events["word"].str.len(), events["word"].str.count("e")], 1).astype(np.float32)

    monkeypatch.setitem(FEATURES, "Letters", Letters)
    found = explain(tmp_path, families("Letters", "no/model"), n_boot=200).set_index("family")
    assert found["dims"].dropna().to_dict() == {"phonemes": 3, "word frequency": 1, "part of speech": 2,
                                                "word embedding": 2, "bag of words": 2, "all": 10}
    told = found.loc["phonemes"]
    assert told["low"] > 0.4 and told["p_fdr"] < 0.01 and told["n"] == len(table) and told["n_subjects"] == PEOPLE
    # what was not planted says nothing, and what could not be made is said
    assert (found.loc[["word frequency", "part of speech", "word embedding", "bag of words"], "r"].abs() < 0.1).all()
    assert 0.4 < found.loc["all", "r"] <= told["r"] + 0.05
    assert "no/model" in found.loc["phrase embedding", "missing"] and np.isnan(found.loc["phrase embedding", "r"])
    # noise that is the same in everybody is not learned, as blocks are held out whole
    rng = np.random.default_rng(1)
    key = table.groupby(["block", "word"]).ngroup()
    shared = rng.standard_normal((key.max() + 1, 40))[key]
    y = rng.standard_normal(key.max() + 1)[key]
    assert abs(within_subjects(shared, y, table["subject_uid"], table["block"]).mean()) < 0.25


def test_phrases_and_bags(tmp_path, monkeypatch):
    from bm.analysis.explain import bag_of_words, phrase_embedding

    class Index(EventFeature):
        kind, columns, dim, default = "word", ("word_sequence", "word_index", "word"), 1, 0.0

        def identity(self):
            return {}

        def values(self, events):
            assert [s.split()[i] for s, i in zip(events["word_sequence"], events["word_index"], strict=True)] == list(
                events["word"])
            return events[["word_index"]].to_numpy(np.float32)

    table = pd.DataFrame({"word": ["a", "b"], "word_segment_strings": ["a bb ccc", ""], "language": "en"})
    np.testing.assert_array_equal(phrase_embedding(Index())(table), [[1], [0]])

    class Length(Index):
        columns = ("word", "language")

        def values(self, events):
            return events["word"].str.len().to_numpy(np.float32)[:, None]

    np.testing.assert_array_equal(bag_of_words(Length())(table), [[2], [0]])


def test_the_columns_of_a_trained_xp(trained):
    data = trained.restored().data
    table = segments_of(data)
    row = table.iloc[40]
    assert row["word"] == "her" and row["language"] == "en" and row["pos"] == ""
    events = data.events[row["recording_id"]]
    inside = events[(events["kind"] == "phoneme") & (events["start"] < row["stop"] - 0.1)
                    & (events["start"] > row["start"] + 0.1)]["phoneme"]
    assert " ".join(inside) in row["phoneme_segment_strings"] and len(inside) > 5
    assert {"subject", "words in the segment", "word class (closed-class list)"} <= set(groupings(table))


@pytest.fixture(scope="module")
def solver(trained):
    return trained.restore()


def test_which_sensors(solver, monkeypatch):
    """A planted decoder that is deaf to one sensor: without that nothing is lost, without all of them all is."""
    place, member = sensor_table(solver)
    good = solver.data.montages.valid
    assert len(place) == solver.data.spec.channels == member.shape[2] and (member.sum(0) == good).all()
    names = solver.data.prepared[0].channels["name"]
    chosen = [place.index[place["group"] == names[c]][0] for c in (3, 50)]  # the second stands for all
    monkeypatch.setattr("bm.analysis.importance.sensor_table", lambda *args: (
        place.iloc[chosen].reset_index(drop=True), np.stack([member[chosen[0]], member.any(0)])))
    original = solver.estimate

    def deaf(batch):
        brain = batch.brain.clone()
        brain[:, 3] = 0
        return original(batch.replace(brain=brain))

    monkeypatch.setattr(solver, "estimate", deaf)
    for how in ("shuffle", "mean"):
        table = sensor_importance(solver, how=how, n_segments=150, progress=False)
        assert (table["n"] == 150).all() and (table["accuracy"] + table["drop"]).to_numpy() == pytest.approx(
            table["whole"].to_numpy())
        assert table["drop"][0] == table["low"][0] == table["high"][0] == 0
        assert table["low"][1] > 0.1 and table["accuracy"][1] < 2 * 10 / 196 + 0.05
    with pytest.raises(ValueError, match="how=noise: expected shuffle or mean"):
        sensor_importance(solver, how="noise")
    with pytest.raises(ValueError, match="no region"):
        sensor_table(solver, "region")


def test_when(solver):
    assert [w[1:] for w in windows(-0.5, 2.5, 1.0, 2.0)] == [(-0.5, 0.5), (-0.5, 1.5), (-0.5, 2.5), (-0.5, 1.5),
                                                            (0.5, 2.5)]
    with pytest.raises(ValueError, match="width=4"):
        windows(0, 1, 0.5, 4)
    table = accuracy_in_time(solver, step=0.5, width=0.5, n_segments=200, progress=False)
    top10 = table[table["topk"] == 10]
    growing, sliding = (top10[top10["kind"] == kind].reset_index(drop=True) for kind in ("growing", "sliding"))
    assert growing["stop"].tolist() == [0.5, 1.0] and sliding["start"].tolist() == [0.0, 0.5]
    assert growing["accuracy"][1] > growing["accuracy"][0] > growing["chance"][0]
    assert growing["accuracy"][0] == sliding["accuracy"][0] and (top10["n"] == 200).all()


def test_the_report(tmp_path):
    xp = StoredXP(tmp_path / "xps/0a1b2c3d", tmp_path)
    folder = tmp_path / "eval/signatures/0a1b2c3d"
    assert section(xp) == []
    make(folder)
    breakdown(folder, n_boot=50).to_csv(folder / "breakdown.csv", index=False)
    explain(folder, families("NoSuchFeature"), n_boot=50).to_csv(folder / "explained.csv", index=False)
    rng = np.random.default_rng(0)
    pd.DataFrame({"group": [f"MEG{i}" for i in range(12)], "layout_x": rng.random(12), "layout_y": rng.random(12),
                  "topk": 10, "drop": np.linspace(-0.01, 0.2, 12), "low": 0.0, "high": 0.3, "n": 50}).to_csv(
        folder / "sensors.csv", index=False)
    pd.DataFrame([{"kind": kind, "start": 0.0, "stop": 0.5 * i, "topk": 10, "accuracy": 0.1 * i, "low": 0.05 * i,
                   "high": 0.2 * i, "n": 50, "n_candidates": V, "chance": 10 / V}
                  for kind in ("growing", "sliding") for i in (1, 2)]).to_csv(folder / "timing.csv", index=False)
    parts = section(xp)
    assert [part.title for part in parts] == [
        "By word and subject", "By sensor", "Sensors that are missed most", "In time",
        "What predicts its probabilities", "No word embedding", "No bag of words"]
    assert "MEG11" in parts[2].content and "20.0 %" in parts[2].content and "NoSuchFeature" in parts[5].content
    assert not any(part.caption.startswith("OLDER") for part in parts)
    panels = [axes for axes in parts[0].content.axes if axes.get_title()]
    assert panels[0].get_title() == "word class (closed-class list)"
    (folder / "complete.json").write_text("{}")
    import os
    os.utime(folder / "breakdown.csv", (0, 0))
    assert section(xp)[0].caption.startswith("OLDER THAN THE EVALUATION")


#: the quarter of the sensors that hears
PLANTED = "left front"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Trained where only the sensors of one region have the response; regions are those of the channels table."""
    root = tmp_path_factory.mktemp("planted")
    original = SimulatedRecording.signal

    def signal(recording: SimulatedRecording) -> Signal:
        found = original(recording)
        array, channels = found.read(), found.channels.copy()
        channels["region"] = (np.where(channels["layout_x"] < 0.5, "left ", "right ").astype(object)
                              + np.where(channels["layout_y"] < 0.5, "back", "front"))
        deaf = (channels["region"] != PLANTED).to_numpy()
        rng = np.random.default_rng(int(stable_id(recording.name)))
        array[:, deaf] = array[:, deaf].std(0) * rng.standard_normal((len(array), int(deaf.sum())))
        return Signal.from_array(array, found.rate, channels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedRecording, "signal", signal)
        folder = root / "outputs/xps/0a1b2c3f"
        folder.mkdir(parents=True)
        plain = tiny_config("optim.epochs=8")
        (folder / "config.json").write_text(json.dumps(plain))
        build_solver(check_config(plain), folder, root, Link(folder / "history.json")).run()
        return StoredXP(folder, root).restore()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shuffle", "mean"])
def test_the_region_that_carries_the_signal(planted, how):
    """Quarters of a real layout, of which one has the response and the others noise of the same size."""
    place, member = sensor_table(planted, "region")
    assert sorted(place["group"]) == sorted(f"{side} {end}" for side in ("left", "right") for end in ("front", "back"))
    assert (member.sum(0) == planted.data.montages.valid).all()  # each good sensor of each recording is in one
    left = place["group"].str.startswith("left")
    assert (place["layout_x"][left] < 0.5).all() and (place["layout_x"][~left] > 0.5).all()
    table = sensor_importance(planted, by="region", how=how, n_segments=150, progress=False).set_index("group")
    chance = 10 / planted.data.segments.query("split == 'test'")["candidate"].nunique()
    told = table.loc[PLANTED]
    assert told["whole"] > 3 * chance and told["low"] > 0.1 and told["accuracy"] < 2 * chance + 0.05
    others = table.drop(PLANTED)
    assert (others["drop"].abs() < told["drop"] / 4).all() and (table["n_sensors"] > 20).all()
