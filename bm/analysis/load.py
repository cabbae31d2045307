"""Trained decoders in and out: `bm.load`, and the folders that `python -m scripts.export SIG` writes.

    decoder = bm.load("folder")             # or the signature of an XP
    found = decoder.predict(raw)            # an mne.io.Raw of any length

A folder holds weights as safetensors and the rest as JSON. Nothing in it is executed.
"""
import json
import os
from pathlib import Path

import pandas as pd
from torch import Tensor

from bm import __version__
from bm.analysis.card import card
from bm.analysis.trained import Trained
from bm.analysis.xp import StoredXP, find_xp
from bm.batch import BatchSpec
from bm.config import with_new_keys
from bm.data.scaling import Scalers

FORMAT = 1
WEIGHTS = "model.safetensors"


def load(source: str | Path, device: str = "cpu") -> Trained:
    """A trained decoder: an exported folder, which needs nothing else, or an XP (signature or folder) with its data.

    Errors: FileNotFoundError if there is no such folder or XP; ValueError for another format; NotRestorable if the data
    of the XP are gone.
    """
    folder = Path(source)
    if (folder / WEIGHTS).exists():
        return read_export(folder, device)
    if (folder / "checkpoint.th").exists():
        from dora.git_save import to_absolute_path
        xp = StoredXP(folder, Path(to_absolute_path(".")))
    elif folder.is_dir() or len(folder.parts) > 1:
        raise FileNotFoundError(f"{folder} is neither an exported model ({WEIGHTS}, config.json) nor an XP with a "
                                "checkpoint: python -m scripts.export SIG makes one")
    else:
        xp = find_xp(str(source))
    return Trained.of(xp.restore(), xp.config, xp.sig, xp.test, device)


def read_export(folder: Path, device: str = "cpu") -> Trained:
    """An exported model. Errors: ValueError for a format of another version of bm."""
    from safetensors.torch import load_file
    about = json.loads((folder / "config.json").read_text())
    if about.get("format") != FORMAT:
        raise ValueError(f"{folder}/config.json has format {about.get('format')!r}, this bm reads {FORMAT}: use bm "
                         f"{about.get('bm', 'of the time')}")
    tensors = load_file(folder / WEIGHTS)
    parts: dict[str, dict[str, Tensor]] = {"networks": {}, "brain": {}, "features": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    state = {**parts["brain"], "features": {name: {key: parts["features"][f"{name}/{key}"] for key in ("mean", "std")}
                                            for name in about["scaled"]}}
    sensors = None if about["sensors"] is None else pd.DataFrame(about["sensors"]).astype(
        {"layout_x": float, "layout_y": float})
    return Trained(with_new_keys(about["config"]), BatchSpec.from_dict(about["spec"]), parts["networks"],
                   Scalers.from_state(state), about["recordings"], sensors, about["kinds"], about["sig"],
                   about["results"], device)


def export(trained: Trained, folder: Path) -> None:
    """Writes the model into a new folder: weights and scales (safetensors), config.json, a card (README.md).

    Paths of the machine it was trained on are left out. Errors: FileExistsError if the folder is there.
    """
    from safetensors.torch import save_file
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or choose another with --output")
    work = folder.with_name(f".{folder.name}.unfinished")
    work.mkdir(parents=True, exist_ok=True)
    state = trained.scalers.to("cpu").state_dict()
    tensors = {f"networks/{name}": value for name, value in trained.networks.state_dict().items()}
    tensors |= {f"brain/{name}": state[name] for name in ("center", "scale")}
    tensors |= {f"features/{name}/{key}": value for name, pair in state["features"].items()
                for key, value in pair.items()}
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, work / WEIGHTS)
    paths = {"cache": "", "features_models": "", "study_paths": {}, "dora": {}, "slurm": {}}
    sensors = None if trained.sensors is None else json.loads(trained.sensors.to_json(orient="records",
                                                                                     double_precision=15))
    about = {"format": FORMAT, "bm": __version__, "sig": trained.sig, "spec": trained.spec.to_dict(),
             "recordings": trained.recordings, "sensors": sensors, "kinds": trained.kinds,
             "scaled": sorted(state["features"]), "results": trained.results, "config": {**trained.config, **paths}}
    (work / "config.json").write_text(json.dumps(about, indent=2))
    (work / "README.md").write_text(card(trained))
    os.replace(work, folder)
