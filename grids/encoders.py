"""Every encoder on one small study: the MEG of two simulated people, from mel bands at 25 Hz.

`BM_ENCODERS_PRESET` names a preset to compare them on instead, e.g. encode_strflab. The table: `dora grid encoders`.
"""
import os

from bm.models.encoders import CORES
from grids._explorers import EncodeExplorer

#: two and a half minutes, heard loud and clear
SMALL = {"model": "encoder", "selections.simulated.subjects": 2, "selections.simulated.sessions": 1,
         "selections.simulated.minutes": 2.5, "selections.simulated.snr": 1.0, "selections.simulated.rate": 100.0,
         "dset.sample_rate": 25, "dset.features_params.MelSpectrum.n_mels": 16, "dset.test_ratio": 0.3,
         "dset.valid_ratio": 0.2, "encode.window_s": 2.0, "optim.batch_size": 8, "test.n_boot": 200}
#: but for those that learn from the sound itself, which need encoder.wav2spec
ENCODERS = sorted(name for name, core in CORES.items() if not core.at_audio_rate)


@EncodeExplorer
def explorer(launcher):
    preset = os.environ.get("BM_ENCODERS_PRESET")
    launcher.slurm_(gpus=0, cpus_per_gpu=1, mem_per_gpu=4, time=60)
    launcher.bind_({"preset": preset} if preset else SMALL)
    with launcher.job_array():
        for name in ENCODERS:
            launcher({"encoder.name": name})
