"""Any network that hears, and what all its layers say: Hugging Face, torchaudio, TorchScript, Python.

A network is named by one text: a name or folder of Hugging Face, `torchaudio:BUNDLE`, a TorchScript file, or
`module:function`, which returns a network. `spectrotemporal` is the filter bank of `bm/features/modulation.py`.
"""
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bm.features.audio import resample
from bm.features.model_files import files_identity, find_model
from bm.features.speech_families import RATE, Frontend, frontend
from bm.store import file_sha256

if TYPE_CHECKING:
    import torch

#: Hz of a Python or TorchScript network that does not say (attribute `in_sampling`)
DEFAULT_RATE = 16_000
SPECTROTEMPORAL = "spectrotemporal"
#: s of sound, up to which a layer is asked for another frame
LONGEST = 32


@dataclass(frozen=True)
class Weights:
    """Whose weights: trained ones; `permuted`, shuffled within each tensor; or `random`, as before training.

    Args:
        seed: of either. Tensors are drawn for in the order of the state: two networks of one architecture are permuted
            alike.
        keep: patterns of the names of tensors that are not permuted, e.g. of a fixed front-end.
    """

    permuted: bool = False
    random: bool = False
    seed: int = 0
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.permuted and self.random:
            raise ValueError("permuted and random: expected one of them at most")

    def identity(self) -> dict[str, Any]:
        """What decides the weights beside the trained ones."""
        if not (self.permuted or self.random):
            return {}
        return {"permuted": self.permuted, "random": self.random, "seed": self.seed, "keep": list(self.keep),
                "torch": version("torch")}


@dataclass
class Network:
    """A network: samples `(n,)` float32 at `rate` Hz → layer → activations, time first where `timed` says so.

    `identity` is plain data that decides what it computes; `frames`, of layers with time: the sample in the middle of
    the first frame, and samples from one to the next. Where they are not given, `find_frames` finds them when they are
    first asked for.
    """

    rate: int
    identity: dict[str, Any]
    ask: Callable[[np.ndarray], dict[str, np.ndarray]]
    timed: dict[str, bool] = field(default_factory=dict)
    frames: dict[str, tuple[float, float]] = field(default_factory=dict)
    find_frames: Callable[[], dict[str, tuple[float, float]]] | None = None

    def grid(self, layer: str) -> tuple[float, float]:
        """`frames` of a layer."""
        if not self.frames and self.find_frames is not None:
            self.frames = self.find_frames()
        return self.frames[layer]

    def hear(self, audio: np.ndarray, rate: int) -> dict[str, np.ndarray]:
        """Activations of a sound at any rate."""
        return self.ask(resample(np.asarray(audio, np.float32), rate, self.rate))


def open_network(model: str, models: Path, *, layers: str = "*", weights: Weights | None = None, device: str = "auto",
                 options: dict[str, Any] | None = None) -> Network:
    """The network of that name.

    Args:
        models: where models of Hugging Face lie (`features_models`).
        layers: pattern of the names of layers (modules; of Hugging Face also `embeddings`, `layer1`…, the hidden
            states, which are taken first).
        options: keyword arguments of a `module:function`.

    Raises:
        FileNotFoundError, ValueError: no such model, bundle, file or function; weights that it cannot have; no layer
            of that name.
    """
    weights = weights or Weights()
    if model == SPECTROTEMPORAL:
        from bm.features import modulation
        _no_other(model, weights)
        identity = {"model": model, "source": _source(modulation.baseline), "layers": layers}
        return Network(modulation.RATE, identity,
                       lambda audio: {k: v for k, v in modulation.baseline(audio).items() if fnmatch(k, layers)})
    if model.startswith("torchaudio:"):
        return _torchaudio(model.partition(":")[2], layers, weights, device)
    if model.endswith((".pt", ".pth", ".ts")):
        return _torchscript(model, models, layers, weights, device)
    if ":" in model and not Path(model).is_dir():
        return _python(model, layers, weights, device, options or {})
    return _hugging_face(model, models, layers, weights, device)


def permute(module: "torch.nn.Module", seed: int, keep: tuple[str, ...] = ()) -> None:
    """Shuffles the elements of every tensor of a network's state among themselves, in place.

    Weights, biases and running statistics alike, but counters and what matches `keep`: the network keeps its
    distribution of values and loses what it has learned (Tuckute, Feather et al. 2023).
    """
    import torch
    stream, seen = torch.Generator().manual_seed(seed), set()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.data_ptr() in seen or not tensor.is_floating_point() or any(fnmatch(name, p) for p in keep):
                continue
            seen.add(tensor.data_ptr())  # two names of one tensor
            order = torch.randperm(tensor.numel(), generator=stream).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))


def reinitialise(module: "torch.nn.Module", seed: int) -> None:
    """Draws all weights anew, as each module does when it is made.

    Raises:
        ValueError: a module has parameters of its own and no `reset_parameters`.
    """
    import torch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in module.named_modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
            elif next(part.parameters(recurse=False), None) is not None:
                raise ValueError(f"random: {type(part).__name__} {name!r} has parameters, but no reset_parameters: use "
                                 "permuted, or a function that returns the untrained network")


def _ready(module: "torch.nn.Module", weights: Weights, device: str) -> "torch.nn.Module":
    if weights.random:
        reinitialise(module, weights.seed)
    if weights.permuted:
        permute(module, weights.seed, weights.keep)
    return module.float().to(_device(device)).eval()


def _device(name: str) -> str:
    import torch
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _no_other(model: str, weights: Weights) -> None:
    if weights.identity():
        raise ValueError(f"{model} has no weights that could be permuted or random")


def _source(function: Any) -> str:
    path = inspect.getsourcefile(function)
    return file_sha256(path) if path else ""


def _torchaudio(name: str, layers: str, weights: Weights, device: str) -> Network:
    import torchaudio
    bundle: Any = getattr(torchaudio.pipelines, name, None)
    if not hasattr(bundle, "get_model"):
        known = [n for n in dir(torchaudio.pipelines) if hasattr(getattr(torchaudio.pipelines, n), "get_model")]
        raise ValueError(f"torchaudio has no bundle {name!r}; it has {', '.join(known)}")
    identity = {"model": f"torchaudio:{name}", "torchaudio": version("torchaudio"), "layers": layers,
                **weights.identity()}
    return _hooked(_ready(bundle.get_model(), weights, device), int(bundle.sample_rate), layers, identity)


def _torchscript(model: str, models: Path, layers: str, weights: Weights, device: str) -> Network:
    import torch
    found = next((path for path in (models / model, Path(model).expanduser()) if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no TorchScript file {model!r}: looked for {models / model} and {model}")
    script = torch.jit.load(str(found), map_location="cpu")
    if weights.random:
        raise ValueError(f"{model}: a TorchScript network does not say how its weights began: use permuted")
    rate = int(getattr(script, "in_sampling", DEFAULT_RATE))
    identity = {"model": file_sha256(found), "layers": layers, "rate": rate, **weights.identity()}
    # hooks of parts do not run inside a script: its layers are what it returns
    return _returned(_ready(script, weights, device), rate, layers, identity)


def _python(model: str, layers: str, weights: Weights, device: str, options: dict[str, Any]) -> Network:
    import torch
    module, _, name = model.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model={model!r}: expected a name or folder of Hugging Face, torchaudio:BUNDLE, a "
                         f"TorchScript file, or module:function of a module that Python finds ({error})") from error
    network = function(**options)
    rate = int(getattr(network, "in_sampling", DEFAULT_RATE))
    identity = {"model": model, "source": _source(function), "options": options, "rate": rate, "layers": layers,
                **weights.identity()}
    if isinstance(network, torch.nn.Module):
        return _hooked(_ready(network, weights, device), rate, layers, identity)
    _no_other(model, weights)
    return _returned(network, rate, layers, identity)


def _tensor(output: Any) -> Any:
    """The tensor that a module gives, of a tuple or a dictionary the first; None if there is none."""
    import torch
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() and output.ndim > 1 else None
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := _tensor(part)) is not None), None)


@contextmanager
def listening(module: "torch.nn.Module", layers: str) -> Iterator[dict[str, Any]]:
    """Name of each module that matches → its last output while inside; those that only pass on their input are not
    there."""
    heard: dict[str, Any] = {}

    def hook(name: str) -> Callable:
        def keep(_: Any, inputs: tuple, output: Any) -> None:
            found = _tensor(output)
            if found is not None and not any(found is value for value in inputs):
                heard[name] = found.detach()
        return keep

    handles = [part.register_forward_hook(hook(name)) for name, part in module.named_modules()
               if name and fnmatch(name, layers)]
    if not handles:
        names = [name for name, _ in module.named_modules() if name]
        raise ValueError(f"layers={layers!r} matches no module; there are {', '.join(names[:12])}…")
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: "torch.nn.Module", rate: int, layers: str, identity: dict[str, Any]) -> Network:
    """All modules that match, called with `(1, samples)`."""
    import torch
    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def call(audio: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode(), listening(module, layers) as heard:
            module(torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None].to(device))
        return {name: value[0].float().cpu().numpy() for name, value in heard.items()}

    return _with_time(rate, identity, call)


def _returned(network: Callable, rate: int, layers: str, identity: dict[str, Any]) -> Network:
    """A callable's own outputs: a dictionary, or one array named `output`."""
    import torch

    def call(audio: np.ndarray) -> dict[str, np.ndarray]:
        scripted = isinstance(network, torch.nn.Module)
        with torch.inference_mode():
            given = network(torch.from_numpy(np.ascontiguousarray(audio))[None]) if scripted else network(audio)
        named = given if isinstance(given, dict) else {"output": given}
        out = {name: np.asarray(value[0] if scripted else value, np.float32) for name, value in named.items()
               if fnmatch(name, layers)}
        if not out:
            raise ValueError(f"layers={layers!r} matches none of the outputs {', '.join(named)}")
        return out

    return _with_time(rate, identity, call)


def _with_time(rate: int, identity: dict[str, Any], call: Callable[[np.ndarray], dict[str, np.ndarray]]) -> Network:
    """Finds the axis of time by what grows with the sound: a network is asked about 2 s and 1 s of noise."""
    long, short = (call(_noise(seconds * rate)) for seconds in (2, 1))
    axes: dict[str, int | None] = {}
    for name, value in long.items():
        other = short.get(name)
        grown = [axis for axis, (a, b) in enumerate(zip(value.shape, other.shape, strict=True)) if a != b
                 ] if other is not None and other.ndim == value.ndim else []
        axes[name] = grown[0] if grown else None

    def ask(audio: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value if axis is None else np.moveaxis(value, axis, 0)
                for name, value in call(audio).items() if name in axes for axis in [axes[name]]}

    @cache
    def count(samples: int) -> dict[str, int]:
        return {name: len(value) for name, value in ask(_noise(samples)).items() if axes[name] is not None}

    return Network(rate, identity, ask, {name: axis is not None for name, axis in axes.items()},
                   find_frames=lambda: {name: _frames(name, lambda n, name=name: count(n)[name], rate)  # type: ignore
                                        for name in count(rate)})


def _noise(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)


def _frames(layer: str, count: Callable[[int], int], rate: int) -> tuple[float, float]:
    """The middle of the first frame and the hop (samples) from the number of frames of sounds of some lengths.

    The shortest sounds that have some number of frames, one about 1 s and one about 2 s or more, are as many hops apart
    as frames are between them: exact where the hop is a whole number, else within a sample per 20 ms. The middle is
    right for windows within the sound, and for those padded alike on both sides.

    Raises:
        ValueError: no second frame appears up to `LONGEST` s.
    """
    def shortest(low: int, high: int, frames: int) -> int:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if count(middle) >= frames else (middle, high)
        return high

    few, top = count(rate), 2 * rate
    reach = -(-2 * rate // max(count(top) - few, 1))  # about two hops
    near = min(rate + reach, top)
    first = shortest(rate, near if count(near) > few else top, few + 1)
    while count(top) <= count(first):
        top *= 2
        if top > LONGEST * rate:
            raise ValueError(f"layer {layer}: has {count(first)} frames for {first / rate:g} s and for "
                             f"{top / 2 / rate:g} s of sound: expected one that grows with the sound; leave it out "
                             "(encoding.layers)")
    before = max(top - reach, first)
    last = shortest(before if count(before) < count(top) else first, top, count(top))
    hop = (last - first) / (count(last) - count(first))
    return max((first - (count(first) - 1) * hop) / 2, 0.0), hop


def _hugging_face(model: str, models: Path, layers: str, weights: Weights, device: str) -> Network:
    """Hidden states, `(rows, width)`, of the sound alone where the model hears a longer window; or other modules."""
    import torch
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    folder = find_model(model, models)
    front: Frontend = frontend(folder)
    identity = {"model": files_identity(folder, weights=not weights.random), "layers": layers, **weights.identity(),
                **({"transformers": version("transformers")} if weights.random else {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        network = front.build(random=weights.random)
    network = _ready(network, Weights(weights.permuted, False, weights.seed, weights.keep), device)
    where = next(network.parameters()).device
    states = ["embeddings", *(f"layer{k}" for k in range(1, front.n_layers + 1))]
    wanted = {name: k for k, name in enumerate(states) if fnmatch(name, layers)}

    def ask(audio: np.ndarray) -> dict[str, np.ndarray]:
        sound = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7) if front.normalizes else audio
        sound = np.pad(sound, (0, max(front.receptive - len(sound), 0)))
        inputs = {name: value.to(where) for name, value in front.inputs([sound]).items()}
        rows = front.rows(len(sound))
        with torch.inference_mode():
            if wanted:
                hidden = network(**inputs, output_hidden_states=True).hidden_states
                return {name: front.states(hidden[k])[0, :rows].float().cpu().numpy() for name, k in wanted.items()}
            with listening(network, layers) as heard:
                length = network(**inputs).last_hidden_state.shape[1]
        out = {}
        for name, value in heard.items():
            axis = next((a for a, size in enumerate(value.shape[1:]) if size == length), None)
            array = value[0].float().cpu().numpy()
            out[name] = array if axis is None else np.moveaxis(array, axis, 0)[:rows]
        return out

    probe = ask(np.zeros(RATE, np.float32) + 1e-3 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32))
    timed = {name: value.shape[0] == front.rows(RATE) for name, value in probe.items()}
    middle = (front.receptive / 2, float(front.hop))
    return Network(RATE, identity, ask, timed, {name: middle for name in probe if timed[name]})
