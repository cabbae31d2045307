"""The clock of clips, spikes in bins, smoothing, and which clips go to which split."""
import numpy as np
import pytest

from bm.studies.clips import Clock, choose_clips, count_spikes, neuron_channels


def test_clips_begin_at_whole_seconds_with_a_gap():
    clock = Clock(rate=1000, gap_s=0.5)
    assert clock.starts([1.2, 2.5, 2.5001, 0.3]) == ([1, 3, 6, 10], 11)
    assert Clock(gap_s=0).starts([1.0, 2.0]) == ([0, 1], 3)
    assert clock.bins(1.2345) == 1234 and Clock(rate=200).bins(4.995) == 999


def test_spikes_are_counted_in_half_open_bins():
    counts = count_spikes(np.array([-0.1, 0.0, 0.99, 1.0, 3.0, 3.5, 3.96875, 4.0, 99.0]), 4, 1000)
    assert counts.tolist() == [2, 1, 0, 3]
    assert count_spikes(np.array([0.0, 4.9, 5.0, 14.99]), 3, 200).tolist() == [2, 1, 1]
    assert count_spikes(np.array([]), 3, 200).tolist() == [0, 0, 0]
    assert count_spikes(np.array([1, 2, 3]) * 1000 / 64, 4, 64).tolist() == [0, 1, 1, 1]  # times that are bins' edges


@pytest.mark.parametrize("rate, width", [(1000, 21), (200, 5), (250, 5), (500, 11), (100, 3)])
def test_smoothing_is_a_normalised_hann_window_within_the_clip(rate, width):
    clock = Clock(rate=rate, smooth_ms=21)
    counts = np.zeros((200, 2))
    counts[100, 0] = 1
    smooth = clock.smooth(counts)
    window = np.hanning(width + 2)[1:-1]
    assert smooth[:, 0].sum() == pytest.approx(1) and (smooth[:, 1] == 0).all()
    assert smooth[100 - width // 2:101 + width // 2, 0] == pytest.approx(window / window.sum())
    assert (smooth > 0).sum() == width
    # a constant rate stays what it is at the borders
    assert clock.smooth(np.ones((50, 1))) == pytest.approx(np.ones((50, 1)))
    some = clock.smooth(np.where([True, False], np.nan, np.ones((50, 2))))
    assert np.isnan(some[:, 0]).all() and np.isfinite(some[:, 1]).all()


def test_no_smoothing_by_less_than_two_bins():
    counts = np.random.default_rng(0).poisson(1, (20, 1)).astype(float)
    assert Clock(rate=1000).smooth(counts) is counts and Clock(rate=50, smooth_ms=21).smooth(counts) is counts


@pytest.mark.parametrize("values", [{"rate": 0}, {"rate": 12.5}, {"smooth_ms": -1}, {"gap_s": -0.1}])
def test_bad_clock(values):
    with pytest.raises(ValueError, match="whole positive number of bins per second"):
        Clock(**values)


def test_which_clips_go_where():
    known = range(1, 7)
    assert choose_clips("s", known, "songs", None, None, None) == dict.fromkeys(known)
    assert choose_clips("s", known, "songs", [2, 5, 3], [5], None) == {2: None, 3: None, 5: "test"}
    assert choose_clips("s", known, "songs", None, [5, 6], [1]) == {
        1: "valid", 2: "train", 3: "train", 4: "train", 5: "test", 6: "test"}
    assert choose_clips("s", known, "songs", [1, 2], [2], []) == {1: "train", 2: "test"}


@pytest.mark.parametrize("lists, message", [
    (([1, 9], None, None), r"study s: songs=\[9\] are none of its songs"),
    (([1, 2], [3], None), r"test_songs=\[3\] are none of its songs \[1, 2\]"),
    ((None, [3], [3]), r"\[3\] are in test_songs and in valid_songs"), (([], None, None), "songs is empty")])
def test_bad_lists(lists, message):
    with pytest.raises(ValueError, match=message):
        choose_clips("s", range(1, 7), "songs", *lists)


def test_channels_have_no_place():
    table = neuron_channels(["a", "b"], region="A1", depth=[1.0, 2.0])
    assert table["type"].tolist() == ["neuron"] * 2 and table[["x", "layout_x"]].isna().all(axis=None)
    assert table["region"].tolist() == ["A1"] * 2 and table["depth"].tolist() == [1.0, 2.0]
