"""The comparison of methods, on made-up folds whose numbers are known."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grids import eeg_rest
from grids._utils import collect
from grids.eeg_rest import FOLDS, METHODS
from scripts import classify_baselines
from scripts.classify_baselines import choose, main, read, report

#: method → share of right answers
SHARES = dict(zip(METHODS, (0.6, 0.8, 0.9, 0.7, 0.5), strict=True))


def write_fold(folder: Path, method: str, fold: int, loss: float = 0.5) -> Path:
    """60 segments of one subject in six blocks; of each class the first so many are right."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"best_loss": loss}))
    label = np.repeat(["eyes_open", "eyes_closed"], 30)
    right = np.tile(np.arange(30) < round(30 * SHARES[method]) - fold % 2, 2)
    p = np.where((label == "eyes_open") == right, 0.8, 0.2)
    pd.DataFrame({"label": label, "subject": f"s{fold}", "block": [f"{fold} {i // 10}" for i in range(60)],
                  "recording": 2 * fold + (np.arange(60) >= 30), "first": np.tile(np.arange(30), 2),
                  "p_eyes_open": p, "p_eyes_closed": 1 - p}).to_parquet(folder / "test_segments.parquet")
    return folder


@pytest.fixture(scope="module")
def listed():
    """The XPs of the grid: composing their configs takes seconds."""
    return collect(eeg_rest.explorer)


@pytest.fixture(autouse=True)
def listed_once(request, monkeypatch):
    monkeypatch.setattr(classify_baselines, "collect", lambda explorer: request.getfixturevalue("listed"))


@pytest.fixture
def folders(tmp_path) -> dict[str, list[Path]]:
    return {method: [write_fold(tmp_path / f"{method}{fold}", method, fold) for fold in range(FOLDS)]
            for method in METHODS}


def test_folds_are_pooled(folders):
    found = read(folders["bandpower"])
    assert len(found.truth) == 360 and (found.truth == found.predicted).mean() == pytest.approx(0.8 - 1 / 60)
    with pytest.raises(ValueError, match="60 segments are tested twice"):
        read([*folders["csp"], folders["csp"][0]])


def test_report(folders):
    text = report({method: read(folders[method]) for method in ("network", "bandpower_centred")}, n_boot=100)
    assert "bandpower_centred (transductive)" in text and "0.583 [" in text and "0.883 [" in text
    assert next(line.split() for line in text.splitlines() if line.startswith("s5")) == ["s5", "0.567", "0.867"]
    line = next(line for line in text.splitlines() if "network − bandpower_centred" in line)
    assert line.split()[3:] == ["6", "-0.3", "-0.3", "-0.3", "0.031"]


def test_command(folders, monkeypatch, capsys):
    asked: list[list[str]] = []

    def finish(argv):
        asked.append(argv)
        method = next((arg[16:].strip('"') for arg in argv if arg.startswith("classify.method=")), "network")
        return folders[method][int(next(arg[10:] for arg in argv if arg.startswith("dset.fold=")))]
    monkeypatch.setattr(classify_baselines, "finish", finish)
    main(["--methods", "csp", "network", "--", "seed=3"])
    assert len(asked) == 6 + 18 and all(argv[-1] == "seed=3" for argv in asked)
    said = capsys.readouterr().out
    assert "csp − network" in said and "network, fold 0: eeg_transformer.dim=32" in said
    with pytest.raises(SystemExit, match="--methods svm: grid eeg_rest has network, bandpower"):
        main(["--methods", "svm"])


def test_validation_chooses_the_setting(tmp_path, monkeypatch, capsys):
    """The worst setting on the test segments has the lowest validation loss, and is taken."""
    settings = {name: write_fold(tmp_path / name, method, 0, loss)
                for name, method, loss in (("a", "bandpower_centred", 0.4), ("b", "csp", 0.3), ("c", "network", 0.3))}
    assert choose(settings) == ("b", settings["b"])
    write_fold(tmp_path / "b", "csp", 0, float("nan"))
    with pytest.raises(ValueError, match="setting b has no validation loss"):
        choose(settings)

    def finish(argv):
        small, fold = any("dim=32" in arg for arg in argv), next(int(arg[10:]) for arg in argv if "dset.fold=" in arg)
        return write_fold(tmp_path / f"{small}{fold}", "csp" if small else "bandpower", fold, 0.1 if small else 0.2)
    monkeypatch.setattr(classify_baselines, "finish", finish)
    main(["--methods", "network"])
    said = capsys.readouterr().out
    assert said.count("lowest validation loss: eeg_transformer.dim=32") == FOLDS and "0.483 [" in said
