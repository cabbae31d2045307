"""Table 2: four studies, five decoders each. The base row needs no second XP: the test of an mse XP also retrieves."""
from grids._explorers import ClipExplorer
from grids._utils import ROWS, SEEDS, STUDIES, combinations
from grids.nmi import prepare


@ClipExplorer
def explorer(launcher):
    prepare(launcher, partition="learnlab", constraint="volta32gb")
    with launcher.job_array():
        for overrides in combinations(SEEDS, STUDIES, ROWS):
            launcher(overrides)
