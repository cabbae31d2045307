"""Where recordings come from. Importing this package registers every study."""
from bm.studies import (
    bids,
    brennan2019,
    broderick2019,
    eegmmidb,
    gwilliams2022,
    natsounds,
    nh2015,
    ns1,
    schoffelen2019,
    simulated,
    simulated_neurons,
    strflab,
)
from bm.studies.base import STUDIES, Recording, Signal, Study

__all__ = ["STUDIES", "Recording", "Signal", "Study", "bids", "brennan2019", "broderick2019", "eegmmidb",
           "gwilliams2022", "natsounds", "nh2015", "ns1", "schoffelen2019", "simulated", "simulated_neurons", "strflab"]
