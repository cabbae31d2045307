"""Invented sentences, and sounds for them: a tone for each letter, so that a word always sounds the same."""
from pathlib import Path

import numpy as np

RATE = 16000
_ENGLISH = (("The old", "A small", "The quiet", "One red", "Her brother's", "The last"),
            ("ferry", "baker", "pilot", "goat", "teacher", "lantern", "gardener", "stranger"),
            ("carried", "painted", "followed", "lost", "repaired", "noticed"), ("the", "a", "that", "every"),
            ("heavy", "broken", "yellow", "secret", "null"), ("letter", "bridge", "window", "song", "map", "boat"),
            ("before dawn", "after lunch", "again today", "near town", "without help"))
_DUTCH = (("de oude", "een kleine", "de stille", "mijn jonge", "haar vrolijke"),
          ("bakker", "visser", "lerares", "buurvrouw", "dokter", "zanger"),
          ("draagt", "tekent", "zoekt", "verliest", "herstelt"), ("de", "een", "elke"),
          ("zware", "gebroken", "gele", "geheime"), ("brieven", "bruggen", "ramen", "liedjes", "kaarten"),
          ("voor het ontbijt", "na de middag", "in de regen", "zonder enige hulp"))
GRAMMARS = {"en": _ENGLISH, "nl": _DUTCH}


def sentences(n: int, language: str, seed: int) -> list[list[str]]:
    """`n` different sentences of eight to ten words."""
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < n:
        made[" ".join(str(rng.choice(choice)) for choice in GRAMMARS[language])] = None
    return [text.split() for text in made]


def word_lists(n: int, language: str, seed: int) -> list[list[str]]:
    """The words of `n` sentences in random order."""
    rng = np.random.default_rng(seed)
    return [[str(word).lower() for word in rng.permutation(words)] for words in sentences(n, language, seed + 1)]


def write_sound(path: Path, words: list[tuple[str, float, float]], seconds: float) -> None:
    """A wav of 16 kHz: each of `(word, start, stop)` (s) in tones, quiet noise elsewhere."""
    import soundfile

    rng = np.random.default_rng(len(words))
    sound = 1e-4 * rng.standard_normal(round(seconds * RATE))
    for word, start, stop in words:
        edges = np.rint(np.linspace(start, stop, len(word) + 1) * RATE).astype(int)
        for letter, first, last in zip(word.lower(), edges[:-1], edges[1:], strict=True):
            t = np.arange(last - first) / RATE
            sound[first:last] = 0.3 * np.sin(2 * np.pi * 60 * (2 + ord(letter) % 40) * t) * np.hanning(last - first)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE, subtype="PCM_16")
