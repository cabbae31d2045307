"""Songs and spikes of the published files, counted again; a twin of them for what goes wrong."""
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from bm.config import Config, check_config, to_plain
from bm.data.responses import build_responses
from bm.events import check_events, make_blocks
from bm.metrics.ceilings import noise_ceilings, repeat_covariance, split_half
from bm.studies.download import Manifest
from bm.studies.strflab import Strflab, read_spikes
from bm.studies.twins.strflab import make_twin

ROOT = Path(__file__).parents[2]


def config(folder: Path, cache: Path, *overrides: str) -> Config:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check_config(to_plain(compose("config", [
            "model=encoder", "dset.selections=[strflab]", "dset.features=[MelSpectrum]", "dset.sample_rate=200",
            "selections.strflab.rate=200", "dset.highpass=0", "device=cpu", f"study_paths.strflab={folder}",
            f"cache={cache}", *overrides])))


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strflab")
    manifest = make_twin(folder)
    patch = pytest.MonkeyPatch()
    patch.setattr(Strflab, "manifest", manifest)
    yield folder
    patch.undo()


def test_a_recording_has_all_songs_of_one_repeat(twin):
    study = Strflab(twin, rate=500, gap_s=1.0, test_songs=[17], valid_songs=[1])
    recordings = list(study.recordings())
    assert [recording.uid for recording in recordings] == ["repeat01", "repeat02", "repeat03", "repeat04"]
    assert {recording.subject for recording in recordings} == {"finch"}
    for repeat, recording in enumerate(recordings):
        events, signal = recording.events(), recording.signal()
        array = signal.read()
        assert signal.rate == 500 and signal.missing == "mask" and array.shape == (signal.duration * 500, 1)
        assert (events["start"] % 1 == 0).all() and (events["start"].diff()[1:] > 1.6).all()
        inside = np.zeros(len(array), dtype=bool)
        for song, event in enumerate(events.itertuples(), start=1):
            path = twin / f"fakedata/auditory/stim{song}.wav"
            assert event.filepath == str(path) and event.duration == soundfile.info(path).duration
            own = slice(round(event.start * 500), round(event.until * 500))
            assert own.stop - own.start == int(event.duration * 500 + 1e-6)
            inside[own] = True
            lines = [np.array(line.split(), float) for line in path.with_name(f"spike{song}").read_text().splitlines()]
            if repeat >= len(lines):
                assert song == 3 and np.isnan(array[own]).all()
                inside[own] = False
                continue
            edges = np.arange(own.stop - own.start + 1) * 2.0
            assert np.array_equal(array[own, 0], np.histogram(lines[repeat][lines[repeat] < edges[-1]], edges)[0])
        assert np.array_equal(np.isfinite(array[:, 0]), inside)
    assert recordings[0].events()["split"].tolist() == ["valid", *["train"] * 15, "test", *["train"] * 3]
    silent = recordings[0].events().iloc[1]
    assert (recordings[0].signal().read(round(silent.start * 500), round(silent.until * 500)) == 0).all()


def test_blocks_end_with_their_song(twin):
    recording = next(Strflab(twin).recordings())
    events = check_events(recording.events(), recording.name, recording.signal().duration)
    blocks = make_blocks(events, Strflab.blocks, recording.signal().duration, recording.name)
    assert len(blocks) == 20 and blocks["stop"].tolist() == recording.events()["until"].tolist()
    assert (blocks["stop"] - blocks["start"] - events["duration"]).between(-0.001, 1e-9).all()


def test_options_are_in_the_cache_key(twin):
    keys = [json.dumps(next(Strflab(twin, **selection).recordings()).signal_options()) for selection in (
        {}, {"rate": 500}, {"smooth_ms": 21}, {"gap_s": 1}, {"songs": [1, 2]}, {"songs": [2, 3]})]
    assert len(set(keys)) == len(keys)
    assert keys[0] == json.dumps(next(Strflab(twin, test_songs=[1]).recordings()).signal_options())


def test_smoothing_stays_in_the_song(twin):
    plain, smooth = (next(Strflab(twin, smooth_ms=width).recordings()).signal().read() for width in (0, 21))
    assert np.array_equal(np.isnan(plain), np.isnan(smooth))
    assert np.nansum(smooth) == pytest.approx(np.nansum(plain), rel=0.02) and np.nanstd(smooth) < np.nanstd(plain) / 2


def test_trials(twin, tmp_path):
    responses = build_responses(config(twin, tmp_path), ROOT, history=12)
    assert {split: len(responses.of(split)) for split in ("train", "valid", "test")} == {
        "train": 12, "valid": 4, "test": 4}
    assert responses.units[["name", "type"]].to_numpy().tolist() == [["neuron", "neuron"]]
    seconds = [soundfile.info(twin / f"fakedata/auditory/stim{song}.wav").duration for song in range(1, 21)]
    assert sorted(len(trial.features) for trial in responses.trials) == sorted(int(200 * s + 1e-6) for s in seconds)
    missing = [int(np.isnan(trial.responses).all((1, 2)).sum()) for trial in responses.trials]
    assert sorted(missing) == [0] * 19 + [1] and {len(trial.responses) for trial in responses.trials} == {4}
    assert all(np.isfinite(trial.mean()).all() for trial in responses.trials)


def test_twin_has_a_signal(twin):
    """The spikes follow the sounds."""
    found = noise_ceilings(songs(Strflab(twin, smooth_ms=21)))
    assert found.reliability[0] > 0.5 and found.signal_power[0] > 0


def songs(study: Strflab) -> list[np.ndarray]:
    """Responses `(repeats, bins, 1)` of each song."""
    recordings = list(study.recordings())
    events, rate = recordings[0].events(), study.clock.rate
    arrays = [recording.signal().read() for recording in recordings]
    return [np.stack([array[round(start * rate):round(stop * rate)] for array in arrays])
            for start, stop in zip(events["start"], events["until"], strict=True)]


@pytest.mark.parametrize("selection, message", [
    ({"smoth_ms": 21}, r"unknown selection keys \['smoth_ms'\].*smooth_ms"), ({"songs": [0]}, r"songs=\[0\]"),
    ({"rate": -5}, "bins per second")])
def test_bad_selections(twin, selection, message):
    with pytest.raises(ValueError, match=message):
        Strflab(twin, **selection)


def test_bad_files(twin, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"40 files are not in .* call prepare\(\)"):
        next(Strflab(tmp_path).recordings())
    with pytest.raises(ValueError, match="no path"):
        Strflab(None)
    (tmp_path / "spike1").write_text("1.5 2\n3 four\n")
    with pytest.raises(ValueError, match="spike1, line 2: .*'four'; expected spike times in ms"):
        read_spikes(tmp_path / "spike1")
    (tmp_path / "spike1").write_text("1.5 \n\n\n")
    assert [len(times) for times in read_spikes(tmp_path / "spike1")] == [1, 0, 0]


# the published files

def test_published_files(shared_data, monkeypatch):
    """Every spike during a song is counted; what ten repeats agree on (21-ms window, 1 ms bins)."""
    monkeypatch.setattr(Strflab, "manifest", Manifest.load(ROOT / "bm/studies/strflab.json"))
    folder = shared_data("zebra_finch_strflab")
    study = Strflab(folder)
    study.prepare()
    counts = songs(study)
    lines = [line.split() for song in range(1, 21) for line in (folder / f"spike{song}").read_text().splitlines()]
    assert len(counts) == 20 and {len(one) for one in counts} == {10} and len(lines) == 200
    last = {song: counts[song - 1].shape[1] for song in range(1, 21)}
    expected = sum(float(time) < last[song] for song in range(1, 21)
                   for line in (folder / f"spike{song}").read_text().splitlines() for time in line.split())
    assert sum(one.sum() for one in counts) == expected < sum(map(len, lines))
    smooth = songs(Strflab(folder, smooth_ms=21))
    halves = [np.corrcoef(one[::2].mean(0)[:, 0], one[1::2].mean(0)[:, 0])[0, 1] for one in smooth]
    assert np.mean(halves) == pytest.approx(0.887, abs=0.01)  # odd and even repeats
    assert np.mean([split_half(repeat_covariance(one)[0]) for one in smooth]) == pytest.approx(0.88, abs=0.01)
    assert noise_ceilings(smooth).ccmax[0] == pytest.approx(0.967, abs=0.002)
