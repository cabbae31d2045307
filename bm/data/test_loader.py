import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from bm.data.loader import BufferPool, EpochSampler, Finish, Montages, SegmentDataset, fit_scalers, make_loader
from bm.data.prepare import prepare_all
from bm.data.resident import ResidentDataset
from bm.data.scaling import FeatureScaler, fit_feature, robust_center_scale
from bm.data.test_segments import make
from bm.data.tracks import build_bank, lagged, pooled, to_brain_rate, word_mask
from bm.events import check_events
from bm.features import build_feature
from bm.store import Store


@pytest.fixture
def dataset(recordings, tmp_path, wav):
    recordings[2] = dataclasses.replace(recordings[2], channels=4, bad=(1,))
    segments, blocks = make(recordings)
    prepared = prepare_all(recordings, Store(tmp_path / "cache"), 50, 0)
    events = [check_events(r.events(), r.name) for r in recordings]
    lengths = [len(p.array) for p in prepared]
    files = {events[0]["stimulus"][0]: wav}
    bank = build_bank(build_feature("MelSpectrum", {"n_mels": 12}), blocks, files, lengths, 50, "bandlimited",
                      Store(tmp_path / "cache"))
    words = [word_mask(e, length, 50) for e, length in zip(events, lengths, strict=True)]
    return SegmentDataset([p.array for p in prepared], Montages.from_tables([p.channels for p in prepared]), segments,
                          151, [0, 1, 2], [bank], words), segments, blocks


def test_batch_is_what_stands_on_disk(dataset):
    dataset, segments, _ = dataset
    ids = [3, 40, len(dataset) - 1]
    batch = dataset.__getitems__(ids)
    assert batch.brain.shape == (3, 6, 151) and batch.features["MelSpectrum"].shape == (3, 12, 151)
    for b, i in enumerate(ids):
        row = segments.loc[i]
        array = dataset.arrays[row["recording"]]
        expected = array[row["first"]:row["first"] + 151].T
        np.testing.assert_array_equal(batch.brain[b, :array.shape[1]], expected)
        assert (batch.brain[b, array.shape[1]:] == 0).all()
    assert batch.channel_mask[2].tolist() == [True, False, True, True, False, False]
    assert batch.segment.tolist() == ids


def test_all_hear_the_same_rows(dataset):
    dataset, segments, _ = dataset
    test = segments[segments["split"] == "test"]
    shared = test[test["candidate"].duplicated(keep=False)].groupby("candidate").head(2).groupby("candidate")
    differences = []
    for _, rows in shared:
        x = dataset.__getitems__(rows.index.to_list()).features["MelSpectrum"]
        differences.append((x[0] - x[1]).abs().mean() / x[0].std())
    # within the half sample to which triggers are rounded
    assert len(differences) > 10 and np.median(differences) < 0.1
    assert len(dataset.banks[0].rows) < 51 * 50


def test_order_depends_on_seed_and_epoch_alone(dataset):
    dataset, segments, _ = dataset
    ids = np.flatnonzero(segments["split"] == "train")
    seen = []
    for workers in (0, 2):
        sampler = EpochSampler(ids, 16, seed=5)
        sampler.epoch = 3
        seen.append(torch.cat([b.segment for b in make_loader(dataset, sampler, workers, False)]))
    assert torch.equal(*seen) and sorted(seen[0].tolist()) == ids.tolist()
    sampler.epoch = 4
    assert list(sampler)[0] != seen[0][:16].tolist()
    assert len(list(EpochSampler(ids, 16, 0, max_batches=2))) == 2


def test_processes_share_each_batch(dataset):
    dataset, segments, _ = dataset
    ids = np.flatnonzero(segments["split"] == "train")
    whole = list(EpochSampler(ids, 16, seed=5))
    parts = [list(EpochSampler(ids, 16, seed=5, rank=rank, world_size=3)) for rank in range(3)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(sum(shares, []))
    with pytest.raises(ValueError, match="rank 3 of 3"):
        EpochSampler(ids, 16, rank=3, world_size=3)


def test_resident_batches_are_the_same(dataset):
    dataset, _, _ = dataset
    resident = ResidentDataset(dataset, "cpu")
    ids = [0, 7, len(dataset) - 1, 30]
    expected, batch = dataset.__getitems__(ids), resident.__getitems__(ids)
    for name in ("brain", "channel_mask", "positions", "layout", "subject", "recording", "segment"):
        torch.testing.assert_close(getattr(batch, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(batch.features["MelSpectrum"], expected.features["MelSpectrum"])
    assert torch.equal(batch.masks["word"], expected.masks["word"])


def test_scaling_of_the_reference():
    x = np.sin(0.37 * np.arange(1000))[:, None] * np.array([1, 3, 0.0])
    center, scale = robust_center_scale(x)
    np.testing.assert_allclose(center, [0.0068146, 0.0204438, 0], atol=1e-6)
    np.testing.assert_allclose(scale, [1.4123697, 4.2371087, 1], atol=5e-6)
    one = fit_feature(x, np.ones(1000, int), False, "x")
    assert one.mean.item() == pytest.approx(0.00128949, abs=1e-7)
    assert one.std.item() == pytest.approx(1.2917583, abs=1e-5)
    counts = np.random.default_rng(0).integers(0, 3, 1000)
    each = fit_feature(x[:, :2], counts, True, "x")
    seen = np.repeat(x[:, :2], counts, axis=0)
    np.testing.assert_allclose(each.mean, seen.mean(0), atol=1e-6)
    np.testing.assert_allclose(each.std, seen.std(0, ddof=1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"dimensions \[2\] never vary"):
        fit_feature(x, np.ones(1000, int), True, "x")
    with pytest.raises(ValueError, match="no sample to fit"):
        fit_feature(x, np.zeros(1000, int), True, "x")


def test_scales_come_from_train_segments_alone(dataset):
    dataset, segments, _ = dataset
    train = np.flatnonzero(segments["split"] == "train")
    first = fit_scalers(dataset, train, 26, True, False, 200, 8000, seed=1)
    used = np.zeros(3000, bool)
    for start in segments["first"][(segments["split"] == "train") & (segments["recording"] == 0)]:
        used[start:start + 151] = True
    changed = np.array(dataset.arrays[0])
    changed[~used] = 1e6
    dataset.arrays[0] = changed
    again = fit_scalers(dataset, train, 26, True, False, 200, 8000, seed=1)
    assert torch.equal(first.brain.center, again.brain.center) and torch.equal(first.brain.scale, again.brain.scale)


def test_finish(dataset):
    dataset, segments, _ = dataset
    train = np.flatnonzero(segments["split"] == "train")
    scalers = fit_scalers(dataset, train, 26, True, False, 200, 8000, seed=1)
    raw = dataset.__getitems__([0, 5, len(dataset) - 1])
    before = raw.brain.clone()
    batch = Finish(scalers, baseline=26, max_scale=1.5, offset=5)(raw)
    assert torch.equal(raw.brain, before)
    assert batch.brain.shape == (3, 6, 146) and batch.features["MelSpectrum"].shape == (3, 12, 146)
    assert batch.brain.abs().max() == 1.5 and (batch.brain[2, [1, 4, 5]] == 0).all()
    x = before[0] - before[0, :, :26].mean(1, keepdim=True)
    x = (x - scalers.brain.center[raw.recording[0]][:, None]) / scalers.brain.scale[raw.recording[0]][:, None]
    torch.testing.assert_close(batch.brain[0], x.clamp(-1.5, 1.5)[:, 5:])
    scaler = scalers.features["MelSpectrum"]
    torch.testing.assert_close(scaler.inverse(batch.features["MelSpectrum"]), raw.features["MelSpectrum"][:, :, :146])


def test_resampling_of_features():
    rows = np.sin(np.arange(250) / 125 * 2 * np.pi * 2)[:, None].astype(np.float32)
    near = to_brain_rate(rows, 125, 50, 2.0, "nearest")
    np.testing.assert_array_equal(near[:, 0], rows[np.floor(np.arange(100) * 2.5).astype(int), 0])
    band = to_brain_rate(rows, 125, 50, 2.0, "bandlimited")
    np.testing.assert_allclose(band[10:-10, 0], np.sin(np.arange(100) / 50 * 4 * np.pi)[10:-10], atol=2e-3)


def test_feature_scaler_is_per_dimension():
    scaler = FeatureScaler(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(scaler(x)[:, 1], (x[:, 1] - 2) / 4)


def test_buffers_are_reused_only_when_free():
    pool = BufferPool()
    first = torch.from_numpy(pool.take((3, 4)))[1:]  # a view of a tensor holds the memory
    second = pool.take((3, 4))
    assert second.__array_interface__["data"][0] != first.data_ptr() - 16
    address = first.data_ptr() - 16
    del first
    assert pool.take((4, 3)).__array_interface__["data"][0] == address
    assert len(pool.buffers) == 2


def test_batches_do_not_share_memory(dataset):
    dataset, _, _ = dataset
    batches = [dataset.__getitems__([i, i + 1]) for i in range(6)]
    for i, batch in enumerate(batches):
        expected = dataset.__getitems__([i, i + 1])
        assert torch.equal(batch.brain, expected.brain)
        assert torch.equal(batch.features["MelSpectrum"], expected.features["MelSpectrum"])


def test_word_mask_ends_with_the_word():
    words = pd.DataFrame({"kind": "word", "start": [-0.2, 0.5, 1.9], "duration": [0.3, 0.2, 0.5]})
    mask = word_mask(words, 100, 50)
    assert np.flatnonzero(mask).tolist() == [*range(5), *range(25, 35), *range(95, 100)]


def test_views_and_pools_of_a_track(dataset):
    rows = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    windows = lagged(rows, 7)
    assert windows.shape == (44, 7, 3) and np.shares_memory(windows, rows)
    np.testing.assert_array_equal(windows[5], rows[5:12])
    with pytest.raises(ValueError, match="windows of 51 rows do not fit into 50"):
        lagged(rows, 51)
    bank = dataset[0].banks[0]
    start, stop = np.array([100, 120, 400]), np.array([110, 121, 555])
    means = pooled(bank, 1, start, stop)
    for mean, a, b in zip(means, start, stop, strict=True):
        np.testing.assert_allclose(mean, bank.rows[bank.index[1][a:b]].mean(0), rtol=1e-4)
    with pytest.raises(ValueError, match="at least one sample"):
        pooled(bank, 1, start, start)
