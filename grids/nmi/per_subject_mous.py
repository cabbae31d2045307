"""How accuracy on the same few people grows with the number of people trained on: MOUS, 96 people."""
from grids._explorers import ClipExplorer
from grids._utils import MOUS, SEEDS, WAV2VEC, combinations
from grids.nmi import prepare

PEOPLE = [{"dset.n_subjects": n} for n in range(10, 101, 10)]


@ClipExplorer
def explorer(launcher):
    prepare(launcher)
    launcher.bind_(MOUS, WAV2VEC, {"optim.batch_size": 256, "dset.n_subjects_test": 10})
    with launcher.job_array():
        for overrides in combinations(SEEDS, PEOPLE):
            launcher(overrides)
