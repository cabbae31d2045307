"""How far corrected R² is from the truth, in simulated voxels that a layer predicts in full: it should be 1.

    python -m scripts.noise_correction [--sounds 165] [--units 40] [--voxels 2000] [--noise 0.3 1 2]

Two things move it. Reliabilities are estimated from half of the sounds, and R² is divided by them: that is left if the
signal itself is the prediction (`oracle`). Ridge learns from as few sounds, with noise: `ridge, true reliability` has
the data's reliability as it is, and `ridge` is what XPs report. Mean and median over voxels and splits.
"""
import argparse

import numpy as np
import pandas as pd

from bm.linear.voxelwise import gram, random_splits, voxelwise
from bm.metrics.reliability import correlation_columns, lowest_reliability, pair_median, spearman_brown

REPETITIONS = 3


def simulate(sounds: int, units: int, voxels: int, noise: float, n_splits: int = 10, seed: int = 0
             ) -> dict[str, np.ndarray]:
    """Corrected R² `(voxels, splits)` by what predicts and what it is divided by.

    Args:
        noise: standard deviation of one repetition; that of the signal is 1.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((sounds, units))
    signal = x @ rng.standard_normal((units, voxels))
    signal /= signal.std(0)
    y = signal[..., None] + noise * rng.standard_normal((sounds, voxels, REPETITIONS))
    splits = random_splits(sounds, (sounds + 1) // 2, n_splits)
    found = voxelwise(gram(x), y, splits, 10.0 ** np.arange(-10, 11))
    true = 1 / (1 + noise ** 2 / REPETITIONS)
    oracle = []
    for train, test in splits:
        median = pair_median([y[train, :, k] for k in range(REPETITIONS)])
        reliability = np.fmax(spearman_brown(median, REPETITIONS), lowest_reliability(len(train)))
        oracle.append(correlation_columns(signal[test], y[test].mean(2)) ** 2 / reliability)
    return {"oracle": np.stack(oracle, 1), "ridge, true reliability": found.r2_test / true / found.reliability_hat,
            "ridge": found.r2_test_c}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    """Prints and returns the table."""
    parser = argparse.ArgumentParser(prog="python -m scripts.noise_correction", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("sounds", 165), ("units", 40), ("voxels", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 1.0, 2.0],
                        help="SDs of one repetition (signal: 1)")
    args = parser.parse_args(argv)
    rows = []
    for noise in args.noise:
        for name, values in simulate(args.sounds, args.units, args.voxels, noise).items():
            rows.append({"noise": noise, "predicted by": name, "mean": values.mean(), "median": np.median(values),
                         "above 1": (values > 1).mean()})
    table = pd.DataFrame(rows)
    print(f"{args.sounds} sounds, {args.units} units, {args.voxels} voxels\n"
          + table.to_string(index=False, float_format="{:.3f}".format))
    return table


if __name__ == "__main__":
    main()
