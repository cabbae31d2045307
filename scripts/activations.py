"""Runs a network over the sounds of a study and keeps what every layer says, in the cache.

    python -m scripts.activations model=facebook/wav2vec2-base-960h study=natsounds_fmri
    python -m scripts.activations model=spectrotemporal study=nh2015
    python -m scripts.activations model=openai/whisper-tiny.en study=gwilliams2022 items=word context=10

`model`: a name or folder of Hugging Face, torchaudio:BUNDLE, a TorchScript file, module:function, or spectrotemporal.
`study`: a study or selection of conf/selections, in the folder of conf/study_paths (BM_DATA) or `path=…`.
Further: layers=PATTERN (default *), permuted=true, random=true, seed=0, keep='[cochlea.*]' (tensors not permuted),
time=true (keep it), items=word or phoneme (each in its place in long recordings) with context=10 (s), rms=null (sounds
as they are; default 0.1), device, cache, features_models, options.KEY=VALUE (of a module:function) and
selection.KEY=VALUE.
"""
import logging
import os
import sys
from pathlib import Path
from typing import Any

from bm.config import nearest
from bm.data.items import list_items
from bm.events import check_events
from bm.features.activations import compute, study_sounds
from bm.features.item_activations import compute_items
from bm.features.networks import Weights, open_network
from bm.store import Store
from bm.studies import STUDIES
from scripts.study import folder_of, selection_of

DEFAULTS: dict[str, Any] = {
    "model": None, "study": None, "path": None, "layers": "*", "permuted": False, "random": False, "seed": 0,
    "keep": [], "time": False, "rms": 0.1, "device": "auto", "cache": os.environ.get("BM_CACHE", "./cache"),
    "features_models": "./features_models", "options": {}, "selection": {},
    "items": "sound", "context": 10.0}


def arguments(argv: list[str]) -> dict[str, Any]:
    """`key=value` … over the defaults.

    Raises:
        ValueError: an unknown key, or no model or study.
    """
    from omegaconf import OmegaConf
    if bad := [text for text in argv if "=" not in text]:
        raise ValueError(f"{bad[0]!r}: expected key=value")
    given: dict[str, Any] = OmegaConf.to_container(OmegaConf.from_dotlist(argv))  # type: ignore[assignment]
    for key in given:
        if key not in DEFAULTS:
            raise ValueError(f"unknown key {key!r}; known: {', '.join(DEFAULTS)}{nearest(key, DEFAULTS)}")
    out = {**DEFAULTS, **given}
    if out["items"] not in ("sound", "word", "phoneme") or (out["items"] != "sound" and out["time"]):
        raise ValueError(f"items={out['items']}, time={out['time']}: expected sound, word or phoneme, of which only "
                         "sounds may keep their time")
    if missing := [key for key in ("model", "study") if out[key] is None]:
        raise ValueError(f"{missing[0]}=… is missing; see --help")
    return out


def main(argv: list[str] | None = None) -> int:
    """Runs the command; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    try:
        args = arguments(argv)
        key, selection = selection_of(args["study"], [f"{k}={v}" for k, v in args["selection"].items()])
        study = STUDIES[key](folder_of(key, None if args["path"] is None else Path(args["path"])), **selection)
        study.prepare()
        weights = Weights(args["permuted"], args["random"], args["seed"], tuple(args["keep"]))
        network = open_network(args["model"], Path(args["features_models"]), layers=args["layers"], weights=weights,
                               device=args["device"], options=args["options"])
        store = Store(Path(args["cache"]))
        if args["items"] == "sound":
            found = compute(store, network, study_sounds(study.recordings()), time=args["time"], rms=args["rms"])
        else:
            events = [check_events(recording.events(), recording.name) for recording in study.recordings()]
            found = compute_items(store, network, list_items(events, args["items"])[0], float(args["context"]),
                                  rms=args["rms"])
    except (OSError, ValueError, KeyError) as error:
        print(f"activations: {error}", file=sys.stderr)
        return 2
    for name in found.layers:
        print(f"{name:<40} {' × '.join(map(str, found.layer(name).shape))}")
    print(f"{len(found.layers)} layers, {len(found.sounds)} {args['items']}s: {found.file}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.exit(main())
