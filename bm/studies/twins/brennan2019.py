"""The twin of `brennan2019`: a story of 32 words in 8 sentences and 2 sounds, 5 subjects of 25 s.

S01 has 61 channels; S03 a channel AUD and S04 one Aux5, which hold the sound; S06 names all columns of its trial table;
S07 is BrainVision. S02, whose trial table is short, is on the list of the excluded; S28 has no trial table. The first
sound begins before the EEG.
"""
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.studies.brennan2019 import STORY, TABLES
from bm.studies.twins.bids import write_brainvision

#: fault → what is wrong then, with S03 or with the story
FAULTS = {
    "missing_sound": "a sound is not there",
    "missing_file": "the table of the story's words is not there",
    "truncated_raw": "the signal ends before what its header says",
    "lost_trigger": "the trial table lacks a trial",
    "missing_word": "the story's table lacks a word",
    "drift": "the EEG's clock is one per cent slower than the sound's",
    "lag": "the sound came 0.3 s later than the trial table says",
    "wrong_rows": "the trial table is a row late, as with the excluded subjects",
    "doubled_word": "a word is there twice, at the same time",
    "out_of_order": "two words have changed places in time",
    "outside_sound": "the last word of the first sound lies in the silence after it",
    "gap": "more than ten seconds of a sound have no word",
}
SUBJECTS = ("S01", "S02", "S03", "S04", "S06", "S07")
RATE, WAVE_RATE = 500, 44_100
#: samples from a word to the beginning of its trial
OFFSET = -150
SENTENCES = ("Alice saw the gate", "it was not open", "a null had come", "None of them knew", "she ate the cake",
             "her feet grew small", "the key was gone", "tears filled the hall")
#: s between words
STEP = 0.5
#: segment → s in its sound of its first word, and sample (from 1) in the EEG where that word's trial begins
SEGMENTS = {1: (3.0, 501), 2: (0.2, 7001)}
#: s of sound after the last word
TAIL = 1.0


def make(folder: Path, fault: str | None = None, subjects: tuple[str, ...] = SUBJECTS, seed: int = 0) -> None:
    """Writes the twin.

    Args:
        folder: the study's root.
        fault: one of `FAULTS`.
        subjects: some of `SUBJECTS`.
        seed: of noise and sounds.
    """
    rng = np.random.default_rng(seed)
    download = folder / "download"
    for name in ("audio", *TABLES):
        (download / name).mkdir(parents=True)
    story = _story(fault)
    if fault != "missing_file":
        # one of the words is "null", one "None"; in one header a letter has another case
        story.drop(index=10 if fault == "missing_word" else []).rename(columns={"Position": "position"}).to_csv(
            download / STORY, index=False)
    waves = _sounds(download / "audio", story, fault, rng)
    samples = 12_500 + (6000 if fault == "gap" else 0)
    for subject in subjects:
        bad = fault if subject == "S03" else None
        begin = _begins(story, bad)
        _write_table(download, subject, story, begin, bad)
        if subject == "S07":
            names = [*_names(subject), "Aux5"]
            data = 1e-5 * rng.standard_normal((len(names), samples))
            write_brainvision(download / f"{subject}.vhdr", data, names, RATE)
        else:
            _write_fieldtrip(download / f"{subject}.mat", samples, waves, rng, bad)
    if "S01" in subjects:
        (download / "S28.mat").write_bytes((download / "S01.mat").read_bytes())
    used = [subject for subject in subjects if subject != "S02"]
    (folder / "twin.json").write_text(json.dumps({"study": "brennan2019", "subjects": len(used),
                                                  "recordings": len(used), "sensors": 60, "rate": RATE,
                                                  "hours": len(used) * samples / RATE / 3600}))


def _story(fault: str | None) -> pd.DataFrame:
    """A row per word, as in the story's table."""
    rows: list[dict[str, Any]] = []
    for number, sentence in enumerate(SENTENCES):
        for place, word in enumerate(sentence.split()):
            segment = 1 if number < len(SENTENCES) // 2 else 2
            said = sum(row["Segment"] == segment for row in rows)
            onset = SEGMENTS[segment][0] + STEP * said
            rows.append({"Word": word, "Segment": segment, "onset": onset, "offset": round(onset + 0.8 * STEP, 3),
                         "Order": len(rows) + 1, "LogFreq": 10.5, "Position": place + 1, "Sentence": number + 1})
    table = pd.DataFrame(rows)
    if fault == "doubled_word":
        table.loc[11] = table.loc[10]
    return table


def _begins(story: pd.DataFrame, fault: str | None) -> np.ndarray:
    """The sample (from 1) at which the trial of each word begins."""
    first = story.groupby("Segment")["onset"].transform("first")
    at = story["Segment"].map({segment: begin for segment, (_, begin) in SEGMENTS.items()})
    begin = (at + RATE * (story["onset"] - first) * (1.01 if fault == "drift" else 1)).round().to_numpy(float).copy()
    if fault == "out_of_order":
        begin[[5, 6]] = begin[[6, 5]]
    if fault == "outside_sound":
        begin[15] += 2.5 * RATE
    return begin


def _sounds(folder: Path, story: pd.DataFrame, fault: str | None, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Noise while a word is said; the sound of the second segment may end in a long silence."""
    import soundfile

    waves = {}
    for segment, words in story.groupby("Segment"):
        end = words["offset"].iloc[-1] + TAIL + (12 if fault == "gap" and segment == 2 else 0)
        wave = 0.001 * rng.standard_normal(round(end * WAVE_RATE))
        for onset, offset in zip(words["onset"], words["offset"], strict=True):
            spoken = slice(round(onset * WAVE_RATE), round((offset - 0.2 * rng.random()) * WAVE_RATE))
            wave[spoken] = rng.uniform(0.05, 0.3) * rng.standard_normal(spoken.stop - spoken.start)
        waves[int(segment)] = wave  # type: ignore[call-overload]
        if not (fault == "missing_sound" and segment == 2):
            soundfile.write(folder / f"DownTheRabbitHoleFinal_SoundFile{segment}.wav", wave.clip(-1, 1), WAVE_RATE,
                            subtype="PCM_16")
    return waves


def _cell(items: list[Any]) -> np.ndarray:
    """A column cell of MATLAB."""
    cell = np.empty((len(items), 1), dtype=object)
    cell[:, 0] = items
    return cell


def _write_table(download: Path, subject: str, story: pd.DataFrame, begin: np.ndarray, fault: str | None) -> None:
    """The struct `proc`: trials, and channels found bad (two in S01, one in S03, none elsewhere)."""
    from scipy.io import savemat

    own = np.c_[story["Segment"], story["onset"], story["Order"]].astype(float)
    if fault == "wrong_rows":
        own = np.r_[own[1:], own[-1:]]
    trl = np.c_[begin, begin + 650, np.full(len(begin), OFFSET), own]
    if subject == "S02" or fault == "lost_trigger":
        trl = trl[:-1]
    names = ["segment", "tmin", "Order"]
    bads = {"S01": ["12", "45"], "S03": ["12"]}.get(subject, [])
    proc = {"subject": subject, "trl": trl, "tot_trials": float(len(trl)), "tot_chans": 61.0, "implicitref": "29",
            "refchannels": _cell(["25", "29"]), "impedence": {"bads": _cell(bads)},
            "varnames": _cell([*(["start_sample", "stop_sample", "offset"] if subject == "S06" else []), *names]),
            "rejections": {"badchans": _cell(["7"] if subject == "S01" else []),
                           "final": {"artfctdef": {"summary": {"artifact": np.zeros((0, 2))}}}}}
    savemat(download / TABLES[subject == "S07"] / f"{subject}.mat", {"proc": proc})


def _names(subject: str) -> list[str]:
    return [*(str(i) for i in range(1, 62) if i != 29), "VEOG", *{"S03": ["AUD"], "S04": ["Aux5"]}.get(subject, [])]


def _write_fieldtrip(path: Path, samples: int, waves: dict[int, np.ndarray], rng: np.random.Generator,
                     fault: str | None) -> None:
    """The struct `raw`, µV."""
    from scipy.io import savemat
    from scipy.signal import resample_poly

    names = _names(path.stem)
    data = 10 * rng.standard_normal((len(names), samples))
    if len(names) == 62:
        data[-1] *= 0.01
        for segment, (onset, begin) in SEGMENTS.items():
            heard = 1000 * resample_poly(waves[segment], RATE, WAVE_RATE)
            first = begin - 1 - OFFSET - round(onset * RATE) + (round(0.3 * RATE) if fault == "lag" else 0)
            heard = heard[max(-first, 0):samples - first]
            data[-1, max(first, 0):max(first, 0) + len(heard)] += heard
    n = float(samples)
    header = {"Fs": float(RATE), "nChans": float(len(names)), "nSamples": n, "nSamplesPre": 0.0, "nTrials": 1.0,
              "label": _cell(names), "chantype": _cell(["eeg"] * len(names)), "chanunit": _cell(["uV"] * len(names))}
    if fault == "truncated_raw":
        data = data[:, :samples // 2]
    savemat(path, {"raw": {"hdr": header, "label": _cell(names), "fsample": float(RATE), "trial": _cell([data]),
                           "time": _cell([np.arange(data.shape[1])[None] / RATE]),
                           "sampleinfo": np.array([[1.0, n]])}})
