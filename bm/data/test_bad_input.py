"""Bad studies, files and tables on their way into an XP: each is named with its place, what was got, and the cure."""
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from bm.config import Config, ConfigError, check_config, to_plain
from bm.conftest import SENTENCES, ToyRecording, channels_table
from bm.data.assemble import Data, assemble, list_recordings
from bm.data.prepare import prepare, prepare_signal
from bm.data.tracks import compute_tracks
from bm.events import EventsError, check_events, make_blocks
from bm.features import build_feature
from bm.features.audio import read_audio
from bm.store import Store
from bm.studies.base import STUDIES, Recording, Signal, Study
from bm.studies.mne_recording import MneRecording

CONF = Path(__file__).parents[2] / "conf"
OVERRIDES = ["dset.sample_rate=25", "dset.tmin=0", "dset.tmax=1.5", "dset.condition=0.5", "dset.test_ratio=0.3",
             "dset.valid_ratio=0.2", "dset.features_params.MelSpectrum.n_mels=8", "dset.selections=[toy]",
             "+selections.toy.study=toy", "num_workers=1"]


class Toy(Study):
    name = "toy"
    listed: list[Recording] = []

    def recordings(self) -> Iterator[Recording]:
        yield from self.listed


@dataclasses.dataclass(frozen=True, repr=False)
class FifRecording(MneRecording):
    """A FIF file, with the events of a toy recording."""

    toy: ToyRecording
    file: Path
    uid: str = "fif"
    study: str = "toy"
    subject: str = "p9"
    session: str = "1"

    def raw(self) -> mne.io.BaseRaw:
        return mne.io.read_raw_fif(self.file, verbose="ERROR")

    def events(self) -> pd.DataFrame:
        return self.toy.events()

    def source_files(self) -> list[Path]:
        return [self.file]


def write_fif(path: Path, seconds: float = 60.0, rate: float = 100.0, nan: bool = False) -> Path:
    """Two EEG channels that nobody placed."""
    data = 1e-6 * np.random.default_rng(0).standard_normal((2, int(seconds * rate)))
    if nan:
        data[1, 320:323] = np.nan
    mne.io.RawArray(data, mne.create_info(["Fz", "Cz"], rate, "eeg"), verbose="ERROR").save(path, verbose="ERROR")
    return path


@pytest.fixture(scope="module")
def plain() -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", OVERRIDES))


@pytest.fixture
def toy(plain, monkeypatch):
    """`toy(recordings, key=value…)`: a config that selects them; the keywords are those of `dset`."""
    def build(recordings: list[Recording], paths: dict | None = None, **dset) -> Config:
        monkeypatch.setattr(Toy, "listed", recordings)
        monkeypatch.setitem(STUDIES, "toy", Toy)
        return check_config({**plain, "study_paths": paths or {}, "dset": {**plain["dset"], **dset}})
    return build


def run(cfg: Config, root: Path) -> Data:
    return assemble(cfg.model_copy(update={"cache": "cache"}), root)


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- studies and recordings

def test_missing_study_folder(toy, recordings, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"selections.toy: the study 'toy' is not in .*/nowhere: download it "
                                                r"there, or .*study_paths.toy="):
        run(toy(recordings, {"toy": "nowhere"}), tmp_path)


def test_unknown_selection_and_study(plain, toy, recordings, tmp_path):
    with pytest.raises(ConfigError, match="unknown selection 'simulatde'; known: .*did you mean 'simulated'"):
        check_config({**plain, "dset": {**plain["dset"], "selections": ["simulatde"]}})
    cfg = toy(recordings).model_copy(update={"selections": {"toy": {"study": "simulatd"}}})
    with pytest.raises(ValueError, match="selections.toy.study: unknown study 'simulatd'; known: .*'simulated'"):
        run(cfg, tmp_path)
    cfg = toy(recordings).model_copy(update={"selections": {"toy": {"study": "toy", "sesions": 2}}})
    with pytest.raises(ValueError, match=r"study toy: unknown selection keys \['sesions'\]"):
        run(cfg, tmp_path)


def test_two_recordings_of_one_uid(toy, recordings):
    cfg = toy([recordings[0], dataclasses.replace(recordings[1], uid="r0")])
    with pytest.raises(ValueError, match="two recordings are called 'toy/r0': uids must be unique"):
        list_recordings([Toy(None)], cfg.dset)


def test_no_recording_is_left(toy, recordings):
    with pytest.raises(ValueError, match=r"the selections \['toy'\] have 3, and dset.skip_recordings is 3"):
        list_recordings([Toy(None)], toy(recordings, skip_recordings=3).dset)


def test_missing_brain_file(recordings, tmp_path):
    recording = FifRecording(recordings[0], tmp_path / "no_raw.fif")
    with pytest.raises(FileNotFoundError, match="toy/fif: 1 of its 1 files are missing, the first is .*no_raw.fif: "
                                                "complete the download of the study, or mend study_paths.toy"):
        prepare(recording, Store(tmp_path), 25, 0)


# ---- what was measured

def test_nan_in_a_raw(recordings, tmp_path):
    recording = FifRecording(recordings[0], write_fif(tmp_path / "x_raw.fif", nan=True))
    with pytest.raises(ValueError, match=r"toy/fif: 3 values that are not finite in channels Cz, the first at 3.2 s; "
                                         r"expected finite numbers: mark the channels bad"):
        prepare(recording, Store(tmp_path), 25, 0)
    assert not list(tmp_path.glob("prepared/*/brain.npy"))


def test_rate_above_that_of_the_raw(recordings, tmp_path):
    recording = FifRecording(recordings[0], write_fif(tmp_path / "x_raw.fif"))
    with pytest.raises(ValueError, match="toy/fif: dset.sample_rate is 120 Hz but the recording has 100 Hz; choose 100 "
                                         "Hz or less"):
        prepare(recording, Store(tmp_path), 120, 0)


def test_rate_that_is_no_whole_number():
    signal = Signal.from_array(np.zeros((60_000, 2), np.float32), 508.63, channels_table(2))
    with pytest.raises(ValueError, match=r"toy/r0: the recording has 508.63 Hz, expected a whole number: taken for 509 "
                                         r"Hz, its end would be 0.0857 s off"):
        prepare_signal(signal, 25, 0, "toy/r0")
    near = dataclasses.replace(signal, rate=500.0001)  # less than a sample off at the end
    assert prepare_signal(near, 25, 0, "toy/r0").shape == (3000, 2)


def test_channels_that_are_badly_described():
    twice = channels_table(3).assign(name=["Fz", "Cz", "Fz"])
    array = np.zeros((200, 3), np.float32)
    with pytest.raises(ValueError, match=r"toy/r0: channel names must be unique, but \['Fz'\] occur more than once"):
        prepare_signal(Signal.from_array(array, 100, twice), 25, 0, "toy/r0")
    with pytest.raises(ValueError, match="toy/r0: 3 channels with 2 rows that describe them, expected one row per"):
        prepare_signal(Signal.from_array(array, 100, channels_table(2)), 25, 0, "toy/r0")


def test_channels_without_position_pass_as_nan(toy, recordings, tmp_path):
    unplaced = FifRecording(recordings[2], write_fif(tmp_path / "x_raw.fif"))
    data = run(toy([*recordings[:2], unplaced]), tmp_path)
    segment = np.flatnonzero(data.segments["recording"] == 2)[:1]
    batch = data.dataset("train").__getitems__(segment)
    assert batch.channel_mask[0].tolist() == [True, True, False, False, False, False]
    assert batch.layout[0].isnan().all() and batch.positions[0].isnan().all() and batch.brain.isfinite().all()


# ---- events and sounds

def events_of(recording: Recording, row: int = 0, **change) -> pd.DataFrame:
    events = recording.events().astype({"start": object, "duration": object, "filepath": object})
    events["offset"] = np.nan
    events["offset"] = events["offset"].astype(object)
    for column, value in change.items():
        events.at[row, column] = value
    return events


@pytest.mark.parametrize("change, message", [
    ({"filepath": "/no/such.wav"}, "'filepath': got '/no/such.wav', expected a readable sound file; check the path"),
    ({"filepath": 3}, "'filepath': got 3, expected the path of a sound file"),
    ({"offset": 50.0}, "'offset': got 50.0, expected less than the file's 50 s; check .*: is it whole, and the file"),
    ({"offset": -1.0}, "'offset': got -1.0, expected seconds into the sound file, 0 or more"),
    ({"offset": "half"}, "'offset': got 'half', expected seconds into the sound file"),
    ({"start": 60.5}, "'start': got 60.5, expected a time within the recording of 60 s; check the clock"),
    ({"duration": -2.0}, "'duration': got -2.0, expected 0 or more; mend the events file or the study's reader"),
])
def test_bad_sound_events(recordings, change, message):
    with pytest.raises(EventsError, match=rf"^toy/r0, events row 0 \(sound at .* s\), column {message}"):
        check_events(events_of(recordings[0], **change), "toy/r0", 60)


def test_a_file_that_is_no_sound(recordings, tmp_path):
    (tmp_path / "text.wav").write_text("not found")
    with pytest.raises(EventsError, match="text.wav', expected a readable sound file"):
        check_events(events_of(recordings[0], filepath=str(tmp_path / "text.wav")), "toy/r0", 60)


def test_sounds_shorter_than_their_events_are_counted_and_said_once(recordings, caplog, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(8000), 8000)
    sounds = [{"kind": "sound", "start": 52.0 + 2 * i, "duration": 1.0 + over, "filepath": str(tmp_path / "short.wav")}
              for i, over in enumerate([0.0, 0.0004, 0.25])]
    events = pd.concat([events_of(recordings[0], duration=50.5), pd.DataFrame(sounds)])
    checked = check_events(events, "toy/r0", 60)
    assert list(checked.loc[checked["kind"] == "sound", "duration"]) == pytest.approx([50, 1, 1, 1])
    (message,) = warnings(caplog)
    assert "toy/r0: 2 of 4 sounds are annotated longer than their file and end with it; the most: events row 0" in \
        message and "sound.wav at 1 s, asked for 50.5 s from 0 s on, has 0.5 s less" in message


def test_a_sound_that_lasts_into_the_next_is_cut(recordings, wav, caplog):
    events = pd.concat([events_of(recordings[0]), pd.DataFrame(
        [{"kind": "sound", "start": 50.5, "duration": 8.0, "filepath": str(wav)}])])
    sounds = check_events(events, "toy/r0", 60).query("kind == 'sound'")
    assert list(sounds["duration"]) == pytest.approx([49.5, 8])
    (message,) = warnings(caplog)
    assert "toy/r0: 1 of 2 sounds last into the next one" in message and "sound.wav at 1 s by 0.5 s" in message


@pytest.mark.parametrize("start, duration", [(20.0, 2.0), (1.0, 50.0), (1.02, 50.0)])
def test_two_sounds_at_once(recordings, wav, start, duration):
    second = pd.DataFrame([{"kind": "sound", "start": start, "duration": duration, "filepath": str(wav)}])
    with pytest.raises(EventsError, match=rf"toy/r0, .*'start': got {start}, expected a sound after the one before it, "
                                          r"which lasts from 1 to 51 s; two sounds at once"):
        check_events(pd.concat([recordings[0].events(), second]), "toy/r0", 60)


def test_overlapping_blocks(recordings):
    events = recordings[0].events()
    twice = check_events(pd.concat([events, events.iloc[9:10]]), "toy/r0", 60)
    with pytest.raises(EventsError, match=r"toy/r0, events row \d+ \(word at 4.5 s\), column 'start': got 4.5, "
                                          r"expected a later start than the block before it; blocks may not overlap"):
        make_blocks(twice, "sentence", 60, "toy/r0")


def test_no_events_at_all():
    empty = pd.DataFrame({"start": [], "duration": [], "kind": []})
    with pytest.raises(EventsError, match="toy/r0: no event starts a block by the rule 'sentence'"):
        make_blocks(check_events(empty, "toy/r0", 60), "sentence", 60, "toy/r0")
    with pytest.raises(EventsError, match="toy/r0: the events table has no column 'start'; it has"):
        check_events(pd.DataFrame(), "toy/r0", 60)


def test_events_may_begin_before_the_recording_and_end_after_it(toy, recordings, tmp_path):
    """The sound and its first sentence begin 2 s before the recording; in another the sound outlasts it."""
    early = dataclasses.replace(recordings[0], onset=-2.0)
    late = dataclasses.replace(recordings[1], seconds=30.0, onset=1.0, sentences=SENTENCES[:8])
    assert late.events()["start"].max() + 0.3 < 30 < late.events()["start"].iloc[0] + 50
    late.extra.append({"kind": "word", "start": 29.9, "duration": 0.4, "word": "end", "word_index": 0,
                       "word_sequence": "end", "condition": "sentence"})
    data = run(toy([early, late, recordings[2]], purge=0.0), tmp_path)
    stop = data.segments["first"] + 39  # 1.5 s at 25 Hz, both ends
    assert (data.segments["first"] >= 0).all()
    assert (stop <= np.array([len(p.array) for p in data.prepared])[data.segments["recording"]]).all()
    assert set(data.segments["recording"]) == {0, 1, 2}
    # what is heard 3 s into the sound is heard 1 s into the recording that missed its beginning
    rows = data.banks[0].rows[data.banks[0].index[0][25:50]]
    same = data.banks[0].rows[data.banks[0].index[2][round((3 + recordings[2].onset) * 25):][:25]]
    assert np.abs(rows - same).mean() < 0.2 * same.std()


def test_empty_split(toy, recordings, tmp_path):
    with pytest.raises(ValueError, match=r"split 'valid' is empty: 3 recordings, 0 blocks of it, none holds a whole "
                                         r"window of 1.5 s. Use more data, .*dset.allow_empty_split=true"):
        run(toy(recordings, valid_ratio=0.0), tmp_path)
    data = run(toy(recordings, valid_ratio=0.0, allow_empty_split=True), tmp_path)
    assert len(data.ids("valid")) == 0 and len(data.ids("train"))


def test_window_longer_than_every_block(toy, recordings, tmp_path):
    with pytest.raises(ValueError, match=r"split 'train' is empty: .* none holds a whole window of 45 s"):
        run(toy(recordings, tmax=45.0), tmp_path)


# ---- sound files

@pytest.mark.parametrize("start, stop", [(-1.0, 2.0), (3.0, 3.0), (4.0, 2.0), (50.0, 50.05), (70.0, None)])
def test_spans_outside_a_sound(wav, start, stop):
    with pytest.raises(ValueError, match=r"sound.wav: asked for .* s of a file of 50.000 s, expected a span within it: "
                                         r"check `offset` and `duration`"):
        read_audio(wav, start, stop)


def test_span_that_ends_after_the_sound(wav):
    with pytest.raises(ValueError, match="asked for 49.000–51.000 s, but the file has only 50.000 s: is it whole"):
        read_audio(wav, 49.0, 51.0)


def test_a_sound_replaced_by_another_of_its_name(recordings, wav, tmp_path):
    """The content is the identity: no track of the old sound is used, and a copy elsewhere is no new sound."""
    feature, store, tracks, names = build_feature("MelSpectrum", {"n_mels": 8}), Store(tmp_path / "cache"), [], []
    copy = tmp_path / "elsewhere" / "copy.wav"
    copy.parent.mkdir()
    copy.write_bytes(wav.read_bytes())
    for path in (wav, copy, wav):
        if len(tracks) == 2:
            samples, rate = soundfile.read(wav)
            soundfile.write(wav, samples[::-1], rate)
        stimulus = check_events(events_of(recordings[0], filepath=str(path)), "toy/r0", 60)["stimulus"][0]
        names.append(stimulus)
        tracks += compute_tracks(feature, path, [(0.0, 5.0)], store, stimulus)
    assert names[0] == names[1] != names[2]
    assert len(list((tmp_path / "cache/tracks/MelSpectrum").glob("*/rows.npy"))) == 2
    assert np.array_equal(tracks[0], tracks[1]) and not np.allclose(tracks[0], tracks[2])
