"""Offline twins of the public studies: the smallest dataset that has every feature of the real one's files.

A twin has the folders, formats and faults of its study but invented content: `make_twin("gwilliams2022", folder)`
writes it, and the study's own loader reads it. With `fault` one thing is deliberately wrong, so that what should
notice it can be tested.
"""
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

#: study → the module that has `make(folder, fault=None, **options) -> None` and `FAULTS`: fault → what is wrong then
TWINS = {name: f"bm.studies.twins.{name}" for name in ("gwilliams2022", "schoffelen2019", "broderick2019",
                                                       "brennan2019", "eegmmidb", "nh2015", "b2021", "ns1")}
#: what several twins can get wrong; others are of one twin alone
FAULT_KINDS = {
    "missing_sound": "a sound file is not there",
    "missing_file": "a file that holds the events (log, alignment, table) is not there",
    "truncated_raw": "the file with the signal ends before what its header says",
    "lost_trigger": "a trigger is missing in the signal",
    "spare_trigger": "the signal has a trigger of which the events know nothing",
    "drift": "the events' clock runs faster than the signal's, by one per cent",
    "missing_word": "a word of a sentence is missing",
    "doubled_word": "a word is there twice, at the same time",
    "out_of_order": "two words of a sentence have changed places in time",
    "outside_sound": "a word lies in the silence after its sound",
    "gap": "more than ten seconds of a sound have no word",
    "wrong_rate": "the signal has another sampling rate than the study's",
    "transposed": "the signal is channels × samples where it should be samples × channels",
    "wrong_text": "the text is not that of the sound",
    "lag": "the sound came later than the events say",
    "wrong_rows": "the events are a row late",
}


def twin_faults(name: str) -> tuple[str, ...]:
    """The faults that the twin of a study can have. Raises KeyError for a study without a twin."""
    return tuple(_module(name).FAULTS)


def make_twin(name: str, folder: Path | str, fault: str | None = None, **options: Any) -> Path:
    """Writes the twin of a study into `folder` and returns it: the path to give to the study.

    Args:
        name: one of `TWINS`.
        folder: is made; the study's files are below it as below the real study's root.
        fault: what to get wrong, one of `twin_faults(name)`; None: nothing.
        options: of the study's twin, see its module.

    Raises:
        KeyError: a study without a twin.
        ValueError: a fault that this twin cannot have.
        FileExistsError: the folder is not empty.
    """
    module = _module(name)
    if fault is not None and fault not in module.FAULTS:
        raise ValueError(f"the twin of {name} cannot have the fault {fault!r}, expected one of "
                         f"{', '.join(module.FAULTS)}")
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give the twin of {name} a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    make: Callable[..., None] = module.make
    make(folder, fault=fault, **options)
    return folder


def _module(name: str) -> Any:
    if name not in TWINS:
        raise KeyError(f"no twin of a study {name!r}; known: {', '.join(TWINS)}")
    return import_module(TWINS[name])
