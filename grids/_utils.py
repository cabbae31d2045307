"""What grid files share: products of parameters, the XPs of a grid, the studies of the paper."""
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dora import Explorer
from dora.conf import SlurmConfig
from dora.explore import Herd, Launcher
from dora.xp import XP

Overrides = dict[str, Any]

#: seeds of the paper's tables
SEEDS = [{"seed": seed} for seed in (2036, 2037, 2038)]
#: its four studies. The sentences of MOUS are heard alone, so blocks are never merged; the many short recordings of
#: Broderick are tested on the first hundred as long as training lasts
MOUS: Overrides = {"dset.selections": ["audio_mous"], "dset.force_uid_assignement": True}
GWILLIAMS: Overrides = {"dset.selections": ["gwilliams2022"]}
BRODERICK: Overrides = {"dset.selections": ["broderick2019"], "test.wer_recordings": 100}
BRENNAN: Overrides = {"dset.selections": ["brennan2019"]}
STUDIES = [MOUS, GWILLIAMS, BRODERICK, BRENNAN]

WAV2VEC: Overrides = {"dset.features": ["Wav2VecTransformer"]}
MEL: Overrides = {"dset.features": ["MelSpectrum"]}
#: the rows of the paper's table 2: wav2vec 2.0, random, contrastive, deep mel, base
ROWS: list[Overrides] = [
    WAV2VEC,
    {**WAV2VEC, "optim.max_batches": 1, "optim.epochs": 1, "test.wer_random": True},
    MEL,
    {**MEL, "feature_model": "deep_mel"},
    {**MEL, "optim.loss": "mse"},
]


def combinations(*groups: Sequence[Overrides]) -> Iterator[Overrides]:
    """Every combination of one member of each group; the parameters of a member vary together.

    A value of None drops its key, so that the config's own value holds.

    Raises:
        ValueError: two groups set the same key.
    """
    for members in product(*groups):
        merged: Overrides = {}
        for member in members:
            twice = sorted(set(merged) & set(member))
            if twice:
                raise ValueError(f"two groups set {', '.join(twice)}: put what varies together into one group")
            merged |= member
        yield {key: value for key, value in merged.items() if value is not None}


@dataclass(frozen=True)
class GridXP:
    """An XP of a grid and what SLURM would be asked for."""

    xp: XP
    slurm: SlurmConfig


class _Lister:
    """What a launcher needs of Dora's shepherd to list XPs: no folder is made, no scheduler asked."""

    def __init__(self) -> None:
        from bm.train import main
        self.main = main

    def get_sheep_from_argv(self, argv: Sequence[str]) -> Any:
        return type("Listed", (), {"xp": self.main.get_xp(argv)})()


def collect(explorer: Explorer) -> list[GridXP]:
    """The XPs that a grid's explorer asks for, in order and each once; nothing is launched or written."""
    lister, herd = _Lister(), Herd()
    explorer(Launcher(lister, lister.main.get_slurm_config(), herd))
    return [GridXP(sheep.xp, herd.slurm_configs[sig]) for sig, sheep in herd.sheeps.items()]


def get_all_explorer_sigs(explorer: Explorer) -> list[str]:
    """Signatures of the XPs that a grid's explorer asks for, in order."""
    return [listed.xp.sig for listed in collect(explorer)]


def get_dummy_version(n: int) -> str:
    """`"main_table-v2"` in a file `main_table.py`: for `dummy`, to run a grid again under other signatures."""
    return f"{Path(sys._getframe(1).f_globals['__file__']).stem}-v{n}"
