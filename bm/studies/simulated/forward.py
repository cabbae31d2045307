"""From sources in the head to sensors: a helmet of 208 axial gradiometers around a spherical head.

Positions are in metres. The *head* frame has its origin between the ears, x to the right, y to the front, z up; the
conducting sphere is centred `CENTRE` above it. The *device* frame is the helmet's, centred in it.
"""
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mne

LAYOUT = "KIT-AD"
#: id of the system in MNE's KIT constants, by which readers find the layout
KIT_SYSTEM = 442
#: m: radius of the helmet, baseline of the gradiometers, distance from the head's origin to the centre of its sphere
HELMET, BASELINE, CENTRE = 0.115, 0.05, np.array([0.0, 0.0, 0.04])
#: polar angle of the lowest sensors, radians: the helmet reaches below the ears
_LOWEST = 1.9
_MU0_4PI = 1e-7


def helmet() -> tuple[list[str], np.ndarray]:
    """Names and positions `(208, 3)` in the device frame.

    The positions are made from MNE's flat layout: distance from its middle is the angle from the vertex.
    """
    import mne

    layout = mne.channels.read_layout(LAYOUT)
    flat = layout.pos[:, :2] - (layout.pos[:, :2].max(0) + layout.pos[:, :2].min(0)) / 2
    flat = flat / np.abs(flat).max(0)
    azimuth, polar = np.arctan2(flat[:, 1], flat[:, 0]), _LOWEST * np.minimum(np.linalg.norm(flat, axis=1) / 1.1, 1)
    unit = np.c_[np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    return layout.names, HELMET * unit


@dataclass(frozen=True)
class HeadShift:
    """Where the head is in the helmet: `rotation (3, 3)` and `translation (3,)` take device to head coordinates."""

    rotation: np.ndarray
    translation: np.ndarray

    def to_head(self, positions: np.ndarray) -> np.ndarray:
        return positions @ self.rotation.T + self.translation


def random_shift(rng: np.random.Generator) -> HeadShift:
    """A head a few millimetres and degrees off the middle of the helmet (standard deviations 3 mm, 2°)."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec(rng.normal(0, np.deg2rad(2), 3)).as_matrix()
    return HeadShift(rotation, CENTRE + rng.normal(0, 0.003, 3))


def dipole_fields(sensors: np.ndarray, positions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Fields `(sensors, dipoles)` in T of current dipoles in a conducting sphere, as axial gradiometers measure them.

    Only the radial component is measured, to which volume currents in a sphere add nothing (Sarvas 1987, eq. 25).

    Args:
        sensors: `(S, 3)` positions from the centre of the sphere.
        positions: `(D, 3)` from the centre of the sphere.
        moments: `(D, 3)` in ampere metres.
    """
    outward = sensors / np.linalg.norm(sensors, axis=1, keepdims=True)
    flux = outward @ np.cross(moments, positions).T

    def field(at: np.ndarray) -> np.ndarray:
        return _MU0_4PI * flux / np.linalg.norm(at[:, None] - positions, axis=2) ** 3

    return field(sensors) - field(sensors + BASELINE * outward)


@dataclass(frozen=True)
class Anatomy:
    """The dipoles that answer speech, one in each hemisphere per source: `positions`, `moments` `(sources, 2, 3)`."""

    positions: np.ndarray
    moments: np.ndarray

    def for_subject(self, rng: np.random.Generator) -> "Anatomy":
        """Another head: sources moved by 5 mm, turned by about 15°, with hemispheres of other strength (all s.d.)."""
        size = np.linalg.norm(self.moments, axis=2, keepdims=True)
        turned = self.moments + size * rng.normal(0, 0.15, self.moments.shape)
        gains = rng.lognormal(0, 0.3, (1, 2, 1)) * rng.lognormal(0, 0.2, (len(self.positions), 1, 1))
        return Anatomy(_inside(self.positions + rng.normal(0, 0.005, self.positions.shape)), turned * gains)

    def patterns(self, sensors: np.ndarray) -> np.ndarray:
        """Fields `(sensors, sources)` in tesla; `sensors` from the centre of the sphere."""
        both = dipole_fields(sensors, self.positions.reshape(-1, 3), self.moments.reshape(-1, 3))
        return both.reshape(len(sensors), -1, 2).sum(2)


def make_anatomy(rng: np.random.Generator, n_features: int, n_peaks: int) -> Anatomy:
    """Sources around both auditory cortices; those of later peaks lie wider and point in more directions."""
    auditory = np.array([[-0.05, -0.005, 0.015], [0.05, -0.005, 0.015]])
    spread = np.tile(np.linspace(0.008, 0.018, n_peaks), n_features)[:, None, None]
    one_side = rng.normal(0, 1, (n_features * n_peaks, 1, 3)) * spread
    mirror = np.array([[-1.0, 1, 1], [1, 1, 1]])  # the hemispheres resemble each other
    positions = auditory + one_side * mirror + rng.normal(0, 0.3, (n_features * n_peaks, 2, 3)) * spread
    tilt = rng.normal(0, 25, (n_features * n_peaks, 1, 3)) * spread * mirror
    moments = 1e-8 * (np.array([0.0, 0.3, -0.95]) + tilt)
    return Anatomy(_inside(positions), moments)


def random_dipoles(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and moments `(n, 3)` of dipoles anywhere in the upper part of the brain, 10 nAm."""
    directions = rng.normal(0, 1, (n, 3))
    directions[:, 2] = np.abs(directions[:, 2]) - 0.3
    positions = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.uniform(0.03, 0.075, (n, 1))
    return positions, 1e-8 * rng.normal(0, 1, (n, 3))


def _inside(positions: np.ndarray) -> np.ndarray:
    """Moves dipoles that lie outside of the brain (75 mm) or near its centre (20 mm) along their radius."""
    radius = np.linalg.norm(positions, axis=-1, keepdims=True)
    return positions / radius * np.clip(radius, 0.02, 0.075)


def make_info(names: list[str], positions: np.ndarray, shift: HeadShift, rate: float, bads: list[str]) -> "mne.Info":
    """The measurement info of a recording: KIT gradiometers (which MNE counts as magnetometers), unit T."""
    import mne
    from mne.io.constants import FIFF

    info = mne.create_info(names, rate, "mag")
    for channel, position in zip(info["chs"], positions, strict=True):
        outward = position / np.linalg.norm(position)
        across = np.cross(outward, [0.0, 1.0, 0.0])
        across /= np.linalg.norm(across)
        channel["loc"][:] = np.r_[position, across, np.cross(outward, across), outward]
        channel["coil_type"] = FIFF.FIFFV_COIL_KIT_GRAD
        channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = shift.rotation, shift.translation
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", matrix)
        info["kit_system_id"] = KIT_SYSTEM
        info["line_freq"] = 50.0
    info["bads"] = bads
    return info
