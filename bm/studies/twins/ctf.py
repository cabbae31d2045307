"""Writes continuous recordings in the format of CTF systems (folders .ds)."""
import struct
from pathlib import Path

import numpy as np

from bm.studies.twins.kit import half_sphere

#: T per count of the sensors
SCALE = 1e-15
#: kinds of channels
REFERENCE, SENSOR, STIM, CLOCK = 0, 5, 11, 17
_COIL = np.dtype([("position", ">f8", 3), ("pad0", ">f8"), ("normal", ">f8", 3), ("pad1", ">f8"), ("turns", ">i2"),
                  ("pad2", ">i4"), ("pad3", ">i2"), ("area", ">f8")])
_CHANNEL = np.dtype([("kind", ">i2"), ("run", ">i2"), ("coil", ">i4"), ("proper_gain", ">f8"), ("q_gain", ">f8"),
                     ("io_gain", ">f8"), ("io_offset", ">f8"), ("coils", ">i2"), ("order", ">i2"), ("pad", ">i4"),
                     ("dewar", _COIL, 8), ("head", _COIL, 8)])


def write_ctf(folder: Path, counts: np.ndarray, rate: float, names: list[str], kinds: list[int], trial: int,
              parts: int = 1) -> None:
    """Writes a folder that `mne.io.read_raw_ctf` reads.

    Args:
        folder: its name ends in .ds.
        counts: `(channels, time)` int32: sensors and references in units of `SCALE`, others as they are.
        rate: Hz.
        names: of the channels; `SCLK01-177` is the clock: the recording ends at its first 0.
        kinds: of the channels, `SENSOR` etc. Sensors are spread over the upper half of a sphere of 10 cm.
        trial: samples in a trial; what is left at the end is filled up with the last sample.
        parts: files over which the trials are divided (CTF divides at 2 GB).
    """
    n_channels, n_times = counts.shape
    trials = -(-n_times // trial)
    counts = np.pad(counts, ((0, 0), (0, trials * trial - n_times)), mode="edge")
    head = b"MEG41RS\0" + bytes(768) + struct.pack(">h255s255s", 0, b"12:00", b"01-Jan-2010")
    head += struct.pack(">ih2xddhxxi", trial, n_channels, rate, trial / rate, trials, 0)
    head = head.ljust(1844, b"\0") + struct.pack(">h", 0)  # no filters
    records = np.zeros(n_channels, _CHANNEL)
    records["kind"] = kinds
    records["proper_gain"] = records["q_gain"] = records["io_gain"] = 1
    magnetic = np.isin(kinds, (SENSOR, REFERENCE))
    records["q_gain"][magnetic] = 1 / SCALE
    records["coils"] = np.where(magnetic, 1, 0)
    for kind, radius in ((SENSOR, 10.0), (REFERENCE, 20.0)):  # cm
        own = np.array(kinds) == kind
        places = half_sphere(int(own.sum()), radius)
        for coils in ("dewar", "head"):
            first = records[coils][:, 0]
            first["position"][own], first["normal"][own], first["turns"][own] = places, places / radius, 1
    # one compensation record, without references: MNE cannot read a file that has none
    compensation = struct.pack(">h32siih", 1, names[0].encode(), 0x47314252, 0, 0) + bytes(50 * 31 + 50 * 8)
    folder.mkdir(parents=True)
    base = folder / folder.stem
    base.with_suffix(".res4").write_bytes(
        head + b"".join(name.encode().ljust(32, b"\0") for name in names) + records.tobytes() + compensation)
    blocks = counts.reshape(n_channels, trials, trial).transpose(1, 0, 2).astype(">i4")
    for number, part in enumerate(np.array_split(blocks, parts)):
        name = ".meg4" if number == 0 else f".{number}_meg4"
        base.with_suffix(name).write_bytes(b"MEG41CP\0" + part.tobytes())
