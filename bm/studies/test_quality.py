import numpy as np
import pandas as pd
import pytest

from bm.events import check_events
from bm.studies.quality import Anchors, audio_lag, fit_drift, judge, quality_of, trigger_measures, word_measures, worst

SENTENCE = "one two three four"


@pytest.fixture
def words(wav):
    """`words(changes…)`: measures of 3 sentences of 4 words in a sound of 50 s that starts at 1 s, after changes."""
    def make(change=lambda table: table, duration=60.0):
        rows = [{"kind": "sound", "start": 1.0, "duration": np.nan, "filepath": str(wav)}]
        rows += [{"kind": "word", "start": 2 + 8 * s + 2.0 * i, "duration": 0.5, "word": word, "word_index": i,
                  "word_sequence": SENTENCE, "sequence_id": s}
                 for s in range(6) for i, word in enumerate(SENTENCE.split())]
        return word_measures(check_events(change(pd.DataFrame(rows)), "toy/r", duration), duration)
    return make


def test_drift_is_measured():
    events = np.arange(0, 300, 2.5)
    noise = 0.004 * np.where(np.arange(len(events)) % 2, 1, -1)
    drift = fit_drift(events, 5 + 1.0002 * events + noise)
    assert drift.ppm == pytest.approx(200, abs=2) and drift.residual_ms == pytest.approx(4, abs=0.01)
    assert drift.worst_ms == pytest.approx(4, abs=0.1)
    sound = (events > 100).astype(int)  # each sound has an offset of its own
    drift = fit_drift(events, 5 + 1.0002 * events + 30 * sound, sound)
    assert drift.ppm == pytest.approx(200, abs=1e-3) and drift.residual_ms < 1e-6
    with pytest.raises(ValueError, match="two different"):
        fit_drift(np.array([1.0]), np.array([1.0]))


def test_lost_and_spare_triggers():
    times = np.arange(9.0)
    measures = trigger_measures(Anchors(times, times + 3, 10, 12))
    assert measures["missed_triggers"] == pytest.approx(0.1) and measures["spare_triggers"] == pytest.approx(0.25)
    assert measures["matched"] == 9 and measures["drift_ppm"] == pytest.approx(0, abs=1e-6)
    assert "drift_ppm" not in trigger_measures(Anchors(times[:1], times[:1], 10, 12))
    with pytest.raises(ValueError, match="matched pairs"):
        Anchors(times, times[:3], 10, 12)
    with pytest.raises(ValueError, match="matched pairs"):
        Anchors(times, times, 8, 12)


def test_sound_words(words):
    good = words()
    assert good["words"] == 24 and good["gap_s"] == pytest.approx(2.5) and not judge(good)  # 49.5 to 51 s at the end
    for name in ("missing_words", "doubled_words", "out_of_order", "outside_sounds", "outside_recording"):
        assert good[name] == 0


def swap(table):
    table.loc[[6, 7], "start"] = table.loc[[7, 6], "start"].to_numpy()
    return table


def interrupt(table):
    table.loc[[4, 5], "start"] = table.loc[[5, 4], "start"].to_numpy()  # the last of one, the first of the next
    return table


@pytest.mark.parametrize("change, measure, share", [
    (lambda t: t.drop(index=6), "missing_words", 1 / 23),
    (lambda t: t.drop(index=8), "missing_words", 1 / 23),  # the last of its sentence
    (lambda t: pd.concat([t, t.loc[[6]]]), "doubled_words", 1 / 25),
    (lambda t: pd.concat([t, t.loc[[6]].assign(start=11.0)]), "doubled_words", 1 / 25),
    (swap, "out_of_order", 1 / 24),
    (interrupt, "out_of_order", 2 / 24),
    (lambda t: t.assign(start=t["start"].where(t.index != 24, 52.0)), "outside_sounds", 1 / 24),
    (lambda t: t.assign(start=t["start"].where(t.index != 1, 0.5)), "outside_sounds", 1 / 24),
])
def test_faults_of_words_are_counted(words, change, measure, share):
    measures = words(change)
    assert measures[measure] == pytest.approx(share)
    assert {finding.measure for finding in judge(measures)} == {measure}


def test_gaps(words):
    far = words(lambda t: t[(t["start"] < 10) | (t["start"] >= 26)])
    assert far["gap_s"] == pytest.approx(26 - 8.5)
    assert [(f.level, f.measure) for f in judge(far)] == [("warn", "gap_s")]
    late = words(lambda t: t[(t["kind"] == "sound") | (t["start"] > 33)])
    assert late["gap_s"] == pytest.approx(34 - 1)  # since the sound began


def test_words_outside_the_recording(words):
    assert words(duration=48.2)["outside_recording"] == pytest.approx(1 / 24)  # from 48 to 48.5 s


def test_a_word_of_two_tokens_counts_as_two(words):
    def join(table):
        table.loc[2, "word"] = "two three"
        return table.drop(index=3)
    assert words(join)["missing_words"] == 0


def test_levels():
    assert worst([]) == "ok" and worst(["ok", "warn", "ok"]) == "warn" and worst(["warn", "fail"]) == "fail"
    assert [finding.level for finding in judge({"drift_ppm": -5000.0, "gap_s": 11.0, "words": 1e9})] == ["fail", "warn"]


def test_lag_of_a_recorded_sound(tmp_path):
    import soundfile
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.random(60), 1600)
    wave = 0.3 * loudness * rng.standard_normal(96_000)  # 6 s
    soundfile.write(tmp_path / "s.wav", wave, 16_000)
    for start, lag in ((3.0, 0.25), (-1.5, -0.1), (8.0, 0.0)):
        channel = 1e-3 * rng.standard_normal(5000)  # 10 s at 500 Hz
        first = round((start + lag) * 500)
        heard = wave[::32][max(-first, 0):5000 - first]
        channel[max(first, 0):max(first, 0) + len(heard)] += heard
        if start == 8.0:
            assert np.isnan(audio_lag(channel, 500, tmp_path / "s.wav", start)).all()  # 1 s of it is recorded
            continue
        found, r = audio_lag(channel, 500, tmp_path / "s.wav", start)
        assert found == pytest.approx(lag, abs=0.006) and r > 0.7
    _, r = audio_lag(rng.standard_normal(5000), 500, tmp_path / "s.wav", 2.0)
    assert r < 0.4


def test_quality_of_a_recording(recordings, tmp_path):
    quality = quality_of(recordings[0])
    assert quality.level == "ok" and quality.sensors == 6 and quality.rate == 200 and quality.seconds == 60
    assert quality.measures["words"] == 14 * 8 and "thes0" in quality.vocabulary
    recordings[0].wav.unlink()
    broken = quality_of(recordings[0])
    assert broken.level == "fail" and broken.findings[0].measure == "unreadable" and "sound" in broken.findings[0].text
