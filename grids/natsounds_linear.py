"""Ridge regression on the folds of `grids/natsounds_seeds.py`: what a deep decoder has to beat."""
from grids._explorers import DecodeExplorer
from grids.natsounds import FOLDS
from grids.natsounds_seeds import FOLD_SEEDS


@DecodeExplorer
def explorer(launcher):
    launcher.bind_(preset="natsounds_linear")
    with launcher.job_array():
        for seed in FOLD_SEEDS:
            for fold in range(FOLDS):
                launcher({"dset.split_assign_seed": seed, "dset.fold": fold})
