"""Eight small XPs over the simulated study, each of which trains in seconds without a GPU: a sweep to try things on."""
from grids._explorers import DecodeExplorer

#: two minutes of two people, heard loud and clear
SMALL = {
    "selections.simulated.subjects": 2, "selections.simulated.sessions": 1, "selections.simulated.minutes": 2.5,
    "selections.simulated.snr": 1.0, "selections.simulated.rate": 100.0,
    "dset.sample_rate": 25, "dset.tmin": 0.0, "dset.tmax": 1.5, "dset.condition": 0.25,
    "dset.test_ratio": 0.3, "dset.valid_ratio": 0.2, "dset.features_params.MelSpectrum.n_mels": 16,
    "simpleconv.hidden.meg": 24, "simpleconv.depth": 2, "simpleconv.merger_channels": 24,
    "simpleconv.initial_linear": 24, "optim.epochs": 6, "eval_every": 2, "test.n_boot": 200,
}
#: what is compared with the mel bands as they are: a small network on top of them, trained with the decoder
DEEP_MEL = {"feature_model": "deep_mel", "feature_model_params.n_hidden_channels": 16,
            "feature_model_params.n_hidden_layers": 2, "feature_model_params.n_out_channels": 16}


@DecodeExplorer
def explorer(launcher):
    launcher.slurm_(gpus=0, cpus_per_gpu=1, mem_per_gpu=2, time=30)
    launcher.bind_(SMALL)
    with launcher.job_array():
        for target in ({}, DEEP_MEL):
            for lr in (1e-3, 3e-3):
                for seed in (2036, 2037):
                    launcher(target, {"optim.lr": lr, "seed": seed})
