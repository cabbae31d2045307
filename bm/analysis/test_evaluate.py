"""Evaluations of a trained XP: the numbers are those of its own test, the controls find nothing where nothing is."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dora.link import Link

from bm.analysis.conftest import tiny_config
from bm.analysis.controls import CONTROLS, NULLS, check_control, control_folders, survives
from bm.analysis.evaluate import Evaluation, evaluate, words_inside
from bm.analysis.xp import NotRestorable, StoredXP
from bm.config import check_config
from bm.data.noise import Noise
from bm.solvers import build_solver
from bm.store import stable_id

FILES = {"acc.csv", "complete.json", "data.csv", "metadata.parquet", "negative_stats.csv", "probs_segment.npy",
         "solver_config.yaml", "vocab_segment.npy"}


@pytest.fixture(scope="module")
def home(trained, tmp_path_factory) -> Path:
    """Where an evaluation and its controls are."""
    signature = tmp_path_factory.mktemp("eval") / trained.sig
    for control in ["none", *CONTROLS]:
        evaluate(trained, Evaluation(control=control, device="cpu"), signature, progress=False)
    return signature


def test_the_numbers_of_the_test(trained, home):
    assert {path.name for path in home.iterdir() if path.is_file()} == FILES
    test, accuracy = trained.test, pd.read_csv(home / "acc.csv").set_index("topk")
    for k in (1, 5, 10):
        row = accuracy.loc[k]
        for ours, theirs in [("acc_segment", ""), ("chance", "_chance"), ("low", "_low"), ("high", "_high"),
                             ("chance_low", "_chance_low"), ("chance_high", "_chance_high"), ("p", "_p")]:
            assert row[ours] == pytest.approx(test[f"top{k}{theirs}"]), (k, ours)
        assert row["n"] == test["n"] and row["n_candidates"] == test["n_candidates"] and row["n_subjects"] == 2
        assert k / test["n_candidates"] < row["prior"] < 0.2
    segments, metadata = trained.segments, pd.read_parquet(home / "metadata.parquet")
    np.testing.assert_array_equal(metadata["segment"], segments.index)
    np.testing.assert_array_equal(metadata["rank"], segments["rank"])


@pytest.mark.parametrize("task", ["linear_decode", "linear_encode"])
def test_ridge_regression_too(trained, tmp_path, task):
    """A linear XP stands in the same tables as a network: the numbers of its own test, and controls of the brain."""
    plain = tiny_config(f"task.type={task}", "task.offset_meg_ms=0", "dset.condition=0.5", "linear.tmax=1.52",
                        "linear.feature_tmax=1.52", "linear.bins=2", "linear.brain_bins=2")
    folder = tmp_path / "xps/linear"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(plain))
    test = build_solver(check_config(plain), folder, trained.root, Link(folder / "history.json")).run()
    assert test is not None
    xp = StoredXP(folder, trained.root)
    evaluate(xp, Evaluation(device="cpu"), tmp_path / "eval", progress=False)
    accuracy = pd.read_csv(tmp_path / "eval/acc.csv").set_index("topk")
    assert accuracy.loc[10, "acc_segment"] == pytest.approx(test["top10"])
    assert accuracy.loc[10, "p"] == pytest.approx(test["top10_p"])
    (noise,) = evaluate(xp, Evaluation(control="noise_brain", device="cpu"), tmp_path / "eval", progress=False)
    line = pd.read_csv(noise / "acc.csv").set_index("topk").loc[10]
    assert line["p"] > 0.01 and not survives(line, "noise_brain")
    assert evaluate(xp, Evaluation(control="untrained", device="cpu"), tmp_path / "eval", progress=False) == []
    with pytest.raises(NotRestorable, match=f"task.type={task} has no network"):
        xp.restored()


def test_probabilities_ids_and_words(trained, home):
    probabilities, vocabulary = np.load(home / "probs_segment.npy"), np.load(home / "vocab_segment.npy")
    table = pd.read_parquet(home / "metadata.parquet")
    assert probabilities.dtype == np.float32 and vocabulary.dtype == np.int64
    assert probabilities.shape == (len(table), len(vocabulary)) == (385, 196)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-4)
    best = vocabulary[np.argsort(-probabilities, axis=1)[:, :10]]
    found = (best == table["segment_hashes"].to_numpy()[:, None]).any(1)
    assert found.mean() == pytest.approx(pd.read_csv(home / "acc.csv")["acc_segment"][2], abs=0.01)
    row = table.iloc[40]
    assert row["word_hashes"] == stable_id(row["word"].lower()) and row["seq_indices"] == stable_id(row["sentence"])
    same = table.groupby(["sentence", "word_indices"])["segment_hashes"].nunique()
    assert (same == 1).all() and len(same) == 196
    assert row["word_strings"] == row["word"] and row["word"] in row["word_segment_strings"].split()
    assert (row["word"], row["word_indices"], row["sentence"].split()[9]) == ("her", 9, "her")
    assert table["word_indices"].dtype == table["seq_indices"].dtype == np.int64
    assert row["recording"] == f"simulated/{row['recording_uid']}" and row["subject_uid"] == "simulated/01"
    assert set(table["subject_id"]) == {0, 1} and set(table["study"]) == {"simulated"}
    stats = pd.read_csv(home / "negative_stats.csv").iloc[0].to_dict()
    assert stats == {"n_test_samples": 385, "n_test_vocab": table["word_hashes"].nunique(), "n_test_segments": 196,
                     "n_neg_samples": 385, "n_neg_segments": 196}


def test_words_that_touch_the_window():
    class Toy:
        spec = type("spec", (), {"sample_rate": 10.0})
        windows = {"test": type("window", (), {"samples": staticmethod(lambda rate: 10)})}
        events = [pd.DataFrame({"kind": ["word"] * 4 + ["sound"], "start": [0.0, 0.95, 1.9, 2.0, 0.0],
                                "duration": [1.0, 0.2, 0.1, 1.0, 9.0], "word": ["before", "a", "b", "after", None]})]
    table = pd.DataFrame({"recording": [0, 0], "first": [10, 30]}, index=[7, 8])
    assert words_inside(Toy, table) == ["a b", ""]


def test_controls(trained, home):
    """Without a brain of one's own, or without training, the decoder is where pairs rotated at random are."""
    folders = control_folders(home)
    assert list(folders) == ["none", *CONTROLS]
    accuracy = {name: pd.read_csv(folder / "acc.csv").set_index("topk").loc[10] for name, folder in folders.items()}
    for name in [name for name in NULLS if name in CONTROLS]:
        assert accuracy[name]["chance_low"] <= accuracy[name]["acc_segment"] <= accuracy[name]["chance_high"], name
        assert accuracy[name]["p"] > 0.01 and not survives(accuracy[name], name)
        assert accuracy[name]["n_candidates"] == 196
    # the heads of simulated people are alike
    other = accuracy["other_subject"]
    assert other["n"] == 378 and other["chance_high"] < other["acc_segment"] < accuracy["none"]["acc_segment"]
    assert not survives(other, "other_subject")
    assert survives({"low": 0.06, "chance": 0.05}, "noise_brain")
    assert not survives({"low": np.nan, "chance": 0.05}, "noise_brain")


def test_what_controls_do(trained):
    ids = trained.restored().data.ids("test")[[3, 90, 200]]

    def brain(name: str):
        solver = trained.restore()
        CONTROLS[name](solver)
        return solver, solver.data.dataset("test").__getitems__(ids)

    plain = trained.restored().data
    _, batch = brain("reversed_brain")
    row, segment = batch.brain[1].numpy(), plain.segments.loc[ids[1]]
    array = plain.prepared[segment["recording"]].array
    stop = len(array) - segment["first"]
    np.testing.assert_array_equal(row[:, ::-1].T, array[stop - row.shape[1]:stop])
    solver, batch = brain("noise_brain")
    again = solver.data.dataset("test").__getitems__(ids[[1]])
    assert torch.equal(batch.brain[1], again.brain[0])
    finished = solver.finish(solver.data.dataset("test").__getitems__(solver.data.ids("test")[:60])).brain
    assert 0.7 < np.subtract(*np.quantile(finished.numpy(), [0.75, 0.25])) < 1.5
    solver, batch = brain("other_subject")
    own = plain.dataset("test").__getitems__(ids)
    partner = solver.data.partner[ids]
    assert torch.equal(batch.subject, own.subject) and torch.equal(batch.segment, own.segment)
    assert (batch.recording != own.recording).all()
    assert (plain.segments.loc[partner, "candidate"].to_numpy() == plain.segments.loc[ids, "candidate"]).all()
    assert torch.equal(batch.brain, plain.dataset("test").__getitems__(partner).brain)
    solver, _ = brain("untrained")
    fresh = trained.restore()
    fresh.build_model()
    assert all(torch.equal(value, solver.best_state[name]) for name, value in fresh.modules.state_dict().items())


def test_noise_is_the_same_wherever_it_is_read():
    noise = Noise((5000, 3), np.array([0, 5, -2.0]), np.array([1, 2, 0.1]), [1, 2])
    whole = noise[0:5000]
    assert whole.shape == (5000, 3) and len(noise) == 5000
    for start, stop in [(0, 5), (500, 530), (511, 1700), (4990, 5000)]:
        np.testing.assert_array_equal(noise[start:stop], whole[start:stop])
    np.testing.assert_allclose(np.median(whole, axis=0), [0, 5, -2], atol=0.1)
    np.testing.assert_allclose(np.subtract(*np.quantile(whole, [0.75, 0.25], axis=0)), [1, 2, 0.1], rtol=0.06)
    assert not np.array_equal(Noise((9, 3), noise.center, noise.std, [1, 3])[0:9], whole[:9])


def test_unknown_controls():
    with pytest.raises(ValueError, match=r"control of the training.*random=true"):
        check_control("random_features")
    with pytest.raises(ValueError, match="did you mean 'noise_brain'"):
        check_control("noise_brian")


def test_fewer_candidates_and_recordings(trained, tmp_path):
    how = Evaluation(n_negatives=50, n_recordings=1, multistudy=True, device="cpu", probs_batch_size=10)
    (folder,) = evaluate(trained, how, tmp_path, progress=False)
    assert folder == tmp_path / "simulated/nrec_1"
    table, accuracy = pd.read_parquet(folder / "metadata.parquet"), pd.read_csv(folder / "acc.csv")
    vocabulary = np.load(folder / "vocab_segment.npy")
    assert len(vocabulary) == 50 and set(table["segment_hashes"]) == set(vocabulary)
    assert table["recording_uid"].nunique() == 1 and (accuracy["chance"] == [1 / 50, 0.1, 0.2]).all()
    stats = pd.read_csv(folder / "negative_stats.csv").iloc[0]
    assert stats["n_test_samples"] == 385 and stats["n_neg_samples"] == len(table) < 200
    # done: nothing is made again, and nothing is passed off as something else
    before = (folder / "acc.csv").stat().st_mtime_ns
    assert evaluate(trained, how, tmp_path, progress=False) == [folder]
    assert (folder / "acc.csv").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="n_negatives: 50 there, 60 now.*overwrite=true"):
        evaluate(trained, replace(how, n_negatives=60), tmp_path)
    evaluate(trained, replace(how, n_negatives=60), tmp_path, overwrite=True, progress=False)
    assert len(np.load(folder / "vocab_segment.npy")) == 60


def test_an_evaluation_that_was_stopped_is_not_done(trained, tmp_path, monkeypatch):
    how = Evaluation(device="cpu")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bm.analysis.evaluate.write_probabilities", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(trained, how, tmp_path, progress=False)
    assert not how.finished(trained, tmp_path) and {path.name for path in tmp_path.iterdir()} == {".unfinished"}
    evaluate(trained, how, tmp_path, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_random_decoder_is_evaluated_as_one(trained, tmp_path):
    folder = tmp_path / "xps/0a1b2c3e"
    shutil.copytree(trained.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "test": {**config["test"], "wer_random": True}}))
    evaluate(StoredXP(folder, trained.root), Evaluation(device="cpu"), tmp_path / "eval", progress=False)
    row = pd.read_csv(tmp_path / "eval/acc.csv").iloc[2]
    assert row["chance_low"] <= row["acc_segment"] <= row["chance_high"] and row["p"] > 0.05


def test_each_study_by_itself(trained, tmp_path, monkeypatch):
    from bm.analysis import evaluate as module

    def two_studies(data):
        table = test_table(data)
        return table.assign(study=np.where(table["recording_id"] == 0, "one", "two"))

    test_table = module.test_table
    monkeypatch.setattr(module, "test_table", two_studies)
    how = Evaluation(multistudy=True, device="cpu")
    folders = evaluate(trained, how, tmp_path, progress=False)
    assert folders == [tmp_path / "one", tmp_path / "two"] == how.finished(trained, tmp_path)
    for r, folder in enumerate(folders):
        table = pd.read_parquet(folder / "metadata.parquet")
        assert set(table["recording_id"]) == {r} and set(table["study"]) == {folder.name}
        assert set(np.load(folder / "vocab_segment.npy")) == set(table["candidate"])
    (tmp_path / "two/complete.json").unlink()
    assert how.finished(trained, tmp_path) == []
