"""HiPlot as a person meets it: the published command and ours, and the page in a browser."""
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.browser import console_errors, requests
from scripts.hiplot import Refused, address, load, main

ROOT = Path(__file__).parents[1]


def make_grid(outputs: Path) -> list[str]:
    """The demo grid as three epochs of training leave it, with invented losses; its signatures."""
    from bm.train import main as train
    from grids._utils import collect
    from grids.demo import explorer
    train.dora.dir = outputs
    folder = outputs / "grids/demo"
    folder.mkdir(parents=True)
    xps = [one.xp for one in collect(explorer)]
    for i, xp in enumerate(xps):
        train.init_xp(xp)
        epochs = [{"train": {"loss": 3.0 - epoch - 0.01 * i}, "valid": {"loss": 3.5 - epoch - 0.01 * i}}
                  for epoch in range(3)]
        epochs[-1]["test"] = {"top10": 0.5 + 0.01 * i, "wer_vocab": 0.4}
        xp.link.history = epochs
        (xp.folder / "history.json").write_text(json.dumps(epochs))
        (folder / xp.sig).symlink_to(xp.folder)
    return [xp.sig for xp in xps]


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    return tmp_path


def test_what_is_not_there_is_said(outputs):
    with pytest.raises(SystemExit, match=r"'demo' is neither a grid that was launched \(there is none yet\) nor"):
        main(["demo"])
    (outputs / "grids/demo").mkdir(parents=True)
    with pytest.raises(Refused, match=r"'dmeo' is neither a grid that was launched \(demo\)"):
        load("dmeo")
    with pytest.raises(Refused, match="explorer=MainPH: grids/_hiplot.py has no such class"):
        load("demo explorer=MainPH")
    with pytest.raises(Refused, match="Invalid param port"):
        load("demo port=3")


def test_address():
    assert address(5005, []) == "http://127.0.0.1:5005/"
    assert address(80, ["demo", "0123abcd"]) == "http://127.0.0.1:80/?hip.load_uri=%22demo%200123abcd%22"


@contextmanager
def server(outputs: Path, *command: str) -> Iterator[int]:
    """A HiPlot server that runs; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(outputs / "server.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", *command, "--port", str(port)], cwd=ROOT, stdout=log,
                                   stderr=log, env={**os.environ, "BM_OUTPUTS": str(outputs)})
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10):
                    break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (outputs / "server.log").read_text()
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_published_command(outputs):
    sigs = make_grid(outputs)
    with server(outputs, "hiplot", "dora.hiplot.load") as port:
        for uri, n in [("demo", 8), ("%20".join(sigs[:2]), 2)]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data?uri={uri}%20explorer=MainHP") as answer:
                points = json.load(answer)["experiment"]["datapoints"]
            assert len(points) == 3 * n and len({point["values"]["sig"] for point in points}) == n


#: how many pixels of each canvas are not empty
DRAWN = """return [...document.querySelectorAll('canvas')].map(c => c.width && c.height ? c.getContext('2d')
    .getImageData(0, 0, c.width, c.height).data.filter((value, i) => i % 4 == 3 && value > 0).length : 0)"""


@pytest.mark.slow
def test_one_file(outputs):
    sigs = make_grid(outputs)
    main(["demo", "--html", str(outputs / "pages/demo.html")])
    page = (outputs / "pages/demo.html").read_text()
    assert all(sig in page for sig in sigs) and "<script src=" not in page


@pytest.mark.slow
def test_the_page(outputs, browser):
    sigs = make_grid(outputs)
    with server(outputs, "scripts.hiplot") as port:
        requests(browser), console_errors(browser)
        browser.get(f"http://127.0.0.1:{port}/")
        field = wait_for(browser, "textarea")
        field.send_keys("demo\n")
        wait_for(browser, "canvas")
        time.sleep(2)  # lines are drawn bit by bit
        labels = browser.find_element("css selector", "svg").text.splitlines()
        assert {"opt.lr", "seed", "feature_model", "valid_loss", "best_loss", "top10", "epoch"} <= set(labels)
        assert {"deep_mel", "(default)", *sigs} <= set(labels)
        assert sum(n > 1000 for n in browser.execute_script(DRAWN)) >= 2  # parallel axes, and losses over epochs
        assert "24/24" in browser.find_element("css selector", "body").text
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in requests(browser))
        assert console_errors(browser) == []
        browser.get(address(port, sigs[:3]))
        wait_for(browser, "canvas")
        assert "9/9" in browser.find_element("css selector", "body").text
        browser.get(address(port, ["nothing"]))
        end = time.monotonic() + 30
        while "'nothing' is neither a grid" not in browser.find_element("css selector", "body").text:
            assert time.monotonic() < end
            time.sleep(0.2)


def wait_for(browser, css: str):
    end = time.monotonic() + 30
    while not (found := browser.find_elements("css selector", css)):
        assert time.monotonic() < end, browser.find_element("css selector", "body").text
        time.sleep(0.2)
    return found[0]
