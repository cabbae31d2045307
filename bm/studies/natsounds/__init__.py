"""The study `natsounds`: human ECoG and fMRI responses to 165 natural sounds."""
from bm.studies.natsounds.study import FACTS, NatSounds, NatSoundsRecording

__all__ = ["FACTS", "NatSounds", "NatSoundsRecording"]
