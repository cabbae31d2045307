"""Trials of a toy study with a planted response: what is stacked, what is split, what stands before and after."""
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.conftest import channels_table
from bm.data.responses import Responses, build_responses, mean_of_repeats
from bm.features.base import FEATURES, SoundFeature
from bm.studies.base import STUDIES, Recording, Signal, Study
from bm.studies.twins import make_twin
from bm.test_config import CONF

RATE, SECONDS, SENTENCE = 25, 60.0, 2.0
#: s from word to response: the planted kernel has 6 taps of 40 ms
TAPS = 6


def words_of(seed: int = 0) -> pd.DataFrame:
    """30 sentences of 2 s; words at random frames of the sound."""
    rng = np.random.default_rng(seed)
    rows = []
    for sentence in range(30):
        at = np.sort(rng.choice(np.arange(1, 24), 5, replace=False)) * 2 / RATE + sentence * SENTENCE
        at[0] = sentence * SENTENCE
        text = " ".join(f"w{sentence}x{i}" for i in range(5))
        rows += [{"kind": "word", "start": start, "duration": 0.08, "word": f"w{sentence}x{i}" + i * "y",
                  "word_index": i, "word_sequence": text, "condition": "sentence"} for i, start in enumerate(at)]
    return pd.DataFrame(rows)


@dataclass(frozen=True, repr=False)
class PlantedRecording(Recording):
    """Each channel answers to every word with a kernel of its own, `noise` of unit size times that."""

    uid: str
    subject: str
    wav: Path
    onset: float = 1.0
    channels: int = 4
    noise: float = 0.0
    bad: tuple[int, ...] = ()
    missing: tuple[int, int, int] | None = None  # rows from … to of a channel (-1: of all) that were not measured
    tests: tuple[int, ...] = ()                  # numbers of sentences, as fixed test stimuli
    session: str = "1"
    study: str = "planted"
    seed: int = 0

    def events(self) -> pd.DataFrame:
        words = words_of().assign(start=lambda table: table["start"] + self.onset)
        sound = {"kind": "sound", "start": self.onset, "duration": np.nan, "filepath": str(self.wav)}
        return pd.concat([pd.DataFrame([sound]), words], ignore_index=True)

    def kernels(self) -> np.ndarray:
        """`(channels, taps)`, other ones for other subjects."""
        return np.random.default_rng([*self.subject.encode()]).standard_normal((self.channels, TAPS))

    def signal(self) -> Signal:
        length = round((SECONDS + 4) * RATE)
        pulses = np.zeros(length)
        pulses[np.rint((words_of()["start"] + self.onset).to_numpy() * RATE).astype(int)] = 1
        array = np.stack([np.convolve(pulses, kernel)[:length] for kernel in self.kernels()], axis=1)
        array = 1e-12 * (array + self.noise * np.random.default_rng(self.seed).standard_normal(array.shape) + 3)
        if self.missing:
            first, stop, channel = self.missing
            array[first:stop, slice(None) if channel < 0 else channel] = np.nan
        return Signal.from_array(array, float(RATE), channels_table(self.channels, self.bad),
                                 "mask" if self.missing else "error")

    def source_files(self) -> list[Path]:
        return [self.wav]

    def signal_options(self) -> dict:
        return {"of": [self.onset, self.channels, self.noise, self.bad, self.missing, self.seed]}


class Level(SoundFeature):
    """Mean of the samples of each frame."""

    rate, context_s, dim, default = float(RATE), 0.0, 1, 0.0

    def identity(self) -> dict:
        return {"feature": "Level"}

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        step = rate // RATE
        return audio[:len(audio) // step * step].reshape(-1, step).mean(1)[:, None].astype(np.float32)


@pytest.fixture(scope="session")
def ramp(tmp_path_factory) -> Path:
    """60 s of sound whose value rises from −0.5 to 0.5."""
    path = tmp_path_factory.mktemp("ramp") / "ramp.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, round(SECONDS * 1000)), 1000, subtype="FLOAT")
    return path


@pytest.fixture
def people(ramp) -> list[PlantedRecording]:
    """Somebody who heard the sound twice and somebody else, with fewer channels, who heard it once."""
    return [PlantedRecording("a1", "a", ramp), PlantedRecording("a2", "a", ramp, onset=1.4, session="2", seed=1),
            PlantedRecording("b1", "b", ramp, onset=2.0, channels=3, bad=(1,), seed=2)]


BASE = ["device=cpu", "+selections.planted.study=planted", "dset.selections=[planted]",
        f"dset.sample_rate={RATE}", "dset.features=[WordPulse,WordLength]",
        "+dset.features_params.WordPulse.duration_ms=40", "dset.min_block_duration=1.5",
        "dset.test_ratio=0.25", "dset.valid_ratio=0.2", "dset.purge=0"]


def planted_config(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = [] if any(override.startswith("model=") for override in overrides) else ["model=encoder"]
        return check_config(to_plain(compose("config", [*model, *BASE, *overrides])))


def register(monkeypatch, recordings: list[PlantedRecording], **attributes) -> None:
    """Makes the study `planted` of these recordings known, and the feature `Level`."""
    def listed(self):
        return iter(recordings)
    monkeypatch.setitem(STUDIES, "planted", type("Planted", (Study,), {"name": "planted", "recordings": listed,
                                                                       **attributes}))
    monkeypatch.setitem(FEATURES, "Level", Level)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where the cache is, once for all tests here."""
    return tmp_path_factory.mktemp("responses")


@pytest.fixture
def build(people, monkeypatch, root) -> Callable[..., Responses]:
    """`build(overrides…, history=, future=, recordings=, attributes…)`: the trials."""
    def make(*overrides, history=0, future=0, recordings=None, **attributes):
        register(monkeypatch, recordings or people, **attributes)
        return build_responses(planted_config(*overrides), root, history, future)
    return make


def test_repeats_are_stacked_on_the_clock_of_the_stimulus(build):
    data = build("encode.response=none")
    assert data.subjects == ["planted/a", "planted/b"] and data.rate == RATE and data.hop == 1
    assert {trial.responses.shape[0] for trial in data.trials if trial.subject == 0} == {2}
    assert {trial.responses.shape[0] for trial in data.trials if trial.subject == 1} == {1}
    for trial in data.trials:
        assert trial.responses.dtype == trial.features.dtype == np.float32
        assert trial.features.shape == (trial.responses.shape[1], 2) == (trial.responses.shape[1], data.n_columns)
        assert trial.responses.shape[2] == (4 if trial.subject == 0 else 3)
        if trial.subject == 0 and trial.responses.shape[1] == SENTENCE * RATE:  # the last one ends with the recording
            np.testing.assert_allclose(trial.responses[0], trial.responses[1], rtol=1e-5)
    assert data.units["subject"].tolist() == [0] * 4 + [1] * 3
    assert data.units_of(1) == slice(4, 7) and data.units["channel"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    # what is longer in one repeat is missing in the other
    last = max((t for t in data.trials if t.subject == 0), key=lambda t: t.responses.shape[1])
    longer = np.isnan(last.responses).any(2).sum(1)
    assert longer.tolist() == [0, 10]  # the second recording began 0.4 s later and is as long


def test_no_stimulus_is_in_two_splits(build):
    data = build()
    splits = pd.DataFrame([(t.stimulus, t.split) for t in data.trials]).groupby(0)[1].nunique()
    assert (splits == 1).all() and len(splits) == 30 and {t.split for t in data.trials} == {"train", "valid", "test"}
    assert (data.audit.table[["brain_s", "stimulus_s"]] == 0).all(axis=None)
    by_subject = [{t.stimulus: t.split for t in data.trials if t.subject == s} for s in (0, 1)]
    assert by_subject[0] == by_subject[1]
    with pytest.raises(ValueError, match="nobody can be held out"):
        build("dset.split_by=subject", "dset.n_folds=2")
    with pytest.raises(ValueError, match="split 'valid' is empty"):
        build("dset.valid_ratio=0")


@pytest.mark.parametrize("purge", [0, 0.4])
def test_history_is_what_was_heard_before(build, purge):
    data = build("dset.features=[Level]", f"dset.purge={purge}", "dset.min_n_blocks_per_split=0", history=12, future=5)
    step = np.median(np.diff(data.trials[3].features[:, 0]))
    assert step > 0
    shorter = 0
    for trial in data.trials:
        assert len(trial.before) == 12 and len(trial.after) == 5
        whole = np.concatenate([trial.before, trial.features, trial.after])[:, 0]
        heard = (whole != _silence(data)) & (whole != 0)  # silence after the sound, and after the recording
        inner = np.diff(whole[heard])
        np.testing.assert_allclose(inner, step, rtol=0.02)  # on, over the borders and over what was purged
        shorter += len(trial.features) < SENTENCE * RATE
    assert (shorter > 0) == (purge > 0)


def _silence(data: Responses) -> np.float32:
    """The scaled default: what a frame after the end of the sound has."""
    last = max(data.trials, key=lambda trial: trial.features.shape[0])
    return last.features[-1, 0]


def test_nothing_before_a_recording(build, ramp):
    data = build("dset.features=[Level]", history=40, recordings=[PlantedRecording("a1", "a", ramp)])
    first = data.trials[0]
    assert (first.before[:15] == 0).all() and (first.before[15:] == _silence(data)).all()  # 1 s of silence


def test_neighbours_that_were_none(build):
    data = build("dset.features=[Level]", history=10, future=10, continuous=False)
    for trial in data.trials:
        assert len(set(trial.before[:, 0])) == 1 and np.array_equal(trial.before, trial.after)
    assert len(set(build("dset.features=[Level]", history=10).trials[5].before[:, 0])) == 10


def test_what_is_purged_of_a_clip_was_heard(build):
    options = ["dset.features=[Level]", "dset.min_n_blocks_per_split=0"]
    whole, cut = (build(*options, f"dset.purge={purge}", history=60, future=60, continuous=False).trials
                  for purge in (0, 0.4))
    assert any(len(a.features) > len(b.features) for a, b in zip(whole, cut, strict=True))
    for a, b in zip(whole, cut, strict=True):
        # all frames of a clip differ, silence is one value
        n, left = (len(np.unique(np.concatenate([t.before, t.features, t.after]))) for t in (a, b))
        assert n == left > SENTENCE * RATE


def test_who_has_no_trial_is_no_subject(build):
    data = build("dset.n_subjects=1", "dset.n_subjects_test=1")
    assert data.subjects == ["planted/a"] and len(data.units) == 4 and {t.subject for t in data.trials} == {0}
    data = build("dset.n_subjects=1")
    assert data.subjects == ["planted/a", "planted/b"] and {t.subject for t in data.of("train")} == {0}
    assert all(np.isnan(t.responses).all() for t in data.of("test") if t.subject == 1)


def test_columns_are_standardised_on_train_stimuli(build):
    data = build("dset.features=[WordLength,WordSegment,Level]")
    once = {t.stimulus: t.features for t in data.of("train")}
    rows = np.concatenate(list(once.values()))
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(rows.std(0), 1, rtol=1e-4)
    assert data.feature_names == ["WordLength", "WordSegment", "Level"]
    assert data.feature_slices == {"WordLength": slice(0, 1), "WordSegment": slice(1, 2), "Level": slice(2, 3)}
    assert len(np.unique(rows[:, 1])) == 2  # a class: one column beside "nothing"


@pytest.mark.parametrize("how", ["zscore", "max", "none"])
def test_scales_of_responses_are_of_train(build, people, how):
    noisy = [replace(r, noise=0.5) for r in people]
    data = build(f"encode.response={how}", recordings=noisy)
    train = [t for t in data.of("train") if t.subject == 0]
    values = np.concatenate([t.responses.reshape(-1, 4) for t in train])
    if how == "zscore":
        np.testing.assert_allclose(np.nanmean(values, 0), 0, atol=1e-4)
        np.testing.assert_allclose(np.nanstd(values, 0), 1, rtol=1e-4)
    elif how == "max":
        np.testing.assert_allclose(np.max([np.nanmax(t.mean(), 0) for t in train], 0), 1, rtol=1e-5)
    else:
        assert 1e-13 < np.nanstd(values) < 1e-11


def test_what_was_not_measured_is_nan(build, people):
    whole = build()
    data = build(recordings=[replace(people[0], missing=(200, 300, 2)), *people[1:]])
    assert all(np.isnan(t.responses[..., 1]).all() for t in data.trials if t.subject == 1)  # a bad channel
    missing = [np.isnan(t.responses[0, :, 2]).sum() for t in data.trials if t.subject == 0]
    before = [np.isnan(t.responses[0, :, 2]).sum() for t in whole.trials if t.subject == 0]
    assert sum(missing) - sum(before) == 100
    assert not any(np.isnan(t.mean()).any() for t in data.trials if t.subject == 0)
    x = np.array([[[1, np.nan]], [[3, np.nan]]])
    np.testing.assert_array_equal(mean_of_repeats(x), [[2, np.nan]])


def test_the_brain_may_be_later(build):
    now, later = build("encode.response=none"), build("encode.response=none", "encode.offset_ms=80")
    for a, b in zip(now.trials, later.trials, strict=True):
        np.testing.assert_array_equal(a.responses[:, 2:], b.responses)
        np.testing.assert_array_equal(a.features[:-2] > 0, b.features > 0)  # their scale is that of fewer frames


def test_a_study_may_fix_splits(build, ramp):
    @dataclass(frozen=True, repr=False)
    class Fixed(PlantedRecording):
        def events(self):
            return super().events().assign(split=lambda t: np.where(t["kind"] == "sound", "test", None))

    quiet = ramp.with_name("quiet.wav")
    soundfile.write(quiet, np.linspace(-0.1, 0.1, round(SECONDS * 1000)), 1000, subtype="FLOAT")
    data = build("dset.test_ratio=0", recordings=[Fixed("a1", "a", quiet), PlantedRecording("a2", "a", ramp)])
    assert len(data.of("test")) == 30 and len(data.trials) == 60
    assert len({t.stimulus for t in data.trials}) == 60  # the same words, but another sound


def test_the_sound_itself(build):
    data = build("dset.features=[Waveform]", "dset.features_params.Waveform.rate=1000", history=3)
    trial = data.trials[4]
    assert data.hop == 40 and trial.features.shape == (50 * 40, 1) and trial.before.shape == (120, 1)
    whole = np.concatenate([trial.before, trial.features])[:, 0]
    np.testing.assert_allclose(np.diff(whole), 1 / 60000, atol=1e-6)
    with pytest.raises(ValueError, match="stands alone in dset.features"):
        build("dset.features=[Waveform,WordPulse]")


def test_a_fixed_split_must_exist(build, people):
    @dataclass(frozen=True, repr=False)
    class Wrong(PlantedRecording):
        def events(self):
            return super().events().assign(split=lambda t: np.where(t["kind"] == "sound", "exam", None))

    with pytest.raises(ValueError, match="column 'split': got \\['exam'\\], expected train, valid, test"):
        build(recordings=[Wrong("a1", "a", people[0].wav)])


@pytest.mark.slow
def test_all_four_speech_studies(tmp_path):
    """MEG and EEG with other sensors each, from mel bands and word onsets."""
    names = ["gwilliams2022", "audio_mous", "broderick2019", "brennan2019"]
    studies = ["gwilliams2022", "schoffelen2019", "broderick2019", "brennan2019"]
    paths = [f"study_paths.{study}={make_twin(study, tmp_path / study)}" for study in studies]
    cfg = planted_config(f"dset.selections=[{','.join(names)}]", *paths, "dset.features=[MelSpectrum,WordPulse]",
                         "dset.sample_rate=50", "dset.test_ratio=0.3", "dset.valid_ratio=0.3")
    data = build_responses(cfg, tmp_path, history=20)
    assert len(data.subjects) == 2 + 2 + 2 + 5 and data.n_columns == 41
    assert (data.audit.table[["brain_s", "stimulus_s"]] == 0).all(axis=None)
    channels = {name: data.units_of(i).stop - data.units_of(i).start for i, name in enumerate(data.subjects)}
    assert set(channels.values()) == {208, 24, 128, 60}
    for trial in data.trials:
        assert trial.responses.shape[2] == channels[data.subjects[trial.subject]]
        assert np.isfinite(trial.features).all() and len(trial.before) == 20
    for study in studies:
        mine = [i for i, name in enumerate(data.subjects) if name.startswith(study)]
        assert {t.split for t in data.trials if t.subject in mine} == {"train", "valid", "test"}
    # the same sentence, heard by several people, is one stimulus
    heard = pd.DataFrame([(t.stimulus, t.subject, t.split) for t in data.trials], columns=["what", "who", "split"])
    assert heard.groupby("what")["split"].nunique().max() == 1 and heard.groupby("what")["who"].nunique().max() > 1
    bad = [np.isnan(t.responses).all((0, 1)).sum() for t in data.trials if data.subjects[t.subject].startswith("bre")]
    assert max(bad) > 0  # channels that are marked bad
