"""What a trained encoder has learned of some units: receptive fields, attention over lags, predicted responses."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bm.analysis.encoder_attention import attention_weights, lag_profile
from bm.analysis.encoders import Encoder, with_scores
from bm.analysis.gradmaps import strf_gradmap, waveform_gradmap
from bm.analysis.xp import NotRestorable, StoredXP
from bm.data.responses import Responses, Trial
from bm.features.audio import MelSpectrum
from bm.metrics.encoding import correlation, explained_variance
from bm.models.encoders import AudioEncoder
from bm.models.encoders.attention_gru import AttentionGRU
from bm.solvers.encode import EncodeSolver
from bm.solvers.encoding_report import all_moments
from bm.solvers.trf import TrfSolver

#: of a solver, a test trial and its mean course: what is predicted, and the trial that it is compared with
Ask = Callable[[EncodeSolver | TrfSolver, Trial, np.ndarray], tuple[np.ndarray, Trial]]

#: test stimuli that attention is averaged over
N_STIMULI = 20


@dataclass(frozen=True)
class View:
    """What one encoder has learned of U units, from the first of its XPs.

    Args:
        fields: `(U, D, frames)`, the last frame is lag 0: kernels of a TRF (lags before the sound are left out, those
            beyond its last are 0), gradient maps of a network; NaN for a unit without a kernel.
        attention: `(W,)`, mean attention by lag over heads and test stimuli, lag 0 first; None without attention.
        attended: attention over each of these stimuli, mean over heads; none without attention.
        waveform: what the first unit listens to in the samples of `stimulus`; None without a `wav2spec`.
        predicted, measured: `(T, U)`, of `stimulus`; measured is NaN where nothing was.
        lags, kernels: of a TRF all lags (s), those before the sound too, `(L,)`, and the kernels there `(U, D, L)`.
    """

    name: str
    fields: np.ndarray
    attention: np.ndarray | None
    stimulus: str
    predicted: np.ndarray
    measured: np.ndarray
    rate: float
    attended: tuple["Attended", ...] = ()
    waveform: "Heard | None" = None
    lags: np.ndarray | None = None
    kernels: np.ndarray | None = None

    @property
    def courses(self) -> tuple[np.ndarray, np.ndarray]:
        """Lags (s) and what a unit answers after each: the kernels of a TRF, else `fields` with lag 0 first."""
        if self.lags is not None and self.kernels is not None:
            return self.lags, self.kernels
        return np.arange(self.fields.shape[2]) / self.rate, self.fields[:, :, ::-1]


@dataclass(frozen=True)
class Attended:
    """What an attention GRU attends to in one stimulus: `weights` `(heads or targets, T, W)`, see
    `encoder_attention.attention_weights`, and the spectrogram `sound` `(T, F)` as the network takes it, both with the
    frames before the trial."""

    stimulus: str
    weights: np.ndarray
    sound: np.ndarray


@dataclass(frozen=True)
class Heard:
    """A stretch of waveform `(samples,)`, and d(response of `unit` in its last frame) / d(sample) of the same shape;
    `rate` in Hz."""

    unit: str
    wave: np.ndarray
    gradient: np.ndarray
    rate: float


def restore_best(xp: StoredXP) -> EncodeSolver | TrfSolver:
    """A restored solver, a network in its best state and evaluation mode. Raises NotRestorable."""
    solver = xp.restore_encoder()
    if isinstance(solver, EncodeSolver):
        assert solver.best_state is not None  # else it is not restorable
        solver.model.load_state_dict(solver.best_state)
        solver.model.eval()
    return solver


def load_encoder(xp: StoredXP) -> tuple[AudioEncoder, Responses]:
    """The network of an XP of task encode in its best state, on the CPU, and the trials it was made from.

    Raises:
        NotRestorable: with the reason; a TRF, whose weights are in `kernels.npz`, is no network.
    """
    solver = restore_best(xp)
    if not isinstance(solver, EncodeSolver):
        raise NotRestorable(f"task.type={xp.get('task.type')} has no network: its kernels are in kernels.npz")
    return solver.model, solver.responses


def sound_of(trial: Trial, hop: int = 1) -> Tensor:
    """What a network hears of a trial, the history first: `(1, 1, D, frames)`, or `(1, 1, samples)` with a hop."""
    rows = torch.from_numpy(np.concatenate([trial.before, trial.features])).T[None]
    return rows if hop > 1 else rows[:, None]


def field_frames(xps: Sequence[StoredXP]) -> int:
    """Frames that receptive fields of these XPs are shown with: the lags of the longest TRF from 0 on, or 0.3 s."""
    ends = [xp.get("trf.tmax") for xp in xps if xp.get("task.type") == "trf"] or [0.3]
    return max(1, round(max(ends) * xps[0].get("dset.sample_rate")) + 1)


def receptive_fields(solver: EncodeSolver | TrfSolver, units: Sequence[int], frames: int) -> np.ndarray:
    """`(U, D, frames)` of the units of these numbers, see `View`."""
    if isinstance(solver, TrfSolver):
        return trf_fields(solver, units, frames)
    frames += -frames % solver.model.core.hop
    return strf_gradmap(solver.model, frames, units=list(units))[:, 0].numpy()


def trf_kernels(solver: TrfSolver, units: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All lags (frames), and the kernels of units `(U, D, L)`, per frame instead of per second; NaN without one."""
    data = solver.responses
    lags = np.rint(solver.models[""][0].lags * data.rate).astype(int)
    out = np.full((len(units), len(solver.columns), len(lags)), np.nan)
    for row, unit in enumerate(units):
        subject = int(data.units["subject"].iloc[unit])
        column = np.flatnonzero(solver.used[subject] == unit - data.units_of(subject).start)
        if len(column):
            out[row] = solver.models[""][subject].kernels[:, :, column[0]] / data.rate
    return lags, out


def trf_fields(solver: TrfSolver, units: Sequence[int], frames: int) -> np.ndarray:
    """The kernels of units as `View.fields`."""
    lags, kernels = trf_kernels(solver, units)
    shown = (lags >= 0) & (lags < frames)
    out = np.zeros((*kernels.shape[:2], frames))
    out[np.isnan(kernels).all((1, 2))] = np.nan
    out[:, :, frames - 1 - lags[shown]] = kernels[:, :, shown]
    return out


def attended(solver: EncodeSolver | TrfSolver, n_stimuli: int = N_STIMULI) -> Iterator[Attended]:
    """Attention over the first test stimuli, one by one; nothing for what has none."""
    if not isinstance(solver, EncodeSolver) or not isinstance(solver.model.core, AttentionGRU):
        return
    for trial in solver.responses.of("test")[:n_stimuli]:
        sound = sound_of(trial, solver.responses.hop).to(solver.device)
        with torch.no_grad():
            frames = solver.model.frames(sound)
        yield Attended(trial.stimulus, attention_weights(solver.model, sound)[0].cpu().numpy(),
                       frames[0, 0].T.cpu().numpy())


def attention_of(xp: StoredXP, n_stimuli: int = N_STIMULI) -> list[Attended]:
    """What the network of a trained XP attends to in the first test stimuli: one call.

    `encoder_attention.time_lock` and `lag_profile`, `plots.attention_time.plot_attention` and `attention_film` take it
    from here.

    Raises:
        NotRestorable: with the reason; a network without attention.
    """
    found = list(attended(restore_best(xp), n_stimuli))
    if not found:
        raise NotRestorable(f"encoder.name={xp.get('encoder.name')} (task.type={xp.get('task.type')}) has no attention "
                            "over time, or there are no test stimuli")
    return found


def listening(solver: EncodeSolver | TrfSolver, trial: Trial, unit: int, frames: int) -> Heard | None:
    """What a unit listens to in the `frames` up to the middle of a trial, which as many frames and the model's history
    lead in; None without a `wav2spec`."""
    if not isinstance(solver, EncodeSolver) or solver.model.wav2spec is None:
        return None
    hop, data = solver.model.hop, solver.responses
    wave = sound_of(trial, data.hop)[0, 0]
    stop = (len(wave) // hop + 1) // 2 * hop
    wave = wave[max(0, stop - (2 * frames + solver.history) * hop):stop]
    gradient = waveform_gradmap(solver.model, wave, unit=unit).cpu().numpy()
    last = slice(max(0, len(wave) - frames * hop), None)
    return Heard(str(data.units["name"].iloc[unit]), wave.numpy()[last], gradient[last], hop * data.rate)


def look_inside(encoder: Encoder, units: Sequence[tuple[str, str]], frames: int) -> View:
    """What an encoder says of units `(subject_name, name)`, all of one subject; restores its first XP.

    Raises:
        NotRestorable: with the reason.
    """
    solver = restore_best(encoder.xps[0])
    data = solver.responses
    known = {(data.subjects[s], name): row for row, (s, name) in enumerate(
        zip(data.units["subject"], data.units["name"], strict=True))}
    rows = [known[unit] for unit in units]
    subject = int(data.units["subject"].iloc[rows[0]])
    trial = min((one for one in data.of("test") if one.subject == subject), key=lambda one: one.stimulus)
    columns = np.array(rows) - data.units_of(subject).start
    seen = tuple(replace(one, weights=one.weights.mean(0, keepdims=True)) for one in attended(solver))
    profile = np.mean([lag_profile(one.weights[0]) for one in seen], axis=0) if seen else None
    lags, kernels = trf_kernels(solver, rows) if isinstance(solver, TrfSolver) else (None, None)
    return View(encoder.name, receptive_fields(solver, rows, frames), profile, trial.stimulus,
                solver.predict([trial])[0][:, columns], trial.mean()[:, columns], data.rate, seen,
                listening(solver, trial, rows[0], frames), None if lags is None else lags / data.rate, kernels)


def mel_frequencies(xp: StoredXP) -> np.ndarray | None:
    """Hz of the middle of each column of features, if these are mel bands alone; else None."""
    if xp.get("dset.features") != ["MelSpectrum"]:
        return None
    n, rate = (xp.get(f"dset.features_params.MelSpectrum.{key}") for key in ("n_mels", "in_sampling"))
    return MelSpectrum(n_mels=n, in_sampling=rate, n_fft=xp.get("dset.features_params.MelSpectrum.n_fft")).bands_hz


def mean_course(responses: Responses, subject: int, frames: int) -> np.ndarray:
    """Mean train response `(frames, C)` of a subject by time since the start; where none was measured, their mean."""
    total, n = (np.zeros((frames, responses.units_of(subject).stop - responses.units_of(subject).start))
                for _ in range(2))
    for trial in responses.of("train"):
        if trial.subject == subject:
            mean = trial.mean()[:frames]
            total[:len(mean)] += np.nan_to_num(mean)
            n[:len(mean)] += np.isfinite(mean)
    overall = total.sum(0) / np.maximum(n.sum(0), 1)
    return np.where(n > 0, total / np.maximum(n, 1), overall)


def _asked_again(encoder: Encoder, ask: Ask) -> np.ndarray:
    """Moments `(stimuli, 7, units)` of all folds of one seed."""
    moments: dict[str, np.ndarray] = {}
    seed = encoder.xps[0].get("seed")
    for xp in encoder.xps:
        if xp.get("seed") == seed:
            solver = restore_best(xp)
            data, trials = solver.responses, solver.responses.of("test")
            pairs = [ask(solver, one, mean_course(data, one.subject, one.responses.shape[1])) for one in trials]
            found = all_moments(data, [trial for _, trial in pairs], [prediction for prediction, _ in pairs])
            tested = np.isin(data.units["subject"], [one.subject for one in trials])
            moments |= dict(zip(dict.fromkeys(one.stimulus for one in trials), found[:, :, tested], strict=True))
    return np.stack([moments[stimulus] for stimulus in encoder.stimuli])


def without_sound(encoder: Encoder, name: str = "no sound") -> Encoder:
    """The same units and stimuli, predicted by `mean_course`: time since the start is all that it knows.

    What an encoder must beat to have learned from the sound: responses that begin alike correlate. Seeds are those of
    one seed.

    Raises:
        NotRestorable: with the reason.
    """
    stacked = _asked_again(encoder, lambda solver, trial, course: (course, trial))
    found = replace(encoder, name=name, units=encoder.units.assign(r2=explained_variance(stacked), ccnorm=np.nan),
                    moments=stacked[None], parameters=None,
                    powers=None if encoder.powers is None else encoder.powers[:1])
    return replace(found, units=with_scores(found))


def beyond_course(encoder: Encoder) -> float:
    """Median over units of r once `mean_course` is taken out of predictions and responses: of the sound alone.

    Raises:
        NotRestorable: with the reason.
    """
    stacked = _asked_again(encoder, lambda solver, trial, course: (
        solver.predict([trial])[0] - course, replace(trial, responses=trial.responses - course.astype(np.float32))))
    return float(np.nanmedian(correlation(stacked)))
