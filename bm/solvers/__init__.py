"""One solver per task; `build_solver` picks it from the config."""
from pathlib import Path
from typing import Any

from bm.config import Config
from bm.solvers.base import Solver


def build_solver(cfg: Config, folder: Path, root: Path, link: Any) -> Solver:
    """The solver of `task.type`, not yet built (see `Solver.build`)."""
    if cfg.task.type.startswith("linear"):
        from bm.solvers.linear import LinearSolver
        return LinearSolver(cfg, folder, root, link)
    from bm.solvers.decode import DecodeSolver
    return {"decode": DecodeSolver}[cfg.task.type](cfg, folder, root, link)
