"""Any other network of sounds: a checkpoint, and one function that knows how to ask it."""
import importlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bm.features.audio import resample
from bm.features.base import FeatureContext, SoundFeature, register_feature
from bm.store import digest, file_sha256


class AudioNetwork(Protocol):
    """What the function of an `AudioNet` returns.

    Called with samples `(n,)` float32 at `in_sampling` Hz it gives rows `(m, dim)` float32; row j is about the instant
    j / `rate` s, and depends on sound within `context_s` s of it (infinite: on all).
    """

    in_sampling: int
    rate: float
    dim: int
    context_s: float

    def __call__(self, audio: np.ndarray) -> np.ndarray: ...


@register_feature
class AudioNet(SoundFeature):
    """Activations of a network that a function of yours loads and asks.

        dset.features_params.AudioNet: {function: "bm.features.crepe:embedding", checkpoint: tiny.pth}

    Args:
        function: "module:function"; it is called with the checkpoint's path, the device ("auto", "cpu", "cuda") and
            `options`, and returns an `AudioNetwork`. The key of the cache holds the text of its module.
        checkpoint: a file, in `features_models` or where the path says.
        options: keyword arguments of the function.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: no such function.
    """

    dtype = "float16"
    default = 0.0

    def __init__(self, function: str, checkpoint: str, options: dict[str, Any] | None = None, *,
                 context: FeatureContext) -> None:
        self.function, self.options, self.device = function, options or {}, context.device
        places = [context.models / checkpoint, Path(checkpoint).expanduser()]
        found = [place for place in places if place.is_file()]
        if not found:
            raise FileNotFoundError(f"no checkpoint {checkpoint!r}: looked for {' and '.join(map(str, places))}")
        self.checkpoint = found[0]
        net = self.network()
        self.rate, self.dim, self.context_s = float(net.rate), int(net.dim), float(net.context_s)

    def identity(self) -> dict[str, Any]:
        source = inspect.getsourcefile(_function(self.function))
        return {"feature": self.name, "version": 1, "function": self.function, "options": self.options,
                "source": file_sha256(source) if source else "", "checkpoint": file_sha256(self.checkpoint)}

    def network(self) -> AudioNetwork:
        """The network, kept for the process."""
        return _network(self.function, str(self.checkpoint), file_sha256(self.checkpoint), self.device,
                        _Options(self.options))

    def compute(self, audio: np.ndarray, rate: int) -> np.ndarray:
        net = self.network()
        return net(resample(np.asarray(audio, np.float32), rate, net.in_sampling))


class _Options(dict):
    """Keyword arguments that a cache can tell apart."""

    def __hash__(self) -> int:  # type: ignore[override]
        return int(digest(dict(self)), 16)


def _function(name: str) -> Callable[..., AudioNetwork]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"function={name!r}: expected module:function, of a module that Python finds "
                         f"({error})") from error


@lru_cache(maxsize=2)
def _network(function: str, checkpoint: str, content: str, device: str, options: _Options) -> AudioNetwork:
    return _function(function)(Path(checkpoint), device, **options)
