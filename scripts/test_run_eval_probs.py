"""The commands: what they accept, whom they evaluate, and jobs."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bm.analysis.conftest import trained  # noqa: F401  a fixture
from bm.analysis.controls import CONTROLS
from scripts.export import main as export
from scripts.run_eval_probs import Options, main, parse


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    (tmp_path / "xps").mkdir()
    return tmp_path


@pytest.mark.parametrize("argv, message", [
    (["sig=[a]"], "unknown key 'sig'; did you mean 'sigs'"),
    (["a"], "cannot read the argument 'a': expected key=value"),
    ([], "give either"), (["sigs=[a]", "grid_name=b"], "give either"),
    (["sigs=[a]", "n_negatives=many"], r'n_negatives="many": input should be a valid integer'),
    (["sigs=[a]", "n_recordings=0"], "n_recordings=0: input should be greater than or equal to 1"),
    (["sigs=[a]", "control=noise"], "control=noise: expected none, noise_brain"),
    (["sigs=[a]", "control=random_features"], "a control of the training"),
    (["sigs=[a]", "overwrite=[1"], "cannot read 'overwrite=.1'"),
])
def test_wrong_arguments_in_one_line(argv, message):
    with pytest.raises(SystemExit, match=message) as error:
        parse(argv)
    assert "\n" not in str(error.value)


def test_signatures_are_no_numbers():
    options = parse(["sigs=[34219380,557e5081, '00001111']", "exclude_sigs=34219380", "overwrite=true",
                     "slurm_partition=gpu", "n_negatives=null"])
    assert options.sigs == ["34219380", "557e5081", "00001111"] and options.exclude_sigs == ["34219380"]
    assert options.overwrite and options.slurm_partition == "gpu" and options.n_negatives is None
    assert parse(["sigs=[a]"]) == Options(sigs=["a"])
    assert [how.control for how in parse(["sigs=[a]", "control=all"]).evaluations] == ["none", *CONTROLS]


def test_unknown_xps_and_grids(outputs):
    with pytest.raises(SystemExit, match="no XP 'abcdef01'"):
        main(["sigs=[abcdef01]"])
    (outputs / "grids/nmi.main_table").mkdir(parents=True)
    with pytest.raises(SystemExit, match="no grid 'main_table' in .*did you mean 'nmi.main_table'"):
        main(["grid_name=main_table"])
    (outputs / "xps/abcdef01").mkdir()
    (outputs / "grids/nmi.main_table/abcdef01").symlink_to(outputs / "xps/abcdef01")
    with pytest.raises(SystemExit, match="none of the 1 XPs of the grid nmi.main_table has a checkpoint yet"):
        main(["grid_name=nmi.main_table"])
    with pytest.raises(SystemExit, match="nothing is left to evaluate"):
        main(["grid_name=nmi.main_table", "exclude_sigs=[abcdef01]"])


@pytest.fixture
def grid(outputs, trained, monkeypatch) -> Path:  # noqa: F811
    """A grid of one trained XP, and one that is not a decoder that can be run."""
    monkeypatch.setattr("dora.git_save.to_absolute_path", lambda path: trained.root)  # where its data are
    (outputs / "xps/0a1b2c3d").symlink_to(trained.folder)
    broken = outputs / "xps/abcdef02"
    broken.mkdir()
    (broken / "checkpoint.th").write_text("")
    (broken / "config.json").write_text(json.dumps(trained.config))
    folder = outputs / "grids/demo"
    folder.mkdir(parents=True)
    for path in (outputs / "xps").iterdir():
        (folder / path.name).symlink_to(path)
    return outputs / "eval/signatures"


@pytest.mark.parametrize("how", [[], ["distributed=true", "cluster=debug"]])
def test_a_grid(grid, how, capsys):
    with pytest.raises(SystemExit) as error:
        main(["grid_name=demo", "device=cpu", "n_recordings=1", *how])
    assert error.value.code == 1
    said = capsys.readouterr()
    assert "XP abcdef02 was not evaluated: it has no checkpoint that can be read" in said.err
    folder = grid / "0a1b2c3d/nrec_1"
    row = pd.read_csv(folder / "acc.csv").iloc[2]
    assert f"0a1b2c3d/nrec_1: top-10 {row['acc_segment']:.1%}" in said.out
    assert np.load(folder / "probs_segment.npy", mmap_mode="r").shape == (row["n"], row["n_candidates"])
    assert main(["grid_name=demo", "exclude_sigs=[abcdef02]", "n_recordings=1"]) == [folder]


@pytest.mark.slow
def test_jobs_in_other_processes(grid):
    (folder,) = main(["sigs=[0a1b2c3d]", "device=cpu", "n_recordings=1", "distributed=true", "cluster=local",
                      "gpus_per_node=0"])
    assert (folder / "acc.csv").exists() and list((grid.parent / "jobs").glob("*_log.out"))


def test_export(grid, tmp_path, capsys):
    import bm
    folder = export(["0a1b2c3d", "--output", str(tmp_path / "decoder")])
    assert "MB; bm.load(" in capsys.readouterr().out and bm.load(folder).sig == "0a1b2c3d"
    with pytest.raises(SystemExit, match="exists: remove it"):
        export(["0a1b2c3d", "--output", str(folder)])
    with pytest.raises(SystemExit, match="no XP '00000000'"):
        export(["00000000"])
    with pytest.raises(SystemExit, match="no checkpoint that can be read"):
        export(["abcdef02"])
