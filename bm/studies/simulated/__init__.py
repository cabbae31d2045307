"""The study `simulated`: MEG of people who never were, listening to stories, with the truth known."""
from bm.studies.simulated.study import Simulated, SimulatedRecording
from bm.studies.simulated.truth import Truth, load_truth, whittle_scores

__all__ = ["Simulated", "SimulatedRecording", "Truth", "load_truth", "whittle_scores"]
