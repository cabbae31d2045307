"""Stimulus → vectors. Importing this package registers every feature."""
from bm.features import audio, cochlea, net, phonemes, pitch, spacy_words, speech, text, words
from bm.features.base import FEATURES, EventFeature, Feature, FeatureContext, SoundFeature, build_feature

__all__ = ["FEATURES", "EventFeature", "Feature", "FeatureContext", "SoundFeature", "audio", "build_feature", "cochlea",
           "net", "phonemes", "pitch", "spacy_words", "speech", "text", "words"]
