"""What every XP that trains has in common: stages, history, checkpoint, resume, progress."""
import copy
import json
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from bm import distrib
from bm.config import Config
from bm.solvers.loggers import make_loggers

logger = logging.getLogger(__name__)

T = TypeVar("T")
Metrics = dict[str, Any]


class Progress(Generic[T]):
    """Iterates over batches and logs `updates` lines with speed and time left.

    Args:
        name: of the stage.
        batches: with a length.
        updates: lines to log.
        epoch: "epoch 3/20", put in front.
    """

    def __init__(self, name: str, batches: Iterable[T], total: int, updates: int, epoch: str) -> None:
        self.name, self.batches, self.total, self.epoch = name, batches, total, epoch
        self.every = max(1, math.ceil(total / updates))
        self.metrics: Metrics = {}

    def __iter__(self) -> Iterator[T]:
        begin = time.monotonic()
        for done, batch in enumerate(self.batches, 1):
            yield batch
            if done % self.every == 0 and done < self.total:
                speed = done / (time.monotonic() - begin)
                logger.info("%s | %s %d/%d | %.1f batches/s, %s left | %s", self.epoch, self.name, done, self.total,
                            speed, duration((self.total - done) / speed), show(self.metrics))


def duration(seconds: float) -> str:
    """"42 s", "3 min 20 s" or "5 h 12 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def show(metrics: Metrics) -> str:
    """Metrics on one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Solver(ABC):
    """One XP: trains epoch by epoch, keeps the best state, resumes exactly, tests at the end.

    Subclasses build their parts in `build`, and give `train_epoch`, `valid_epoch`, `test`, `state_dict` and
    `load_state_dict` (which hold all that the next epoch depends on), `keep_best` and `use_best`.

    Args:
        cfg: the checked config.
        folder: of the XP: checkpoint.th, history.json, result.json.
        root: where the config's relative paths start.
        link: Dora's; metrics are pushed to it.
    """

    def __init__(self, cfg: Config, folder: Path, root: Path, link: Any) -> None:
        self.cfg, self.folder, self.root, self.link = cfg, folder, root, link
        self.device = pick_device(cfg.device)
        distrib.init(self.device)
        if self.device.type == "cpu":
            # else the gradients of indexed parameters are summed in the order in which threads arrive
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.best_loss, self.best_epoch, self.last_test_epoch = math.inf, 0, 0
        self.last_test: Metrics = {}

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.link.history)

    @abstractmethod
    def prepare(self) -> None:
        """Downloads and prepares the data, nothing else (`download_only=true`)."""

    @abstractmethod
    def build(self) -> None:
        """Makes data, model, loss and optimiser: all that is slow."""

    @abstractmethod
    def train_epoch(self, epoch: int) -> Metrics:
        """One epoch (from 1); returns metrics with `loss`."""

    @abstractmethod
    def valid_epoch(self, epoch: int) -> Metrics:
        """Metrics with `loss`, on the valid split."""

    @abstractmethod
    def test(self) -> Metrics:
        """Metrics of the current state on the test split."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors: all that the next epoch depends on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    @abstractmethod
    def keep_best(self) -> None:
        """Remembers the current state as the best."""

    @abstractmethod
    def use_best(self) -> Any:
        """A context manager: the best state inside it, the current one after."""

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.th"

    def run(self) -> Metrics | None:
        """Trains until the end and returns the test metrics; at once if the XP is already finished."""
        if self.result_path.exists() and not self.cfg.show:
            result = json.loads(self.result_path.read_text())
            logger.info("this XP is finished (best epoch %d of %d): nothing to do; --clear starts it anew. %s",
                        result["best_epoch"], result["epochs"], show(result["test"]))
            return result["test"]
        begin = time.monotonic()
        self.build()
        if self.cfg.show:
            return None
        self.restore()
        logger.info("ready after %s", duration(time.monotonic() - begin))
        loggers = make_loggers(self.cfg, self.folder, self.epoch + 1) if distrib.is_master() else []
        try:
            while not self.finished(self.epoch):
                self.run_epoch(self.epoch + 1)
                for other in loggers:
                    other.log(self.link.history[-1], self.epoch)
        finally:
            for other in loggers:
                other.close()
        if distrib.is_master():
            write_atomic(self.result_path, json.dumps({
                "epochs": self.epoch, "best_epoch": self.best_epoch, "best_loss": self.best_loss,
                "test": self.last_test}, indent=2).encode())
        return self.last_test

    def finished(self, epoch: int) -> bool:
        """Whether training ends after `epoch`: it was the last, or the validation loss has stopped falling."""
        patience = self.cfg.early_stop_patience
        stalled = patience > 0 and epoch > 0 and epoch >= self.best_epoch + patience
        return epoch >= self.cfg.optim.epochs or stalled

    def run_epoch(self, epoch: int) -> None:
        """Trains, validates, tests when due, and commits."""
        metrics: Metrics = {}
        for name, stage in [("train", self.train_epoch), ("valid", self.valid_epoch)]:
            begin = time.monotonic()
            metrics[name] = stage(epoch)
            metrics[name]["duration"] = time.monotonic() - begin
        # NaN is never below: a model that diverges does not become the best
        if metrics["valid"]["loss"] < self.best_loss:
            self.best_loss, self.best_epoch = metrics["valid"]["loss"], epoch
            self.keep_best()
        metrics["valid"]["best"] = self.best_loss
        logger.info("epoch %d/%d | train %s | valid %s", epoch, self.cfg.optim.epochs, show(metrics["train"]),
                    show(metrics["valid"]))
        if self.best_epoch == 0:
            raise FloatingPointError(f"the validation loss of epoch {epoch} is {metrics['valid']['loss']}: the model "
                                     "diverged; lower optim.lr, or look for extreme values in the data")
        due = epoch % self.cfg.eval_every == 0 or self.finished(epoch)
        if due and self.best_epoch > self.last_test_epoch:
            begin = time.monotonic()
            with self.use_best():
                self.last_test = self.test()
            metrics["test"] = {**self.last_test, "duration": time.monotonic() - begin}
            self.last_test_epoch = epoch
            logger.info("epoch %d/%d | test of epoch %d: %s", epoch, self.cfg.optim.epochs, self.best_epoch,
                        show(self.last_test))
        self.link.push_metrics(metrics)
        self.save()

    def save(self) -> None:
        """Writes the checkpoint; the one before is kept beside it."""
        import io
        state = {"solver": self.state_dict(), "history": self.link.history, "best_loss": self.best_loss,
                 "best_epoch": self.best_epoch, "last_test_epoch": self.last_test_epoch, "last_test": self.last_test,
                 "rng": distrib.gather_objects(rng_state())}
        if not distrib.is_master():
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        if self.checkpoint_path.exists():
            os.replace(self.checkpoint_path, self.folder / "checkpoint.previous.th")
        write_atomic(self.checkpoint_path, buffer.getvalue())

    def restore(self) -> None:
        """Continues from the checkpoint, if there is one; a corrupt one is named and the one before is used."""
        for path in (self.checkpoint_path, self.folder / "checkpoint.previous.th"):
            if not path.exists():
                continue
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch has no one error for a damaged file
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                logger.warning("%s cannot be read (%s): trying the one before", path, reason)
                continue
            self.load_state_dict(state["solver"])
            self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
            self.last_test_epoch, self.last_test = state["last_test_epoch"], state["last_test"]
            self.link.update_history(state["history"])
            if len(state["rng"]) == distrib.world_size():
                load_rng_state(state["rng"][distrib.rank()])
            else:
                logger.warning("this XP was trained by %d processes so far, now by %d: it goes on, but not with the "
                               "same random numbers", len(state["rng"]), distrib.world_size())
            logger.info("resumed after epoch %d from %s", self.epoch, path.name)
            return
        if self.checkpoint_path.exists():
            logger.warning("no checkpoint of this XP can be read: starting anew")
        self.link.update_history([])
        if self.cfg.continue_sig is not None:
            self.start_from(self.other_state(self.cfg.continue_sig))

    def start_from(self, state: dict[str, Any]) -> None:
        """Takes over the weights in another XP's `state_dict` (`continue_sig`); optimiser and history are new."""
        raise ValueError(f"continue_sig: task.type={self.cfg.task.type} cannot start from another XP")

    def other_state(self, sig: str) -> dict[str, Any]:
        """The solver's state of the XP `sig`, which lies beside this one.

        Raises:
            FileNotFoundError: there is no such XP, or it has no checkpoint yet.
        """
        path = self.folder.parent / sig / "checkpoint.th"
        if not path.exists():
            known = sorted(other.parent.name for other in self.folder.parent.glob("*/checkpoint.th"))
            raise FileNotFoundError(f"continue_sig={sig}: no checkpoint.th of it in {path.parent}; XPs with one: "
                                    f"{', '.join(known) or 'none'}")
        return torch.load(path, map_location="cpu", weights_only=True)["solver"]


class BestWeights:
    """`keep_best` and `use_best` of a solver whose state is that of networks, `modules`."""

    modules: nn.Module
    best_state: dict[str, Tensor] | None

    def keep_best(self) -> None:
        self.best_state = {name: value.detach().cpu().clone() for name, value in self.modules.state_dict().items()}

    @contextmanager
    def use_best(self) -> Iterator[None]:
        current = copy.deepcopy(self.modules.state_dict())
        if self.best_state is None:
            raise RuntimeError("no epoch is done yet, so there is no best state")
        self.modules.load_state_dict(self.best_state)
        try:
            yield
        finally:
            self.modules.load_state_dict(current)


def pick_device(name: str) -> torch.device:
    """The device of `device=…`; "auto" is cuda where there is one.

    Raises:
        ValueError: a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but torch finds no GPU here: use device=auto or device=cpu")
    return device


def rng_state() -> dict[str, Any]:
    """State of torch's random streams (all others are made anew from seed and epoch)."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def load_rng_state(state: dict[str, Any]) -> None:
    """The inverse of `rng_state`; GPUs are skipped when their number has changed."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
