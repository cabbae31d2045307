"""What moves corrected R² away from 1: few sounds move it, many do not."""
from scripts.noise_correction import main


def test_two_effects_are_told_apart():
    few = main(["--voxels", "300", "--noise", "0.3", "2"]).set_index(["noise", "predicted by"])
    assert few.loc[0.3, "mean"].between(0.99, 1.01).all()
    # dividing by an uncertain reliability makes the mean too large, learning from few noisy sounds the median too small
    assert few.loc[(2.0, "oracle"), "mean"] > 1.08 and abs(few.loc[(2.0, "oracle"), "median"] - 1) < 0.06
    assert few.loc[(2.0, "ridge, true reliability"), "median"] < 0.92
    many = main(["--voxels", "100", "--sounds", "1200", "--noise", "1"])
    assert many["mean"].between(0.97, 1.03).all()
