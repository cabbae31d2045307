"""A toy study for tests: noise for a brain, tones for speech, every time known."""
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bm.studies.base import CHANNEL_COLUMNS, Recording, Signal

WORDS = ["the", "old", "ferry", "left", "its", "pier", "at", "dawn", "and", "nobody", "waved", "except", "one",
         "small", "dog"]


def channels_table(n: int, bad: tuple[int, ...] = ()) -> pd.DataFrame:
    """`n` sensors on a grid."""
    side = int(np.ceil(np.sqrt(n)))
    x, y = np.divmod(np.arange(n), side)
    rows = {"name": [f"MEG{i:03d}" for i in range(n)], "type": "mag", "unit": "T", "x": x / side, "y": y / side,
            "z": 0.0, "layout_x": x / side, "layout_y": y / side, "region": "", "bad": np.isin(np.arange(n), bad)}
    return pd.DataFrame(rows)[CHANNEL_COLUMNS]


@dataclass(frozen=True)
class ToyRecording(Recording):
    """Noise at `rate` Hz while one sound plays from `onset` s."""

    uid: str
    subject: str
    wav: Path
    sentences: tuple[tuple[float, int, str], ...]  # (start in the sound, number of words, text id), 0.4 s a word
    onset: float = 1.0
    rate: float = 200.0
    channels: int = 6
    seconds: float = 60.0
    session: str = "1"
    study: str = "toy"
    seed: int = 0
    jitter: float = 0.0
    bad: tuple[int, ...] = ()
    extra: list = field(default_factory=list, hash=False)

    def signal(self) -> Signal:
        rng = np.random.default_rng(self.seed)
        array = rng.standard_normal((int(self.seconds * self.rate), self.channels)).astype(np.float32)
        return Signal.from_array(array, self.rate, channels_table(self.channels, self.bad))

    def source_files(self) -> list[Path]:
        return [self.wav]

    def events(self) -> pd.DataFrame:
        rows = [{"kind": "sound", "start": self.onset, "duration": np.nan, "filepath": str(self.wav)}]
        for start, n, text in self.sentences:
            words = [f"{WORDS[i % len(WORDS)]}{text}" for i in range(n)]
            begin = self.onset + start + self.jitter
            rows += [{"kind": "word", "start": begin + 0.4 * i, "duration": 0.3, "word": word, "word_index": i,
                      "word_sequence": " ".join(words), "condition": "sentence"}
                     for i, word in enumerate(words)]
        return pd.DataFrame(rows + self.extra)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("eegmmidb_motor")`: the folder of real recordings of that name, below `BM_SHARED_DATA`.

    Without it a test is skipped; with `BM_REQUIRE_ALL=1`, as in CI, it fails.
    """
    def folder(name: str) -> Path:
        root = os.environ.get("BM_SHARED_DATA")
        if root is None:
            missing = pytest.fail if os.environ.get("BM_REQUIRE_ALL") == "1" else pytest.skip
            missing(f"BM_SHARED_DATA is not set: no real recordings ({name}) to test with")
        path = Path(root) / name
        if not path.is_dir():
            raise FileNotFoundError(f"BM_SHARED_DATA is {root}, which has no folder {name!r}")
        return path
    return folder


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """50 s of a gliding tone."""
    import soundfile
    t = np.arange(50 * 8000) / 8000
    path = tmp_path / "sound.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * t) * t), 8000)
    return path


#: 14 sentences of 8 words (3.5 s each) fill the sound
SENTENCES = tuple((3.5 * i, 8, f"s{i}") for i in range(14))


@pytest.fixture
def recordings(wav: Path) -> list[ToyRecording]:
    """Three subjects who hear the same sound after different waits."""
    return [ToyRecording(f"r{i}", f"p{i}", wav, SENTENCES, onset=1.0 + 0.37 * i, seed=i) for i in range(3)]
