"""Dora's Hydra entry point, with the config checked as soon as it is composed and errors in one line.

Every command passes here (`dora run`, `dora grid`, `dora info`), so a typo in a grid is found before a job is sent.
"""
import copy
from collections.abc import Sequence

from dora.hydra import HydraMain
from dora.xp import XP
from hydra.errors import HydraException
from omegaconf import DictConfig

from bm.config import ConfigError, check_config, check_stored, to_plain, unknown_key


class CheckedMain(HydraMain):
    """`dora.hydra.HydraMain` that refuses a bad config in one clear line."""

    def get_xp(self, argv: Sequence[str]) -> XP:
        for arg in argv:
            if "=" not in arg:
                raise ConfigError(f"config: cannot read the argument {arg!r}: expected key=value")
        xp = super().get_xp(argv)
        check_config(to_plain(xp.cfg))
        return xp

    def init_xp(self, xp: XP) -> XP:
        """Makes the XP's folder and stores its config; refuses one that was made with another."""
        plain = to_plain(xp.cfg)
        check_stored(xp.folder, xp.sig, plain, xp.dora.exclude)
        return super().init_xp(xp)

    def _get_config_noinit(self, overrides: Sequence[str] = ()) -> DictConfig:
        # one command asks for the same config several times, and composing it takes 0.1 s
        known = self.__dict__.setdefault("_composed", {})
        if tuple(overrides) not in known:
            try:
                known[tuple(overrides)] = super()._get_config_noinit(list(overrides))
            except HydraException as error:
                raise ConfigError(_one_line(error, overrides)) from None
        return copy.deepcopy(known[tuple(overrides)])


def _one_line(error: HydraException, overrides: Sequence[str]) -> str:
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    for arg in overrides:
        key = arg.split("=", 1)[0].lstrip("+")
        if any(f"Could not override '{key}'" in line or f"Key '{key}' is not in struct" in line for line in lines):
            return unknown_key(key)
    return "config: " + " ".join(lines[:3])


def checked_main(config_name: str, config_path: str, **kwargs):
    """Decorator for the training function; same arguments as `dora.hydra_main`."""
    return lambda main: CheckedMain(main, config_name=config_name, config_path=config_path, **kwargs)
