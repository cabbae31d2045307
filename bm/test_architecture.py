"""Who may import whom: one direction only (docs/architecture.md)."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
BASE = {"batch", "store", "config", "events", "progress"}
ALLOWED = {
    "batch": set(), "distrib": set(), "flat": set(), "progress": set(),
    "store": set(), "store_tools": {"store", "flat"},
    "schema_parts": set(), "schema": {"schema_parts"},
    "config": {"schema", "flat"}, "events": {"store"},
    "studies": BASE, "splits": BASE | {"studies"}, "features": BASE | {"studies", "splits"},
    "data": BASE | {"studies", "splits", "features"},
    "models": {"batch"}, "losses": {"batch", "models"}, "metrics": {"batch", "models", "losses"},
    "linear": {"batch", "metrics"},
    "networks": {"batch", "config", "models", "losses"},
    "solvers": BASE | {"distrib", "studies", "splits", "features", "data", "models", "losses", "metrics", "linear",
                       "networks"},
    "xp_lock": set(),
    "xp_main": {"config", "xp_lock"},
    "train": BASE | {"studies", "solvers", "xp_main", "xp_lock"},
}
TOP = {"bench", "analysis", "conftest"}


def imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" if node.module == "bm" else node.module for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("bm.")}
    return rooms


def test_imports_go_one_way():
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).with_suffix("").parts[0]
        if path.name.startswith("test_") or room in TOP or room == "__init__":
            continue
        forbidden = imports(path) - ALLOWED[room] - {room}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_files_stay_small():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 430, f"{path} is too long: split it"


@pytest.mark.parametrize("module", ["bm.config", "bm.batch", "bm.store"])
def test_light_modules_stay_light(module):
    code = f"import sys, {module}; print([m for m in ('mne', 'transformers', 'torchaudio', 'scipy.signal') " \
           "if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_nothing_heavy_before_the_first_line():
    code = "import sys, bm.train; print([m for m in ('mne', 'transformers', 'torchaudio', 'scipy', 'pandas', " \
           "'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
