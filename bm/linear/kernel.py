"""Numerics of ridge regression with an intercept: one decomposition for all penalties and all targets.

Of samples X `(n, p)`, centred on the mean of those that train, only the left singular vectors U and the squared
singular values s are needed. They come from the smaller of X Xᵀ (dual) and Xᵀ X (primal). numpy arrays and torch
tensors go the same way, in float64: penalties of 1e-50 underflow in float32.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = Any  # np.ndarray or torch.Tensor, never both in one call
Split = tuple[np.ndarray, np.ndarray]

EPS = float(np.finfo(np.float64).eps)

#: bytes of a batch of targets that stays in the cache; and targets it takes to keep a matrix product busy
CACHE, COLUMNS = 2 ** 22, 512


def to_backend(values: Any, backend: str, device: str = "cpu") -> Array:
    """`values` as float64 of numpy or, on `device`, of torch.

    Raises:
        ValueError: another backend.
    """
    if backend == "numpy":
        values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
        return np.asarray(values, dtype=np.float64)
    if backend == "torch":
        return torch.as_tensor(values).to(device=device, dtype=torch.float64)
    raise ValueError(f"backend={backend!r}: expected 'numpy' or 'torch'")


def like(reference: Array, values: Any) -> Array:
    """`values` as float64 of the same library and device as `reference`."""
    if isinstance(reference, torch.Tensor):
        return to_backend(values, "torch", str(reference.device))
    return to_backend(values, "numpy")


def to_numpy(values: Array) -> np.ndarray:
    """The same values in numpy."""
    return to_backend(values, "numpy")


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors (columns) of a symmetric matrix, in its own library."""
    return torch.linalg.eigh(matrix) if isinstance(matrix, torch.Tensor) else np.linalg.eigh(matrix)


def _eigh_centred(kernel: Array) -> tuple[Array, Array]:
    """Eigenvalues `(n - 1,)` and eigenvectors `(n, n - 1)` of a kernel between samples about their mean.

    The vector of ones is taken out by a Householder reflection, so that it cannot mix with small eigenvalues (adding
    11ᵀ to the kernel and looking for the eigenvector closest to it does the same less exactly).
    """
    n = len(kernel)
    w0, tau = n ** 0.5 + 1, 1 / (n + n ** 0.5)  # w = (w0, 1, 1, …), reflection I − τ w wᵀ
    p = tau * (kernel.sum(1) + (w0 - 1) * kernel[:, 0])
    c = tau * (p.sum() + (w0 - 1) * p[0])
    s, q = eigh(kernel[1:, 1:] - p[None, 1:] - p[1:, None] + c)
    total = tau * q.sum(0)
    joined = torch.cat if isinstance(kernel, torch.Tensor) else np.concatenate
    return s, joined([-w0 * total[None], q - total[None]])


@dataclass(frozen=True)
class Basis:
    """Singular vectors of the training samples of a `Design`.

    Shape: u `(n, r)`, orthogonal to the vector of ones; s `(r,)` positive, ascending; v `(p, r)` in the primal, else
    None; shift `(p,)` the mean of the training samples (primal).
    """

    u: Array
    s: Array
    train: np.ndarray | None
    v: Array | None = None
    shift: Array | None = None

    @property
    def largest(self) -> float:
        """λmax, 0 where the samples do not differ."""
        return float(self.s[-1]) if len(self.s) else 0.0


class Design:
    """Samples, with their Gram matrix.

    Args:
        x: `(n, p)` samples; or, `precomputed`, their kernel `(n, n)` (need not be centred).

    Attributes: `x` the samples about their `mean` (None if precomputed), `dual` whether n ≤ p, `gram` `(n, n)` in the
    dual and `(p, p)` in the primal. Singular directions below rounding (n · eps · λmax) are taken as not there.
    """

    def __init__(self, x: Array, precomputed: bool = False) -> None:
        self.n = len(x)
        self.dual = precomputed or x.shape[0] <= x.shape[1]
        self.x: Array = None
        self.mean: Array = None
        self.gram = x
        if not precomputed:
            self.mean = x.mean(0)
            self.x = x - self.mean
            self.gram = self.x @ self.x.T if self.dual else self.x.T @ self.x
        # a fold's kernel inherits the rounding of the whole one
        self.floor = EPS * len(self.gram) * float(abs(self.gram.diagonal()).max())

    def basis(self, train: np.ndarray | None = None) -> Basis:
        """The decomposition of the samples `train` (indices; all if None) about their own mean."""
        if self.dual:
            s, u = _eigh_centred(self.gram if train is None else self.gram[train][:, train])
            keep = self._kept(s)
            return Basis(u[:, keep], s[keep], train)
        x, gram, shift = self.x, self.gram, None
        if train is not None:
            shift = x[train].mean(0)
            rest = np.setdiff1d(np.arange(self.n), train)
            whole = len(np.unique(train)) == len(train)  # indices may be drawn with replacement
            if whole and len(rest) < len(train):
                gram = gram - x[rest].T @ x[rest] - len(train) * shift[:, None] * shift[None]
            else:
                gram = (x[train] - shift).T @ (x[train] - shift)
            x = x[train] - shift
        s, v = eigh(gram)
        keep = self._kept(s)
        s, v = s[keep], v[:, keep]
        return Basis(x @ v / s ** 0.5, s, train, v, shift)

    def _kept(self, s: Array) -> Array:
        return s > max(self.floor, EPS * len(self.gram) * float(s[-1]))

    def project(self, basis: Basis, rows: np.ndarray) -> Array:
        """Coordinates `(m, r)` of samples of this design on the right singular vectors of `basis`."""
        if basis.v is not None:
            return (self.x[rows] - (0 if basis.shift is None else basis.shift)) @ basis.v
        train = np.arange(self.n) if basis.train is None else basis.train
        # u is orthogonal to 1: what centring adds to a whole row does not count
        kernel = self.gram[rows][:, train] - self.gram[train][:, train].mean(0)
        return kernel @ basis.u / basis.s ** 0.5

    def axes(self, basis: Basis) -> Array:
        """What new samples are multiplied with: `(x - mean) @ axes` are the coordinates of features x, and
        `(k - mean) @ axes`, mean that of the kernel's rows, those of kernels k with the training samples."""
        if basis.v is not None:
            return basis.v
        weights = basis.u / basis.s ** 0.5
        return weights if self.x is None else self.x.T @ weights


def distinct(alphas: np.ndarray, s: Array) -> tuple[np.ndarray, np.ndarray]:
    """The penalties that give different solutions in float64, and for each of `alphas` which of them it is.

    Below eps/4 · λmin nothing is shrunk and above 4/eps · λmax everything is: of 100 penalties from 1e-50 to 1e49
    about 40 are left.
    """
    if not len(s):
        return np.ones(1), np.zeros(len(alphas), dtype=int)
    clipped = np.clip(alphas, float(s[0]) * EPS / 4, float(s[-1]) * 4 / EPS)
    unique, which = np.unique(clipped, return_inverse=True)
    return unique, which


def target_batches(n_targets: int, rows: int, max_bytes: int) -> Iterator[slice]:
    """Slices of targets such that five arrays of `rows` float64 per target fit into `max_bytes`.

    Of few rows no more than fit into a processor's cache: a quarter faster at 83 rows and 30,000 targets.
    """
    size = max(1, min(max_bytes, max(CACHE, 40 * rows * COLUMNS)) // (40 * rows))
    return (slice(start, start + size) for start in range(0, n_targets, size))


def _loo(basis: Basis, alphas: np.ndarray, y: Array) -> Iterator[Array]:
    """Leave-one-out errors `(n, T)` for each penalty: residual / (1 − leverage), refitting the intercept as well.

    With f = α / (s + α), I − H = (I − 11ᵀ/n − U Uᵀ) + U f Uᵀ: what no penalty can fit, and what this one does not.
    """
    u, n = basis.u, len(basis.u)
    y = y - y.mean(0)
    z = u.T @ y
    free = 1 - 1 / n - (u * u).sum(1)
    # a sample that the others cannot predict at all: both terms are rounding there, and 0 in truth
    fitted = free < 1e-10
    free, rest = free * ~fitted, (y - u @ z) * ~fitted[:, None]
    for alpha in alphas:
        f = float(alpha) / (basis.s + float(alpha))
        yield (rest + u @ (f[:, None] * z)) / (free + (u * u) @ f)[:, None]


def _held_out(basis: Basis, projected: Array, alphas: np.ndarray, y: Array, y_out: Array) -> Iterator[Array]:
    """Errors `(m, T)` of held-out samples for each penalty."""
    mean = y.mean(0)
    z = basis.u.T @ (y - mean)
    for alpha in alphas:
        gain = basis.s ** 0.5 / (basis.s + float(alpha))
        yield y_out - mean - projected @ (gain[:, None] * z)


def cv_errors(design: Design, y: Any, alphas: np.ndarray, splits: Sequence[Split] | None = None,
              max_bytes: int = 2 ** 28) -> np.ndarray:
    """Mean squared error `(A, T)` of held-out samples, for each penalty and target.

    Args:
        y: `(n, T)` targets, of numpy or torch and of any float type; taken batch by batch.
        alphas: `(A,)`.
        splits: `(train, held-out)` indices; None: leave-one-out, in closed form. Each held-out sample counts once.
        max_bytes: bound on what is held beside the arguments and the decomposition.
    """
    total = np.zeros((len(alphas), y.shape[1]))
    whole = np.arange(design.n)
    for train, out in [(whole, whole)] if splits is None else splits:
        basis = design.basis(None if splits is None else train)
        used, which = distinct(alphas, basis.s)
        projected = None if splits is None else design.project(basis, out)
        for part in target_batches(y.shape[1], max(len(train), len(out)), max_bytes):
            values = like(design.gram, y[:, part])
            if projected is None:
                errors = _loo(basis, used, values)
            else:
                errors = _held_out(basis, projected, used, values[train], values[out])
            total[:, part] += np.stack([to_numpy((error * error).sum(0)) for error in errors])[which]
    return total / (design.n if splits is None else sum(len(out) for _, out in splits))


def solve(basis: Basis, y: Array, alphas: Array) -> tuple[Array, Array]:
    """Weights `(r, T)` on the coordinates of `Design.project`, and intercepts `(T,)`, for a penalty per target.

    A penalty of infinity gives weights of 0.
    """
    mean = y.mean(0)
    s = basis.s[:, None]
    return s ** 0.5 / (s + alphas[None]) * (basis.u.T @ (y - mean)), mean
