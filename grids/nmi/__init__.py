"""The sweeps of Défossez et al. 2023 (Nature Machine Intelligence): two GPUs and three seeds each."""
from typing import Any

from dora import Launcher


def prepare(launcher: Launcher, **slurm: Any) -> None:
    """Preset and size of a job, in place; `slurm` as in `launcher.slurm_`."""
    launcher.slurm_(gpus=2, mem_per_gpu=200, **slurm)
    launcher.bind_(preset="nmi")
