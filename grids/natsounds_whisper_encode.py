"""The other direction of `grids/natsounds_whisper.py`: the brain predicted from Whisper's encoder."""
from grids._explorers import DecodeExplorer
from grids.natsounds import FOLDS


@DecodeExplorer
def explorer(launcher):
    launcher.bind_(preset="natsounds_whisper")
    for fold in range(FOLDS):
        launcher({"task.type": "linear_encode", "dset.fold": fold})
