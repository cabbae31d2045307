"""Open or closed eyes of six people, each left out once: the transformer, and classical methods on the same folds.

`python -m scripts.classify_baselines` runs what is missing and prints them side by side. On each fold the network's
setting is the one with the lowest loss on the validation person, who is neither trained on nor tested.
"""
from grids._explorers import ClassifyExplorer

FOLDS = 6
#: `classify.method`, the network first
METHODS = ("network", "bandpower", "bandpower_centred", "covariance", "csp")
#: of the network: the preset's, a smaller one, and one scale for all channels without a high-pass
SETTINGS = ({}, {"eeg_transformer.dim": 32, "eeg_transformer.heads": 2, "eeg_transformer.layers": 1},
            {"dset.highpass": 0, "classify.scale": "global"})
#: common spatial patterns need a band; what decides is that of alpha waves
BAND = {"csp": {"dset.highpass": 8, "dset.lowpass": 12}}


@ClassifyExplorer
def explorer(launcher):
    launcher.slurm_(gpus=0, cpus_per_gpu=2, mem_per_gpu=4, time=30)
    launcher.bind_(preset="eeg_rest")
    with launcher.job_array():
        for method in METHODS:
            for fold in range(FOLDS):
                for setting in SETTINGS if method == "network" else [BAND.get(method, {})]:
                    launcher({"classify.method": method, "dset.fold": fold}, setting)
