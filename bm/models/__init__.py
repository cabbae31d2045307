"""Networks from a `Batch` to estimates, found by name.

`build_model("simpleconv", spec, out_channels, **options)`; a model of one's own is added with `@register("its_name")`
on a class with the same arguments, and one line in a test that calls `bm.models.check.check_model`.
"""
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from bm.batch import BatchSpec
from bm.models.base import BrainModel, unknown_name
from bm.models.braindecode import Braindecode
from bm.models.convrnn import ConvRNN
from bm.models.deepmel import DeepMel
from bm.models.eeg_transformer import EEGTransformer
from bm.models.simpleconv import SimpleConv
from bm.models.wav2vec2 import Wav2Vec2

__all__ = ["BrainModel", "Braindecode", "ConvRNN", "DeepMel", "EEGTransformer", "SimpleConv", "Wav2Vec2", "build_model",
           "register"]

Model = TypeVar("Model", bound=type[nn.Module])

_MODELS: dict[str, type[nn.Module]] = {"simpleconv": SimpleConv, "convrnn": ConvRNN, "deep_mel": DeepMel,
                                      "wav2vec2": Wav2Vec2, "braindecode": Braindecode,
                                      "eeg_transformer": EEGTransformer}


def register(name: str) -> Callable[[Model], Model]:
    """Class decorator: makes `build_model(name, …)` find the class. Errors: ValueError if the name is taken."""
    def add(cls: Model) -> Model:
        if _MODELS.setdefault(name, cls) is not cls:
            raise ValueError(f"model name {name!r} is taken by {_MODELS[name].__qualname__}")
        return cls
    return add


def build_model(name: str, /, spec: BatchSpec, out_channels: int, **options: Any) -> nn.Module:
    """The model registered as `name`, with its options.

    Errors: ValueError if the name or an option does not exist, with the nearest that does.
    """
    if name not in _MODELS:
        raise ValueError(unknown_name("model", name, _MODELS))
    return _MODELS[name](spec, out_channels, **options)
