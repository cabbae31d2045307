"""What a selection of the study `bids` may say."""
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from bm.config import nearest
from bm.events import KINDS
from bm.studies.mne_recording import SENSORS

#: names of columns in the selection → those of `read_events_tsv`
COLUMNS = {"onset": "onset", "duration": "duration", "kind": "trial_type", "sound": "stim_file",
           "offset": "stim_offset", "word": "word", "phoneme": "phoneme", "sequence": "sequence_id",
           "word_index": "word_index", "condition": "condition", "modality": "modality", "language": "language"}
Labels = Annotated[tuple[str | int, ...] | None,
                   BeforeValidator(lambda value: [value] if isinstance(value, str | int) else value)]


class BidsOptions(BaseModel):
    """What a selection of the study `bids` may say; docs/add_your_data.md shows it at work.

    Args:
        dataset: folder of the dataset below `study_paths.bids`; None: that folder itself. Subjects and recordings of
            different datasets are different ones.
        subjects, sessions, tasks, runs: labels to keep (`[01, 02]`; a number also finds `01`); None keeps all. Rest,
            noise and the empty room are left out unless named here.
        datatype: "meg", "eeg" or "ieeg"; None: the one that the dataset has.
        exclude: patterns of recordings to leave out, e.g. `sub-03*`.
        sensors: kinds of channels to read (`studies.mne_recording.SENSORS`); None: all of the datatype.
        bads: what to do with channels of status bad: "keep" them marked (their values are set to 0), "drop" them, or
            "interpolate" them (reads the whole recording into memory).
        unplaced: "keep" electrodes without a position, or "drop" them.
        montage: positions by the names of electrodes, for recordings without an electrodes.tsv.
        columns: a key of `COLUMNS` → the name of that column in events.tsv.
        kinds: trial type (or annotation, or trigger code) → kind of event.
        sounds: trial type (or annotation, or trigger code) → the sound file that was started then, in `stimuli/`.
        sounds_required: a sound event without a file is an error; else it becomes a `special` event.
        stim_channel: channel of triggers, for files without events.tsv and annotations; None: as MNE finds it.
        language, modality: where a row of the table has none.
        max_gap: s of silence that end a sequence of words, where the table does not name sequences.
        blocks: what starts a block: "sentence", "sound" or "sentence_or_sound".
        on_error: "fail", or "skip" recordings that cannot be read, with a warning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    dataset: str | None = None
    subjects: Labels = None
    sessions: Labels = None
    tasks: Labels = None
    runs: Labels = None
    datatype: Literal["meg", "eeg", "ieeg"] | None = None
    exclude: tuple[str, ...] = ()
    sensors: tuple[str, ...] | None = None
    bads: Literal["keep", "drop", "interpolate"] = "keep"
    unplaced: Literal["keep", "drop"] = "keep"
    montage: str | None = None
    columns: dict[str, str] = {}
    kinds: dict[str, str] = {}
    sounds: dict[str, str] = {}
    sounds_required: bool = True
    stim_channel: str | None = None
    language: str = "en"
    modality: Literal["audio", "visual"] = "audio"
    max_gap: Annotated[float, Field(gt=0)] = 1.0
    blocks: Literal["sentence", "sound", "sentence_or_sound"] = "sentence"
    on_error: Literal["fail", "skip"] = "fail"

    @field_validator("kinds", "sounds", mode="before")
    @classmethod
    def _codes(cls, given: Any) -> Any:
        """Trial types are compared in lower case; yaml reads the code 1 as a number."""
        return {str(key).strip().lower(): value for key, value in given.items()} if isinstance(given, dict) else given

    @field_validator("columns", "kinds", "sensors")
    @classmethod
    def _known(cls, given: Any, info: Any) -> Any:
        known: dict[str, Any] = {"columns": (COLUMNS, given), "sensors": (SENSORS, given or ()),
                                 "kinds": ({*KINDS, "sentence"}, given.values() if info.field_name == "kinds" else ())}
        allowed, names = known[info.field_name]
        for name in names:
            if name not in allowed:
                raise ValueError(f"{name!r} is unknown, expected one of {', '.join(allowed)}{nearest(name, allowed)}")
        if info.field_name == "columns" and len(set(given.values())) < len(given):
            raise ValueError(f"one column of the file cannot have two meanings, got {given}")
        return given

    @classmethod
    def parse(cls, selection: Mapping[str, Any]) -> "BidsOptions":
        """Checks a selection. Raises ValueError naming key, value and what was expected."""
        try:
            return cls(**selection)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise ValueError(f"study bids: unknown selection keys ['{key}'], expected some of "
                                 f"{list(cls.model_fields)}{nearest(key, cls.model_fields)}") from None
            message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"].lower()
            raise ValueError(f"study bids: selection key {key}={selection[key]!r}: {message}") from None
