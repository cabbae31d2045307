"""Probabilities written block by block are those of the whole matrix, and rank as `retrieval` does."""
import numpy as np
import pytest
import torch

from bm.losses import ClipLoss
from bm.metrics.probabilities import OnDisk, frequency_prior, write_probabilities
from bm.metrics.retrieval import ROWS, retrieval

N, V, SHAPE = 301, 150, (4, 7)


def problem() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(V, *SHAPE, generator=generator)
    candidates[3] = candidates[8]  # ties
    ids = 10 ** 15 - 7 * np.arange(V)
    true = ids[torch.randint(V, (N,), generator=generator).numpy()]
    column = torch.as_tensor([int(np.flatnonzero(ids == i)[0]) for i in true])
    estimates = 0.2 * candidates[column] + torch.randn(N, *SHAPE, generator=generator)
    estimates[17] = torch.nan
    return estimates, candidates, ids, true


@pytest.mark.parametrize("rows", [None, 1, 200])
def test_rows_and_ranks(tmp_path, rows):
    estimates, candidates, ids, true = problem()
    mapped = OnDisk.write(tmp_path / "candidates.npy", V, (part.numpy() for part in candidates.split(40)))
    np.testing.assert_array_equal(np.load(tmp_path / "candidates.npy"), candidates.numpy())
    out = np.lib.format.open_memmap(tmp_path / "probs.npy", "w+", np.float32, (N, V))
    steps: list[int] = []
    ours = write_probabilities(out, iter(estimates.split(60)), mapped, ids, true, rows=rows, advance=steps.append)
    out.flush()
    expected = ClipLoss().eval().probabilities(estimates, candidates).numpy()
    written = np.load(tmp_path / "probs.npy")
    assert np.isnan(written[17]).all() and np.isnan(expected[17]).all()
    good = np.arange(N) != 17
    np.testing.assert_allclose(written[good], expected[good], rtol=2e-4, atol=1e-7)
    assert sum(steps) == N and (rows is None or max(steps) <= max(rows, ROWS))
    theirs = retrieval(estimates, candidates, ids, true)
    for name in ("failed", "rank", "top1", "top5", "top10"):
        np.testing.assert_array_equal(ours.values[name], theirs.values[name])
    np.testing.assert_array_equal(ours.own, theirs.own)
    clear = ours.values["rank"] % 1 == 0  # of tied candidates either may be first
    assert (ours.best == theirs.best)[clear].mean() > 0.99
    assert ours.values["probability"][17] == 0
    column = [int(np.flatnonzero(ids == i)[0]) for i in true]
    np.testing.assert_array_equal(ours.values["probability"][good], written[np.arange(N), column][good])


def test_rows_on_disk(tmp_path):
    x = np.arange(60.0).reshape(10, 2, 3)
    np.save(tmp_path / "x.npy", x)
    disk = OnDisk(tmp_path / "x.npy")
    assert len(disk) == 10 and disk.shape == x.shape and disk.dtype == x.dtype
    for rows in (slice(None), slice(3, 7), slice(8, 99), slice(4, 4)):
        np.testing.assert_array_equal(disk[rows], x[rows])
    for blocks in ([x[:4]], [x, x], []):
        with pytest.raises(ValueError, match="y.npy: .* rows were written, expected 10"):
            OnDisk.write(tmp_path / "y.npy", 10, blocks)


def test_wrong_shapes():
    estimates, candidates, ids, true = problem()
    with pytest.raises(ValueError, match=r"out has shape \(3, 3\), expected \(301, 150\)"):
        write_probabilities(np.empty((3, 3)), estimates, candidates, ids, true)
    with pytest.raises(ValueError, match="150 with 149 different"):
        write_probabilities(np.empty((N, V)), estimates, candidates, np.r_[ids[:-1], ids[0]], true)
    with pytest.raises(ValueError, match="for more estimates"):
        write_probabilities(np.empty((5, V)), estimates, candidates, ids, true[:5])
    with pytest.raises(ValueError, match="301 own segments were given for 300"):
        write_probabilities(np.empty((N, V)), estimates[:-1], candidates, ids, true)


def test_prior():
    true = np.array([5, 5, 5, 1, 1, 9, 2, 3])
    assert [frequency_prior(true, k) for k in (1, 2, 5, 10)] == [3 / 8, 5 / 8, 1.0, 1.0]
