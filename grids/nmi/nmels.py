"""How many mel bands: contrastive, deep mel and regression. Those with 120 are XPs of `main_table`."""
from grids._explorers import ClipExplorer
from grids._utils import ROWS, SEEDS, STUDIES, combinations
from grids.nmi import prepare

BANDS = [{"dset.features_params.MelSpectrum.n_mels": n} for n in (20, 40, 80, 120)]


@ClipExplorer
def explorer(launcher):
    prepare(launcher, partition="devlab,learnlab", constraint="volta32gb")
    with launcher.job_array():
        for overrides in combinations(SEEDS, STUDIES, BANDS, ROWS[2:]):
            launcher(overrides)
