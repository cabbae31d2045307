"""The commands of the README, really run."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bm.solvers.test_decode import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BM_OUTPUTS": str(home / "outputs"), "BM_CACHE": str(home / "cache"),
            "BM_DATA": str(home / "data")}


def dora(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dora", *arguments], cwd=ROOT, env=environment(home),
                          capture_output=True, text=True)


def run(home: Path, *overrides: str) -> tuple[str, str]:
    """Signature and log of `dora run`."""
    done = dora(home, "run", *TINY, *overrides)
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    return log.split("XP ")[1].split(" ")[0], log


def test_run_again_finds_it_another_seed_does_not(home):
    sig, log = run(home)
    assert "epoch 4/4 | test of epoch" in log and "leak audit" in log
    begin = time.monotonic()
    again, log = run(home)
    assert again == sig and "this XP is finished" in log and "| train" not in log
    assert time.monotonic() - begin < 20
    other, log = run(home, "seed=7", "optim.epochs=1")
    assert other != sig and "test of epoch" in log
    # what does not change the result does not change the signature
    assert run(home, "num_workers=1", "num_prints=2", "verbose=1")[0] == sig


def test_info_clear_and_by_signature(home):
    sig, _ = run(home)
    info = dora(home, "info", "-f", sig)
    assert info.returncode == 0 and sig in info.stdout + info.stderr
    found = dora(home, "run", "-f", sig)
    assert "this XP is finished" in found.stdout + found.stderr
    anew = dora(home, "run", "-f", sig, "--clear")
    assert "epoch 4/4 | test of epoch" in anew.stdout + anew.stderr


def test_a_changed_base_config_is_refused(home):
    sig, _ = run(home)
    path = home / "outputs/xps" / sig / "config.json"
    stored = json.loads(path.read_text())
    stored["optim"]["beta2"] = 0.99  # as if conf/config.yaml had said so when the XP was made
    path.write_text(json.dumps(stored))
    done = dora(home, "run", *TINY)
    assert done.returncode != 0 and "optim.beta2: 0.99 → 0.999" in done.stderr and "--clear" in done.stderr
    stored["optim"]["beta2"] = 0.999
    path.write_text(json.dumps(stored))


def test_show_and_download_only(home):
    before = set((home / "outputs/xps").iterdir())
    for override, said in {"show=1": "SimpleConv(", "download_only=true": "leak audit"}.items():
        done = dora(home, "run", *TINY, "dummy=look", override)
        assert done.returncode == 0 and said in done.stdout + done.stderr
    (folder,) = set((home / "outputs/xps").iterdir()) - before
    assert not (folder / "checkpoint.th").exists()


def test_killed_at_any_moment_it_ends_the_same(home):
    sig, _ = run(home)
    folder = home / "outputs/xps" / sig
    expected = json.loads((folder / "history.json").read_text())
    rng = random.Random(os.environ.get("BM_KILL_SEED", "3"))
    command = [sys.executable, "-m", "dora", "run", *TINY, "dummy=killed"]
    outputs = home / "outputs/xps"
    before = set(outputs.iterdir())
    kills = 0
    while True:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=rng.uniform(4, 9) if kills < 4 else 120)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode == 0
    (mine,) = set(outputs.iterdir()) - before
    history = json.loads((mine / "history.json").read_text())
    for epoch in [*history, *expected]:
        for stage in epoch.values():
            stage.pop("duration")
    assert history == expected


def test_ideal_observer_refuses_what_it_cannot_know(home):
    done = subprocess.run([sys.executable, "-m", "scripts.ideal_observer", "00000000"], cwd=ROOT,
                          env=environment(home), capture_output=True, text=True)
    assert done.returncode != 0 and "00000000" in done.stderr


@pytest.mark.slow
def test_the_demo(home):
    """`make demo` as it is, but for the installation."""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "scripts.demo"], cwd=ROOT, env=environment(home / "demo"),
                          capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 480
    (folder,) = (home / "demo/outputs/xps").iterdir()
    test = json.loads((folder / "result.json").read_text())["test"]
    assert test["n_candidates"] >= 200
    assert test["top10_low"] >= 5 * test["top10_chance"]
    ideal = json.loads((folder / "ideal_observer.json").read_text())
    assert test["top10"] < ideal["top10"]
    assert "decoder / ideal" in done.stdout
