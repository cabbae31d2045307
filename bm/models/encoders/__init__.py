"""Encoders: networks from sound to the responses of neurons or sensors, found by name.

`build_encoder({"name": "ln", "params": {"kernel": "separable"}}, n_bands=34, rate=200.0, n_out=64)`. A part of one's
own is one class and one line in the dict it belongs to:
`CORES[name](in_channels=, n_bands=, n_out=, rate=, **options)`, `READOUTS[name](in_features, n_out, **options)`,
`PREFILTERS[name](n_bands=, rate=, **options)`, `FRONTS[name](rate=, **options)` (with an option `sample_rate`, Hz;
its `bands_hz`, if it has them, are what a prefilter goes by).
"""
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bm.models.base import unknown_name
from bm.models.encoders.attention_gru import GRUS
from bm.models.encoders.base import AudioEncoder, Core
from bm.models.encoders.cochlear import Gammatone, Gammatonegram, Leaf
from bm.models.encoders.prefilters import AdapTrans, ICAdaptation
from bm.models.encoders.readouts import BatchNormReadout, LinearReadout, NoReadout
from bm.models.encoders.statenet import StateNet
from bm.models.encoders.wavefronts import Mel, SincNet
from bm.models.encoders.zoo import ConvNet2D, DNet, Linear, LinearNonlinear, NetworkReceptiveField
from bm.models.encoders.zoo_deep import ICNet, Transformer

__all__ = ["CORES", "FRONTS", "PREFILTERS", "READOUTS", "AudioEncoder", "Core", "build_encoder"]

CORES: dict[str, type[Core]] = {
    **GRUS,
    "linear": Linear, "ln": LinearNonlinear, "nrf": NetworkReceptiveField, "dnet": DNet,
    "convnet2d": ConvNet2D, "transformer": Transformer, "statenet": StateNet, "icnet": ICNet,
}
READOUTS: dict[str, type[nn.Module]] = {"none": NoReadout, "batchnorm": BatchNormReadout, "linear": LinearReadout}
PREFILTERS: dict[str, type[nn.Module]] = {
    "adaptrans": AdapTrans, "ic_adaptation": ICAdaptation, "willmore": ICAdaptation,
}
FRONTS: dict[str, type[nn.Module]] = {
    "mel": Mel, "sincnet": SincNet, "gammatone": Gammatone, "gammatonegram": Gammatonegram, "leaf": Leaf,
}

# Arguments that build_encoder gives, which are no options.
_SIZES = {"self", "in_channels", "in_features", "n_bands", "n_out", "rate", "input_rate"}


def options_of(part: type[nn.Module]) -> list[str]:
    """Names of the options of a core, readout, prefilter or front-end: its arguments that are not sizes."""
    return [name for name in inspect.signature(part).parameters if name not in _SIZES]


def _find(what: str, name: str, known: Mapping[str, type]) -> Any:
    if name not in known:
        raise ValueError(unknown_name(what, name, known))
    return known[name]


def _check(owner: str, given: Mapping[str, Any], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(unknown_name(f"option of {owner}", name, known) if known
                             else f"{owner} has no options, got {name!r}")


def _part(section: Mapping[str, Any], key: str, known: Mapping[str, type], **sizes: Any) -> Any:
    """The optional part `section[key]` with its options `section[key + "_params"]`; None if it is null."""
    name, options = section.get(key), dict(section.get(f"{key}_params") or {})
    if name is None:
        if options:
            raise ValueError(f"encoder.{key}_params is {options}, but encoder.{key} is null: name one or remove them")
        return None
    part = _find(key, name, known)
    _check(f"{key} {name!r}", options, options_of(part))
    return part(**sizes, **options)


def _audio_rate(section: Mapping[str, Any]) -> float:
    """Samples per second of the front-end of a core that takes every sample of the waveform as a frame."""
    name = section.get("wav2spec")
    if name is None:
        raise ValueError(f"encoder {section['name']!r} reads a waveform: name its front-end in encoder.wav2spec; "
                         f"there are: {', '.join(sorted(FRONTS))}")
    default = inspect.signature(_find("wav2spec", name, FRONTS)).parameters["sample_rate"].default
    return float(section["wav2spec_params"].get("sample_rate", default))


def _prefilter(section: Mapping[str, Any], n_bands: int, rate: float, known: Sequence[float] | None) -> Any:
    """The prefilter, if there is one; its bands are where its options say, else at `known` (Hz)."""
    options = section.get("prefilter_params") or {}
    if section.get("prefilter") in PREFILTERS and not {"frequencies", "fmin", "fmax", "scale"} & set(options):
        if known is None:
            raise ValueError(f"encoder.prefilter={section['prefilter']} needs the frequency of each band, which these "
                             "features do not say: set encoder.prefilter_params={frequencies: [Hz of each]}, or "
                             "{fmin: Hz, fmax: Hz, scale: mel}")
        section = {**section, "prefilter_params": {**options, "frequencies": list(known)}}
    return _part(section, "prefilter", PREFILTERS, n_bands=n_bands, rate=rate)


def build_encoder(section: Mapping[str, Any], *, n_bands: int, rate: float, n_out: int,
                  bands_hz: Sequence[float] | None = None) -> AudioEncoder:
    """The encoder that the config section `encoder` describes.

    Args:
        section: `name` (of a core), `params` (its options and its readout's; `readout` names another readout),
            `prefilter`, `prefilter_params`, `wav2spec`, `wav2spec_params`.
        n_bands: bands of the spectrogram; with a `wav2spec` the number of bands is the front-end's own.
        rate: output frames per second.
        n_out: units (neurons, sensors).
        bands_hz: where the bands of the spectrogram are, for a prefilter that is not told (None: not known); a
            `wav2spec` knows its own.

    Errors: ValueError if a name or an option does not exist, with the nearest that does, or parts do not fit.
    """
    _check("encoder", section, ["name", "params", "prefilter", "prefilter_params", "wav2spec", "wav2spec_params"])
    if "name" not in section:
        raise ValueError(f"encoder.name is missing; there are: {', '.join(sorted(CORES))}")
    core_type: type[Core] = _find("encoder", section["name"], CORES)
    front = core_type.wav2spec_defaults.get(section.get("wav2spec") or "", {})
    section = {**section, "wav2spec_params": {**front, **(section.get("wav2spec_params") or {})}}
    input_rate = _audio_rate(section) if core_type.at_audio_rate else rate
    wav2spec = _part(section, "wav2spec", FRONTS, rate=input_rate)
    bands = n_bands if wav2spec is None else int(wav2spec.out_channels)
    prefilter = _prefilter(section, bands, input_rate,
                           bands_hz if wav2spec is None else getattr(wav2spec, "bands_hz", None))

    params = dict(section.get("params") or {})
    readout_name = params.pop("readout", core_type.readout)
    readout_type = _find("readout", readout_name, READOUTS)
    of_core, of_readout = options_of(core_type), options_of(readout_type)
    _check(f"encoder {section['name']!r}", params, [*of_core, *of_readout, "readout"])
    sizes: dict[str, Any] = {"in_channels": 1 if prefilter is None else int(prefilter.out_channels),
                             "n_bands": bands, "n_out": n_out, "rate": rate}
    if core_type.at_audio_rate:
        sizes["input_rate"] = input_rate
    core = core_type(**sizes, **{key: value for key, value in params.items() if key in of_core})
    defaults = core_type.readout_defaults if readout_name == core_type.readout else {}
    readout = readout_type(core.out_features, n_out,
                           **{**defaults, **{key: value for key, value in params.items() if key in of_readout}})
    return AudioEncoder(core, readout, prefiltering=prefilter, wav2spec=wav2spec)
