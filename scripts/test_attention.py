"""`python -m scripts.attention` on a small XP, its page in a browser, and the report of a classification."""
import contextlib
import html
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.analysis.attention_summary import (
    AttentionOptions,
    Folder,
    batch_size,
    find_attention,
    find_networks,
    load,
    pool,
    summarise,
)
from bm.analysis.faithfulness import load_deletion
from bm.analysis.head3d import frame, head_html, strongest
from bm.analysis.plots.attention import (
    plot_attention_maps,
    plot_attention_time,
    plot_band_maps,
    plot_layer_maps,
    plot_power_maps,
    plot_received_maps,
)
from bm.analysis.plots.classification import plot_accuracy, plot_confusion
from bm.analysis.report import make_report
from bm.analysis.report.classification import classes
from bm.analysis.xp import StoredXP
from bm.config import check_config, to_plain
from bm.solvers import build_solver
from bm.solvers.test_classify import CONF, TINY
from bm.studies.twins import make_twin
from scripts.attention import main, parse_bands
from scripts.browser import console_errors, requests

SIG = "c1a55e5a"


@pytest.fixture(scope="module")
def xp(tmp_path_factory) -> StoredXP:
    """Open or closed eyes in simulated EEG, two tokens per channel."""
    root = tmp_path_factory.mktemp("attention")
    make_twin("eegmmidb", root / "data/eegmmidb", rest_subjects=4)
    folder = root / "outputs/xps" / SIG
    folder.mkdir(parents=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = to_plain(compose("config", [*TINY, "eeg_transformer.tokens=2", "eeg_transformer.layers=2",
                                            f"cache={root}/cache", f"study_paths.eegmmidb={root}/data/eegmmidb"]))
    (folder / "config.json").write_text(json.dumps(plain))
    build_solver(check_config(plain), folder, root, Link(folder / "history.json")).run()
    return StoredXP(folder, root)


@pytest.fixture
def outputs(xp, monkeypatch):
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", xp.folder.parents[1])


@pytest.fixture(scope="module")
def summary(xp):
    return summarise(xp.restored(), AttentionOptions("valid"))


@pytest.fixture(scope="module")
def written(xp) -> tuple[Path, str]:
    """The folder that the command wrote, and what it said."""
    from bm.train import main as train
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(train.dora, "dir", xp.folder.parents[1])
        main([SIG, "--bands", "8-12"])
    return xp.folder / "attention/valid", said.getvalue()


def test_files(xp, written, summary):
    folder, said = written
    assert "deleting" in said and "8–12 Hz" in said and "attention/valid" in said
    assert not list(folder.parent.glob(".*"))
    table = pd.read_parquet(folder / "segments.parquet")
    tokens, times = np.load(folder / "tokens.npy"), np.load(folder / "times.npy")
    assert tokens.shape == (60, 64, 2) and np.load(folder / "channels.npy").shape == (60, 64) and times.shape == (60, 2)
    np.testing.assert_array_equal(tokens, summary.tokens)
    assert np.isnan(tokens[:, [42, 43, 63]]).all() and (np.nanmax(tokens, (1, 2)) == 1).all()
    with xp.restored().use_best():
        p = torch.cat(list(xp.restored().probabilities(xp.restored().data.ids("valid")))).numpy()
    np.testing.assert_allclose(table[["p_eyes_open", "p_eyes_closed"]], p, atol=1e-5)
    assert (table["predicted"] == np.where(p[:, 1] > p[:, 0], "eyes_closed", "eyes_open")).all()
    assert (table["used"] == (table["correct"] & (table["confidence"] >= 0.5))).all()
    assert table["subject"].nunique() == 1 and table["segment"].tolist() == xp.restored().data.ids("valid").tolist()
    power = pd.read_csv(folder / "power.csv")
    assert set(power["map"]) == {"all", "eyes_open", "eyes_closed", "eyes_closed − eyes_open"}
    assert power["n"].eq(61).all() and power["r"].between(-1, 1).all()
    assert {"maps.png", "layers.png", "time.png", "confusion.png", "deletion.png", "power_8-12Hz.png",
            "connections.html"} <= {path.name for path in folder.iterdir()}
    assert "deleting" in json.loads((folder / "deletion.json").read_text())["verdict"]


def test_power_is_that_of_the_data(xp, written):
    """The twin's closed eyes have more of 10 Hz at the back."""
    power = np.load(written[0] / "power.npy")[0]
    names = xp.restored().data.prepared[0].channels["name"].tolist()
    back = [names.index(name) for name in ("O1", "Oz", "O2", "POz")]
    front = [names.index(name) for name in ("Fp1", "Fpz", "Fp2", "AFz")]
    assert power[back].mean() > 0.5 + abs(power[front].mean())


def test_memory_does_not_change_the_result(xp, summary):
    small = summarise(xp.restored(), AttentionOptions("valid", memory=1))
    np.testing.assert_allclose(small.tokens, summary.tokens, atol=1e-4)
    np.testing.assert_allclose(small.between, summary.between, atol=1e-5)
    model = xp.restored().model
    assert batch_size(model, 1) == 1 and batch_size(model, 2 ** 40) == 256


def test_files_say_what_was_found(written, summary):
    """A figure from the files is the figure of the run."""
    read = load(written[0])
    for name in ("tokens", "layers", "between", "times", "positions", "layout"):
        np.testing.assert_allclose(getattr(read, name), getattr(summary, name), atol=1e-6, err_msg=name)
    pd.testing.assert_frame_equal(read.segments, summary.segments)
    assert (read.channels, read.classes, read.settings) == (summary.channels, summary.classes, summary.settings)
    deletion, found = load_deletion(written[0])
    table = pd.read_csv(written[0] / "deletion.csv")
    assert deletion.area("probability").mean() == pytest.approx(found.area) and found.n == 60
    assert str(found) == json.loads((written[0] / "deletion.json").read_text())["verdict"]
    assert deletion.correct["random"][:, 0].tolist() == table["accuracy"][table["order"] == "random"].tolist()
    power, rows = np.load(written[0] / "power.npy"), pd.read_csv(written[0] / "power.csv")
    (band, figure), = plot_power_maps(read, power, rows).items()
    r = rows["r"][rows["map"] == "eyes_closed − eyes_open"].item()
    assert band == "8–12 Hz" and f"r = {r:+.2f}" in figure.get_suptitle()
    with pytest.raises(FileNotFoundError, match="no attention in"):
        load(written[0].parent)


@pytest.fixture
def grid(xp, tmp_path):
    """A launched grid: two folds, of the first one two settings, another band, another method, and one unfinished."""
    def write(sig: str, loss: float | None, **changes) -> None:
        config = json.loads((xp.folder / "config.json").read_text())
        for key, value in changes.items():
            section, _, name = key.partition("__")
            config[section][name] = value
        for folder in ("xps", "grids/g"):
            (tmp_path / folder / sig).mkdir(parents=True)
        (tmp_path / "xps" / sig / "config.json").write_text(json.dumps(config))
        if loss is not None:
            (tmp_path / "xps" / sig / "result.json").write_text(json.dumps({"best_loss": loss, "test": {}}))
    write("a", 0.5)
    write("b", 0.4, eeg_transformer__dim=8)
    write("c", 0.9, dset__fold=1)
    write("d", 0.9, dset__highpass=8)
    write("e", None, classify__method="csp")
    return tmp_path


def test_networks_are_found(grid):
    bands = find_networks(["g"], grid)
    assert {band: [xp.sig for xp in xps] for band, xps in bands.items()} == {"0–15 Hz": ["b", "c"], "8–15 Hz": ["d"]}
    assert [xp.sig for xp in find_networks(["a", "b"], grid)["0–15 Hz"]] == ["a", "b"]
    with pytest.raises(ValueError, match="XP e is classify csp eeg_transformer"):
        find_networks(["e"], grid)
    with pytest.raises(FileNotFoundError, match="'h' is neither a launched grid nor an XP"):
        find_networks(["h"], grid)
    (grid / "xps/c/result.json").unlink()
    with pytest.raises(FileNotFoundError, match="XP c is not finished"):
        find_networks(["g"], grid)


def test_attention_of_several_is_theirs(grid, written):
    b, c = find_networks(["g"], grid)["0–15 Hz"]
    missing = "python -m scripts.attention b c --split valid"
    with pytest.raises(FileNotFoundError, match=missing):
        find_attention([b, c], "valid")
    for xp in (b, c):
        shutil.copytree(written[0], xp.folder / "attention/valid")
    assert find_attention([b], "valid") == b.folder / "attention/valid"
    pooled = c.folder / "attention/valid_pooled"
    pooled.mkdir()
    table = pd.read_parquet(written[0] / "segments.parquet")
    table.to_parquet(pooled / "segments.parquet")
    with pytest.raises(FileNotFoundError, match=f"together: {missing}"):  # of one of them alone
        find_attention([b, c], "valid")
    pd.concat([table, table]).to_parquet(pooled / "segments.parquet")
    assert find_attention([b, c], "valid") == pooled


def test_reference(xp, summary):
    reference = summarise(xp.restored(), AttentionOptions("valid", reference=True))
    assert reference.settings["head_fusion"] == "max"
    assert np.nanmax(reference.tokens) == 1 and (np.nanmax(reference.tokens, (1, 2)) < 1).sum() == 59


def test_connections_are_the_rollout(summary):
    """Rows are what a channel sees; with its share of the class token they would sum to 1."""
    kept = np.isfinite(np.diagonal(summary.between[0]))
    total = np.nansum(summary.between, 2)[:, kept]
    assert kept.sum() == 61 and (total < 1).all() and (total > 0.9).all()


def test_pooled(summary):
    both = pool([summary, summary])
    assert len(both.segments) == 120 and both.tokens.shape == (120, 64, 2)
    np.testing.assert_allclose(both.layers, summary.layers, rtol=1e-5)
    assert both.confusion().sum() == 120


def test_figures(summary):
    maps, layers, time = plot_attention_maps(summary, True), plot_layer_maps(summary), plot_attention_time(summary)
    titles = [axes.get_title() for axes in maps.axes if axes.get_title()]
    assert len(titles) == 9 and titles[2] == "eyes_closed − eyes_open" and titles[3].startswith("0.50 s: eyes_open")
    image = [axes for axes in maps.axes if axes.get_title()][2].images[0]
    assert image.get_cmap().name == "coolwarm" and image.get_clim()[0] == -image.get_clim()[1]
    assert len([axes for axes in layers.axes if axes.get_title()]) == 6
    means = [line.get_ydata() for line in time.axes[0].lines]
    np.testing.assert_allclose(means[0], np.nanmean(summary.tokens[summary.of("eyes_open")], axis=(0, 1)), rtol=1e-5)
    bands = plot_band_maps({"8–12 Hz": summary, "1–30 Hz": summary})
    assert [axes.images[0].get_clim() for axes in bands.axes if axes.get_title()][:2] == [(0, 1), (0, 1)]
    axes = plot_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["75 %\n3", "25 %\n1", "0 %\n0", "0 %\n0"]
    table = pd.DataFrame({"band": ["8–12 Hz", "1–30 Hz"], "n": [60, 60], "accuracy": [0.8, 0.5],
                          "accuracy_low": [0.7, 0.3], "accuracy_high": [0.9, 0.6]})
    bars = plot_accuracy(table, "band", 0.5).axes[0]
    assert [bar.get_height() for bar in bars.patches] == [80, 50] and bars.lines[-1].get_ydata()[0] == 50
    np.testing.assert_allclose(bars.collections[0].get_segments()[1][:, 1], [30, 60])
    assert [label.get_text() for label in bars.get_xticklabels()] == ["8–12 Hz\nn=60", "1–30 Hz\nn=60"]


def test_received_is_the_mean_of_the_columns(summary, monkeypatch):
    drawn = []
    monkeypatch.setattr("bm.analysis.plots.attention.plot_topomaps", lambda *args: drawn.append(args))
    kept = np.isfinite(np.diagonal(summary.between[0]))
    column = np.where(kept[:, None] & kept, np.arange(64.0), np.nan)
    plot_received_maps(replace(summary, between=np.stack([column, 3 * column + np.where(kept, 0, np.nan)])))
    maps, layout, titles, *_, signed = drawn[0]
    np.testing.assert_allclose(maps, np.outer([1, 3, 2], np.flatnonzero(kept)))
    assert len(layout) == 61 and titles[2] == "eyes_closed − eyes_open" and signed == [2]


def test_wrong_arguments(xp, outputs):
    for argv, message in ((["--bands", "8to12"], "expected LOW-HIGH"), (["--bands", "8-19"], "not inside 0–15 Hz"),
                          (["--confidence", "2"], "between 0 and 1")):
        with pytest.raises(SystemExit, match=message):
            main([SIG, *argv])
    with pytest.raises(SystemExit, match="no XP 'nothing'"):
        main(["nothing"])
    assert parse_bands(["8-12", "0.5-4"]) == [[8, 12], [0.5, 4]]
    other = xp.folder.parent / "0ther"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"task": {"type": "decode"}}))
    with pytest.raises(SystemExit, match="task.type=decode.* has no attention"):
        main(["0ther"])


def test_classes_of_a_report(xp):
    confusion, people = classes(xp)
    test = json.loads((xp.folder / "result.json").read_text())["test"]
    assert f"Balanced accuracy {100 * test['balanced_accuracy']:.1f} %" in confusion.caption
    assert "eegmmidb/" in people.content and f"{100 * test['accuracy']:.1f} %" in people.content


@pytest.mark.slow
def test_the_report_in_a_browser(xp, browser, tmp_path):
    page = tmp_path / "report.html"
    make_report(xp).save(page, open_browser=False, verbose=False)
    requests(browser), console_errors(browser)
    browser.get(page.as_uri())
    shown = browser.execute_script("return [...document.querySelectorAll('#content img')].map(i => [i.alt, "
                                   "i.naturalWidth])")
    assert {"Confusion matrix", "Attention of the class token", "Attention over time", "Deletion",
            "Training and validation"} == {name for name, _ in shown}
    assert all(width > 200 for _, width in shown)
    assert "No control was evaluated" not in browser.page_source
    assert requests(browser) == [page.as_uri()] and console_errors(browser) == []


@pytest.mark.slow
def test_the_head_in_a_browser(written, browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    page = written[0] / "connections.html"
    requests(browser), console_errors(browser)
    browser.get(page.as_uri())
    picture = "return document.getElementById('head').toDataURL()"
    # every curve that reaches the canvas is counted, by none of the page's own code
    browser.execute_script("const draw = CanvasRenderingContext2D.prototype.quadraticCurveTo; window.curves = 0;"
                           "CanvasRenderingContext2D.prototype.quadraticCurveTo = function (...a) "
                           "{ window.curves++; draw.apply(this, a); }")

    def show(k: int) -> int:
        return browser.execute_script("window.curves = 0; const k = document.getElementById('k');"
                                      "k.value = arguments[0]; k.dispatchEvent(new Event('input'));"
                                      "return window.curves", k)
    assert [show(k) for k in (7, 100, 0, 500)] == [7, 100, 0, 500]
    assert show(25) == 25 and "25 of 500" in browser.find_element(By.ID, "count").text
    few = browser.execute_script(picture)
    show(300)
    assert browser.execute_script(picture) != few
    show(25)
    assert browser.execute_script(picture) == few  # the same again: nothing but the number has changed
    head = browser.find_element(By.ID, "head")
    ActionChains(browser).drag_and_drop_by_offset(head, 120, 40).perform()
    turned = browser.execute_script(picture)
    assert turned != few and browser.execute_script("return window.curves") > 25  # drawn anew while it turned
    ActionChains(browser).move_by_offset(60, 0).perform()
    assert browser.execute_script(picture) == turned  # let go of
    browser.find_element(By.ID, "reset").click()
    assert browser.execute_script(picture) != turned
    names = browser.execute_script("return [...document.getElementById('condition').options].map(o => o.text)")
    assert names == ["eyes_open", "eyes_closed", "eyes_closed − eyes_open"]
    # what is drawn first is the strongest pair of the files
    between = np.load(page.parent / "between.npy")[0]
    both = np.nan_to_num(np.triu(between + between.T, 1) / 2)
    names = json.loads((page.parent / "attention.json").read_text())["channels"]
    best = {names[i] for i in np.unravel_index(both.argmax(), both.shape)}
    assert best == set(browser.execute_script("const [i, j] = DATA.conditions[0].pairs[0];"
                                              "return [DATA.channels[i], DATA.channels[j]]"))
    assert requests(browser) == [page.as_uri()] and console_errors(browser) == []


def test_all_files_or_none(tmp_path):
    path = tmp_path / "out"
    with Folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), Folder(path) as folder:
        (folder / "missing/a").write_text("2")
    assert (path / "a").read_text() == "1" and [one.name for one in tmp_path.iterdir()] == ["out"]
    with Folder(path) as folder:
        (folder / "b").write_text("3")
    assert [one.name for one in path.iterdir()] == ["b"]


def test_the_head_page():
    rng = np.random.default_rng(0)
    place = rng.standard_normal((6, 3))
    between = rng.random((6, 6))
    place[5] = np.nan
    page = head_html({"a</script>": between, "b": 2 * between}, list("uvwxyz"), place, "T & T", k=3)
    data = json.loads(page.split("const DATA = ")[1].split(";\n")[0].replace("<\\/", "</"))
    assert [one["name"] for one in data["conditions"]] == ["a</script>", "b", "b − a</script>"]
    assert data["channels"] == list("uvwxy") and "without z" in page and "T &amp; T" in page
    assert page.count("</script>") == 1 and "http" not in page
    (i, j, value), *rest = data["conditions"][0]["pairs"]
    assert value == pytest.approx((between[i, j] + between[j, i]) / 2, rel=1e-4) and len(rest) == 9
    assert all(one[2] <= value for one in rest)
    assert strongest(np.array([[0, -3, 1], [-3, 0, 2], [1, 2, 0.0]]), 2) == [(0, 1, -3.0), (1, 2, 2.0)]
    inside = frame(page).removeprefix('<div><iframe srcdoc="').partition('"')[0]
    assert html.unescape(inside) == page
    with pytest.raises(ValueError, match="3 of 6 channels"):
        head_html({"a": between}, list("uvwxyz"), np.where(np.arange(6)[:, None] < 3, place, np.nan), "t")
    with pytest.raises(ValueError, match="no condition"):
        head_html({}, [], place, "t")


@pytest.mark.slow
def test_the_notebook(xp, outputs, tmp_path, monkeypatch):
    """Of two XPs of one band and one of another; all that it shows is read from their files."""
    pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    from scripts.notebook import execute, to_html
    root = tmp_path / "outputs"
    for sig, highpass in ((SIG, 0), ("5eed", 0), ("ba2d", 4)):
        shutil.copytree(xp.folder, root / "xps" / sig, ignore=shutil.ignore_patterns("attention"))
        file = root / "xps" / sig / "config.json"
        config = json.loads(file.read_text())
        config["dset"]["highpass"] = highpass
        file.write_text(json.dumps(config))
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", root)
    options = ["--split", "test", "--bands", "8-12"]
    main([SIG, "5eed", *options])
    main(["ba2d", *options])
    monkeypatch.setenv("BM_OUTPUTS", str(root))
    monkeypatch.setenv("BM_SIG", f"{SIG},5eed,ba2d")
    book = execute(Path(__file__).parents[1] / "notebook_templates/eeg_attention.ipynb")
    cells = {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}

    def pictures(name: str) -> int:
        return sum("image/png" in output.get("data", {}) for output in cells[name])
    assert {name: pictures(name) for name in cells} == {
        "find": 0, "classes": 2, "people": 2, "bands": 1, "maps": 5, "time": 2, "channels": 2, "deletion": 2,
        "power": 2, "head": 0}
    assert not [output for outputs in cells.values() for output in outputs if output.get("name") == "stderr"]
    page = to_html(book, "attention")
    assert page.count("<iframe srcdoc=") == 2 and "0–15 Hz" in page and "4–15 Hz" in page
