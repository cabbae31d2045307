"""The fact sheet of a study: what was measured, who may use it, whom to cite."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What a study's files should hold and what its users should know.

    Args:
        title: in a few words.
        citation, doi: of the paper that presents the data.
        licence: of the data; "none stated" where the authors say nothing.
        device: e.g. "MEG, KIT 208", "ECoG".
        sensors: channels of a recording, None where each has its own number.
        rate: Hz of the published recordings, None where each row answers one event.
        subjects, recordings: numbers of them.
        hours: of recordings, None if not known.
        language: of the speech heard, as "en"; "" if it is not about speech.
        page: where a person finds the data.
        notes: what could mislead.
    """

    title: str
    citation: str
    doi: str
    licence: str
    device: str
    sensors: int | None
    rate: float | None
    subjects: int
    recordings: int
    hours: float | None
    language: str
    page: str
    notes: str = ""
