"""Where recordings come from. Importing this package registers every study."""
from bm.studies import simulated
from bm.studies.base import STUDIES, Recording, Signal, Study

__all__ = ["STUDIES", "Recording", "Signal", "Study", "simulated"]
