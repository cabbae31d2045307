"""The networks of a decoder: of the XP that trains them, and of whoever loads them."""
from collections.abc import Callable
from pathlib import Path

from torch import nn

from bm.batch import BatchSpec
from bm.config import Config
from bm.losses import ClipLoss
from bm.models import BrainModel, build_model


def build_networks(cfg: Config, spec: BatchSpec, find: Callable[[str], Path] | None = None) -> nn.ModuleDict:
    """`model`, `feature_model` if there is one, and `loss`, which compares estimates with candidates, drawn in this
    order from torch's random stream.

    Args:
        find: where a pretrained network of that name is; None: names are taken as they are in the config.

    Errors: ValueError if the model is no model of the brain, or features have a rate that it cannot give.
    """
    channels = sum(feature.out_dim for feature in spec.features)
    options = dict(cfg.feature_model_params)
    if cfg.feature_model_name:
        channels = options.pop("n_out_channels")
    else:
        fast = [feature.name for feature in spec.features if feature.rate != spec.sample_rate]
        if fast:
            raise ValueError(f"{', '.join(fast)} is given at a rate of its own, for a network that learns from it: "
                             "set feature_model=wav2vec2")
    inputs = None
    if cfg.task.type == "encode":  # the other way round: the brain from its beginning and the features
        inputs, channels = {"meg": spec.channels, "features": sum(f.dim for f in spec.features)}, spec.channels
    if "model" in options and find is not None:
        options["model"] = str(find(options["model"]))
    networks = nn.ModuleDict({"model": build_model(
        cfg.model_name, spec, channels, n_subjects=cfg.override_n_subjects_model,
        **({"in_channels": inputs} if inputs else {}), **getattr(cfg, cfg.model_name))})
    if not isinstance(networks["model"], BrainModel):
        raise ValueError(f"model_name={cfg.model_name} is no model of the brain but of features: use it as "
                         "feature_model")
    if cfg.feature_model_name:
        networks["feature_model"] = build_model(cfg.feature_model_name, spec, channels, **options)
    networks["loss"] = ClipLoss(dim=channels, sample_rate=spec.sample_rate, segment_tmin=spec.tmin,
                                **cfg.clip.model_dump(exclude={"gather"}))
    return networks
