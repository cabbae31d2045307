"""The report as a person meets it: the command, then the page in a browser. And the command that takes pictures."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bm.solvers.test_decode import TINY
from scripts.browser import console_errors, requests
from scripts.report import main
from scripts.screenshot import screenshot

ROOT = Path(__file__).parents[1]
SECTIONS = ["Experiment", "Test", "Subjects", "Controls", "Retrieved segments", "Sensors", "Features", "Training",
            "Leak audit", "Config", "Environment"]


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    (tmp_path / "xps").mkdir()
    return tmp_path / "xps"


def test_wrong_arguments_say_what_is_known(outputs):
    with pytest.raises(SystemExit, match="there is none yet"):
        main(["abcdef01"])
    (outputs / "abcdef02").mkdir()
    with pytest.raises(SystemExit, match="no XP 'abcdef01' .*near it: abcdef02"):
        main(["abcdef01"])
    with pytest.raises(SystemExit, match="no config.json"):
        main(["abcdef02"])
    with pytest.raises(SystemExit, match="--skip 'Sensor': no such section; did you mean 'Sensors'"):
        main(["abcdef02", "--skip", "Sensor"])


def test_output_and_skip(outputs, tmp_path, capsys):
    folder = outputs / "abcdef03"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"optim": {"epochs": 9}}))
    (folder / "history.json").write_text(json.dumps([{"train": {"loss": 1.0}, "valid": {"loss": 2.0}}]))
    path = main(["abcdef03", "--output", str(tmp_path / "sub/page.html"), "--skip", "Config", "Environment"])
    page = path.read_text()
    assert "1 of at most 9 epochs are done" in page and "Whole config" not in page and "Versions" not in page
    assert "page.html" in capsys.readouterr().out and not (folder / "report.html").exists()


def test_a_picture_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.html"):
        screenshot(tmp_path / "nothing.html", tmp_path / "x.png")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a small XP, made by the commands of the README."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "BM_OUTPUTS": str(home / "outputs"), "BM_CACHE": str(home / "cache"),
                   "BM_DATA": str(home / "data")}

    def command(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("dora", "run", *TINY, "optim.epochs=2")
    (folder,) = (home / "outputs/xps").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    begin = time.monotonic()
    assert "report.html" in command("scripts.report", folder.name)
    assert time.monotonic() - begin < 40
    # a report reads an XP and leaves it as it was
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "report.html"} == before
    return folder / "report.html"


@pytest.mark.slow
def test_the_page_in_a_browser(browser, report):
    assert report.stat().st_size < 5e6
    requests(browser), console_errors(browser)  # whatever came before
    browser.get(report.as_uri())
    seen = browser.execute_script(
        "return {images: [...document.querySelectorAll('#content img')].map(i => [i.alt, i.complete && i.naturalWidth,"
        " i.getBoundingClientRect().width]),"
        " tables: [...document.querySelectorAll('#content table')].map(t => [t.rows.length, t.offsetHeight]),"
        " toc: [...document.querySelectorAll('#toc-navbar a')].map(a => a.textContent.trim()), text: "
        " document.querySelector('#content').innerText}")
    assert seen["toc"] == SECTIONS
    names = [name for name, *_ in seen["images"]]
    assert names == ["Accuracy by number of guesses", "Accuracy by subject", "Spatial attention",
                     "Features over time", "Training and validation"]
    assert all(width > 300 and shown > 300 for _, width, shown in seen["images"])
    assert len(seen["tables"]) == 12 and all(rows >= 1 and height > 20 for rows, height in seen["tables"])
    test = json.loads((report.parent / "result.json").read_text())["test"]
    assert f"{100 * test['top10']:.1f} % (chance {100 * test['top10_chance']:.1f} %, {test['n']} test segments)" in \
        seen["text"]
    assert "median: rank" in seen["text"] and "No map" not in seen["text"] and "not shown" not in seen["text"]
    # the config is folded, and unfolds
    assert "merger_channels: 24" not in seen["text"]
    browser.execute_script("document.querySelector('details > summary').click()")
    assert "merger_channels: 24" in browser.execute_script("return document.querySelector('details').innerText")
    assert requests(browser) == [report.as_uri()]
    assert console_errors(browser) == []


@pytest.mark.slow
def test_the_browser_tells_of_requests_and_errors(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<h1>x</h1><img src='http://example.org/a.png'><script>throw new Error('broken')</script>")
    requests(browser), console_errors(browser)
    browser.get(page.as_uri())
    assert requests(browser) == [page.as_uri(), "http://example.org/a.png"]
    errors = console_errors(browser)
    assert any("broken" in error for error in errors)
    assert any("ERR_NAME_NOT_RESOLVED" in error for error in errors)  # nothing leaves this machine


@pytest.mark.slow
def test_a_picture_of_a_section(browser, report, tmp_path):
    from PIL import Image
    picture = Image.open(screenshot(report, tmp_path / "pictures/report.png", 800, 500, at="Sensors"))
    assert picture.size == (800, 500) and len(picture.getcolors()) > 20
    with pytest.raises(ValueError, match="no heading with the text 'Nowhere'"):
        screenshot(report, tmp_path / "x.png", at="Nowhere")
