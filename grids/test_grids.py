"""Every sweep asks for the XPs it should, and each of them has a config that is accepted."""
import importlib
from collections import Counter
from pathlib import Path

import pytest

from bm.train import main
from grids._utils import collect, combinations, get_all_explorer_sigs, get_dummy_version

COUNTS = {"nmi.main_table": 60, "nmi.ablation_final": 144, "nmi.nmels": 144, "nmi.lr_batch_size": 72,
          "nmi.fair_compare_meg_eeg": 45, "nmi.per_subject_gwilliams": 27, "nmi.per_subject_mous": 30,
          "nmi.wordlists": 3, "natsounds": 5, "natsounds_seeds": 25, "demo": 8, "encoders": 14, "layers": 7}


#: a config takes 0.1 s
LARGE = ("nmi.ablation_final", "nmi.nmels", "nmi.fair_compare_meg_eeg", "nmi.lr_batch_size",
         "nmi.per_subject_gwilliams", "nmi.per_subject_mous", "natsounds_seeds")


def xps_of(*names: str) -> dict:
    return {name: collect(importlib.import_module(f"grids.{name}").explorer) for name in names}


@pytest.fixture(scope="module")
def listed() -> dict:
    return xps_of(*(name for name in COUNTS if name not in LARGE))


@pytest.fixture(scope="module")
def large() -> dict:
    return xps_of(*LARGE)


def check_counts(listed: dict) -> None:
    for name, xps in listed.items():
        assert len({one.xp.sig for one in xps}) == len(xps) == COUNTS[name], name
        assert not name.startswith("nmi.") or all(one.slurm.gpus == 2 for one in xps)


def test_number_of_xps(listed):
    check_counts(listed)


def test_listing_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(main.dora, "dir", tmp_path)
    assert len(xps_of("nmi.wordlists")["nmi.wordlists"]) == 3 and not list(tmp_path.iterdir())


def sigs(listed, name: str, **wanted) -> set[str]:
    def get(cfg, key):
        for part in key.split("."):
            cfg = cfg[part]
        return cfg
    return {one.xp.sig for one in listed[name] if all(get(one.xp.cfg, k) == v for k, v in wanted.items())}


@pytest.mark.slow
def test_the_large_grids(listed, large):
    """And the same XP has one signature in two grids."""
    check_counts(large)
    bands = "dset.features_params.MelSpectrum.n_mels"
    shared = sigs(large, "nmi.nmels", **{bands: 120})
    assert len(shared) == 36 and shared < {one.xp.sig for one in listed["nmi.main_table"]}
    # the whole decoder, at the batch size that the preset has anyway
    reference = {one.xp.sig for one in large["nmi.ablation_final"]} & {one.xp.sig for one in listed["nmi.main_table"]}
    assert len(reference) == 12
    fair = [one.xp.cfg for one in large["nmi.fair_compare_meg_eeg"]]
    assert sum(cfg.feature_model_name == "deep_mel" for cfg in fair) == 9
    assert {(cfg.dset.n_recordings, cfg.dset.remove_ratio) for cfg in fair} == {(19, 0.0), (140, 0.434), (380, 0.147)}
    # an offset of 150 ms is the preset's, and so are that learning rate and batch size
    assert len(sigs(large, "nmi.lr_batch_size", **{"task.offset_meg_ms": 150.0, "optim.lr": 3e-4, "seed": 2036,
                                                   "optim.batch_size": 256, "dset.n_recordings": 1000})) == 1


def test_what_the_grids_vary(listed):
    table = [one.xp.cfg for one in listed["nmi.main_table"]]
    assert Counter(str(cfg.dset.selections[0]) for cfg in table) == dict.fromkeys(
        ("audio_mous", "gwilliams2022", "broderick2019", "brennan2019"), 15)
    assert Counter((str(cfg.dset.features[0]), cfg.optim.loss, cfg.feature_model_name, cfg.test.wer_random)
                   for cfg in table) == dict.fromkeys(
        [("Wav2VecTransformer", "clip", None, False), ("Wav2VecTransformer", "clip", None, True),
         ("MelSpectrum", "clip", None, False), ("MelSpectrum", "clip", "deep_mel", False),
         ("MelSpectrum", "mse", None, False)], 12)
    for cfg in table:
        assert cfg.dset.force_uid_assignement == (cfg.dset.selections[0] == "audio_mous")
        assert cfg.test.wer_recordings == (100 if cfg.dset.selections[0] == "broderick2019" else 40)
        assert cfg.model_name == "simpleconv" and cfg.optim.batch_size == 256 and cfg.dset.sample_rate == 120
    lists = [one.xp.cfg for one in listed["nmi.wordlists"]]
    assert all(cfg.selections[cfg.dset.selections[0]].context == "word_list" for cfg in lists)


def test_combinations():
    found = list(combinations([{"a": 1, "b": 2}, {"a": 3, "b": None}], [{"c": 4}, {"c": 5}]))
    assert found == [{"a": 1, "b": 2, "c": 4}, {"a": 1, "b": 2, "c": 5}, {"a": 3, "c": 4}, {"a": 3, "c": 5}]
    with pytest.raises(ValueError, match="two groups set a"):
        list(combinations([{"a": 1}], [{"a": None}]))


def test_version_and_signatures(listed):
    assert get_dummy_version(2) == "test_grids-v2"
    explorer = importlib.import_module("grids.natsounds").explorer
    assert get_all_explorer_sigs(explorer) == [one.xp.sig for one in listed["natsounds"]]
    assert listed["natsounds"][0].xp.sig == main.get_xp(["preset=natsounds", "dset.fold=0"]).sig


def test_every_sweep_of_the_paper_is_counted():
    names = {f"nmi.{path.stem}" for path in (Path(__file__).parent / "nmi").glob("[a-z]*.py")}
    assert names == {name for name in COUNTS if name.startswith("nmi.")}
