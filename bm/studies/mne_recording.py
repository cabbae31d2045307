"""`MneRecording`: a recording whose signal is read by MNE-Python, whatever the file format."""
import logging
from abc import abstractmethod
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from bm.studies.base import CHANNEL_COLUMNS, Recording, Signal

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

#: Kinds of sensor a recording may ask for → the channel types of MNE it means. Reference channels are never picked.
SENSORS: dict[str, tuple[str, ...]] = {
    "meg": ("mag", "grad"), "mag": ("mag",), "grad": ("grad",), "eeg": ("eeg",), "seeg": ("seeg",), "ecog": ("ecog",),
}
_DATA_TYPES = ("mag", "grad", "eeg", "seeg", "ecog")
_UNITS = {"mag": "T", "grad": "T/m", "eeg": "V", "seeg": "V", "ecog": "V"}


class MneRecording(Recording):
    """A recording read by MNE-Python. Subclasses give `raw`, `events` and `source_files`.

    The class attribute `sensors` names what is picked, from `SENSORS`. Bad channels are kept and flagged, so that every
    recording of a device has the same channels.
    """

    sensors: ClassVar[tuple[str, ...]] = ("meg", "eeg")

    @abstractmethod
    def raw(self) -> "mne.io.BaseRaw":
        """The open file, not preloaded, with its bad channels in `info["bads"]`."""

    def signal(self) -> Signal:
        """The picked channels, read lazily, in SI units (T, T/m, V).

        Raises:
            ValueError: no channel of the wanted kind, two channels of one name, an unknown kind of sensor.
        """
        import mne

        # For the whole process: threads that read at once would restore one another's level.
        mne.set_log_level("WARNING")
        raw = self.raw()
        picks = _pick(raw.info, self.sensors, self.name)
        channels = channel_table(raw.info, picks, self.name)
        shape = (int(raw.n_times), len(picks))
        return Signal(shape, float(raw.info["sfreq"]), channels, partial(_read, raw, picks, self.name))


def _read(raw: "mne.io.BaseRaw", picks: np.ndarray, name: str, start: int, stop: int) -> np.ndarray:
    if not 0 <= start <= stop <= raw.n_times:
        raise ValueError(f"{name}: rows {start}…{stop} were asked of a signal of {raw.n_times} samples")
    if start == stop:
        return np.empty((0, len(picks)))
    return raw.get_data(picks=picks, start=start, stop=stop).T


def _pick(info: "mne.Info", sensors: tuple[str, ...], name: str) -> np.ndarray:
    """Indices of the channels of the wanted kinds, in file order."""
    twice = sorted(key for key, count in Counter(info["ch_names"]).items() if count > 1)
    if twice:  # MNE itself cannot pick from such a file
        raise ValueError(f"{name}: channel names must be unique, but {twice[:5]} occur more than once: rename them")
    unknown = sorted(set(sensors) - set(SENSORS))
    if unknown:
        raise ValueError(f"{name}: unknown sensors {unknown}, expected some of {sorted(SENSORS)}")
    wanted = {kind for sensor in sensors for kind in SENSORS[sensor]}
    types = info.get_channel_types()
    picks = np.array([i for i, kind in enumerate(types) if kind in wanted], dtype=int)
    if not len(picks):
        raise ValueError(f"{name}: no channel of kind {sorted(wanted)}; the file has {dict(Counter(types))}")
    return picks


def channel_table(info: "mne.Info", picks: np.ndarray, name: str) -> pd.DataFrame:
    """The channels `picks` of `info`, as a table with the columns `CHANNEL_COLUMNS`; `name` is for messages.

    Positions are in metres: MEG sensors are moved to the head frame with `dev_head_t`, or stay in the device frame if
    the file has none. The 2-D layout is that of `mne.channels.find_layout`, each axis scaled to [0, 1] over these
    channels.
    """
    names = [info["ch_names"][i] for i in picks]
    types = info.get_channel_types(picks=picks)
    units = [_unit(info["chs"][i], kind) for i, kind in zip(picks, types, strict=True)]
    table = pd.DataFrame({"name": names, "type": types, "unit": units})
    table[["x", "y", "z"]] = _positions(info, picks)
    table[["layout_x", "layout_y"]] = _layout(info, names, name)
    table["region"] = ""
    table["bad"] = [channel in info["bads"] for channel in names]
    return table[CHANNEL_COLUMNS]


def _unit(channel: dict, kind: str) -> str:
    """MNE gives planar gradiometers in T/m, but axial ones (whose coils it calls "mag") in T."""
    from mne.io.constants import FIFF

    return "T" if kind == "grad" and channel["unit"] == FIFF.FIFF_UNIT_T else _UNITS[kind]


def _positions(info: "mne.Info", picks: np.ndarray) -> np.ndarray:
    """`(channels, 3)` in metres, NaN where unknown. An unset location is all zeros or NaN in MNE."""
    from mne.io.constants import FIFF

    xyz = np.array([info["chs"][i]["loc"][:3] for i in picks], dtype=float).reshape(-1, 3)
    xyz[~np.isfinite(xyz).all(1) | (xyz == 0).all(1)] = np.nan
    device = np.array([info["chs"][i]["coord_frame"] == FIFF.FIFFV_COORD_DEVICE for i in picks])
    if info["dev_head_t"] is not None:
        matrix = info["dev_head_t"]["trans"]
        xyz[device] = xyz[device] @ matrix[:3, :3].T + matrix[:3, 3]
    return xyz


def _layout(info: "mne.Info", names: list[str], recording: str) -> np.ndarray:
    """`(channels, 2)` in [0, 1], NaN for channels that no layout knows."""
    import mne

    out = np.full((len(names), 2), np.nan)
    try:
        brain = mne.pick_info(info, [i for i, t in enumerate(info.get_channel_types()) if t in _DATA_TYPES])
        layout = mne.channels.find_layout(brain, exclude=[])
    except (RuntimeError, ValueError, KeyError, NotImplementedError) as error:
        logger.warning("%s: no 2-D layout (%s): layout_x and layout_y are NaN", recording, error)
        return out
    place = {_layout_key(key): position[:2] for key, position in zip(layout.names, layout.pos, strict=True)}
    known = [i for i, key in enumerate(names) if _layout_key(key) in place]
    if len(known) < len(names):
        logger.warning("%s: the 2-D layout lacks %d of %d channels", recording, len(names) - len(known), len(names))
    if known:
        xy = np.array([place[_layout_key(names[i])] for i in known], dtype=float)
        span = np.ptp(xy, axis=0)
        out[known] = (xy - xy.min(0)) / np.where(span > 0, span, 1)
    return out


def _layout_key(name: str) -> str:
    """What a channel and its place in a layout have in common: CTF adds "-4105" to names, layouts may drop spaces."""
    return name.rsplit("-", 1)[0].replace(" ", "")
