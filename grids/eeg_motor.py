"""Imagined hands or feet of one person, five folds of trials: common spatial patterns beside the transformer.

`python -m scripts.classify_baselines --grid eeg_motor` runs what is missing and prints them side by side.
"""
from grids._explorers import ClassifyExplorer

FOLDS = 5
#: `classify.method`
METHODS = ("csp", "covariance", "network")


@ClassifyExplorer
def explorer(launcher):
    launcher.slurm_(gpus=0, cpus_per_gpu=2, mem_per_gpu=4, time=30)
    launcher.bind_(preset="eeg_motor")
    with launcher.job_array():
        for method in METHODS:
            for fold in range(FOLDS):
                launcher({"classify.method": method, "dset.fold": fold})
