"""The published structures of NS1 on its twin: MATLAB's empty arrays, files with other names, missing units."""
import logging
from pathlib import Path

import numpy as np
import pytest

from bm.studies.ns1 import METADATA, NS1, UNPACKED, bin_spikes, read_spikes, read_units
from bm.studies.quality import quality_of
from bm.studies.twins import make_twin, twin_faults


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    return make_twin("ns1", tmp_path_factory.mktemp("twins") / "ns1")


def test_units_and_their_files(twin, caplog):
    assert [unit.name for unit in read_units(twin / METADATA)] == ["unit_a", "unit_b", "unit_c", "unit_d"]
    with caplog.at_level(logging.WARNING):
        recordings = list(NS1(twin).recordings())
    assert "1 of 3 units have no file" in caplog.text and "unit_d" in caplog.text
    assert len(recordings) == 20 and [path.name for path in recordings[0].files] == ["unit_a.mat", "unit_c_1.mat"]
    channels = recordings[0].channels()
    assert channels["name"].tolist() == ["unit_a", "unit_c"] and channels["depth_um"].tolist() == [300, 0]
    assert channels["region"].tolist() == ["A1", "A1"] and channels["noise_ratio"].tolist() == [5, 20]
    both = next(NS1(twin, units="all").recordings())
    assert both.channels()["name"].tolist() == ["unit_a", "unit_b", "unit_c"]


def test_spikes_are_those_of_the_paper(twin):
    """Whole milliseconds, at most one in each; 5-ms bins of 4.995 s."""
    clip = next(NS1(twin).recordings()).signal().read(200, 1199)[:, 0]
    # -3: before; 0.2 → 0; 7.6 and 8.4 → 8; 4994.4 → 4994; 4994.6 → 4995: after the last bin, as 5003
    assert clip.sum() == 3 and clip.nonzero()[0].tolist() == [0, 1, 998]
    assert bin_spikes(np.array([1.5, 2.4, 2.5]), 4, 1000).tolist() == [0, 0, 1, 1]


def test_missing_repeats_are_not_measured(twin):
    recordings = list(NS1(twin).recordings())
    events = recordings[0].events()
    inside = np.zeros(recordings[0].signal().shape[0], dtype=bool)
    for start, until in zip(events["start"], events["until"], strict=True):
        assert round((until - start) * 200) == 999
        inside[round(start * 200):round(until * 200)] = True
    for repeat, recording in enumerate(recordings):
        array = recording.signal().read()
        assert np.array_equal(np.isfinite(array[:, 0]), inside)
        assert np.array_equal(np.isfinite(array[:, 1]), inside & (repeat < 15))


def test_empty_repeats_are_silent(twin):
    one, other = (recording.signal().read(200, 1199)[:, 0] for recording in list(NS1(twin).recordings())[1:3])
    assert (one == 0).all() and (other == 0).all()


def test_clips_and_splits(twin):
    recording = next(NS1(twin, clips=[3, 0, 12], test_clips=[3], valid_clips=[]).recordings())
    events = recording.events()
    assert events["stimulus_id"].tolist() == ["clip00", "clip03", "clip12"]
    assert events["split"].tolist() == ["train", "test", "train"]
    assert events["category"].tolist() == ["water", "ferret", ""]
    assert [Path(path).name for path in events["filepath"]] == [
        "source.1.sound.0.snr.0.token.0.fw.2.frozen.1", "source.1.sound.0.snr.0.token.0.fw.2.frozen.4",
        "source.2.sound.0.snr.0.token.0.fw.1.frozen.1"]
    whole = read_spikes(recording.files[0])
    assert len(whole) == 20 and {len(repeats) for repeats in whole} == {20}


def test_an_archive_with_a_folder_of_its_own(twin, tmp_path):
    (tmp_path / UNPACKED).mkdir()
    (tmp_path / UNPACKED / UNPACKED).symlink_to(twin / UNPACKED)
    (tmp_path / METADATA).symlink_to(twin / METADATA)
    study = NS1(tmp_path)
    study.prepare()
    assert len(list(study.recordings())) == 20


def test_quality(twin):
    quality = quality_of(next(NS1(twin).recordings()))
    assert [finding.measure for finding in quality.findings] == ["no_words"] and quality.measures["sounds"] == 20


MESSAGES = {
    "missing_sound": (FileNotFoundError, "1 sounds are not in .*frozen.5"),
    "missing_file": (FileNotFoundError, "none of the 3 units has a file"),
    "truncated_raw": (ValueError, "unit_a.mat"),
    "wrong_rate": (ValueError, "the last spike is at 5.003, expected ms"),
    "other_fields": (ValueError, r"its units lack \['depth'\]"),
    "other_structure": (ValueError, "unit_a.mat has no spike times"),
}


@pytest.mark.parametrize("fault", twin_faults("ns1"))
def test_faults(tmp_path, fault):
    error, message = MESSAGES[fault]
    study = NS1(make_twin("ns1", tmp_path / "ns1", fault, rate=100))
    with pytest.raises(error, match=message):
        next(study.recordings()).signal()


@pytest.mark.parametrize("selection, message", [
    ({"units": "best"}, "expected good or all"), ({"clips": [20]}, r"clips=\[20\]"), ({"clip": [1]}, "clip.*clips")])
def test_bad_selections(twin, selection, message):
    with pytest.raises(ValueError, match=message):
        NS1(twin, **selection)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="call prepare"):
        next(NS1(tmp_path).recordings())
