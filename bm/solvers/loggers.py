"""An XP's metrics in TensorBoard or Weights & Biases, beside its own history; both off by default."""
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from bm.config import Config


class Logger(Protocol):
    """Where metrics are also sent."""

    def log(self, metrics: dict[str, dict[str, Any]], epoch: int) -> None:
        """The metrics of every stage of one epoch (from 1)."""

    def close(self) -> None:
        """Writes what is still held back."""


def curves(metrics: dict[str, dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """`("train/loss", 1.2)` and so on, for every metric that is a number."""
    for stage, values in metrics.items():
        for name, value in values.items():
            if isinstance(value, int | float):
                yield f"{stage}/{name}", value


class TensorBoard:
    """Event files in `folder`. Epochs from `epoch` on, that an interrupted run has already written, are replaced."""

    def __init__(self, folder: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard=true needs the package tensorboard: pip install 'bm[log]'") from error
        self.writer = SummaryWriter(str(folder), purge_step=epoch)

    def log(self, metrics: dict[str, dict[str, Any]], epoch: int) -> None:
        for name, value in curves(metrics):
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One run per XP, named by its signature; a resumed XP continues its run."""

    def __init__(self, cfg: Config, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb.use_wandb=true needs the package wandb: pip install 'bm[log]'") from error
        options = cfg.wandb
        self.run = wandb.init(project=options.project, group=options.group, name=folder.name, id=folder.name,
                              resume="allow", dir=str(folder), mode=options.mode, config=cfg.model_dump())

    def log(self, metrics: dict[str, dict[str, Any]], epoch: int) -> None:
        self.run.log(dict(curves(metrics)), step=epoch)

    def close(self) -> None:
        self.run.finish()


def make_loggers(cfg: Config, folder: Path, epoch: int) -> list[Logger]:
    """The loggers that the config asks for, of an XP in `folder` whose next epoch is `epoch`.

    Errors: ImportError if their package is not installed.
    """
    loggers: list[Logger] = []
    if cfg.tensorboard:
        loggers.append(TensorBoard(folder / "tensorboard", epoch))
    if cfg.wandb.use_wandb:
        loggers.append(WeightsAndBiases(cfg, folder))
    return loggers
