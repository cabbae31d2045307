"""One ridge kernel for everything linear: decoders, TRFs, STRFs, voxels."""
from bm.linear.banded import BandedRidgeCV, dirichlet, product_grid
from bm.linear.moments import Moments, moment_errors, moment_solve
from bm.linear.ridge import RidgeCV
from bm.linear.select import folds
from bm.linear.trf import TRF

__all__ = ["TRF", "BandedRidgeCV", "Moments", "RidgeCV", "dirichlet", "folds", "moment_errors", "moment_solve",
           "product_grid"]
