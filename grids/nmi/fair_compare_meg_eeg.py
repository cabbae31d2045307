"""MEG and EEG on equal terms: 19 people, equal hours, 128 channels; the five decoders of `main_table`."""
from grids._explorers import ClipExplorer
from grids._utils import BRODERICK, GWILLIAMS, MOUS, ROWS, SEEDS, combinations
from grids.nmi import prepare

# train has 0.7 of the blocks; the share of it that goes makes the hours equal
EQUAL = [
    {**MOUS, "dset.n_recordings": 19},
    {**GWILLIAMS, "dset.n_recordings": 140, "dset.remove_ratio": round(0.62 * 0.7, 3)},
    {**BRODERICK, "dset.n_recordings": 380, "dset.remove_ratio": round(0.21 * 0.7, 3)},
]


@ClipExplorer
def explorer(launcher):
    prepare(launcher)
    launcher.bind_({"simpleconv.subsample_meg_channels": 128})
    with launcher.job_array():
        for overrides in combinations(SEEDS, EQUAL, ROWS):
            launcher(overrides)
