"""Speaks the stories with eSpeak NG, and says when each word and phoneme is heard.

eSpeak NG (GPL-3) is loaded in a process of its own: this file run as a script. It reads a request as JSON on its
standard input and writes one `.wav` and one `.json` for each story. `synthesize` starts it and reads what it wrote.
"""
import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Samples per second of eSpeak NG
RATE = 22050
#: Voice (name, words per minute, pitch 0…100) of the stories, in turn. These voices give the same samples in each run,
#: which the breathier ones of eSpeak do not.
VOICES = (("en-us", 165, 45), ("en-gb-x-rp+m3", 175, 40), ("en-gb-scotland+f4", 170, 60))
#: s after a sentence; varies from sentence to sentence so that no rhythm gives the next onset away
PAUSES = (0.35, 0.55, 0.40, 0.60, 0.45)
#: s kept after the last phoneme of a sentence, while the sound dies away
_TAIL = 0.05

_PHONEMES, _IPA, _DONT_EXIT = 0x1, 0x2, 0x8000  # options of espeak_Initialize
_RETRIEVAL, _POS_CHARACTER, _UTF8 = 1, 1, 1
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
_END_OF_LIST, _WORD, _PHONEME = 0, 1, 7  # types of event


@dataclass(frozen=True)
class Speech:
    """One spoken story.

    `audio` is `(samples,)` int16 at `RATE`; `words` and `phonemes` are rows with `start` and `duration` (s), `sentence`
    (number in the story), `word_index` (in the sentence) and `word` or `phoneme`; `stops` are the sentences' ends (s).
    """

    audio: np.ndarray
    words: list[dict[str, Any]]
    phonemes: list[dict[str, Any]]
    stops: list[float]

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.audio) / RATE

    def cut(self, seconds: float) -> "Speech":
        """The sentences that end within the first `seconds`."""
        n = int(np.searchsorted(self.stops, seconds, side="right"))
        samples = round(self.stops[n - 1] * RATE) if n else 0
        return Speech(self.audio[:samples], [row for row in self.words if row["sentence"] < n],
                      [row for row in self.phonemes if row["sentence"] < n], self.stops[:n])


def synthesize(stories: Mapping[str, Sequence[str]]) -> dict[str, Speech]:
    """Speaks stories, given as lists of sentences, in a child process.

    Raises:
        ImportError: the wheel with eSpeak NG is not installed.
        RuntimeError: the child process failed.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ImportError("the simulated study speaks with eSpeak NG, which is not installed: pip install -e '.[demo]' "
                          "(or pip install espeakng-loader)")
    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps({"folder": folder, "stories": {name: list(lines) for name, lines in stories.items()}})
        # -P: the files beside this one must not hide modules of the same name
        command = [sys.executable, "-P", __file__]
        child = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
        if child.returncode:
            raise RuntimeError(f"eSpeak NG failed with exit status {child.returncode}:\n{child.stderr[-2000:]}")
        return {name: _load(Path(folder), name) for name in stories}


def _load(folder: Path, name: str) -> Speech:
    with wave.open(str(folder / f"{name}.wav")) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return Speech(audio, **json.loads((folder / f"{name}.json").read_text()))


def write_wav(path: Path, audio: np.ndarray) -> None:
    """Writes mono 16-bit samples at `RATE`."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(audio.astype("<i2").tobytes())


# ---- in the child process ----


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h; `sample` counts from the start of the text, `text_position` from 1."""

    _fields_ = [("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
                ("user_data", ctypes.c_void_p), ("id", _Id)]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Espeak:
    """The library: `say` returns the samples of a sentence and its events `(type, text position, sample, label)`."""

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self.library.espeak_Initialize(_RETRIEVAL, 0, data, _PHONEMES | _IPA | _DONT_EXIT)
        if rate != RATE:
            raise RuntimeError(f"eSpeak NG started with {rate}, expected its sampling rate of {RATE} Hz")
        self.chunks: list[np.ndarray] = []
        self.events: list[tuple[int, int, int, str]] = []
        self.callback = _CALLBACK(self._receive)  # kept here: the library holds only a pointer to it
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, n: int, events: Any) -> int:
        if samples and n > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        i = 0
        while events[i].type != _END_OF_LIST:
            event = events[i]
            label = event.id.string.decode("utf8") if event.type == _PHONEME else ""
            self.events.append((event.type, event.text_position, event.sample, label))
            i += 1
        return 0

    def set_voice(self, name: str, words_per_minute: int, pitch: int) -> None:
        if self.library.espeak_SetVoiceByName(name.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {name!r}")
        self.library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        self.library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)

    def say(self, sentence: str) -> tuple[np.ndarray, list[tuple[int, int, int, str]]]:
        self.chunks, self.events = [], []
        text = sentence.encode()
        size = ctypes.c_size_t(len(text) + 1)
        status = self.library.espeak_Synth(text, size, 0, _POS_CHARACTER, 0, _UTF8, None, None)
        if status or self.library.espeak_Synchronize():
            raise RuntimeError(f"eSpeak NG could not speak {sentence!r}")
        return np.concatenate(self.chunks), self.events


def _align(sentence: str, events: list[tuple[int, int, int, str]]) -> tuple[list[dict], list[dict]]:
    """Words and phonemes of a sentence with their first and last sample.

    A word or phoneme lasts until the next event; a phoneme without label is a pause. eSpeak speaks some pairs as one
    word ("of the"): their phonemes are shared out in proportion to the letters.
    """
    tokens = [(match.start() + 1, match.group()) for match in re.finditer(r"[A-Za-z']+", sentence)]
    spoken = [event for event in events if event[0] in (_WORD, _PHONEME)]
    stops = [event[2] for event in spoken[1:]] + [spoken[-1][2]]
    heads = [i for i, event in enumerate(spoken) if event[0] == _WORD]
    words: list[dict] = []
    phonemes: list[dict] = []
    for head, following in zip(heads, [*heads[1:], len(spoken)], strict=True):
        end = spoken[following][1] if following < len(spoken) else len(sentence) + 1
        texts = [text for position, text in tokens if spoken[head][1] <= position < end]
        inside = _share([(spoken[i][2], stops[i], spoken[i][3]) for i in range(head + 1, following) if spoken[i][3]])
        if len(inside) < len(texts) or not texts:
            raise RuntimeError(f"eSpeak NG spoke {texts} as {inside} in {sentence!r}: no phoneme for each word")
        letters = np.cumsum([0] + [len(text) for text in texts])
        cuts = np.round(letters / letters[-1] * len(inside)).astype(int)
        cuts = np.maximum.accumulate(np.clip(cuts, np.arange(len(cuts)), len(inside) - np.arange(len(cuts))[::-1]))
        for text, first, last in zip(texts, cuts[:-1], cuts[1:], strict=True):
            start = spoken[head][2] if first == 0 else inside[first][0]
            index = len(words)
            words.append({"start": start, "stop": inside[last - 1][1], "word_index": index, "word": text})
            phonemes += [{"start": a, "stop": b, "word_index": index, "phoneme": label.lstrip("ˈˌ")}
                         for a, b, label in inside[first:last]]
    if [row["word"] for row in words] != [text for _, text in tokens]:
        raise RuntimeError(f"eSpeak NG spoke {[row['word'] for row in words]}, expected the words of {sentence!r}")
    return words, phonemes


def _share(phonemes: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Phonemes `(start, stop, label)`, each with a length: eSpeak speaks some (the l of "wall") in the one before."""
    out: list[tuple[int, int, str]] = []
    for start, stop, label in phonemes:
        if start == stop and out:
            before, _, vowel = out[-1]
            start = (before + stop) // 2
            out[-1] = (before, start, vowel)
        out.append((start, stop, label))
    return out


def _tell(espeak: _Espeak, sentences: list[str]) -> tuple[np.ndarray, dict[str, list]]:
    """A whole story: its samples, and its words, phonemes and sentence ends in seconds."""
    audio: list[np.ndarray] = []
    said: dict[str, list] = {"words": [], "phonemes": [], "stops": []}
    position = 0
    for number, sentence in enumerate(sentences):
        samples, events = espeak.say(sentence)
        words, phonemes = _align(sentence, events)
        samples = samples[:words[-1]["stop"] + round(_TAIL * RATE)]
        for name, rows in (("words", words), ("phonemes", phonemes)):
            for row in rows:
                start, stop = row.pop("start"), row.pop("stop")
                said[name].append({"start": (position + start) / RATE, "duration": (stop - start) / RATE,
                                   "sentence": number, **row})
        audio += [samples, np.zeros(round(PAUSES[number % len(PAUSES)] * RATE), dtype=np.int16)]
        said["stops"].append((position + len(samples)) / RATE)
        position += len(samples) + len(audio[-1])
    return np.concatenate(audio[:-1]), said


def _main() -> None:
    request = json.load(sys.stdin)
    espeak = _Espeak()
    for number, (name, sentences) in enumerate(request["stories"].items()):
        espeak.set_voice(*VOICES[number % len(VOICES)])
        audio, said = _tell(espeak, sentences)
        write_wav(Path(request["folder"]) / f"{name}.wav", audio)
        (Path(request["folder"]) / f"{name}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    _main()
