"""Start-up: 100,000 events in 50 recordings, read from events.tsv, checked, split and cut into the segment table."""
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bm.bench import Comparison
from bm.data.audit import audit
from bm.data.prepare import read_events
from bm.data.segments import Window, segment_table
from bm.events import check_events, make_blocks, sounds_of
from bm.splits import SplitRule, plan_blocks
from bm.store import Store
from bm.studies.base import Recording, Signal
from bm.studies.events_tsv import read_events_tsv

RECORDINGS, WORDS, PHONEMES = 50, 500, 3
WORD_S = 0.4


def write_study(folder: Path) -> list[Path]:
    """A sound, and for each recording a table with words (ten to a sentence) and phonemes."""
    import soundfile
    seconds = WORDS * WORD_S
    soundfile.write(folder / "story.wav", np.zeros(int(seconds * 1000), np.float32), 1000)
    paths = []
    for i in range(RECORDINGS):
        rows = [f"{2 + 0.01 * i:.3f}\t{seconds:.3f}\tsound\tstory.wav\tn/a\tn/a\tn/a\tn/a\tn/a"]
        for w in range(WORDS):
            start = 2 + 0.01 * i + w * WORD_S
            rows.append(f"{start:.4f}\t{WORD_S:.4f}\tword\tn/a\tword{w}\t{w % 10}\tsentence{w // 10}\tsentence\tn/a")
            rows += [f"{start + p * 0.1:.4f}\t0.1000\tphoneme\tn/a\tn/a\t{w % 10}\tsentence{w // 10}\tn/a\tph{p}"
                     for p in range(PHONEMES)]
        path = folder / f"sub-{i:02d}_events.tsv"
        path.write_text("onset\tduration\ttrial_type\tstim_file\tword\tword_index\tsequence_id\tcondition\tphoneme\n"
                        + "\n".join(rows) + "\n")
        paths.append(path)
    return paths


@dataclass(frozen=True, repr=False)
class Listener(Recording):
    """A recording that has events only."""

    path: Path
    uid: str
    study: str = "bench"
    subject: str = "1"
    session: str = "1"

    def events(self) -> pd.DataFrame:
        return read_events_tsv(self.path, [self.path.parent])

    def event_files(self) -> list[Path]:
        return [self.path]

    def source_files(self) -> list[Path]:
        return []

    def signal(self) -> Signal:
        raise NotImplementedError


def start_up(recordings: list[Listener], store: Store) -> int:
    """All that `data/assemble.py` does with events; returns the number of segments."""
    rate, seconds = 120, WORDS * WORD_S + 6
    names = [recording.name for recording in recordings]
    events = [check_events(read_events(recording, store), recording.name, seconds) for recording in recordings]
    base = pd.concat([make_blocks(e, "sentence", seconds, name).assign(recording=i)
                      for i, (e, name) in enumerate(zip(events, names, strict=True))], ignore_index=True)
    blocks = plan_blocks(base, sounds_of(events), [seconds] * len(names), SplitRule())
    grid, words = Window(-0.5, 2.5, 0.5), Window(-0.5, 2.5, "word")
    windows = {"train": grid, "valid": grid, "test": words}
    segments = segment_table(events, blocks, [int(seconds * rate)] * len(names), windows, rate, names)
    audit(segments, list(range(len(names))), events).check()
    return len(segments)


def run() -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as name:
        recordings = [Listener(path, path.stem) for path in write_study(Path(name))]
        store = Store(Path(name) / "cache")
        cpu = time.process_time()
        start_up(recordings, store)
        cold = time.process_time() - cpu
        begin = time.perf_counter()
        start_up(recordings, store)
        warm = time.perf_counter() - begin
        # no other way to compare with: the figures asked for
        yield Comparison("start-up cold", "CPU seconds for 100,000 events in 50 recordings / 6 s asked for", cold, 6, 1)
        yield Comparison("start-up warm", "seconds with a warm cache / 2 s asked for", warm, 2, 1)
