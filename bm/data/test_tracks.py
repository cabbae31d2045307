"""Banks of events: one row per different event, painted where it lasts."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.data.loader import BufferPool
from bm.data.tracks import SampleBank, build_event_bank
from bm.features.audio import Wav2VecChunk
from bm.features.base import EventFeature
from bm.store import Store


class Length(EventFeature):
    kind, columns = "word", ("word",)
    dim, default = 2, -1.0

    def __init__(self, pulse_s=None):
        self.pulse_s, self.seen = pulse_s, []

    def identity(self):
        return {"feature": "Length"}

    def values(self, events):
        self.seen.append(len(events))
        return np.stack([events["word"].str.len(), events["word"].str.count("a")], axis=1).astype(np.float32)


def words(*rows):
    return pd.DataFrame([{"kind": "word", "start": start, "duration": duration, "word": word}
                         for start, duration, word in rows])


def blocks(*spans):
    return pd.DataFrame([{"recording": r, "start": start, "stop": stop} for r, start, stop in spans])


def slowly(table, own, length, rate, feature):
    """Sample by sample: the last event that has begun and not ended, inside its own block."""
    out = np.full((length, 2), feature.default, dtype=np.float32)
    for _, event in table.iterrows():
        first = round(event.start * rate)
        stop = round((event.start + event.duration) * rate) if feature.pulse_s is None else first + 3
        holder = [b for _, b in own.iterrows() if b.start <= event.start]
        if holder:
            stop = min(stop, round(holder[-1].stop * rate))
        for i in range(length):
            if first <= i < stop:
                out[i] = [len(event.word), event.word.count("a")]
    return out


@settings(max_examples=40, deadline=None)
@given(starts=st.lists(st.integers(0, 90), min_size=1, max_size=12, unique=True),
       durations=st.lists(st.integers(0, 30), min_size=12, max_size=12), pulse=st.sampled_from([None, 0.3]))
def test_painted_as_obviously(tmp_path_factory, starts, durations, pulse):
    texts = ["a", "aba", "nothing", "is", "banana"]
    table = words(*[(s / 10, d / 10, texts[(s + d) % 5]) for s, d in zip(sorted(starts), durations, strict=False)])
    own, feature = blocks((0, 0.0, 4.0), (0, 4.0, 20.0)), Length(pulse)
    bank = build_event_bank(feature, [table], own, [100], 10, Store(tmp_path_factory.mktemp("cache")))
    np.testing.assert_array_equal(bank.rows[bank.index[0]], slowly(table, own, 100, 10, feature))
    assert bank.index[0].dtype == np.int32


def test_the_same_word_is_computed_once_for_all(tmp_path):
    tables = [words((1, 0.5, "aba"), (2, 0.5, "is")), words((1.3, 0.5, "is"), (3, 0.5, "aba"), (4, 0.5, "aba"))]
    feature = Length()
    spans = blocks((0, 0, 10), (1, 0, 10))
    bank = build_event_bank(feature, tables, spans, [100, 100], 10, Store(tmp_path))
    assert feature.seen == [2] and bank.rows.shape == (3, 2)
    again = Length()
    build_event_bank(again, tables[::-1], spans, [100, 100], 10, Store(tmp_path))
    assert again.seen == []  # from the cache


def test_what_is_missing_is_said(tmp_path):
    table = words((1, 0.5, "aba"))
    with pytest.raises(ValueError, match="needs the columns"):
        build_event_bank(Length(), [table.drop(columns="word")], blocks((0, 0, 10)), [100], 10, Store(tmp_path))
    with pytest.raises(ValueError, match="have none"):
        build_event_bank(Length(), [table.assign(kind="phoneme")], blocks((0, 0, 10)), [100], 10, Store(tmp_path))


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 80), n=st.integers(1, 30), lows=st.lists(st.integers(0, 700), max_size=4))
def test_sound_at_its_own_rate(first, n, lows):
    rows = np.arange(2000, dtype=np.float16)[:, None]
    whole, stretches = np.zeros((2000 * 160, 1)), []
    for i, low in enumerate(sorted(lows)):  # 100 samples of sound each, a later one on top
        low, row = 160 * low, 1 + 100 * i
        stretches.append((low, low + 100, row))
        whole[low:low + 100] = rows[row:row + 100]
    bank = SampleBank(Wav2VecChunk(), rows, [np.array(stretches, dtype=np.int64).reshape(-1, 3)], 100)
    found = bank.gather([(0, first)], n, BufferPool())
    np.testing.assert_array_equal(found[0], whole[160 * first:160 * (first + n)])
