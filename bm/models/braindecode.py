"""Any network of braindecode (Schirrmeister et al. 2017, doi:10.1002/hbm.23730; extra `braindecode`), by its name."""
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec
from bm.models.base import BrainModel, unknown_name

#: arguments of their constructors that the data decide
GIVEN = ("n_chans", "n_outputs", "n_times", "sfreq")


def find_class(name: str) -> type[nn.Module]:
    """The class of braindecode that is called so.

    Raises:
        ModuleNotFoundError: braindecode is not installed. ValueError: it has no such model; names the nearest.
    """
    if importlib.util.find_spec("braindecode") is None:
        raise ModuleNotFoundError("model_name=braindecode needs the package braindecode: "
                                  "pip install -e '.[braindecode]'")
    from braindecode import models  # takes seconds
    known = {key: value for key, value in vars(models).items() if isinstance(value, type)
             and issubclass(value, nn.Module)}
    if name not in known:
        raise ValueError(unknown_name("model of braindecode", name, known))
    return known[name]


class Braindecode(BrainModel):
    """Logits of classes from a segment, by a network of braindecode: `(B, C, T)` → `(B, out_channels)`.

    A network that gives several predictions over time is averaged.

    Args:
        spec, out_channels, in_channels, n_subjects: see `BrainModel`.
        name: of its class, e.g. EEGNet or ShallowFBCSPNet.
        params: further arguments of its constructor; channels, classes, samples and rate are those of the data.

    Errors: ValueError for a name or an argument that does not exist (with the nearest), or data that do not fit.
    """

    pooled: ClassVar[bool] = True

    def __init__(self, spec: BatchSpec, out_channels: int, in_channels: Mapping[str, int] | None = None,
                 n_subjects: int | None = None, *, name: str = "EEGNet",
                 params: Mapping[str, Any] | None = None) -> None:
        super().__init__(spec, out_channels, in_channels, n_subjects)
        cls, params = find_class(name), dict(params or {})
        known = [key for key, parameter in inspect.signature(cls).parameters.items()
                 if key not in GIVEN and parameter.kind is not parameter.VAR_KEYWORD]
        for key in params:
            if key in GIVEN:
                raise ValueError(f"braindecode.params.{key}={params[key]}: the data decide that, leave it out")
            if key not in known:
                raise ValueError(unknown_name(f"argument of braindecode's {name}", key, known))
        sizes = dict(zip(GIVEN, (spec.channels, out_channels, spec.times, spec.sample_rate), strict=True))
        try:
            self.network = cls(**sizes, **params)
            with torch.no_grad():
                out = self.network.eval()(torch.zeros(2, spec.channels, spec.times))
        # they check little, and torch what is left: segments that are too short fail in many ways
        except (ValueError, TypeError, RuntimeError, AssertionError, IndexError, ZeroDivisionError) as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ValueError(f"braindecode's {name} cannot be made for {sizes}: {reason}") from error
        if not isinstance(out, Tensor) or out.ndim not in (2, 3) or out.shape[:2] != (2, out_channels):
            what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"braindecode's {name} gives {what} for two segments, expected (2, {out_channels}): it is "
                             "no classifier")
        self.network.train()

    def forward(self, batch: Batch) -> Tensor:
        out = self.network(self.branches(batch)["meg"])
        return out if out.ndim == 2 else out.mean(2)
