"""Controls that are XPs of their own: they are found by their configs, and wrong pairs teach nothing."""
import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dora.link import Link

from bm.analysis.conftest import tiny_config
from bm.analysis.controls import survives, training_controls, which_control
from bm.analysis.evaluate import Evaluation, evaluate
from bm.analysis.report.controls import controls
from bm.analysis.xp import StoredXP
from bm.config import check_config
from bm.data.assemble import Data, assemble
from bm.data.audit import audit
from bm.solvers import build_solver
from bm.splits import LeakError


@pytest.fixture(scope="module")
def shuffled(trained, tmp_path_factory) -> StoredXP:
    """The trained XP's twin with wrong pairs, beside a link to it."""
    home = tmp_path_factory.mktemp("controls")
    folder = home / "xps/0a1b2c3f"
    folder.mkdir(parents=True)
    (home / "xps/0a1b2c3d").symlink_to(trained.folder)
    plain = tiny_config("task.shuffle_pairs=true")
    (folder / "config.json").write_text(json.dumps(plain))
    build_solver(check_config(plain), folder, trained.root, Link(folder / "history.json")).run()
    return StoredXP(folder, trained.root)


def test_wrong_pairs_teach_nothing(trained, shuffled):
    """With right pairs the same decoder is far above chance (`trained`), with wrong ones inside its interval."""
    home = shuffled.folder.parents[1]
    original = StoredXP(home / "xps/0a1b2c3d", trained.root)
    (waiting, asked) = controls(original)
    assert "sigs=[0a1b2c3f]" in waiting.content and "task.shuffle_pairs=true" in asked.content
    for xp in (original, shuffled):
        evaluate(xp, Evaluation(device="cpu"), home / "eval/signatures" / xp.sig, progress=False)
    right, wrong = (pd.read_csv(home / "eval/signatures" / xp.sig / "acc.csv").set_index("topk").loc[10]
                    for xp in (original, shuffled))
    assert right["acc_segment"] > right["chance_high"] and right["p"] < 0.05
    assert wrong["chance_low"] <= wrong["acc_segment"] <= wrong["chance_high"] and wrong["p"] > 0.02
    assert wrong["n"] == right["n"] and wrong["n_candidates"] == right["n_candidates"]
    assert not survives(wrong, "shuffled_pairs")
    (part,) = controls(original)
    assert "trained on wrong pairs of brain and sound (XP 0a1b2c3f)" in part.content


def leaking(data: Data) -> Data:
    """The classic mistake: windows that overlap are drawn into splits one by one."""
    segments = data.segments[data.segments["split"] == "train"].reset_index(drop=True)
    split = np.random.default_rng(0).choice(["train", "valid", "test"], len(segments), p=[0.6, 0.1, 0.3])
    return replace(data, segments=segments.assign(split=split), heard=np.arange(len(segments)))


@pytest.mark.parametrize("leak", [False, True])
def test_noise_finds_what_it_has_met_in_leaking_splits_alone(trained, tmp_path, monkeypatch, leak):
    """The audit refuses such splits; and who trains on noise is above chance with them, and with others is not."""
    import bm.solvers.decode
    if leak:
        data = leaking(assemble(trained.restored().cfg, trained.root))
        with pytest.raises(LeakError, match="share data"):
            audit(data.segments, data.subjects, data.events).check(False)
        monkeypatch.setattr(bm.solvers.decode, "assemble", lambda cfg, root: leaking(assemble(cfg, root)))
    plain = tiny_config("task.noise_brain=true", "optim.epochs=10", "optim.lr=3e-3", "simpleconv.conv_dropout=0",
                        "test.n_permutations=0")
    result = build_solver(check_config(plain), tmp_path, trained.root, Link(tmp_path / "history.json")).run()
    line = {"low": result["top10_low"], "chance": result["top10_chance"]}
    assert survives(line, "noise_training") == leak, result


def test_which_xp_is_a_control_of_which(trained, tmp_path):
    plain = trained.config
    assert which_control(plain, plain) is None
    wrong, random, both, old = (copy.deepcopy(plain) for _ in range(4))
    wrong["task"]["shuffle_pairs"] = True
    noise = copy.deepcopy(plain)
    noise["task"]["noise_brain"] = True
    assert which_control(plain, noise) == "noise_training"
    wrong["cache"], wrong["num_workers"] = "elsewhere", 3
    random["dset"]["features_params"]["Wav2VecTransformer"]["random"] = True
    both["dset"]["features_params"]["Wav2VecTransformer"]["random"] = both["task"]["shuffle_pairs"] = True
    assert which_control(plain, wrong) == "shuffled_pairs" and which_control(wrong, plain) is None
    assert which_control(plain, random) == "random_features" and which_control(plain, both) is None
    assert which_control(plain, {**wrong, "seed": 1}) is None
    del old["task"]["shuffle_pairs"]  # an XP from before there was the key
    for name, config in [("a", old), ("b", wrong), ("c", random), ("d", both)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    found = training_controls(StoredXP(tmp_path / "a", Path(".")))
    assert {name: xp.sig for name, xp in found.items()} == {"shuffled_pairs": "b", "random_features": "c"}
