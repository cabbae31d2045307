"""The twin of `b2021`: 5 voxels of 2 people, and 3 sounds of music more than those of `nh2015`."""
import json
from pathlib import Path

import numpy as np

from bm.studies.nh2015 import ORDER
from bm.studies.twins import nh2015

#: fault → what is wrong then
FAULTS = {**nh2015.FAULTS, "wrong_order": "the sounds are in another order than those of nh2015"}


def make(folder: Path, fault: str | None = None, sounds: int = nh2015.SOUNDS, seed: int = 0, converted: bool = True
         ) -> None:
    """Writes the twin; arguments as of `nh2015.make`, whose order of sounds lies beside it."""
    names, drive = nh2015.write_sounds(folder, sounds, seed)
    own, other = folder / "data/neural/B2021", folder / "data/neural/NH2015"
    own.mkdir(parents=True)
    other.mkdir()
    nh2015.write_order(other / ORDER, names)
    order = names[::-1] if fault == "wrong_order" else names
    nh2015.write_stim_info(own, [*order, "stim901_a", "stim902_b", "stim903_c"])
    ids = np.array([500, 2, 77, 41, 9])
    responses = nh2015.answers(np.vstack([drive, drive[:3]]), len(ids), seed)
    nh2015.write_voxels(own, responses, ids, ids, np.repeat([2, 11], [3, 2]), fault, converted)
    if fault == "missing_sound":
        (folder / f"data/stimuli/wavs/{names[1]}.wav").unlink()
    if fault == "missing_file":
        (other / ORDER).unlink()
    (folder / "twin.json").write_text(json.dumps({"study": "b2021", "subjects": 2, "recordings": 2}))
