"""conf/features_defaults gives every feature parameters that its constructor has."""
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bm.features import FEATURES, SoundFeature

DEFAULTS = OmegaConf.to_container(OmegaConf.load(
    Path(__file__).parents[2] / "conf/features_defaults/features_defaults.yaml"))


def test_every_sound_feature_has_defaults():
    own = {name for name, cls in FEATURES.items() if issubclass(cls, SoundFeature) and cls.__module__[:3] == "bm."
           and ".test_" not in cls.__module__}
    assert own <= set(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_constructors(name):
    known = dict(inspect.signature(FEATURES[name]).parameters)
    known.pop("context", None)
    assert set(DEFAULTS[name]) <= set(known)
    for key, value in DEFAULTS[name].items():
        default = known[key].default
        if default is not inspect.Parameter.empty and value is not None and default is not None:
            assert value == (list(default) if isinstance(default, tuple) else default), key
