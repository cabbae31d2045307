"""The five folds of the natural sounds, decoded into Whisper's encoder by ridge regression."""
from grids._explorers import DecodeExplorer
from grids.natsounds import FOLDS


@DecodeExplorer
def explorer(launcher):
    launcher.bind_(preset="natsounds_whisper")
    for fold in range(FOLDS):
        launcher({"dset.fold": fold})
