"""A writer of EDF+C files (Kemp & Olivan 2003, doi:10.1016/s1388-2457(03)00123-8), for twins."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: µV per digital step is 1: physical and digital range are the same
LIMIT = 8092
#: bytes of annotations per record
ROOM = 120


def write_edf(path: Path, data: np.ndarray, names: Sequence[str], rate: int,
              annotations: Sequence[tuple[float, float, str]]) -> None:
    """Writes `data` `(channels, samples)` in µV, whole seconds of it, as records of 1 s.

    Args:
        annotations: onset (s), duration (s) and text of each; each is kept in the record of its onset.

    Raises:
        ValueError: not whole seconds, values beyond ±8092 µV, more annotations in a second than fit.
    """
    seconds, rest = divmod(data.shape[1], rate)
    if rest or np.abs(data).max() > LIMIT:
        raise ValueError(f"expected whole seconds of {rate} Hz within ±{LIMIT} µV, got {data.shape[1]} samples up to "
                         f"{np.abs(data).max():g}")
    digital = np.rint(data).astype("<i2").reshape(len(names), seconds, rate)
    per_signal = [[*names, "EDF Annotations"], [""] * (len(names) + 1), ["uV"] * len(names) + [""],
                  *([[str(value)] * len(names) + [str(other)]
                     for value, other in ((-LIMIT, -1), (LIMIT, 1), (-LIMIT, -32768), (LIMIT, 32767))]),
                  [""] * (len(names) + 1), [str(rate)] * len(names) + [str(ROOM // 2)], [""] * (len(names) + 1)]
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    fixed = [("0", 8), ("X X X X", 80), ("Startdate 12-AUG-2009 X X BCI2000", 80), ("12.08.09", 8), ("16.15.00", 8),
             (str(256 * (len(names) + 2)), 8), ("EDF+C", 44), (str(seconds), 8), ("1", 8), (str(len(names) + 1), 4)]
    header = "".join(text.ljust(width) for text, width in fixed)
    header += "".join(text.ljust(width) for texts, width in zip(per_signal, widths, strict=True) for text in texts)
    with open(path, "wb") as file:
        file.write(header.encode("ascii"))
        for second in range(seconds):
            notes = f"+{second}\x14\x14\x00" + "".join(
                f"+{onset:g}\x15{duration:g}\x14{text}\x14\x00" for onset, duration, text in annotations
                if int(onset) == second)
            if len(notes) > ROOM:
                raise ValueError(f"second {second} has {len(notes)} bytes of annotations, at most {ROOM} fit")
            file.write(digital[:, second].tobytes() + notes.encode("ascii").ljust(ROOM, b"\x00"))
