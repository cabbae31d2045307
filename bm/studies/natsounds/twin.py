"""Tiny files in the published format, with made-up numbers, for tests without the data."""
import hashlib
from pathlib import Path

import numpy as np

from bm.studies.download import Manifest, RemoteFile
from bm.studies.natsounds.study import COMPONENTS, FMRI_REPOSITORY, LABELS, RESPONSES, WEIGHTS

CATEGORIES = ("Music", "Speech", "Nature")


def make_twin(folder: Path, sounds: int = 10, components: int = 3, electrodes: int = 6, voxels: int = 8, seed: int = 0
              ) -> Manifest:
    """Writes responses to `sounds` tones of 2 s into `folder`; returns the manifest that fits them.

    Component k of the ECoG responses follows the tones' amplitudes 0.2 s later, with a weight of its own.
    """
    import scipy.io
    import soundfile
    rng = np.random.default_rng(seed)
    names = [f"stim{7 * i + 3}_tone_{i}" for i in range(sounds)]
    order = rng.permutation(sounds)  # the two papers list the sounds in different orders
    t = np.arange(75) / 25
    responses = np.zeros((sounds, 75, components), np.float32)
    for i, name in enumerate(names):
        time, beat = np.arange(16_000) / 8000, 1 + i / 2
        path = folder / FMRI_REPOSITORY / "stimuli/wav" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        envelope = 1 + np.sin(2 * np.pi * beat * time)
        soundfile.write(path, 0.3 * envelope * np.sin(2 * np.pi * (200 + 100 * i) * time), 8000, subtype="PCM_16")
        drive = np.where((t >= 0.2) & (t < 2.2), 1 + np.sin(2 * np.pi * beat * (t - 0.2)), 0)
        responses[i] = drive[:, None] * rng.uniform(0.5, 1.5, components) + 0.1 * rng.standard_normal((75, components))
    for file in (RESPONSES, COMPONENTS):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / RESPONSES, {
        "R": responses, "t": t[:, None], "stim_names": np.array([[f"{name}.wav"] for name in names], dtype=object)})
    scipy.io.savemat(folder / WEIGHTS, {
        "W": rng.standard_normal((components, electrodes)).astype(np.float32),
        "subject_indices": np.repeat([1, 2], [2, electrodes - 2])[:, None].astype(np.uint8),
        "elec_vert_nums": rng.integers(1, 163_843, (electrodes, 1)).astype(np.int32),
        "elec_verts_ras": rng.choice([-40.0, 40.0], (electrodes, 3))})
    scipy.io.savemat(folder / COMPONENTS, {
        "R": rng.standard_normal((sounds, components)), "W": rng.standard_normal((components, voxels)),
        "stim_names": np.array([[names[i]] for i in order], dtype=object),
        "component_names": np.array([[f"component {k}" for k in range(components)]], dtype=object)})
    (folder / LABELS).write_text("".join(f"{names[i]},{CATEGORIES[i % 3]}\n" for i in order))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Manifest("natsounds", "https://example.org/twin", tuple(
        RemoteFile(path.relative_to(folder).as_posix(), (), path.stat().st_size,
                   hashlib.sha256(path.read_bytes()).hexdigest()) for path in files))
