"""Dora's Hydra entry point, with the config checked as soon as it is composed and errors in one line.

Every command passes here (`dora run`, `dora grid`, `dora info`), so a typo in a grid is found before a job is sent.
"""
import copy
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dora.distrib import get_distrib_spec
from dora.hydra import HydraMain
from dora.xp import XP, get_xp, is_xp
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bm.config import ConfigError, check_config, check_stored, nearest, to_plain, unknown_key
from bm.xp_lock import busy_message, hold, is_running


def _login(original: Callable[[], str] = os.getlogin) -> str:
    try:
        return original()
    except OSError:  # no terminal: a job, a container, CI
        return getpass.getuser()


# Dora asks whose jobs to look for, when it was killed while it sent some
os.getlogin = _login


class CheckedMain(HydraMain):
    """`dora.hydra.HydraMain` that refuses a bad config in one clear line."""

    # Dora would compose a grid's configs in other processes, whose errors come back as tracebacks; one is fast enough
    _slow = False

    def get_xp(self, argv: Sequence[str]) -> XP:
        for arg in argv:
            if "=" not in arg:
                raise ConfigError(f"config: cannot read the argument {arg!r}: expected key=value")
            if arg.lstrip("+").startswith(("slurm.", "dora.")):  # Dora would go on without it
                raise ConfigError(f"config: {arg!r} has no effect on an XP: set it in conf/config.yaml, or slurm's in "
                                  "a grid, by launcher.slurm_(…)")
        try:
            xp = super().get_xp(argv)
        except AssertionError as error:  # Dora's, which compares each section with the one that a preset composes
            if "Structure of config" not in str(error):
                raise
            raise ConfigError(f"config: {_section(str(error), argv)} replaces a section of the config by something "
                              "else, where Dora needs its keys: set these (key.of.section=…), or choose another preset "
                              "or none, which leaves it out") from None
        check_config(to_plain(xp.cfg))
        if "run" in sys.argv and "--clear" in sys.argv and is_running(xp.folder):
            raise ConfigError(busy_message(xp.folder))  # Dora is about to remove the folder
        return xp

    def init_xp(self, xp: XP) -> XP:
        """Makes the XP's folder and stores its config; refuses one that was made with another."""
        plain = to_plain(xp.cfg)
        check_stored(xp.folder, xp.sig, plain, xp.dora.exclude)
        return super().init_xp(xp)

    def _main(self) -> Any:
        if not is_xp():
            return super()._main()
        spec = get_distrib_spec()
        with hold(get_xp().folder, spec.rank, spec.world_size):  # before Hydra opens the log
            return super()._main()

    def _get_config_noinit(self, overrides: Sequence[str] = ()) -> DictConfig:
        # composing takes 0.2 s, setting values in what is composed 0.02 s; a grid asks for hundreds of configs
        groups, values = self._split(overrides)
        known = self.__dict__.setdefault("_composed", {})
        if tuple(groups) not in known:
            try:
                known[tuple(groups)] = super()._get_config_noinit(groups)
            except (HydraException, ValueError) as error:  # a bare ValueError for group=null
                raise ConfigError(self._unknown_choice(groups) or _one_line(error, groups)) from None
        cfg = copy.deepcopy(known[tuple(groups)])
        try:
            for value in values:
                OmegaConf.update(cfg, value.key_or_group, value.value(), merge=True)
        except OmegaConfBaseException:  # Hydra's words for it are known below
            try:
                return super()._get_config_noinit(list(overrides))
            except HydraException as error:
                raise ConfigError(_one_line(error, overrides)) from None
        return cfg

    def _split(self, overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
        """Overrides that choose what is composed, and those that only change a value of it afterwards."""
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
        except HydraException as error:
            raise ConfigError(_one_line(error, overrides)) from None
        known = set(self._config_groups) if overrides else set()
        groups, values = [], []
        for text, override in zip(overrides, parsed, strict=True):
            key = override.key_or_group
            if (key in known or override.package is not None or key.startswith("hydra") or override.is_add()
                    or override.is_force_add() or override.is_delete() or override.is_sweep_override()):
                groups.append(text)
            else:
                values.append(override)
        return groups, values

    def _unknown_choice(self, overrides: Sequence[str]) -> str:
        """One line about the first group with choices that it does not have; empty if there is none."""
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            group, value = override.key_or_group, override.value()
            known = sorted(path.stem for path in (self.full_config_path / group).glob("*.yaml"))
            wrong = [name for name in (value if isinstance(value, list) else [value])
                     if isinstance(name, str) and name not in known]
            if known and value is None:
                return f"config: {override.input_line}: leave {group} out, or choose one of {', '.join(known)}"
            if known and wrong:
                return "config: " + "".join(f"unknown {group} {name!r}{nearest(name, known) or ';'} " for name in wrong
                                            ) + f"known: {', '.join(known)}"
        return ""


def _section(error: str, argv: Sequence[str]) -> str:
    """The argument that Dora means by "Wrong type for NAME", or NAME."""
    name = error.partition("Wrong type for ")[2].partition(",")[0]
    return next((repr(arg) for arg in argv if arg.partition("=")[0].rpartition(".")[2] == name), name)


def _one_line(error: Exception, overrides: Sequence[str]) -> str:
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    for arg in overrides:
        name, _, value = arg.partition("=")
        key = name.lstrip("+")
        if any(f"Could not override '{key}'" in line or f"Key '{key}' is not in struct" in line for line in lines):
            return unknown_key(key, value)
    return "config: " + " ".join(lines[:3])


def checked_main(config_name: str, config_path: str, **kwargs):
    """Decorator for the training function; same arguments as `dora.hydra_main`."""
    return lambda main: CheckedMain(main, config_name=config_name, config_path=config_path, **kwargs)
