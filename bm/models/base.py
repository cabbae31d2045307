"""What all models share: options that are checked, inputs taken from a batch, training penalties."""
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec
from bm.models.blocks.spatial import SpatialAttention

Options = TypeVar("Options")


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Message of an error about a name that does not exist: the nearest one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown {what} {name!r}, nearest is {near[0]!r}; there are: {', '.join(known)}"


def parse_options(cls: type[Options], options: Mapping[str, Any], owner: str) -> Options:
    """Makes the options dataclass `cls` of model `owner`. Errors: ValueError naming the nearest option."""
    known = [option.name for option in fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise ValueError(unknown_name(f"option of {owner}", name, known))
    return cls(**options)


class BrainModel(nn.Module):
    """A network from a `Batch` to `(B, out_channels, T)`, built from what all batches have in common.

    The class attribute `pooled` says that the output is `(B, out_channels)` instead, one vector per segment.

    Args:
        spec: what a batch holds.
        out_channels: rows of the output, e.g. the sum of `FeatureSpec.out_dim` (decode) or the sensors (encode).
        in_channels: channels of each input branch, `{"meg": C}` if not given. Branch "meg" is `Batch.brain`, branch
            "features" the concatenation of `Batch.features` in the order of the spec. Another number for "meg" than
            the spec's is refused, as the batches would not fit.
        n_subjects: number of subject-specific parameters, all subjects of the spec if not given.
    """

    pooled: ClassVar[bool] = False

    def __init__(self, spec: BatchSpec, out_channels: int, in_channels: Mapping[str, int] | None = None,
                 n_subjects: int | None = None):
        super().__init__()
        self.spec, self.out_channels = spec, out_channels
        self.in_channels = dict(in_channels or {"meg": spec.channels})
        self.n_subjects = len(spec.subjects) if n_subjects is None else n_subjects
        if "meg" not in self.in_channels or set(self.in_channels) - {"meg", "features"}:
            raise ValueError(f"in_channels must have 'meg' and may have 'features', got {sorted(self.in_channels)}")
        if self.in_channels["meg"] != spec.channels:
            raise ValueError(f"in_channels['meg'] is {self.in_channels['meg']}, batches have {spec.channels} channels")
        if out_channels < 1 or self.n_subjects < 1:
            raise ValueError(f"a model needs at least one output and subject, got {out_channels}, {self.n_subjects}")

    def branches(self, batch: Batch) -> dict[str, Tensor]:
        """The input of each branch, `(B, C, T)` and `(B, F, T)`. Errors: ValueError if missing or of other sizes."""
        if batch.brain is None:
            raise ValueError("this model needs Batch.brain, which is None")
        out = {"meg": batch.brain}
        if "features" in self.in_channels:
            missing = [feature.name for feature in self.spec.features if feature.name not in batch.features]
            if missing:
                raise ValueError(f"the batch has features {sorted(batch.features)}, the model also needs {missing}")
            out["features"] = torch.cat([batch.features[feature.name] for feature in self.spec.features], dim=1)
        for name, x in out.items():
            if x.shape[1:] != (self.in_channels[name], batch.brain.shape[-1]):
                expected = f"(B, {self.in_channels[name]}, {batch.brain.shape[-1]})"
                raise ValueError(f"input {name!r} has shape {tuple(x.shape)}, expected {expected}: as many channels as "
                                 "the model was built for, as many samples as the brain")
        return out

    def take_penalty(self) -> Tensor | None:
        """Sum of the penalties of the last training forward, to add to the loss once; None if there is none."""
        found = []
        for module in self.modules():
            if isinstance(module, SpatialAttention) and module.pending_penalty is not None:
                found.append(module.pending_penalty)
                module.pending_penalty = None
        return torch.stack(found).sum() if found else None


def hidden_sizes(hidden: int | Mapping[str, int], in_channels: Mapping[str, int]) -> dict[str, int]:
    """Hidden channels per branch, from one number for all or a mapping. Errors: ValueError if branches disagree."""
    if isinstance(hidden, int):
        return dict.fromkeys(in_channels, hidden)
    # A config names the sizes of all branches, of which a decoder has one.
    missing = set(in_channels) - set(hidden)
    if missing:
        raise ValueError(f"hidden gives sizes for {sorted(hidden)}, but the model also has branches {sorted(missing)}")
    return {name: hidden[name] for name in in_channels}


def subject_channels(where: str, inside: int, hidden: int) -> int:
    """Outputs of the subject layers. Errors: ValueError if `subject_layers_dim` is neither "input" nor "hidden"."""
    if where not in ("input", "hidden"):
        raise ValueError(f"subject_layers_dim must be 'input' or 'hidden', got {where!r}")
    return inside if where == "input" else hidden
