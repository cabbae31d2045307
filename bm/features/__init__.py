"""Stimulus → vectors. Importing this package registers every feature."""
from bm.features import audio
from bm.features.base import FEATURES, Feature, build_feature

__all__ = ["FEATURES", "Feature", "audio", "build_feature"]
