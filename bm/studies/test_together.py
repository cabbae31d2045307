"""MEG and EEG, four devices, one model: the four twins in one XP."""
import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.data.assemble import assemble
from bm.studies.twins import make_twin
from bm.test_config import CONF


@pytest.mark.slow
def test_all_four_twins_in_one_experiment(tmp_path):
    names = ["gwilliams2022", "audio_mous", "broderick2019", "brennan2019"]
    studies = ["gwilliams2022", "schoffelen2019", "broderick2019", "brennan2019"]
    paths = [f"study_paths.{study}={make_twin(study, tmp_path / study)}" for study in studies]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [
            f"dset.selections=[{','.join(names)}]", *paths, "dset.tmin=0", "dset.tmax=1", "dset.min_block_duration=1",
            "dset.test_ratio=0.3", "dset.valid_ratio=0.3", "dset.purge=0"])))
    data = assemble(cfg, tmp_path)
    assert {recording.study for recording in data.recordings} == set(studies)
    assert data.spec.channels == 208 and len(data.spec.subjects) == 2 + 2 + 2 + 5
    valid = data.montages.valid.sum(1)
    assert set(valid.tolist()) == {208, 24, 128, 60, 59, 57}  # 60 but for the channels that are marked bad
    assert (data.audit.table[["brain_s", "stimulus_s"]] == 0).all(axis=None)
    heard_by = data.segments.assign(study=[data.recordings[i].study for i in data.segments["recording"]])
    for split in ("train", "valid", "test"):
        assert heard_by.loc[heard_by["split"] == split, "study"].nunique() == 4
    batch = data.dataset("test").__getitems__(data.ids("test"))
    assert batch.brain.shape[1:] == (208, data.spec.times) and len(batch.features["MelSpectrum"]) == len(batch.brain)
