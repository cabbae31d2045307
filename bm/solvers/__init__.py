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
    if cfg.task.type == "classify":
        if cfg.classify.method == "network":
            from bm.solvers.classify import ClassifySolver
            return ClassifySolver(cfg, folder, root, link)
        from bm.solvers.classify_baseline import BaselineSolver
        return BaselineSolver(cfg, folder, root, link)
    if cfg.task.type == "ridge":
        from bm.solvers.voxelwise import VoxelwiseSolver
        return VoxelwiseSolver(cfg, folder, root, link)
    if cfg.task.type == "rsa":
        from bm.solvers.rsa import RSASolver
        return RSASolver(cfg, folder, root, link)
    if cfg.task.type == "encode" and cfg.model_name != "encoder":
        from bm.solvers.prompt import PromptSolver
        return PromptSolver(cfg, folder, root, link)
    if cfg.task.type == "encode":
        from bm.solvers.encode import EncodeSolver
        return EncodeSolver(cfg, folder, root, link)
    if cfg.task.type == "trf":
        from bm.solvers.trf import TrfSolver
        return TrfSolver(cfg, folder, root, link)
    from bm.solvers.decode import DecodeSolver
    return {"decode": DecodeSolver}[cfg.task.type](cfg, folder, root, link)
