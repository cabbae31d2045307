import pytest
from hydra import compose, initialize_config_dir

from bm.config import check_config, to_plain
from bm.conftest import ToyRecording
from bm.data.assemble import assemble
from bm.studies.base import STUDIES, Study
from bm.test_config import CONF


@pytest.fixture
def data(recordings, monkeypatch, tmp_path):
    """`data(overrides…)`: the data of an XP on the three toy recordings."""
    class Toy(Study):
        name = "toy"

        def recordings(self):
            return iter(recordings)

    monkeypatch.setitem(STUDIES, "toy", Toy)
    base = ["+selections.toy.study=toy", "dset.selections=[toy]", "dset.tmin=0", "dset.tmax=1.5", "dset.test_ratio=0.3",
            "dset.valid_ratio=0.2", "dset.split_assign_seed=1", "dset.purge=0"]

    def make(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = check_config(to_plain(compose("config", [*base, *overrides])))
        return assemble(cfg, tmp_path)
    return make


def subjects_in(data, split):
    recordings = data.segments.loc[data.segments["split"] == split, "recording"].unique()
    return sorted(data.recordings[i].subject for i in recordings)


def test_n_subjects_limits_train_and_valid_or_test(data):
    everyone = data()
    assert all(subjects_in(everyone, split) == ["p0", "p1", "p2"] for split in ("train", "valid", "test"))
    few = data("dset.n_subjects=2")
    assert subjects_in(few, "train") == subjects_in(few, "valid") == ["p0", "p1"]
    assert subjects_in(few, "test") == ["p0", "p1", "p2"]
    tested = data("dset.n_subjects_test=1")
    assert subjects_in(tested, "test") == ["p0"] and subjects_in(tested, "train") == ["p0", "p1", "p2"]
    assert few.spec.subjects == everyone.spec.subjects == ("toy/p0", "toy/p1", "toy/p2")


def test_remove_ratio_takes_from_train_alone(data):
    def blocks(d, split):
        return set(d.blocks.loc[d.blocks["split"] == split, "uid"])
    whole, less = data(), data("dset.remove_ratio=0.3")
    assert blocks(less, "test") == blocks(whole, "test") and blocks(less, "valid") == blocks(whole, "valid")
    assert blocks(less, "train") < blocks(whole, "train") and len(blocks(less, "removed")) > 0
    assert set(less.segments["split"]) == {"train", "valid", "test"}


def test_folds_and_ratios_recompute_no_feature(data, monkeypatch):
    first = data()
    monkeypatch.setattr("bm.features.audio.MelSpectrum.compute", lambda *args: pytest.fail("computed again"))
    monkeypatch.setattr(ToyRecording, "signal", lambda self: pytest.fail("prepared again"))
    for overrides in (["dset.split_assign_seed=17", "dset.allow_empty_split=true"],
                      ["dset.n_folds=3", "dset.fold=1", "dset.allow_empty_split=true"], ["dset.test_ratio=0.35"]):
        other = data(*overrides)
        assert set(other.blocks["uid"]) == set(first.blocks["uid"])


def test_subjects_held_out(data):
    for fold in range(3):
        held = data("dset.split_by=subject", "dset.n_folds=3", f"dset.fold={fold}", "dset.allow_empty_split=true")
        assert not set(subjects_in(held, "test")) & set(subjects_in(held, "train"))
        assert (held.audit.table["subjects"] == 0).all()


def test_recordings_are_shuffled_skipped_and_counted(data):
    names = [r.uid for r in data().recordings]
    assert names == ["r0", "r1", "r2"]
    assert [r.uid for r in data("dset.skip_recordings=1", "dset.n_recordings=1").recordings] == ["r1"]
    shuffled = [[r.uid for r in data(f"dset.shuffle_recordings_seed={seed}").recordings] for seed in (0, 1, 2, 0)]
    assert shuffled[0] == shuffled[3] and any(order != names for order in shuffled)
    assert all(sorted(order) == names for order in shuffled)


def test_sound_blocks(data, monkeypatch):
    monkeypatch.setattr(Study, "blocks", "sound")
    with pytest.raises(ValueError, match="split '(train|valid|test)' is empty"):
        data()  # one sound is one block
