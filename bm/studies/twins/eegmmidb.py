"""The twin of `eegmmidb`: six runs of 25 s of one person, and one of each of three others.

S002R01 is a run at rest with a T1 in it; S003R03's last annotation is longer than the file, and the file lies where MNE
keeps it; S088R03 has 128 Hz. Closed eyes have more of 10 Hz over the back of the head.
"""
import json
from pathlib import Path

import numpy as np

from bm.studies.eegmmidb import CHANNELS, RATE, REST, UNFINISHED
from bm.studies.twins.edf import write_edf

#: fault → what is wrong then, with S001R03 (or S001R02)
FAULTS = {
    "truncated_raw": "the signal ends before what its header says",
    "lost_trigger": "a trial has no annotation",
    "spare_trigger": "an annotation has a code that the run does not have",
    "wrong_rate": "a recording has 128 Hz",
    "missing_file": "of a download that was interrupted, a file is missing",
}
_LABELS = ("Fc5. Fc3. Fc1. Fcz. Fc2. Fc4. Fc6. C5.. C3.. C1.. Cz.. C2.. C4.. C6.. Cp5. Cp3. Cp1. Cpz. Cp2. Cp4. Cp6. "
           "Fp1. Fpz. Fp2. Af7. Af3. Afz. Af4. Af8. F7.. F5.. F3.. F1.. Fz.. F2.. F4.. F6.. F8.. Ft7. Ft8. T7.. T8.. "
           "T9.. T10. Tp7. Tp8. P7.. P5.. P3.. P1.. Pz.. P2.. P4.. P6.. P8.. Po7. Po3. Poz. Po4. Po8. O1.. Oz.. O2.. "
           "Iz..")
#: labels in the order of the files
LABELS = _LABELS.split()
SECONDS = 25
#: s; rest and trials follow each other
REST_S, TRIAL_S = 4.2, 4.1
MNE_PLACE = "MNE-eegbci-data/files/eegmmidb/1.0.0"


def make(folder: Path, fault: str | None = None, rest_subjects: int = 0, seed: int = 0) -> None:
    """Writes the twin.

    Args:
        folder: the study's root.
        fault: one of `FAULTS`.
        rest_subjects: instead, the two runs at rest of so many people, 61 s each.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    if rest_subjects:
        runs = [(subject, run, 61) for subject in range(1, rest_subjects + 1) for run in REST]
    else:
        runs = [*((1, run, SECONDS) for run in range(1, 7)), (2, 1, SECONDS), (3, 3, SECONDS), (88, 3, SECONDS)]
    for subject, run, seconds in runs:
        bad = fault if (subject, run) == (1, 3) else None
        place = folder / (MNE_PLACE if subject == 3 and not rest_subjects else "") / f"S{subject:03d}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"S{subject:03d}R{run:02d}.edf"
        rate = 128 if subject == 88 or bad == "wrong_rate" else RATE
        write_edf(path, _brain(run, seconds, rate, rng), LABELS, rate, _annotations(subject, run, seconds, bad))
        path.with_suffix(".edf.event").write_bytes(b"")
        if bad == "truncated_raw":
            path.write_bytes(path.read_bytes()[:-50_000])
    (folder / "RECORDS").write_text("".join(f"S{s:03d}/S{s:03d}R{r:02d}.edf\n" for s, r, _ in runs))
    if fault == "missing_file":
        (folder / "S001" / "S001R02.edf").unlink()
        (folder / UNFINISHED).touch()
    used = [run for run in runs if run[0] != 88]
    (folder / "twin.json").write_text(json.dumps({
        "study": "eegmmidb", "subjects": len({run[0] for run in used}), "recordings": len(used), "sensors": CHANNELS,
        "rate": RATE, "hours": sum(run[2] for run in used) / 3600}))


def _brain(run: int, seconds: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of 20 µV, of which channels share some; with closed eyes 10 Hz in the last 20 channels."""
    data = 14 * rng.standard_normal((CHANNELS, seconds * rate)) + 14 * rng.standard_normal(seconds * rate)
    if REST.get(run) == "eyes_closed":
        data[-20:] += 15 * np.sin(2 * np.pi * (10 * np.arange(seconds * rate) / rate + rng.random((20, 1))))
    return data


def _annotations(subject: int, run: int, seconds: int, fault: str | None) -> list[tuple[float, float, str]]:
    if run in REST:
        odd = [(5.0, 4.1, "T1")] if subject == 2 and seconds == SECONDS else []
        return [(0.0, float(seconds), "T0"), *odd]
    found, onset = [], 0.0
    for i in range(7):
        duration, code = (TRIAL_S, "T2" if i % 4 == 1 else "T1") if i % 2 else (REST_S, "T0")
        if onset < seconds:
            found.append((round(onset, 1), duration, code))
        onset += duration
    if fault == "lost_trigger":
        del found[1]
    if fault == "spare_trigger":
        found.append((20.0, 1.0, "T3"))
    # the last one is cut to the file, but with S003
    last = found[-1] if fault != "spare_trigger" else found[-2]
    if subject != 3:
        found[found.index(last)] = (last[0], round(min(last[1], seconds - last[0]), 1), last[2])
    return found
