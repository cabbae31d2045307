"""The commands that say where an accuracy comes from, and what calibration is worth."""
import pandas as pd
import pytest

from bm.analysis.conftest import trained  # noqa: F401  a fixture
from scripts import breakdown, calibrate
from scripts.test_run_eval_probs import outputs  # noqa: F401  a fixture


@pytest.fixture
def home(outputs, trained, monkeypatch):  # noqa: F811
    monkeypatch.setattr("dora.git_save.to_absolute_path", lambda path: trained.root)
    (outputs / "xps/0a1b2c3d").symlink_to(trained.folder)
    return outputs / "eval/signatures/0a1b2c3d"


def test_where_it_comes_from(home, capsys, monkeypatch):
    import bm.analysis.importance as module
    sensors = module.sensor_table

    def few(*args):  # 208 would take a minute
        place, member = sensors(*args)
        return place.iloc[:12], member[:12]

    monkeypatch.setattr(module, "sensor_table", few)
    paths = breakdown.main(["0a1b2c3d", "--device", "cpu", "--segments", "60", "--step", "0.5"])
    assert [path.name for path in paths] == ["breakdown.csv", "sensors.csv", "timing.csv", "explained.csv"]
    assert all(path.parent == home and path.with_suffix(".png").stat().st_size > 5000 for path in paths)
    assert (home / "acc.csv").exists()  # it was evaluated first
    words, sensors, timing, explained = (pd.read_csv(path) for path in paths)
    assert {"subject", "word class (closed-class list)"} <= set(words["by"]) and len(sensors) == 12
    assert (timing["n"] == 60).all() and "phonemes" in explained["family"].tolist()
    assert capsys.readouterr().out.count("figure beside it") == 4
    with pytest.raises(SystemExit, match="no XP '00000000'"):
        breakdown.main(["00000000"])


def test_nobody_to_calibrate(home):
    with pytest.raises(SystemExit, match="every test subject was trained"):
        calibrate.main(["0a1b2c3d", "--device", "cpu"])
    with pytest.raises(SystemExit, match="each larger than the last"):
        calibrate.main(["0a1b2c3d", "--minutes", "2", "1"])
