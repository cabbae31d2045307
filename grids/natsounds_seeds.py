"""The five folds of the natural sounds, drawn five times: how much a result owes to which sounds fell together."""
from grids._explorers import DecodeExplorer
from grids.natsounds import FOLDS

#: the first one is that of `grids/natsounds.py`
FOLD_SEEDS = (12, 1, 2, 3, 4)


@DecodeExplorer
def explorer(launcher):
    launcher.bind_(preset="natsounds")
    with launcher.job_array():
        for seed in FOLD_SEEDS:
            for fold in range(FOLDS):
                launcher({"dset.split_assign_seed": seed, "dset.fold": fold})
