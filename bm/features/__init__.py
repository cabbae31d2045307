"""Stimulus → vectors. Importing this package registers every feature."""
from bm.features import audio, phonemes, words
from bm.features.base import FEATURES, EventFeature, Feature, SoundFeature, build_feature

__all__ = ["FEATURES", "EventFeature", "Feature", "SoundFeature", "audio", "build_feature", "phonemes", "words"]
