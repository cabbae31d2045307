"""Tiny BIDS datasets, written by mne-bids from files that this module writes."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: electrodes of `make_listening`
ELECTRODES = ["Fp1", "Fp2", "Fz", "C3", "Cz", "C4", "Pz", "Oz"]
SENTENCE = ["the", "old", "ferry", "left", "its", "pier", "at", "dawn"]
#: s, of one sentence; a word lasts 0.3 s and begins every 0.35 s
PERIOD = 3.0


def write_brainvision(path: Path, data: np.ndarray, names: Sequence[str], rate: float,
                      markers: Sequence[tuple[float, float, str]] = ()) -> Path:
    """Writes `path` (`.vhdr`) with its `.eeg` and `.vmrk`: float32 microvolts, multiplexed.

    Args:
        data: `(channels, time)` V.
        names: of the channels.
        rate: Hz, a divisor of 1 MHz.
        markers: onset (s), duration (s) and text.
    """
    (data.T * 1e6).astype("<f4").tofile(path.with_suffix(".eeg"))
    channels = "".join(f"Ch{i}={name},,1,µV\n" for i, name in enumerate(names, 1))
    path.write_text(
        "BrainVision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(names)}\nSamplingInterval={1e6 / rate:g}\n\n[Binary Infos]\n"
        f"BinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n{channels}", encoding="utf-8")
    rows = "".join(f"Mk{i}=Comment,{text},{round(onset * rate) + 1},{round(duration * rate)},0\n"
                   for i, (onset, duration, text) in enumerate(markers, 1))
    path.with_suffix(".vmrk").write_text(
        "BrainVision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\n\n[Marker Infos]\n{rows}", encoding="utf-8")
    return path


def make_listening(root: Path, subjects: int = 2, seconds: float = 90.0, rate: float = 100.0, seed: int = 0) -> Path:
    """People who hear one sound of `seconds`: EEG in BrainVision, events with sounds and words, electrodes.

    Channel Pz is bad. Returns `root`.
    """
    import mne
    import soundfile
    from mne_bids import BIDSPath, write_raw_bids

    rng = np.random.default_rng(seed)
    n = int(seconds // PERIOD)
    (root / "stimuli" / "audio").mkdir(parents=True)
    t = np.arange(round(n * PERIOD * 8000)) / 8000
    loud = 0.3 * np.sin(np.pi * t / 0.35) ** 2 * (0.2 + rng.random(n * 10)[np.minimum(t / 0.3, n * 10 - 1).astype(int)])
    soundfile.write(root / "stimuli" / "audio" / "story.wav", loud * rng.standard_normal(len(t)), 8000)
    for subject in range(1, subjects + 1):
        begin = 1.0 + 0.25 * subject
        times = round((n * PERIOD + begin + 2) * rate)
        data = 1e-5 * rng.standard_normal((len(ELECTRODES), times))
        source = write_brainvision(root / "source.vhdr", data, ELECTRODES, rate, [(begin, n * PERIOD, "story")])
        raw = mne.io.read_raw_brainvision(source, verbose="ERROR")
        raw.set_montage("colin27_1005", verbose="ERROR")
        raw.info["line_freq"], raw.info["bads"] = 50, ["Pz"]
        path = BIDSPath(subject=f"{subject:02d}", task="listen", root=root, datatype="eeg")
        write_raw_bids(raw, path, verbose="ERROR")
        rows: list[list] = [["onset", "duration", "trial_type", "stim_file", "word", "sequence_id"],
                            [begin, n * PERIOD, "sound", "audio/story.wav", "n/a", "n/a"]]
        rows += [[round(begin + PERIOD * i + 0.35 * j, 3), 0.3, "word", "n/a", f"{word}{i}", i]
                 for i in range(n) for j, word in enumerate(SENTENCE)]
        table = path.copy().update(suffix="events", extension=".tsv").fpath
        table.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    for file in root.glob("source.*"):
        file.unlink()
    return root
