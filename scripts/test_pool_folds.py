"""Pooling of made-up folds whose numbers are known."""
import json
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest

from scripts import pool_folds
from scripts.pool_folds import difference, grid_signatures, pool, summary

STIMULI, FOLDS = 60, 3


def write_folds(root: Path, name: str, top1: np.ndarray, split_seed: int = 12, folds: int = FOLDS) -> list[Path]:
    """One XP a fold; stimulus i has the credit top1[i] and is found among the best 5 always."""
    order = np.random.default_rng(split_seed).permutation(STIMULI)
    out = []
    for fold, own in enumerate(np.array_split(order, folds)):
        folder = root / "xps" / f"{name}{split_seed}{fold}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"seed": 2036, "test": {"topk": [1, 5]}, "dset": {
            "split_assign_seed": split_seed, "n_folds": folds, "fold": fold}}))
        (folder / "result.json").write_text(json.dumps({"test": {
            "top1_chance": 1 / len(own), "top5_chance": 5 / len(own)}}))
        pd.DataFrame({"segment": own, "subject": 0, "recording": 0, "candidate": own + 10 ** 15, "top1": top1[own],
                      "top5": 1.0, "rank": 1.0}).to_parquet(folder / "test_segments.parquet")
        out.append(folder)
    return out


@pytest.fixture
def credit() -> np.ndarray:
    return (np.arange(STIMULI) % 4 == 0).astype(float)


def test_folds_are_pooled(tmp_path, credit):
    pooled = pool(write_folds(tmp_path, "a", credit))
    assert len(pooled.table) == STIMULI and pooled.chance == pytest.approx({"top1": 1 / 20, "top5": 5 / 20})
    rows = summary(pooled).set_index("")
    assert rows.loc["top1", "score"] == "25.0%" and rows.loc["top1", "chance"] == "5.0%"
    low, high = (float(x.strip("[]%")) for x in rows.loc["top1", "95 %"].split(", "))
    # the standard error of a proportion of 60 independent stimuli is 5.6 %
    assert 25 - 2.4 * 5.6 < low < 25 - 1.5 * 5.6 and 25 + 1.5 * 5.6 < high < 25 + 2.4 * 5.6
    assert rows.loc["top5", "95 %"] == "[100.0%, 100.0%]"


def test_draws_are_averaged_by_stimulus(tmp_path, credit):
    folders = write_folds(tmp_path, "a", credit) + write_folds(tmp_path, "a", np.ones(STIMULI), split_seed=1)
    pooled = pool(folders)
    assert pooled.per_stimulus["top1"].tolist() == (0.5 + credit / 2).tolist()
    rows = summary(pooled).set_index("")
    assert rows.loc["top1", "score"] == "62.5%" and rows.loc["top1", "draws"] == "100.0% 25.0%"


def test_paired_difference(tmp_path, credit):
    better = credit.copy()
    better[1::10] = 1  # 6 stimuli that were not found: 1, 11, … are no multiples of 4
    one, other = pool(write_folds(tmp_path, "a", better)), pool(write_folds(tmp_path, "b", credit))
    row = difference(one, other).set_index("").loc["top1"]
    assert row["difference"] == "+10.0" and (row["first"], row["second"]) == ("35.0%", "25.0%")
    low, high = (float(x.strip("[]")) for x in row["95 %"].split(", "))
    # paired: much narrower than that of two independent proportions (± 16)
    assert 0 < low < 10 < high < 20
    same = difference(one, one).set_index("").loc["top1"]
    assert (same["difference"], same["95 %"]) == ("+0.0", "[+0.0, +0.0]")


def test_what_is_not_paired_is_refused(tmp_path, credit):
    one = pool(write_folds(tmp_path, "a", credit))
    with pytest.raises(ValueError, match="not paired: folds drawn with"):
        difference(one, pool(write_folds(tmp_path, "b", credit, split_seed=1)))
    with pytest.raises(ValueError, match="not paired: folds drawn with"):
        difference(one, pool(write_folds(tmp_path, "c", credit, folds=5)))


def test_missing_and_double_folds(tmp_path, credit):
    folders = write_folds(tmp_path, "a", credit)
    with pytest.raises(ValueError, match=r"folds \[1\] of split_assign_seed=12, seed=2036 are missing"):
        pool([folders[0], folders[2]])
    with pytest.raises(ValueError, match="which another XP is too"):
        pool([*folders, write_folds(tmp_path, "b", credit)[0]])
    table = pd.read_parquet(folders[0] / "test_segments.parquet")
    table.to_parquet(folders[1] / "test_segments.parquet")
    with pytest.raises(ValueError, match="20 stimuli are tested in two folds"):
        pool(folders)
    config = json.loads((folders[0] / "config.json").read_text())
    config["dset"]["n_folds"] = None
    (folders[0] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is no fold"):
        pool(folders)


def test_command(tmp_path, credit, monkeypatch, capsys):
    folders = write_folds(tmp_path, "a", credit) + write_folds(tmp_path, "b", np.zeros(STIMULI))
    by_sig = {folder.name: folder for folder in folders}
    monkeypatch.setattr(pool_folds, "folder_of", by_sig.__getitem__)
    sigs = list(by_sig)
    pool_folds.main([*sigs[:3], "--against", *sigs[3:]])
    printed = capsys.readouterr().out
    assert "60 test segments, 60 different stimuli, 1 draw of 3 folds" in printed
    assert "paired difference" in printed and "+25.0" in printed
    with pytest.raises(SystemExit, match=r"folds \[2\].*are missing"):
        pool_folds.main(sigs[:2])
    with pytest.raises(SystemExit):
        pool_folds.main([])


def test_unfinished_xps_and_unknown_grids_are_named():
    with pytest.raises(SystemExit, match="XP 0123abcd has no test results"):
        pool_folds.folder_of("0123abcd")
    with pytest.raises(SystemExit, match="no grid 'natsound'"):
        grid_signatures("natsound")


def test_the_grids_of_the_natural_sounds(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # as with python -m
    assert len(set(grid_signatures("natsounds"))) == 5
    from grids import natsounds_seeds
    launcher = MagicMock()
    natsounds_seeds.explorer(launcher)
    runs = [tuple(call.args[0].values()) for call in launcher.call_args_list]
    assert len(set(runs)) == len(runs) == 25
    assert runs[:5] == [(12, fold) for fold in range(5)]  # the first draw is that of the preset
