"""Streaming correlation against scipy."""
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from bm.metrics.correlation import Correlation


def pairs(offset=0.0, scale=1.0, shape=(60, 3, 4)):
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return offset + scale * x, offset + scale * (0.6 * x + noise)


@pytest.mark.parametrize("offset, scale", [(0.0, 1.0), (1e6, 1.0), (0.0, 1e-13), (3e-12, 1e-13)])
@pytest.mark.parametrize("over", [(0,), (0, 2), (0, -1)])
def test_against_scipy(offset, scale, over):
    x, y = pairs(offset, scale)
    mask = torch.rand(60, 1, 4, generator=torch.Generator().manual_seed(1)) > 0.3
    whole, first, second = (Correlation(over) for _ in range(3))
    whole.update(x, y, mask)
    for i in range(0, 60, 7):
        (first if i < 30 else second).update(x[i:i + 7].masked_fill(~mask[i:i + 7], torch.nan), y[i:i + 7],
                                             mask[i:i + 7])
    first.merge(second)
    for name in ("pearson", "r2"):
        assert torch.allclose(getattr(whole, name)(), getattr(first, name)(), atol=1e-9)
    for c in range(3):
        for t in range(4 if over == (0,) else 1):
            kept = mask.expand_as(x)[:, c, t] if over == (0,) else mask.expand_as(x)[:, c]
            a, b = ((z[:, c, t] if over == (0,) else z[:, c])[kept].numpy() for z in (x, y))
            index = (c, t) if over == (0,) else (c,)
            assert whole.count[index] == len(a)
            assert whole.pearson()[index].item() == pytest.approx(pearsonr(a, b)[0], abs=1e-8)
            r2 = 1 - ((b - a) ** 2).sum() / ((b - b.mean()) ** 2).sum()
            assert whole.r2()[index].item() == pytest.approx(r2, abs=1e-8)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_constants_are_zero(constant):
    x, _ = pairs()
    y = torch.full_like(x, constant)
    for estimate, target in [(x, y), (y, x), (y, y)]:
        correlation = Correlation()
        for i in range(0, 60, 7):
            correlation.update(estimate[i:i + 7], target[i:i + 7])
        assert (correlation.pearson() == 0).all()
        assert (correlation.r2() <= (1e-9 if target is x else 0)).all() and correlation.r2().isfinite().all()


def test_unseen_entries_are_zero():
    x, y = pairs()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 0], mask[1:, 1] = False, False
    correlation = Correlation()
    correlation.update(x, y, mask)
    assert correlation.count[:, 0].tolist() == [0, 1, 60]
    assert (correlation.pearson()[:2] == 0).all() and (correlation.pearson()[2] != 0).all()
    assert (correlation.r2()[:2] == 0).all()


def test_complex_numbers_are_pairs():
    x, y = (torch.view_as_complex(z[:, :, :2].contiguous()) for z in pairs())
    correlation = Correlation()
    correlation.update(x, y)
    for c in range(3):
        dx, dy = (torch.view_as_real(z[:, c]).numpy() for z in (x, y))
        dx, dy = dx - dx.mean(0), dy - dy.mean(0)
        expected = (dx * dy).sum() / np.sqrt((dx ** 2).sum() * (dy ** 2).sum())
        assert correlation.pearson()[c].item() == pytest.approx(expected)


def test_float32_is_accumulated_in_float64():
    x, y = (z.float() for z in pairs(1000.0))
    correlation = Correlation()
    correlation.update(x, y)
    assert correlation.pearson()[0, 0].item() == pytest.approx(pearsonr(x[:, 0, 0].double(), y[:, 0, 0].double())[0])


def test_errors():
    x, y = pairs()
    correlation = Correlation()
    with pytest.raises(ValueError, match="call update first"):
        correlation.pearson()
    with pytest.raises(ValueError, match="differ in shape"):
        correlation.update(x, y[:, :2])
    with pytest.raises(ValueError, match="NaN or infinite"):
        correlation.update(x * torch.nan, y)
    correlation.update(x, y)
    with pytest.raises(ValueError, match="earlier ones"):
        correlation.update(x[:, :2], y[:, :2])
    with pytest.raises(ValueError, match="sum over axes"):
        correlation.merge(Correlation((0, 1)))
