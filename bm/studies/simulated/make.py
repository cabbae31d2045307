"""Makes the simulated dataset: a BIDS folder, with the truth behind it under `derivatives/truth`."""
import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bm.events import KINDS
from bm.studies.simulated import forward
from bm.studies.simulated.noise import BAND, Noise, add_artifacts, make_noise
from bm.studies.simulated.sources import FEATURES, PEAKS, features, make_kernels
from bm.studies.simulated.speech import Speech, synthesize, write_wav
from bm.studies.simulated.stories import STORIES

if TYPE_CHECKING:
    import mne

logger = logging.getLogger(__name__)

#: Raise it when the same parameters make other data
FORMAT = 1
TASK = "listening"
STORIES_PER_SESSION = 3
N_BADS = 3
TRUTH = Path("derivatives") / "truth"
#: s of rest before, between and after the sounds: range to draw from
_REST = (2.0, 4.0)
#: independent random streams; append only, or the same seed makes other data
_STREAMS = ("kernels", "anatomy", "subject", "shift", "sources of noise", "timing", "noise", "artifacts")


@dataclass(frozen=True)
class Parameters:
    """What a dataset depends on.

    Args:
        seed: of all that is random. A subject or session is the same however many others there are.
        subjects: 1 to 100.
        sessions: 1 to 10, of three stories each; the six stories come round again from the third session on.
        snr: power of the response over power of the noise, linear. Powers are variances between 0.5 and 20 Hz, averaged
            over the good channels; that of the response is taken while a sound plays. Artifacts do not count. Each
            recording has exactly this ratio; 0 means no response. At the default an ideal observer of 3 s of one
            subject has 95 % of 251 words among its first ten, and a linear decoder of that subject alone 63 %.
        rate: of the recordings, Hz, 50 to 1000.
        minutes: at most this much sound in a session (whole sentences), at least 0.2; None for all.

    Raises:
        ValueError: a value of the wrong type or out of range.
    """

    seed: int = 0
    subjects: int = 4
    sessions: int = 2
    snr: float = 0.01
    rate: float = 250.0
    minutes: float | None = None

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"seed": (0, 2 ** 63), "subjects": (1, 100), "sessions": (1, 10),
                                                  "snr": (0, 1e6), "rate": (50, 1000), "minutes": (0.2, math.inf)}
        for name, (low, high) in ranges.items():
            value: Any = getattr(self, name)
            if name == "minutes" and value is None:
                continue
            kind: Any = (int,) if name in ("seed", "subjects", "sessions") else (int, float)
            right_type = isinstance(value, kind) and not isinstance(value, bool)
            if not right_type or not low <= value <= high:
                expected = "an integer" if kind == (int,) else "a number"
                raise ValueError(f"study simulated: {name} is {value!r}, expected {expected} from {low} to {high}")
        for name in ("snr", "rate", "minutes"):  # 100 and 100.0 are the same dataset
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def key(self) -> str:
        """Name of the dataset's folder: a hash of the parameters, of the stories and of `FORMAT`."""
        text = json.dumps({"format": FORMAT, "stories": STORIES, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def rng(self, stream: str, subject: int = 0, session: int = 0) -> np.random.Generator:
        """A random stream of its own for each purpose, subject and session."""
        key = (_STREAMS.index(stream), subject, session)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def recordings(self) -> list[tuple[int, int]]:
        """Subject and session of each recording, both counted from 1."""
        sessions = range(1, self.sessions + 1)
        return [(subject, session) for subject in range(1, self.subjects + 1) for session in sessions]

    def playlist(self, session: int) -> list[str]:
        """The stories of a session."""
        names, first = list(STORIES), (session - 1) * STORIES_PER_SESSION
        return [names[(first + i) % len(names)] for i in range(STORIES_PER_SESSION)]


def entities(subject: int | str, session: int | str) -> str:
    """The BIDS entities of a recording's files."""
    return f"sub-{subject:0>2}_ses-{session}_task-{TASK}"


def make_dataset(parameters: Parameters, root: Path) -> None:
    """Writes the dataset into the empty folder `root`."""
    (root / TRUTH).mkdir(parents=True)
    (root / "stimuli").mkdir()
    speech = _speak(parameters)
    for name, story in speech.items():
        write_wav(root / "stimuli" / f"{name}.wav", story.audio)
    minutes = sum(story.duration for story in speech.values()) / 60
    logger.info("simulated: %d stories, %.1f minutes of speech", len(speech), minutes)
    stimuli = {name: features(story, parameters.rate) for name, story in speech.items()}
    kernels = make_kernels(parameters.rng("kernels"), parameters.rate).scaled(list(stimuli.values()))
    sources = {name: kernels.respond(stimulus) for name, stimulus in stimuli.items()}
    np.savez(root / TRUTH / "kernels.npz", kernels=kernels.values, features=np.array(FEATURES), rate=parameters.rate)
    for name in speech:
        np.savez(root / TRUTH / f"{name}.npz", features=stimuli[name].astype(np.float32), sources=sources[name])
    for subject, session in parameters.recordings():
        _make_recording(parameters, root, subject, session, speech, sources)
        logger.info("simulated: made subject %d of %d, session %d of %d", subject, parameters.subjects, session,
                    parameters.sessions)
    _describe(parameters, root)


def _speak(parameters: Parameters) -> dict[str, Speech]:
    """The stories of all sessions, cut to `minutes` a session."""
    playlists = [parameters.playlist(session) for session in range(1, parameters.sessions + 1)]
    last = max(list(STORIES).index(name) for playlist in playlists for name in playlist)
    spoken = synthesize({name: STORIES[name].split("\n") for name in list(STORIES)[:last + 1]})  # voices go by position
    out = {}
    for playlist in playlists:
        left = math.inf if parameters.minutes is None else 60 * parameters.minutes
        for name in playlist:
            out[name] = spoken[name].cut(left)
            left -= out[name].duration
    return {name: story for name, story in out.items() if story.words}


def _make_recording(parameters: Parameters, root: Path, subject: int, session: int, speech: dict[str, Speech],
                    sources: dict[str, np.ndarray]) -> None:
    """Writes one recording and the truth about it."""
    rate = parameters.rate
    names, positions = forward.helmet()
    shift = forward.random_shift(parameters.rng("shift", subject, session))
    sensors = shift.to_head(positions) - forward.CENTRE
    anatomy = forward.make_anatomy(parameters.rng("anatomy"), len(FEATURES), len(PEAKS))
    patterns = anatomy.for_subject(parameters.rng("subject", subject)).patterns(sensors)
    noise = make_noise(parameters.rng("sources of noise", subject), sensors, patterns)

    playlist = [name for name in parameters.playlist(session) if name in speech]
    durations = [speech[name].duration for name in playlist]
    onsets, n_times = _timing(parameters.rng("timing", subject, session), durations, rate)
    course = place([sources[name] for name in playlist], onsets, n_times)
    playing = place([np.ones(round(duration * rate)) for duration in durations], onsets, n_times) > 0
    artifacts = parameters.rng("artifacts", subject, session)
    bads = [int(channel) for channel in artifacts.choice(len(names), N_BADS, replace=False)]
    patterns = patterns * response_gain(parameters.snr, course, playing, patterns, noise, bads, rate)

    data = noise.sample(parameters.rng("noise", subject, session), n_times, rate)
    data += course @ patterns.T.astype(np.float32)
    add_artifacts(data, artifacts, rate, sensors, bads)

    folder = root / f"sub-{subject:02d}" / f"ses-{session}" / "meg"
    folder.mkdir(parents=True)
    stem = entities(subject, session)
    info = forward.make_info(names, positions, shift, rate, [names[i] for i in bads])
    _write_fif(folder / f"{stem}_meg.fif", data, info)
    _write_sidecars(folder, stem, names, bads, n_times, rate)
    starts = dict(zip(playlist, onsets / rate, strict=True))
    _write_tsv(folder / f"{stem}_events.tsv", _events({name: speech[name] for name in playlist}, starts))
    noise.save(root / TRUTH / f"{stem}_noise.npz")
    np.savez(root / TRUTH / f"{stem}_response.npz", patterns=patterns, stories=np.array(playlist), onsets=onsets,
             n_times=n_times)


def _timing(rng: np.random.Generator, durations: list[float], rate: float) -> tuple[np.ndarray, int]:
    """First samples of the sounds, and the length of the recording in samples."""
    rests = np.round(rng.uniform(*_REST, len(durations) + 1) * rate).astype(int)
    lengths = np.ceil(np.array(durations) * rate).astype(int)
    ends = np.cumsum(rests[:-1] + lengths)
    return ends - lengths, int(ends[-1] + rests[-1])


def place(pieces: list[np.ndarray], onsets: np.ndarray, n_times: int) -> np.ndarray:
    """Puts pieces `(time, …)` into silence at their onsets (samples), `(n_times, …)` float32."""
    out = np.zeros((n_times, *pieces[0].shape[1:]), dtype=np.float32)
    for piece, onset in zip(pieces, onsets, strict=True):
        out[onset:onset + len(piece)] += piece[:n_times - onset]
    return out


def response_gain(snr: float, course: np.ndarray, playing: np.ndarray, patterns: np.ndarray, noise: Noise,
                  bads: list[int], rate: float) -> float:
    """What to multiply the patterns by so that the recording has the wanted `snr` (as defined in `Parameters`)."""
    from scipy.fft import irfft, rfft, rfftfreq

    freqs = rfftfreq(len(course), 1 / rate)
    spectrum = rfft(course.astype(np.float64), axis=0) * ((freqs >= BAND[0]) & (freqs <= BAND[1]))[:, None]
    covariance = np.cov(irfft(spectrum, len(course), axis=0)[playing].T)
    good = np.setdiff1d(np.arange(len(patterns)), bads)
    signal = np.einsum("ck,kl,cl->c", patterns, covariance, patterns)[good].mean()
    return float(np.sqrt(snr * noise.band_power()[good].mean() / signal))


def _events(speech: dict[str, Speech], starts: dict[str, float]) -> pd.DataFrame:
    """The rows of an events.tsv."""
    rows = []
    for name, story in speech.items():
        start = starts[name]
        rows.append({"onset": start, "duration": story.duration, "trial_type": "sound", "stim_file": f"{name}.wav"})
        for kind, said in (("word", story.words), ("phoneme", story.phonemes)):
            condition = {"condition": "sentence"} if kind == "word" else {}
            rows += [{"onset": start + row["start"], "duration": row["duration"], "trial_type": kind, kind: row[kind],
                      "sequence_id": f"{name}-{row['sentence']:02d}", "word_index": str(row["word_index"]), **condition}
                     for row in said]
    table = pd.DataFrame(rows).round({"onset": 6, "duration": 6})
    return table.iloc[np.lexsort((table["trial_type"].map(KINDS), table["onset"]))]


def _write_fif(path: Path, data: np.ndarray, info: "mne.Info") -> None:
    import mne

    mne.io.RawArray(data.T, info, verbose="ERROR").save(path, fmt="single", verbose="ERROR")


def _write_tsv(path: Path, table: pd.DataFrame) -> None:
    """Cells as they are, without quotes; n/a where there is none."""
    cells = table.astype(object).where(table.notna(), "n/a").astype(str)
    lines = ["\t".join(table.columns), *("\t".join(row) for row in cells.itertuples(index=False))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_sidecars(folder: Path, stem: str, names: list[str], bads: list[int], n_times: int, rate: float) -> None:
    """What BIDS wants beside a recording. mne-bids cannot write it: KIT coils make it expect a file of KIT's own."""
    status = ["bad" if i in bads else "good" for i in range(len(names))]
    _write_tsv(folder / f"{stem}_channels.tsv", pd.DataFrame(
        {"name": names, "type": "MEGGRADAXIAL", "units": "T", "sampling_frequency": rate, "status": status}))
    _write_json(folder / f"{stem}_meg.json", {
        "TaskName": TASK, "Manufacturer": "simulated", "PowerLineFrequency": 50, "SamplingFrequency": rate,
        "SoftwareFilters": "n/a", "DewarPosition": "n/a", "DigitizedLandmarks": False, "DigitizedHeadPoints": False,
        "RecordingDuration": n_times / rate, "RecordingType": "continuous", "MEGChannelCount": len(names)})
    _write_json(folder / f"{stem.split('_task')[0]}_coordsystem.json", {
        "MEGCoordinateSystem": "ElektaNeuromag", "MEGCoordinateUnits": "m"})


def _describe(parameters: Parameters, root: Path) -> None:
    about = {"Name": "Simulated listening", "BIDSVersion": "1.9.0", "DatasetType": "raw", "License": "CC0",
             "GeneratedBy": [{"Name": "bm", "Description": "bm.studies.simulated: no one's brain was recorded"}]}
    _write_json(root / "dataset_description.json", about)
    (root / "README").write_text("Simulated MEG of listening to stories that eSpeak NG speaks, made by bm.\n")
    _write_json(root / TRUTH / "dataset_description.json", {**about, "DatasetType": "derivative"})
    _write_json(root / TRUTH / "parameters.json", asdict(parameters))
    ids = [f"sub-{subject:02d}" for subject in range(1, parameters.subjects + 1)]
    _write_tsv(root / "participants.tsv", pd.DataFrame({"participant_id": ids}))


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
