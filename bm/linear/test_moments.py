"""Sums over samples give what the samples give."""
import numpy as np
import pytest
import torch

from bm.linear import Moments, RidgeCV, folds, moment_errors, moment_solve
from bm.linear.kernel import Design, cv_errors, to_backend

ALPHAS = 10.0 ** np.arange(-3, 6)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_they_are_the_samples_ridge(backend):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8)) + 100
    y = x @ rng.standard_normal((8, 4)) + 3 * rng.standard_normal((60, 4))
    splits = folds(60, 4)
    parts = [Moments.of(to_backend(x[out], backend), to_backend(y[out], backend)) for _, out in splits]
    np.testing.assert_allclose(moment_errors(parts, ALPHAS), cv_errors(Design(x), y, ALPHAS, splits), rtol=1e-8)
    model = RidgeCV(ALPHAS, cv=4).fit(x, y)
    coef, intercept = moment_solve(parts[0] + parts[1] + parts[2] + parts[3], model.alphas_)
    np.testing.assert_allclose(np.asarray(coef), model.coef_, rtol=1e-8)
    np.testing.assert_allclose(np.asarray(intercept), model.intercept_, rtol=1e-8)
    assert isinstance(coef, torch.Tensor) == (backend == "torch")
    assert (moment_solve(parts[0], np.full(4, np.inf))[0] == 0).all()


def test_errors_say_what_to_do():
    part = Moments.of(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="1 part: nothing is left"):
        moment_errors([part], ALPHAS)
    with pytest.raises(ValueError, match=r"expected \(n, features\)"):
        Moments.of(np.ones((3, 2)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="NaN"):
        Moments.of(np.full((3, 2), np.nan), np.ones((3, 1)))
