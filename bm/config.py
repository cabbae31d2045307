"""Reads and checks the config before anything slow happens: unknown keys, wrong types, impossible ranges.

The yaml files in `conf/` hold every default; `bm/schema.py` says what a value may be. `check_config` turns the composed
config into a frozen `Config`; a fault is a `ConfigError`, one line that names the key, what was got, what was expected,
and the nearest key where the name is unknown.
"""
import difflib
import json
import logging
import os
from fnmatch import fnmatch
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from bm.flat import difference
from bm.schema import Config, Dset, nearest

__all__ = ["Config", "ConfigError", "Dset", "check_config", "check_stored", "config_difference", "nearest", "relevant",
           "to_plain", "unknown_key", "with_new_keys"]

logger = logging.getLogger(__name__)

#: where the yaml files lie in a clone; an installed package has none
CONF = Path(__file__).parents[1] / "conf"


class ConfigError(SystemExit, ValueError):
    """A fault in the config. Where nobody catches it the process ends with its message alone, without a traceback."""

    def __str__(self) -> str:
        return str(self.code)


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _keys(info.annotation, f"{prefix}{name}.")
    return keys


def _free(key: str) -> str:
    """The part of a key that holds a dict of any keys, such as the options of a part; "" if there is none."""
    model: Any = Config
    names = key.split(".")
    for depth, name in enumerate(names, 1):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or name not in model.model_fields:
            return ""
        model = model.model_fields[name].annotation
        if get_origin(model) is dict:
            return ".".join(names[:depth])
    return ""


def _dotted(plain: dict[str, Any]) -> list[str]:
    return [name for key, value in plain.items()
            for name in (key, *(f"{key}.{rest}" for rest in (_dotted(value) if isinstance(value, dict) else [])))]


def unknown_key(key: str, value: str = "…") -> str:
    """One line about a key that does not exist, or (a dict of any keys) gets a key that is not in `conf/`."""
    if parent := _free(key):
        what = ("is given a key that conf/ does not have there" if parent == key else
                f"has no key {key[len(parent) + 1:]!r} in conf/")
        there = reduce(dict.__getitem__, parent.split("."), json.loads(_today())) if CONF.is_dir() else {}
        meant = nearest(key[len(parent) + 1:], _dotted(there))
        return f"config: {parent} {what}{meant.rstrip('?')}; what is added needs a plus: '+{key}={value}'"
    known = _keys(Config)
    close = difflib.get_close_matches(key, known, n=1)
    if not close:  # the right last name under the wrong section, or without one
        last = {k.rpartition(".")[2]: k for k in known}
        close = [last[k] for k in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1)]
    return f"config: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed config as plain, resolved dicts and lists."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"config: expected a mapping, got {type(plain).__name__}")
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def check_config(plain: dict[str, Any]) -> Config:
    """Checks a plain config and returns it frozen and typed.

    Raises:
        ConfigError: on the first unknown key, wrong type or impossible value; one line that says what to do.
    """
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        # an unknown key explains a missing one better than the other way round
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        if first["type"] == "extra_forbidden":
            raise ConfigError(unknown_key(".".join(map(str, first["loc"])))) from None
        # a union reports each of its members as a last element of the location
        key = ".".join(str(part) for part in first["loc"] if part not in ("constrained-float", "str", "float", "int"))
        if first["type"] == "value_error":
            message = str(first["ctx"]["error"])
            where = "" if key in ("", "dset") else f"{key}: "
            raise ConfigError(f"config: {where}{message}") from None
        raise ConfigError(f"config: {key}={json.dumps(first['input'], default=str)}: {first['msg'].lower()}") from None


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


def config_difference(old: dict[str, Any], new: dict[str, Any], exclude: list[str]) -> list[str]:
    """Lines `key: old → new` for every leaf that differs, but for keys that match an `exclude` pattern."""
    return [f"{key}: {before!r} → {after!r}" for key, (before, after) in difference(old, new, _Absent()).items()
            if not any(fnmatch(key, pattern) for pattern in exclude)]


def relevant(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that can change an XP's result: only the selections it uses, no paths."""
    used = {name: plain["selections"][name] for name in plain["dset"]["selections"]}
    return {**plain, "selections": used}


def with_new_keys(plain: dict[str, Any]) -> dict[str, Any]:
    """A stored config with the keys that were added since it was stored, as they are in `conf/` today (logged).

    A new key's default leaves things as they were before there was the key. Options of models and features, which have
    defaults of their own, stay as stored. Without `conf/` (the package alone is installed) nothing is added.
    """
    if not _lacking(plain, Config) or not CONF.is_dir():
        return plain
    filled: dict[str, Any] = json.loads(json.dumps(plain))
    added = []
    for *sections, key in _lacking(plain, Config):
        there, default = filled, json.loads(_today())
        for section in sections:
            there, default = there[section], default[section]
        there[key] = default[key]
        added.append(f"{'.'.join([*sections, key])}={json.dumps(default[key])}")
    logger.info("keys that were added since this config was stored: %s", ", ".join(added))
    return filled


def _lacking(plain: dict[str, Any], model: type[BaseModel]) -> list[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = []
    for name, info in model.model_fields.items():
        if name not in plain:
            keys.append((name,))
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel) and isinstance(
                plain[name], dict):
            keys += [(name, *rest) for rest in _lacking(plain[name], info.annotation)]
    return keys


@lru_cache(maxsize=1)
def _today() -> str:
    """The base config of `conf/`, as JSON."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    outer = GlobalHydra.instance().hydra  # of a command that is composing a config itself
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return json.dumps(to_plain(compose("config")))
    finally:
        GlobalHydra.instance().hydra = outer


def check_stored(folder: Path, sig: str, plain: dict[str, Any], exclude: list[str]) -> None:
    """Stores the config of an XP; at a later start, refuses one that differs in more than where and on what it runs.

    A signature is the difference to the base config, so a changed base would silently pick up an old XP.

    Raises:
        ConfigError: names the keys that differ from those the XP was made with, and the cure.
    """
    path = folder / "config.json"
    exclude = [*exclude, "dora.*", "slurm.*"]
    if path.exists():
        stored = with_new_keys(json.loads(path.read_text()))
        lines = config_difference(relevant(stored), relevant(plain), exclude)
        if lines:
            raise ConfigError(
                f"config: XP {sig} was made with another config, though its signature is the same (a file in conf/ has "
                f"changed): {'; '.join(lines)}. Put the old value back (in conf/ or as an override), or start the XP "
                "anew with --clear")
        if stored == plain:
            return
    # paths are those of the last start: who reads the XP looks for its data there
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".json.{os.getpid()}.tmp")  # several processes of one XP start together
    temporary.write_text(json.dumps(plain, indent=2))
    temporary.replace(path)
