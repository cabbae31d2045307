"""Writes continuous recordings in the format of KIT/Yokogawa systems (.con, .sqd)."""
import struct
from pathlib import Path

import numpy as np

#: T per count: 10 V over 16 bits, times the sensitivity written here
SCALE = 1e-12 * 10 / 2 ** 16
#: count of a trigger channel at rest (5 V) and in a pulse (0 V)
IDLE, PULSE = 32000, 0
_SYSTEM = 442  # 208 sensors
_RECORD = 80


def write_kit(path: Path, counts: np.ndarray, rate: float, sensors: int, references: int) -> None:
    """Writes a file that `mne.io.read_raw_kit` reads.

    Args:
        path: its name ends in .con or .sqd.
        counts: `(time, channels)` int16: axial gradiometers and reference magnetometers in units of `SCALE`, then
            trigger channels in units of 10 V / 2¹⁶.
        rate: Hz.
        sensors: how many gradiometers; they are spread over the upper half of a sphere of 12 cm.
        references: how many reference magnetometers.
    """
    n_times, n_channels = counts.shape
    triggers = n_channels - sensors - references
    system = struct.pack("<iii128s128si256sii", 2, 4, _SYSTEM, b"twin", b"twin", n_channels, b"", 1_262_304_000, 0)
    system += struct.pack("<3ii3ii3ii3ii29idiii", *[0] * 45, 10.0, 0, 16, 16)
    channels = b"".join([*(_sensor(2, place) for place in half_sphere(sensors, 0.12)),
                         *(_sensor(0x101, place) for place in half_sphere(references, 0.2)),
                         *(struct.pack("<ii4s32s", -1, i, b"", b"").ljust(_RECORD, b"\0") for i in range(triggers))])
    gains = np.array([[0.0, 1e-12]] * n_channels, dtype="<f8").tobytes()
    conditions = struct.pack("<idii", 1, rate, 0, n_times)
    # place in the directory → content, size of an item, number of items
    parts = {1: (system, len(system), 1), 4: (channels, _RECORD, n_channels), 5: (gains, 16, n_channels),
             7: (struct.pack("<i", 0), 4, 1), 8: (conditions, len(conditions), 1),
             9: (np.ascontiguousarray(counts, dtype="<i2").tobytes(), 2, counts.size)}
    directory = np.zeros((30, 4), dtype="<u4")
    directory[0] = 0, 16, 30, 30
    offset = directory.nbytes
    for entry, (content, size, count) in parts.items():
        directory[entry] = offset, size, count, count
        offset += len(content)
    path.write_bytes(directory.tobytes() + b"".join(content for content, _, _ in parts.values()))


def half_sphere(n: int, radius: float) -> np.ndarray:
    """`n` points spread over the upper half of a sphere, `(n, 3)` in units of `radius`."""
    turn = np.arange(n) * np.pi * (3 - np.sqrt(5))
    z = (np.arange(n) + 0.5) / max(n, 1)
    return radius * np.stack([np.sqrt(1 - z ** 2) * np.cos(turn), np.sqrt(1 - z ** 2) * np.sin(turn), z], 1)


def _sensor(kind: int, place: np.ndarray) -> bytes:
    """The record of a sensor whose axis points away from the origin; angles in degrees."""
    theta = np.degrees(np.arccos(place[2] / np.linalg.norm(place)))
    phi = np.degrees(np.arctan2(place[1], place[0]))
    return struct.pack("<i5d16s6s", kind, *place, theta, phi, b"", b"").ljust(_RECORD, b"\0")
