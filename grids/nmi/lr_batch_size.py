"""Learning rate and batch size, the lag between sound and brain, and clamping of extreme values."""
from grids._explorers import ClipExplorer
from grids._utils import GWILLIAMS, SEEDS, WAV2VEC, combinations
from grids.nmi import prepare

LEARNING = list(combinations([{"optim.lr": lr} for lr in (1e-4, 3e-4, 6e-4, 1e-3)],
                             [{"optim.batch_size": size} for size in (32, 64, 128, 256)]))
OFFSETS = [{"task.offset_meg_ms": float(ms)} for ms in range(0, 301, 50)]
# the paper compares clamping with autoreject, which bm does not have: the second one has neither
CLAMPING = [{"dset.n_recordings": 16}, {"dset.n_recordings": 16, "norm.max_scale": 1e12}]


@ClipExplorer
def explorer(launcher):
    prepare(launcher)
    launcher.bind_(GWILLIAMS, WAV2VEC)
    with launcher.job_array():
        for overrides in combinations(SEEDS, [*LEARNING, *OFFSETS, *CLAMPING]):
            launcher(overrides)
