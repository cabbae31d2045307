import json

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from bm.analysis import grids

CONFIG = {"seed": 1, "dset": {"selections": ["one"]}, "selections": {"one": {"study": "one"}}, "optim": {"lr": 1e-3},
          "depth": 5, "feature_model_name": None}


@pytest.fixture
def home(tmp_path):
    """Evaluations of a reference (two seeds), a worse decoder, and one with a feature model; 12 people, 4 blocks."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"subject_uid": np.repeat([f"p{i}" for i in range(12)], 40), "study": "one",
                         "recording_uid": np.repeat([f"r{i}" for i in range(12)], 40),
                         "time": np.tile(np.arange(40), 12), "candidate": np.tile(np.arange(40), 12),
                         "block": np.tile(np.repeat(range(4), 10), 12)})
    skill = np.repeat(rng.uniform(-0.1, 0.1, 12), 40)
    for sig, mean, changes in [("aa", 0.6, {}), ("ab", 0.6, {"seed": 2}), ("ac", 0.4, {"depth": 3}),
                               ("ad", 0.6, {"feature_model_name": "deep", "params": {"hidden": 2}})]:
        folder = tmp_path / sig
        folder.mkdir()
        OmegaConf.save(OmegaConf.create({**CONFIG, **changes}), folder / "solver_config.yaml")
        rows.assign(top10=(rng.random(480) < mean + skill).astype(float)).to_parquet(folder / "metadata.parquet")
        pd.DataFrame({"topk": [10], "acc_segment": [mean], "chance": [0.25]}).to_csv(folder / "acc.csv", index=False)
        pd.DataFrame({"study": ["one"], "subjects": [12]}).to_csv(folder / "data.csv", index=False)
        (folder / "complete.json").write_text(json.dumps({}))
    return tmp_path


def test_main_table(home):
    evaluated = grids.find_evaluated(home, ["aa", "ab", "ac", "ad"])
    table = grids.main_table(evaluated, names={"depth=3": "shallow"}).set_index("decoder")
    assert table.index[0] == "reference" and set(table.index) == {"reference", "shallow", "feature_model_name=deep"}
    assert table.loc["reference", "n_seeds"] == 2 and table.loc["reference", "sd"] < 0.1
    assert table.loc["shallow", "difference"] == pytest.approx(-0.2, abs=0.07)
    assert table.loc["shallow", "p_fdr"] < 0.002 < table.loc["feature_model_name=deep", "p_fdr"]
    assert (table["low"] < table["mean"]).all() and (table["mean"] < table["high"]).all()
    subjects = grids.subjects_table(evaluated)
    assert subjects.shape == (12, 3)
    tests = grids.pooled_tests(subjects, "reference").set_index("decoder")
    assert tests.loc["depth=3", "n"] == 12 and tests.loc["depth=3", "effect"] < -0.9
    shown = grids.pretty(table.reset_index())
    assert "±" in shown["accuracy (%)"][0] and shown["p"][0] == ""
    assert grids.studies_table(evaluated)["subjects"].tolist() == [12]


def test_two_people_are_drawn_with_blocks(home):
    for sig in ("aa", "ac"):
        path = home / sig / "metadata.parquet"
        rows = pd.read_parquet(path)
        rows[rows["subject_uid"].isin(["p0", "p1"])].to_parquet(path)
    table = grids.main_table(grids.find_evaluated(home, ["aa", "ac"]))
    assert table[["low", "high"]].notna().all(axis=None) and table.loc[1, ["difference_low"]].notna().all()


def test_names():
    bases = [CONFIG, {**CONFIG, "seed": 3}, {**CONFIG, "optim": {"lr": 1e-2}}]
    assert grids.decoder_names(bases) == (["reference", "reference", "lr=0.01"], "reference")
    # another study is no other decoder
    other = {**CONFIG, "dset": {"selections": ["two"]}, "selections": {"two": {"study": "two"}}}
    assert grids.decoder_names([CONFIG, other])[0] == ["reference", "reference"]


def test_what_is_missing_is_said(home):
    with pytest.raises(FileNotFoundError, match="1 XPs have no evaluation .*zz.*run_eval_probs 'sigs=\\[zz\\]'"):
        grids.find_evaluated(home, ["aa", "zz"])
    with pytest.raises(FileNotFoundError, match="no grid 'other'.*run_grid other"):
        grids.load_grid("other", home)
    with pytest.raises(KeyError, match="'none' is none of the decoders"):
        grids.main_table(grids.find_evaluated(home, ["aa", "ac"]), reference="none")
