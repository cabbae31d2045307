"""The five folds of the natural sounds, one XP each; `scripts/pool_folds.py --grid natsounds` pools them."""
from grids._explorers import DecodeExplorer

FOLDS = 5


@DecodeExplorer
def explorer(launcher):
    launcher.bind_(preset="natsounds")
    with launcher.job_array():
        for fold in range(FOLDS):
            launcher({"dset.fold": fold})
