"""The twin of `strflab`: 20 short sounds and a neuron that follows their level, in the published format."""
from pathlib import Path

import numpy as np

from bm.store import file_sha256
from bm.studies.download import Manifest, RemoteFile
from bm.studies.strflab import SONGS
from bm.studies.twins.clips import spikes_of, write_noise

FOLDER = "fakedata/auditory"


def make_twin(folder: Path, repeats: int = 4, seed: int = 0) -> Manifest:
    """Writes the files below `folder`; returns the manifest that fits them.

    Songs last 0.61–1.0035 s. In song 2 the first repeat is silent, and song 3 has one repeat less; some spikes come
    after a song's end.
    """
    rng = np.random.default_rng(seed)
    root = folder / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    files = []
    for song in range(1, SONGS + 1):
        sound, spikes = root / f"stim{song}.wav", root / f"spike{song}"
        level = write_noise(sound, 0.6 + 0.02 * song + (0.0035 if song == SONGS else 0.01 * (song == 1)), 16_000, rng)
        lines = []
        for repeat in range(repeats - (song == 3)):
            times = [] if (song, repeat) == (2, 0) else [*spikes_of(level, rng), len(level) + 500.5]
            lines.append("".join(f"{time:.3f} " for time in times) + "\n")
        spikes.write_text("".join(lines))
        files += [sound, spikes]
    return Manifest("strflab", "https://example.org/twin", tuple(
        RemoteFile(path.relative_to(folder).as_posix(), (), path.stat().st_size, file_sha256(path)) for path in files))
