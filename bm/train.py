"""The Dora entry point: config in, metrics out. `dora run`, `dora grid` and SLURM jobs all come here."""
import logging
import os
from pathlib import Path

from dora import get_xp
from dora.git_save import to_absolute_path
from dora.link import Link
from omegaconf import DictConfig

from bm.config import Config, check_config, to_plain
from bm.xp_lock import note_failure
from bm.xp_main import checked_main

logger = logging.getLogger(__name__)


def run(cfg: Config, folder: Path, root: Path, link: Link) -> dict | None:
    """Runs the XP of `cfg` in `folder`; relative paths of the config start at `root`. Returns the test metrics."""
    from bm.solvers import build_solver
    solver = build_solver(cfg, folder, root, link)
    if cfg.download_only:
        solver.prepare()
        return None
    return solver.run()


@checked_main(config_name="config", config_path="../conf", version_base="1.3")
def main(cfg: DictConfig) -> dict | None:
    """Entry point of one XP."""
    xp = get_xp()
    checked = check_config(to_plain(cfg))
    logging.getLogger("bm").setLevel(logging.DEBUG if checked.verbose else logging.INFO)
    logger.info("XP %s in %s: %s", xp.sig, os.path.relpath(xp.folder), " ".join(xp.argv) or "the base config")
    # in a clone made by git_save, relative paths still start where the command was typed
    try:
        return run(checked, xp.folder, Path(to_absolute_path(".")), xp.link)
    except Exception as error:  # Hydra prints it and ends the process
        note_failure(xp.folder, error)
        from bm.studies.download import DownloadError
        if isinstance(error, DownloadError):  # nothing that a traceback would explain
            raise SystemExit(str(error)) from None
        raise


if __name__ == "__main__":
    main()
