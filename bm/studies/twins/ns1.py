"""The twin of `ns1`: four units in MATLAB's structures, and sounds without an ending, of a lower rate."""
import json
from pathlib import Path

import numpy as np

from bm.studies.ns1 import CLIPS, METADATA, SOUNDS, UNPACKED
from bm.studies.twins.clips import spikes_of, write_noise

#: fault → what is wrong then
FAULTS = {
    "missing_sound": "a sound file is not there",
    "missing_file": "no unit has a file",
    "truncated_raw": "the first unit's file ends before what its header says",
    "wrong_rate": "spike times of the first unit are seconds, not milliseconds",
    "other_fields": "the metadata have another field for the depth",
    "other_structure": "the first unit's file has no field `set`",
}
#: name, path, depth, noise ratio, label; the third has its file under another name, the last one none at all
UNITS = [("unit_a", "P01/unit_a.mat", 300.0, 5.0, "Yes"), ("unit_b", "P01/unit_b.mat", -1.0, 60.0, "No"),
         ("unit_c", "P02/unit_c.mat", 0.0, 20.0, "Maybe"), ("unit_d", "P02/unit_d.mat", 500.0, 9.0, "Maybe")]
STIMULI, REPEATS = 32, 20


def make(folder: Path, fault: str | None = None, rate: int = 2000, seed: int = 0) -> None:
    """Writes the twin.

    Unit a is never silent but in two repeats (of which MATLAB keeps 1 × 0 and 0 × 0 values); its first clip has spikes
    before 0 and after 4995 ms, and two in one millisecond. Unit c lacks the last five repeats.

    Args:
        folder: the study's root.
        fault: one of `FAULTS`.
        rate: of the sounds, Hz.
        seed: of noise.
    """
    import scipy.io
    rng = np.random.default_rng(seed)
    sounds = folder / UNPACKED / "SH.En.C"
    sounds.mkdir(parents=True, exist_ok=True)
    levels = [write_noise(sounds / name, 5.0, rate, rng) for name in SOUNDS]
    if fault == "missing_sound":
        (sounds / SOUNDS[4]).unlink()
    kinds = [("unitFile", object), ("path", object), ("wrong" if fault == "other_fields" else "depth", object),
             ("NoiseRatio", object), ("singleN", object), ("singleT", object)]
    table = np.empty((1, len(UNITS)), dtype=kinds)
    for unit, (name, path, depth, ratio, label) in enumerate(UNITS):
        table[0, unit] = (f"{name}.mat", path, depth, ratio, int(label == "Yes"), label)
        if name == "unit_d" or fault == "missing_file":
            continue
        place = folder / UNPACKED / (path.replace(".mat", "_1.mat") if name == "unit_c" else path)
        place.parent.mkdir(parents=True, exist_ok=True)
        repeats = REPEATS - 5 * (name == "unit_c")
        field = "sets" if (name, fault) == ("unit_a", "other_structure") else "set"
        scale = 1e-3 if (name, fault) == ("unit_a", "wrong_rate") else 1
        scipy.io.savemat(place, {"data": {field: _spikes(levels, repeats, name == "unit_a", scale, rng)}})
        if (name, fault) == ("unit_a", "truncated_raw"):
            place.write_bytes(place.read_bytes()[:-5000])
    scipy.io.savemat(folder / METADATA, {"neuron": table})
    (folder / "twin.json").write_text(json.dumps({"study": "ns1", "subjects": 1, "recordings": REPEATS, "sensors": 2,
                                                  "rate": 200.0}))


def _spikes(levels: list[np.ndarray], repeats: int, odd: bool, scale: float, rng: np.random.Generator) -> np.ndarray:
    """The structure `set` of a unit, times in ms times `scale`."""
    out = np.empty((1, STIMULI), dtype=[("repeats", object)])
    for stimulus in range(STIMULI):
        number = repeats if stimulus < CLIPS else 5  # chords
        trials = np.empty((1, number), dtype=[("t", object)])
        for repeat in range(number):
            times = spikes_of(levels[stimulus % CLIPS], rng, 20.0)[None]
            if odd and stimulus == 0:
                times = {0: np.array([[-3.0, 0.2, 7.6, 8.4, 4994.4, 4994.6, 5003.0]]), 1: np.zeros((1, 0)),
                         2: np.zeros((0, 0))}.get(repeat, times)
            trials[0, repeat] = (scale * times,)
        out[0, stimulus] = (trials,)
    return out
