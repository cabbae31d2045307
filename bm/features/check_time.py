"""Whether a feature depends on where in its chunk a sound is."""
import numpy as np

from bm.features.base import SoundFeature
from bm.studies.check import CheckError


def time_agreement(feature: SoundFeature, audio: np.ndarray, rate: int, tolerance: float) -> dict[str, float]:
    """How alike rows are when a sound is heard in two pieces ("pieces"), or from 1 s on ("shift"): correlations.

    Rows within `context_s` of a cut do not count, unless all are. A feature that says `shift_equivariant` must have the
    same rows; of others, the correlation over dimensions and time is measured and nothing asked.

    Args:
        audio: `(samples,)` at `rate` Hz, at least 4 s.
        tolerance: greatest difference, in standard deviations.

    Raises:
        CheckError: it says it is shift-equivariant, and is not.
    """
    step = round(feature.rate)
    if abs(step / feature.rate * rate - round(step / feature.rate * rate)) > 1e-6 or step < 1:
        return {}  # no whole number of rows is a whole number of samples
    cut = round(step / feature.rate * rate)
    whole = feature.compute(audio, rate)
    later = feature.compute(audio[cut:], rate)
    pieces = np.concatenate([feature.compute(audio[:cut], rate)[:step], later])
    at = np.arange(len(whole)) / feature.rate - step / feature.rate
    far = np.abs(at) > feature.context_s + 1 / feature.rate
    after = at > feature.context_s + 1 / feature.rate
    out = {}
    for name, got, expected, keep in [("pieces", pieces, whole, far), ("shift", later, whole[step:], after[step:])]:
        n = min(len(got), len(expected))
        keep = keep[:n] if keep[:n].any() else np.ones(n, dtype=bool)
        a, b = got[:n][keep], expected[:n][keep]
        error = float(np.abs(a - b).max()) / (float(whole.std()) or 1.0)
        if feature.shift_equivariant and error > tolerance:
            raise CheckError(f"{feature.name}: it says shift_equivariant, but {name} of a sound differ from the whole "
                             f"by {error:.3g} standard deviations")
        out[name] = 1.0 if error == 0 else float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    return out
