"""A finished or half-trained XP, read from its folder: never trained, never written to."""
import difflib
import json
import logging
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bm.config import check_config, with_new_keys
from bm.studies.download import offline

if TYPE_CHECKING:
    import pandas as pd

    from bm.solvers.decode import DecodeSolver
    from bm.solvers.encode import EncodeSolver
    from bm.solvers.trf import TrfSolver

logger = logging.getLogger(__name__)


class NotRestorable(Exception):
    """Why the network of an XP cannot be run again here."""


@dataclass(frozen=True)
class StoredXP:
    """What the folder of an XP holds; None where it has no such thing.

    Args:
        folder: named after the signature.
        root: where the relative paths of its config start.
    """

    folder: Path
    root: Path

    @property
    def sig(self) -> str:
        return self.folder.name

    def _json(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config it was made with, which is not always that of `conf/`, but for keys that are newer than it."""
        plain = self._json("config.json")
        if plain is None:
            raise FileNotFoundError(f"{self.folder} has no config.json: it is not the folder of an XP, or of one that "
                                    f"never started (dora run -f {self.sig})")
        return with_new_keys(plain)

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the config by its dotted key."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    @cached_property
    def overrides(self) -> list[str]:
        """Arguments it was run with."""
        return self._json(".argv.json") or []

    @cached_property
    def history(self) -> list[dict[str, dict[str, Any]]]:
        """Metrics of each epoch, by stage."""
        return self._json("history.json") or []

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """Its end; None as long as it is not finished."""
        return self._json("result.json")

    @cached_property
    def ideal(self) -> dict[str, float]:
        """Metrics of the ideal observer (`scripts/ideal_observer.py`), if it was asked."""
        return self._json("ideal_observer.json") or {}

    def require_result(self) -> None:
        """Raises FileNotFoundError if the folder is no XP's, or holds no metrics yet."""
        if not self.config or (not self.history and self.result is None):
            raise FileNotFoundError(f"XP {self.sig} has no result: no epoch of it is done, so there is nothing to "
                                    f"report. Run it first: dora run -f {self.sig}")

    @property
    def test(self) -> dict[str, Any] | None:
        """Test metrics: those of the result, or the last ones so far."""
        if self.result is not None:
            return self.result["test"]
        return next((epoch["test"] for epoch in reversed(self.history) if "test" in epoch), None)

    @cached_property
    def segments(self) -> "pd.DataFrame | None":
        """One row per test segment; the index is its id."""
        import pandas as pd
        path = self.folder / "test_segments.parquet"
        return pd.read_parquet(path) if path.exists() else None

    @cached_property
    def audit(self) -> "pd.DataFrame | None":
        """What each pair of splits shares."""
        import pandas as pd
        path = self.folder / "audit.csv"
        return pd.read_csv(path, keep_default_na=False) if path.exists() else None

    @cached_property
    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint that can be read."""
        import torch
        for path in (self.folder / "checkpoint.th", self.folder / "checkpoint.previous.th"):
            if not path.exists():
                continue
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch has no one error for a damaged file
                logger.warning("%s cannot be read: %s", path, (str(error) or repr(error)).splitlines()[0])
        return None

    def subject_name(self, subject: int | str) -> str:
        """The name of a subject of `segments`: of its number, the one that the checkpoint knows."""
        if isinstance(subject, str):
            return subject
        names = ((self.checkpoint or {}).get("solver", {}).get("spec") or {}).get("subjects", [])
        return names[subject] if 0 <= subject < len(names) else f"subject {subject}"

    def restore(self, device: str = "cpu", batch_size: int | None = None, linear: bool = False) -> "DecodeSolver":
        """A new solver with its data and the state of the last epoch (`use_best` for the best one).

        Args:
            device: as in the config; by default no GPU, as a report runs a few segments.
            batch_size: segments that it works on at once; None: those of the training.
            linear: also ridge regression and backward response functions, which have no network.

        Raises:
            NotRestorable: with the reason.
        """
        from bm.solvers.decode import DecodeSolver
        from bm.solvers.linear import LinearSolver
        from bm.solvers.trf import TrfSolver
        solver = self._rebuild((DecodeSolver, TrfSolver) if linear else (DecodeSolver,), device, batch_size)
        if isinstance(solver, TrfSolver):
            if solver.segments is None:
                raise NotRestorable("it is a response function that was not asked for the segments of decoding "
                                    "(trf.direction=backward trf.candidates=segments)")
            return solver.segments
        if isinstance(solver, LinearSolver) and not linear:
            raise NotRestorable(f"task.type={self.get('task.type')} has no network to run again")
        if solver.best_state is None:
            raise NotRestorable("no epoch is done yet")
        return solver

    def restore_encoder(self, device: str = "cpu") -> "EncodeSolver | TrfSolver":
        """The same of an XP of task encode or trf, with the trials it was made from.

        Raises:
            NotRestorable: with the reason.
        """
        from bm.solvers.encode import EncodeSolver
        from bm.solvers.trf import TrfSolver
        solver = self._rebuild((EncodeSolver, TrfSolver), device)
        if isinstance(solver, EncodeSolver) and solver.best_state is None:
            raise NotRestorable("no epoch is done yet")
        return solver

    def _rebuild(self, kinds: tuple[type, ...], device: str, batch_size: int | None = None) -> Any:
        """A solver of one of `kinds`, built anew, with the stored state."""
        from dora.link import Link

        from bm.solvers import build_solver
        try:
            plain = {**self.config, "device": device, "resident": False, "num_workers": 0}
            if batch_size is not None:
                plain["optim"] = {**plain["optim"], "batch_size": batch_size}
            # a solver writes its audit
            with tempfile.TemporaryDirectory() as scratch, offline():
                solver = build_solver(check_config(plain), Path(scratch), self.root, Link(None))
                if not isinstance(solver, kinds):
                    raise NotRestorable(f"task.type={self.get('task.type')} has no network to run again")
                if self.checkpoint is None:
                    raise NotRestorable("it has no checkpoint that can be read")
                solver.build()
            solver.load_state_dict(self.checkpoint["solver"])
        # the data may have moved or changed, the config or the checkpoint be those of an older version
        except (ValueError, KeyError, RuntimeError, FileNotFoundError) as error:
            logger.warning("XP %s cannot be run again: %s", self.sig, error)
            raise NotRestorable(str(error).splitlines()[0][:300]) from error
        return solver

    @cached_property
    def _restored(self) -> "DecodeSolver | str":
        try:
            return self.restore()
        except NotRestorable as error:
            return str(error)

    def restored(self) -> "DecodeSolver":
        """That of `restore`, made once for all sections of a report.

        Raises:
            NotRestorable: with the reason.
        """
        if isinstance(self._restored, str):
            raise NotRestorable(self._restored)
        return self._restored


def find_xp(sig: str) -> StoredXP:
    """The XP of a signature, by its folder: today's `conf/` is not asked.

    Raises:
        FileNotFoundError: no such XP; names those with a signature like it.
    """
    from dora.git_save import to_absolute_path
    from dora.xp import XP

    from bm.train import main
    folder = XP(dora=main.dora, cfg=None, argv=[], sig=sig).folder
    if not sig or not folder.is_dir():
        known = sorted(path.name for path in folder.parent.glob("*") if path.is_dir()) if sig else []
        near = difflib.get_close_matches(sig, known, n=5, cutoff=0.4) or known[:5]
        hint = f"; near it: {', '.join(near)} (of {len(known)})" if near else ": there is none yet (dora run)"
        raise FileNotFoundError(f"no XP {sig!r} in {folder.parent}{hint}")
    return StoredXP(folder, Path(to_absolute_path(".")))
