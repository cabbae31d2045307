"""What a model sees: one `Batch` of segments, and the `BatchSpec` that says what is in it.

Below all rooms: this module imports nothing of `bm`. Names of subjects, words and sentences are not in a batch;
everything else about a segment is looked up by its id in the segment table.
"""
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """A batch of B segments.

    Shape:
        - brain: `(B, C, T)` float32, scaled (IQR units after `data/scaling.py`), or None when the task has no brain.
        - channel_mask: `(B, C)` bool, False for padded, bad or unmeasured channels (their rows of `brain` are 0).
        - positions: `(B, C, 3)` metres in the head frame, NaN where unknown.
        - layout: `(B, C, 2)` flat sensor layout in [0, 1]², NaN where unknown.
        - features: name → `(B, D, T_f)` float32.
        - masks: name → `(B, T_f)` bool; `"word"` is True where a word is heard.
        - target: class `(B,)` int64, or a response `(B, repeats, ...)`, or None.
        - subject, recording, segment: `(B,)` int64 indices; subjects index `BatchSpec.subjects`.
    """

    brain: Tensor | None
    channel_mask: Tensor
    positions: Tensor
    layout: Tensor
    subject: Tensor
    recording: Tensor
    segment: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.segment)

    def _map(self, function) -> "Batch":
        def apply(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: function(tensor) for name, tensor in value.items()}
            return None if value is None else function(value)
        return Batch(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, index: Tensor | slice) -> "Batch":
        """A batch of the chosen segments: a slice, a bool mask `(B,)` or int indices."""
        if isinstance(index, int):
            raise TypeError("a Batch is indexed by a slice, a mask or an index tensor: use batch[i:i+1] for one")
        return self._map(lambda tensor: tensor[index])

    def replace(self, **changes: Any) -> "Batch":
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a batch: its name, `dim` rows, `rate` in Hz, and the number of classes if categorical."""

    name: str
    dim: int
    rate: float
    n_classes: int | None = None

    @property
    def out_dim(self) -> int:
        """Rows a model needs to predict it: one logit per class, or one value per dimension."""
        return self.n_classes or self.dim


@dataclass(frozen=True)
class BatchSpec:
    """What every batch of an XP has in common; enough to build a model without data.

    `channels` is the padded number of sensors C, `times` the number of samples T, `sample_rate` in Hz, `tmin` the time
    of the first sample relative to the segment's trigger (s), `subjects` the uids behind `Batch.subject`, in order.
    """

    channels: int
    times: int
    sample_rate: float
    tmin: float
    subjects: tuple[str, ...]
    features: tuple[FeatureSpec, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        out = asdict(self)
        out["subjects"] = list(self.subjects)
        out["features"] = [asdict(feature) for feature in self.features]
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "BatchSpec":
        data = dict(data)
        data["subjects"] = tuple(data["subjects"])
        data["features"] = tuple(FeatureSpec(**feature) for feature in data["features"])
        return cls(**data)
