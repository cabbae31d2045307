"""Ridge regression with cross-validated penalties, in the manner of scikit-learn."""
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from bm.linear.kernel import Array, Design, cv_errors, like, solve, target_batches, to_backend, to_numpy
from bm.linear.select import ALPHAS, CONSTANT, Compat, check_alphas, check_cv, select

CV = Literal["loo"] | int | Sequence[tuple[Any, Any]]


class RidgeCV:
    """Ridge regression with an intercept; the penalty of each target by leave-one-out or folds, in closed form.

    Minimises ‖y − b − X w‖² + α ‖w‖², b not penalised. In the cross-validation features and targets are centred on
    the samples that train, as the intercept does. Features are not scaled. Where α > 1e12 · λmax of the centred
    X Xᵀ is chosen, nothing in the features helps: the prediction is constant and `constant_` true.

    Args:
        alphas: penalties to choose from, in any order.
        cv: "loo"; a number of folds of neighbouring samples; or a list of (train, held-out) indices or masks, whose
            errors are pooled over held-out samples.
        alpha_per_target: else one penalty for all targets, by their mean error.
        kernel: "linear"; or "precomputed": `fit` gets the kernel `(n, n)` of the training samples, and `predict` that
            of new with training ones `(m, n)`, neither centred.
        backend: "numpy" or "torch"; device: of torch.
        compat: "reference": the smallest error, and no constant predictions (see `select`).
        max_bytes: bound on the arrays made per batch of targets.

    Attributes (after `fit`): `alphas_` and `cv_errors_` (mean squared, of the chosen penalty) and `constant_`, numpy
    of the targets' shape; `axes_` `(p, r)`, `weights_` `(r, T)`, `x_mean_` `(p,)`, `y_mean_` `(T,)`, of the backend:
    the prediction is `(X − x_mean_) @ axes_ @ weights_ + y_mean_`; `coef_` `(p, T)` is made when asked for.

    Shape: X `(n, p)`; y `(n,)`, `(n, T)` or with more axes, e.g. `(n, voxels, repetitions)`: all but the first are
    targets, and results have their shape.

    Source: leave-one-out residuals of linear smoothers, e.g. Hastie, Tibshirani & Friedman 2009, eq. 7.64.

    >>> import numpy as np
    >>> x = np.arange(8.0)[:, None]
    >>> RidgeCV([0.001, 1.0]).fit(x, 2 * x + 1).alphas_
    array([0.001])
    """

    def __init__(self, alphas: Any = ALPHAS, *, cv: CV = "loo", alpha_per_target: bool = True,
                 kernel: Literal["linear", "precomputed"] = "linear", backend: str = "numpy", device: str = "cpu",
                 compat: Compat = None, max_bytes: int = 2 ** 28) -> None:
        if kernel not in ("linear", "precomputed"):
            raise ValueError(f"kernel={kernel!r}: expected 'linear' or 'precomputed'")
        self.alphas, self.cv, self.alpha_per_target, self.kernel = alphas, cv, alpha_per_target, kernel
        self.backend, self.device, self.compat, self.max_bytes = backend, device, compat, max_bytes

    def fit(self, x: Any, y: Any) -> "RidgeCV":
        """Chooses penalties and learns weights.

        Raises:
            ValueError: shapes that do not match, values that are not finite, or folds that cannot be made.
        """
        x = check_samples(x, "X", self.backend, self.device)
        y, self._shape = flat_targets(y, len(x))
        if self.kernel == "precomputed" and x.shape[0] != x.shape[1]:
            raise ValueError(f"a precomputed kernel of training samples is square, got {tuple(x.shape)}")
        alphas, splits = check_alphas(self.alphas), check_cv(self.cv, len(x))
        design = Design(x, precomputed=self.kernel == "precomputed")
        power = mean_square(design.gram, y, self.max_bytes)
        errors = cv_errors(design, y, alphas, splits, self.max_bytes)
        chosen = select(errors, alphas, power, design.n, per_target=self.alpha_per_target, compat=self.compat)
        basis = design.basis()
        flat = alphas[chosen]
        constant = flat > CONSTANT * basis.largest if self.compat is None else np.zeros(len(flat), dtype=bool)
        effective = like(design.gram, np.where(constant, np.inf, flat))
        parts = [solve(basis, like(design.gram, y[:, part]), effective[part])
                 for part in target_batches(y.shape[1], design.n, self.max_bytes)]
        joined = torch.cat if self.backend == "torch" else np.concatenate
        self.weights_, self.y_mean_ = joined([w for w, _ in parts], 1), joined([m for _, m in parts])
        self.axes_ = design.axes(basis)
        self.x_mean_ = design.gram.mean(0) if design.mean is None else design.mean
        self.alphas_, self.constant_ = flat.reshape(self._shape), constant.reshape(self._shape)
        self.cv_errors_ = errors[chosen, np.arange(len(chosen))].reshape(self._shape)
        return self

    def predict(self, x: Any) -> Array:
        """Predictions of new samples `(m, p)` (or kernel rows), of the targets' shape, float64 of the backend."""
        x = check_samples(x, "X", self.backend, self.device)
        if x.shape[1] != len(self.x_mean_):
            raise ValueError(f"X has {x.shape[1]} columns, but the model was fitted with {len(self.x_mean_)}")
        return (((x - self.x_mean_) @ self.axes_) @ self.weights_ + self.y_mean_).reshape(len(x), *self._shape)

    @property
    def coef_(self) -> Array:
        """`(p, T)` weights of the features (of the kernel's columns if it was precomputed)."""
        return self.axes_ @ self.weights_

    @property
    def intercept_(self) -> Array:
        """`(T,)`."""
        return self.y_mean_ - self.x_mean_ @ self.axes_ @ self.weights_

    def score(self, x: Any, y: Any) -> np.ndarray:
        """R² of each target, of their shape: 1 − Σ(y − ŷ)² / Σ(y − mean y)²."""
        return r2(self.predict(x), y)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that `predict` needs and what was chosen, as tensors on the CPU."""
        names = ("axes_", "weights_", "x_mean_", "y_mean_", "alphas_", "cv_errors_", "constant_")
        return {name: torch.as_tensor(getattr(self, name)).cpu() for name in names}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        for name in ("axes_", "weights_", "x_mean_", "y_mean_"):
            setattr(self, name, to_backend(state[name], self.backend, self.device))
        for name in ("alphas_", "cv_errors_", "constant_"):
            setattr(self, name, state[name].numpy())
        self._shape = self.alphas_.shape


def check_samples(x: Any, name: str, backend: str, device: str) -> Array:
    """`(n, p)` float64 of the backend.

    Raises:
        ValueError: another shape, or NaN or infinite values.
    """
    out = to_backend(x, backend, device)
    if out.ndim != 2 or min(out.shape) < 1:
        raise ValueError(f"{name} must be (samples, features), at least one of each; got shape {tuple(out.shape)}")
    finite = torch.isfinite(out) if isinstance(out, torch.Tensor) else np.isfinite(out)
    if not finite.all():
        raise ValueError(f"{name} has {int((~finite).sum())} NaN or infinite values: leave out or fill those samples")
    return out


def flat_targets(y: Any, n: int) -> tuple[Any, tuple[int, ...]]:
    """Targets as `(n, T)`, of their own library and type, and the shape of one sample's.

    Raises:
        ValueError: another number of samples, fewer than two, no target, or values that are not finite.
    """
    y = y if isinstance(y, torch.Tensor) else np.asarray(y)
    if y.ndim < 1 or len(y) != n:
        raise ValueError(f"X has {n} samples, but y has shape {tuple(y.shape)}: expected ({n}, targets…)")
    if n < 2:
        raise ValueError("one sample is not enough to fit an intercept and leave one out")
    shape = tuple(y.shape[1:])
    flat = y.reshape(n, -1)
    if flat.shape[1] == 0:
        raise ValueError(f"y has no target: shape {tuple(y.shape)}")
    total = flat.sum(0)  # of finite values; no mask of the size of y
    finite = torch.isfinite(total) if isinstance(total, torch.Tensor) else np.isfinite(total)
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {flat.shape[1]} targets have NaN or infinite values: leave out "
                         "or fill those samples")
    return flat, shape


def mean_square(reference: Array, y: Any, max_bytes: int) -> np.ndarray:
    """Mean square `(T,)` of targets `(n, T)`, batch by batch."""
    parts = (like(reference, y[:, part]) for part in target_batches(y.shape[1], len(y), max_bytes))
    return np.concatenate([to_numpy((part * part).mean(0)) for part in parts])


def r2(estimate: Any, y: Any) -> np.ndarray:
    """R² of each target; 0 for a constant one."""
    estimate, y = to_numpy(estimate), to_numpy(y)
    if estimate.shape != y.shape:
        raise ValueError(f"predictions have shape {estimate.shape}, y {y.shape}: expected the same")
    spread = ((y - y.mean(0)) ** 2).sum(0)
    residual = ((y - estimate) ** 2).sum(0)
    varies = spread > 0
    return np.where(varies, 1 - residual / np.where(varies, spread, 1), 0.0)
