"""Classical classifiers of brain windows as XPs: band power, covariance, common spatial patterns; scikit-learn."""
import logging
from contextlib import nullcontext
from typing import Any

import numpy as np

from bm.data.assemble import assemble
from bm.data.loader import EpochSampler, make_loader
from bm.solvers.base import Metrics
from bm.solvers.classify import ClassifySolver

logger = logging.getLogger(__name__)

#: added to covariances, as a share of their mean eigenvalue
SHRINKAGE = 0.05


def log_band_power(x: np.ndarray, rate: float, bands: list[list[float]]) -> np.ndarray:
    """Log of the mean power in each band, of a Hann-windowed periodogram.

    Shape: `(N, C, T)` → `(N, C · bands)`. Errors: ValueError for a band without a frequency, where segments are short.
    """
    t = x.shape[2]
    spectrum = np.abs(np.fft.rfft((x - x.mean(2, keepdims=True)) * np.hanning(t + 1)[:t])) ** 2
    frequency = np.fft.rfftfreq(t, 1 / rate)
    chosen = [(low <= frequency) & (frequency < high) for low, high in bands]
    empty = [band for band, own in zip(bands, chosen, strict=True) if not own.any()]
    if empty:
        raise ValueError(f"classify.bands: {empty} hold none of the frequencies of segments of {t / rate:g} s at "
                         f"{rate:g} Hz, which are {frequency[1]:g} Hz apart up to {frequency[-1]:g} Hz")
    power = np.stack([spectrum[..., own].mean(-1) for own in chosen], 2)
    return np.log(power + 1e-12 * power.mean()).reshape(len(x), -1)


def log_covariance(x: np.ndarray) -> np.ndarray:
    """Upper triangle of the matrix logarithm of each segment's covariance, off-diagonals times √2 (log-Euclidean
    distances: Arsigny et al. 2006, doi:10.1002/mrm.20965).

    Shape: `(N, C, T)` → `(N, C (C + 1) / 2)`.
    """
    x = x - x.mean(2, keepdims=True)
    c = x.shape[1]
    covariance = x @ x.transpose(0, 2, 1) / x.shape[2]
    level = np.trace(covariance, axis1=1, axis2=2)[:, None, None] / c
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(c)
    value, vector = np.linalg.eigh(covariance)
    log = (vector * np.log(value)[:, None]) @ vector.transpose(0, 2, 1)
    row, column = np.triu_indices(c)
    return log[:, row, column] * np.where(row == column, 1, np.sqrt(2))


def make_classifier(method: str, groups: int, weighted: bool) -> Any:
    """The scikit-learn pipeline of a method; `groups` of train segments bound the folds that choose penalties."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    if method == "csp":
        return LinearDiscriminantAnalysis()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced" if weighted
                                                               else None))
    if groups < 2:
        return model.set_params(logisticregression__C=0.01)
    # stratified, as a block may be of one class: the log loss of a fold without the other one is not defined
    return GridSearchCV(model, {"logisticregression__C": np.logspace(-4, 0, 5)}, scoring="neg_log_loss",
                        cv=StratifiedGroupKFold(min(groups, 5)))


class BaselineSolver(ClassifySolver):
    """`classify.method`, fitted in one "epoch" on train and valid together (it needs no validation to stop).

    - bandpower: log band power, z-scored, ridge-penalised logistic regression; the penalty is chosen on folds of whole
      subjects (of blocks, if there is one subject).
    - bandpower_centred: the same, with each subject's mean over its own segments subtracted. **Transductive**: a test
      subject's unlabelled test segments are used, which an online system would not have.
    - covariance: log-Euclidean covariances, classifier as above.
    - csp: four common spatial patterns (mne.decoding.CSP) and linear discriminant analysis; set `dset.highpass` and
      `dset.lowpass` to the band.
    """

    def build(self) -> None:
        cfg = self.cfg
        self.data = self.labelled(assemble(cfg, self.root))
        self._write_audit()
        logger.info("classify.method=%s", cfg.classify.method)
        if not cfg.show:
            self.finish = self.make_finish()

    def collect(self, ids: np.ndarray) -> np.ndarray:
        """The finished segments `(N, C, T)` float64 of channels that are valid in all recordings."""
        loader = make_loader(self.data.dataset("train"), EpochSampler(ids, 64), 0, False)
        found = [self.finish(raw.to(self.device)).brain for raw in loader]
        keep = self.data.montages.valid.all(0)
        return np.concatenate([x.cpu().numpy()[:, keep] for x in found if x is not None]).astype(np.float64)

    def _subjects(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(self.data.subjects)[self.data.segments["recording"].to_numpy()[ids]]

    def features(self, ids: np.ndarray, fit: bool) -> np.ndarray:
        """What the classifier sees of segments, `(N, F)`; `fit`: what has to be learned is, on them."""
        cfg, x = self.cfg.classify, self.collect(ids)
        if cfg.method == "covariance":
            return log_covariance(x)
        if cfg.method == "csp":
            if fit:
                from mne.decoding import CSP
                self.csp = CSP(4, reg=SHRINKAGE, log=True).fit(x, self.labels[ids].numpy())
            return self.csp.transform(x)
        y = log_band_power(x, self.data.spec.sample_rate, cfg.bands)
        if cfg.method == "bandpower_centred":
            subject = self._subjects(ids)
            for one in np.unique(subject):
                y[subject == one] -= y[subject == one].mean(0)
        return y

    def fit(self) -> float:
        """Fits on train and valid; returns the log loss there."""
        import mne
        from sklearn.metrics import log_loss
        mne.set_log_level("WARNING")
        ids = np.sort(np.concatenate([self.data.ids("train"), self.data.ids("valid")]))
        y, group = self.labels[ids].numpy(), self._subjects(ids)
        if len(np.unique(group)) < 2:
            group = self.data.segments["block"].to_numpy()[ids]
        self.classifier = make_classifier(self.cfg.classify.method, len(np.unique(group)), self.cfg.classify.weighted)
        x = self.features(ids, fit=True)
        search = hasattr(self.classifier, "param_grid")
        self.classifier.fit(x, y, **({"groups": group} if search else {}))
        if search:
            logger.info("chosen: %s", self.classifier.best_params_)
        return float(log_loss(y, self.classifier.predict_proba(x), labels=np.arange(len(self.classes))))

    def train_epoch(self, epoch: int) -> Metrics:
        self._last_loss = self.fit()
        return {"loss": self._last_loss}

    def valid_epoch(self, epoch: int) -> Metrics:
        return {"loss": self._last_loss}  # valid is fitted too

    def finished(self, epoch: int) -> bool:
        return epoch >= 1

    def probabilities(self, ids: np.ndarray) -> Any:
        import torch
        yield torch.from_numpy(self.classifier.predict_proba(self.features(ids, fit=False)))

    def keep_best(self) -> None:
        """There is one state."""

    def use_best(self) -> Any:
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The classifier is fitted anew, which takes seconds: scikit-learn's own files are pickles."""
        return {"classes": self.classes, "spec": self.data.spec.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fit()
