"""`MneRecording` on channels that are hard to place."""
import logging
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from bm.studies.base import CHANNEL_COLUMNS
from bm.studies.mne_recording import MneRecording


class Held(MneRecording):
    """A recording whose raw is held in memory."""

    study, subject, session, uid = "held", "01", "1", "01"

    def __init__(self, names: list[str], types: list[str] | str = "eeg", montage: str | None = None) -> None:
        info = mne.create_info(names, 100.0, types)
        self._raw = mne.io.RawArray(np.arange(len(names) * 50.0).reshape(len(names), 50), info, verbose="ERROR")
        if montage:
            self._raw.set_montage(montage)

    def raw(self) -> mne.io.BaseRaw:
        return self._raw

    def events(self) -> pd.DataFrame:
        return pd.DataFrame()

    def source_files(self) -> list[Path]:
        return []


def test_bad_channels_stay_and_others_are_left_out():
    recording = Held(["Fz", "EOG1", "Cz", "Pz", "STI"], ["eeg", "eog", "eeg", "eeg", "stim"], "colin27_1020")
    recording.raw().info["bads"] = ["Pz"]
    signal = recording.signal()
    assert list(signal.channels.columns) == CHANNEL_COLUMNS
    assert list(signal.channels["name"]) == ["Fz", "Cz", "Pz"]
    assert list(signal.channels["bad"]) == [False, False, True]
    assert set(signal.channels["unit"]) == {"V"}
    assert np.isfinite(signal.channels[["x", "y", "z", "layout_x", "layout_y"]].to_numpy()).all()
    assert signal.channels["layout_y"].tolist() == sorted(signal.channels["layout_y"], reverse=True)
    assert np.array_equal(signal.read(3, 5), [[3, 103, 153], [4, 104, 154]])
    assert signal.read(5, 5).shape == (0, 3)


def test_unknown_positions_are_nan_and_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        channels = Held(["a", "b"]).signal().channels
    assert channels[["x", "y", "z", "layout_x", "layout_y"]].isna().all(axis=None)
    assert len([r for r in caplog.records if r.name == "bm.studies.mne_recording"]) == 1


def test_names_of_ctf_match_the_layout_before_the_dash():
    names = [name.split("-")[0] + "-4105" for name in mne.channels.read_layout("CTF-275").names[:20]]
    recording = Held(names, "mag")
    for channel in recording.raw().info["chs"]:
        channel["coil_type"] = mne.io.constants.FIFF.FIFFV_COIL_CTF_GRAD
    layout = recording.signal().channels[["layout_x", "layout_y"]].to_numpy()
    assert np.isfinite(layout).all()
    assert (layout.min(0) == 0).all()
    assert (layout.max(0) == 1).all()


def test_errors():
    with pytest.raises(ValueError, match="no channel of kind"):
        Held(["STI"], "stim").signal()
    recording = Held(["Fz", "Cz"])
    recording.raw().info["chs"][1]["ch_name"] = "Fz"
    recording.raw().info._update_redundant()
    with pytest.raises(ValueError, match=r"channel names must be unique, but \['Fz'\]"):
        recording.signal()
