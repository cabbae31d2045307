"""Where the files of a Hugging Face model lie, and what they are; nothing here imports `transformers`."""
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bm.store import file_sha256

#: files that decide what a model computes
_SETTINGS = ("config.json", "preprocessor_config.json")
#: weights, the first kind that is there
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def find_model(name: str, models: Path) -> Path:
    """The folder of a model's files.

    Looked for, in this order: `<models>/<org>--<name>`; the layout of Hugging Face's cache in `models`
    (`models--<org>--<name>/snapshots/…`); `<models>/<name>`; the folder `name` itself; Hugging Face's own cache of this
    machine (`HF_HUB_CACHE`, `HF_HOME`).

    Args:
        name: `org/name` on the Hugging Face hub, or a folder.
        models: config key `features_models`.

    Raises:
        FileNotFoundError: with the command that fetches it.
    """
    flat = name.strip("/").replace("/", "--")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    own_cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    places = [models / flat, *_snapshots(models, flat), models / name, Path(name).expanduser(),
              *_snapshots(own_cache, flat)]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise FileNotFoundError(f"no model {name!r}: neither a folder of that name nor {models.absolute() / flat} has a "
                            f"config.json. Fetch it with: {fetch_command(name, models)}")


def fetch_command(name: str, models: Path) -> str:
    """What to type to have a model of the hub in `models`."""
    return f"python -m scripts.features fetch {name} --to {models}"


def _snapshots(cache: Path, flat: str) -> list[Path]:
    """Snapshots in the layout of Hugging Face's cache, the one that `main` points to first."""
    folder = cache / f"models--{flat}"
    found = sorted((folder / "snapshots").glob("*"))
    main = folder / "refs" / "main"
    revision = main.read_text().strip() if main.is_file() else ""
    return sorted(found, key=lambda snapshot: snapshot.name != revision)


def weight_files(folder: Path) -> list[Path]:
    """Its weights: safetensors if there are any, else pytorch files."""
    for pattern in WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def is_whole(folder: Path) -> bool:
    """Whether a model's settings and all its weights are there (of several files, all that their index names)."""
    weights = {path.name for path in weight_files(folder)}
    named = {file for index in folder.glob("*.index.json") if index.name.startswith(tuple(_stems(weights)))
             for file in json.loads(index.read_text())["weight_map"].values()}
    return (folder / "config.json").is_file() and bool(weights) and named <= weights


def _stems(names: set[str]) -> set[str]:
    """`model` of `model-00001-of-00002.safetensors`."""
    return {name.partition(".")[0].partition("-")[0] for name in names}


def files_identity(folder: Path, weights: bool = True) -> dict[str, str]:
    """File name → SHA-256 of all that decides what the model computes (read once per process: about a second a GB).

    Raises:
        FileNotFoundError: `weights` are asked for, and there are none.
    """
    files = [folder / name for name in _SETTINGS if (folder / name).is_file()]
    if weights:
        found = weight_files(folder)
        if not found:
            raise FileNotFoundError(f"{folder} has a config.json but no weights ({' or '.join(WEIGHTS)}): fetch them "
                                    f"with python -m scripts.features fetch, or ask for the untrained twin (random: "
                                    "true)")
        files += found
    return {file.name: file_sha256(file) for file in files}


def read_settings(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A settings file as plain data; empty if it is not there."""
    path = folder / name
    return json.loads(path.read_text()) if path.is_file() else {}


def resolve_layers(layers: Sequence[int | float], n_layers: int) -> list[int]:
    """Indices of hidden states: 0 is the input of layer 1, k the output of layer k.

    Args:
        layers: ints are indices; floats are relative depths, 0.0 the input of layer 1, 1.0 the output of the last.
        n_layers: of the model.

    Raises:
        ValueError: none, or one that the model does not have.
    """
    if not layers:
        raise ValueError("layers is empty: expected indices, or relative depths from 0.0 to 1.0")
    indices = []
    for layer in layers:
        relative = isinstance(layer, float)
        index = round(layer * n_layers) if relative else layer
        if isinstance(layer, bool) or not 0 <= index <= n_layers or (relative and not 0 <= layer <= 1):
            raise ValueError(f"layers has {layer!r}: expected whole numbers from 0 to {n_layers} (the number of its "
                             "layers), or relative depths from 0.0 to 1.0")
        indices.append(int(index))
    return indices
