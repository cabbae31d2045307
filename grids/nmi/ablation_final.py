"""The ablations: the whole decoder, and eleven that each lack or change one part."""
from grids._explorers import ClipExplorer
from grids._utils import SEEDS, STUDIES, WAV2VEC, combinations
from grids.nmi import prepare

PARTS = [
    {},
    {"simpleconv.merger": False},
    {"simpleconv.merger_dropout": 0.0},
    {"simpleconv.glu": 0},
    {"simpleconv.initial_linear": 0},
    {"simpleconv.gelu": False},
    {"simpleconv.skip": False},
    {"simpleconv.complex_out": False},
    {"simpleconv.subject_layers": False},
    {"simpleconv.subject_layers": False, "simpleconv.subject_dim": 64},
    {"norm.max_scale": 100.0},
    {"norm.max_scale": 1e12},  # no clamping
]


@ClipExplorer
def explorer(launcher):
    prepare(launcher)
    launcher.bind_(WAV2VEC, {"optim.batch_size": 256})
    with launcher.job_array():
        for overrides in combinations(SEEDS, STUDIES, PARTS):
            launcher(overrides)
