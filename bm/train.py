"""The Dora entry point: config in, metrics out. `dora run`, `dora grid` and SLURM jobs all come here."""
import logging
import os
import traceback
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


def is_for_user(error: Exception) -> bool:
    """Whether the message says all: bm itself raises it on purpose, about data or config, before the first epoch.

    What a library or an operation raises is a fault that only a traceback explains, of whatever type it is.
    """
    from bm.studies.download import DownloadError
    if isinstance(error, DownloadError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return (isinstance(error, (ValueError, FileNotFoundError, KeyError, ImportError)) and bool(error.args)
            and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
            and (frames[-1].line or "").startswith("raise ")
            and "run_epoch" not in [frame.name for frame in frames])


def log_to_files(error: Exception) -> None:
    """The whole traceback to the log files, where the screen has one line."""
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "this run ends:", (),
                               (type(error), error, error.__traceback__))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


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
        if not is_for_user(error) or "1" in (os.environ.get("HYDRA_FULL_ERROR"), os.environ.get("BM_TRACEBACK")):
            raise
        log_to_files(error)
        raise SystemExit(str(error.args[0] if isinstance(error, KeyError) else error)) from None


if __name__ == "__main__":
    main()
