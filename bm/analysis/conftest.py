"""A trained XP for the tests of what reads XPs."""
import json
import os
from pathlib import Path
from typing import Any

import pytest
from dora.link import Link
from filelock import FileLock
from hydra import compose, initialize_config_dir

from bm.analysis.xp import StoredXP
from bm.config import check_config, to_plain
from bm.solvers import build_solver
from bm.solvers.test_decode import CONF, TINY


def tiny_config(*overrides: str) -> dict[str, Any]:
    """The config of a small XP, as plain data."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", [*TINY, "cache=cache", "study_paths.simulated=data/simulated", *overrides]))


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> StoredXP:
    """Two simulated people, four epochs: made once for all processes that test. Nobody writes into it."""
    home = tmp_path_factory.getbasetemp()
    root = (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "trained_xp"
    folder = root / "outputs/xps/0a1b2c3d"
    with FileLock(f"{root}.lock"):
        if not (folder / "result.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            plain = tiny_config()
            (folder / "config.json").write_text(json.dumps(plain))
            build_solver(check_config(plain), folder, root, Link(folder / "history.json")).run()
    return StoredXP(folder, Path(root))
