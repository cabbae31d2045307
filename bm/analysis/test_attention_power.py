"""Maps of attention beside maps of power: known differences, correlations, and p-values that hold."""
import numpy as np
import pytest

from bm.analysis.attention_power import compare, map_correlation, power_difference, sphere_centre, spin_p
from bm.solvers.classify_baseline import log_band_power


def electrodes(n: int = 60, seed: int = 0) -> np.ndarray:
    """Places on the upper part of a sphere of 9 cm around (0, 1, 4) cm."""
    rng = np.random.default_rng(seed)
    place = rng.standard_normal((4 * n, 3))
    place /= np.linalg.norm(place, axis=1, keepdims=True)
    return 0.09 * place[place[:, 2] > -0.3][:n] + [0, 0.01, 0.04]


def test_the_difference_is_that_of_the_amplitudes():
    rng, t = np.random.default_rng(0), np.arange(320) / 160
    label, subject = np.tile([0, 1], 20), np.repeat(["a", "b"], 20)
    x = 0.01 * rng.standard_normal((40, 3, 320)) + np.sin(2 * np.pi * 10 * t)
    x[label == 1, 1] *= 3
    x[:20, 2] *= 100  # a scale of one subject's channel
    power = log_band_power(x, 160, [[8, 12], [16, 24]]).reshape(40, 3, 2)
    found = power_difference(power, label, subject)
    np.testing.assert_allclose(found[0], [0, 2 * np.log(3), 0], atol=0.01)
    assert found.shape == (2, 3)
    with pytest.raises(ValueError, match="none of the 2 subjects"):
        power_difference(power, (subject == "a").astype(int), subject)


def test_correlation():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(60)
    b = a + rng.standard_normal(60)
    r, p = map_correlation(a, b, 999)
    assert r == pytest.approx(np.corrcoef(a, b)[0, 1]) and p == 0.001
    assert map_correlation(a, -b, 999)[0] == pytest.approx(-r)
    ps = [map_correlation(rng.standard_normal(30), rng.standard_normal(30), 199, seed)[1] for seed in range(200)]
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.1
    with pytest.raises(ValueError, match="same at all channels"):
        map_correlation(a, np.ones(60))
    with pytest.raises(ValueError, match=r"\(60,\), \(59,\)"):
        map_correlation(a, b[1:])


def test_rotation_does_not_take_smoothness_for_evidence():
    place, rng = electrodes(), np.random.default_rng(1)
    np.testing.assert_allclose(sphere_centre(place), [0, 0.01, 0.04], atol=1e-9)
    unit = (place - [0, 0.01, 0.04]) / 0.09

    def smooth():
        return unit @ rng.standard_normal(3) + 0.1 * rng.standard_normal(60)
    pairs = [(smooth(), smooth()) for _ in range(60)]
    permuted = np.mean([map_correlation(a, b, 99)[1] <= 0.05 for a, b in pairs])
    rotated = np.mean([spin_p(a, b, place, 99) <= 0.05 for a, b in pairs])
    assert permuted > 0.4 and rotated < 0.2
    a = np.exp(-8 * ((unit - unit[0]) ** 2).sum(1))  # a peak at one place
    assert spin_p(a, a + 0.1 * rng.standard_normal(60), place, 199) <= 0.05


def test_table():
    rng, place = np.random.default_rng(0), electrodes()
    power = rng.standard_normal((2, 60))
    seen = power[0].copy()
    seen[3] = np.nan
    table = compare({"all": seen}, power, [[4, 8], [8, 12]], place)
    assert table["band"].tolist() == ["4–8 Hz", "8–12 Hz"] and table["n"].tolist() == [59, 59]
    assert table["r"][0] == pytest.approx(1) and abs(table["r"][1]) < 0.5 and table["p"][0] < 0.001
    assert np.isnan(compare({"all": seen}, power, [[4, 8], [8, 12]], place * np.nan)["p_spin"]).all()
