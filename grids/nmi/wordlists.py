"""The word lists of MOUS, in short windows about each word."""
from grids._explorers import ClipExplorer
from grids._utils import MOUS, SEEDS, WAV2VEC
from grids.nmi import prepare

LISTS = {**MOUS, "dset.selections": ["audio_mous_wl"], "dset.tmin": -0.3, "dset.tmax": 0.5, "optim.batch_size": 128}


@ClipExplorer
def explorer(launcher):
    prepare(launcher)
    launcher.bind_(LISTS, WAV2VEC)
    with launcher.job_array():
        for seed in SEEDS:
            launcher(seed)
