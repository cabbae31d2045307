"""Attention of a recurrent encoder over the sound it hears: a picture of one window, a film while the sound unfolds."""
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from bm.analysis.plots import new_figure


def plot_attention(weights: ArrayLike, sound: ArrayLike, bands_hz: ArrayLike, rate: float, *, title: str = "",
                   limits: tuple[float, float] | None = None, most: float | None = None) -> Figure:
    """The spectrogram of one window above the attention to each of its frames; time in ms before the answer.

    Args:
        weights: `(W,)`, of one head.
        sound: `(W, F)`, the frames of the window.
        bands_hz: `(F,)`, centre of each band.
        rate: frames a second.
        limits: of the spectrogram's colours; those of this window unless given.
        most: top of the attention axis; that of this window unless given.

    Errors: ValueError for shapes that do not fit.
    """
    return _draw(*_checked(weights, sound, bands_hz, rate, 1), rate, title, limits, most)[0]


def attention_film(weights: ArrayLike, sound: ArrayLike, bands_hz: ArrayLike, rate: float, path: str | Path, *,
                   frames: Iterable[int] | None = None, fps: int = 20, dpi: int = 80) -> Path:
    """A film of `plot_attention` while the sound unfolds, with the same colours and axes throughout.

    Args:
        weights: `(T, W)`, of one head (`bm.analysis.encoder_attention.attention_weights`).
        sound: `(T, F)`, the spectrogram.
        bands_hz, rate: as of `plot_attention`.
        path: ends in .gif or .mp4 (with the ffmpeg of the machine, else that of the extra `film`).
        frames: output frames to show, each with a full window; all of them unless given.
        fps: frames of the film a second; `rate` shows it as fast as it was heard.

    Returns: the path.
    Errors: ValueError for shapes that do not fit, frames without a full window, another ending; FileNotFoundError for
    an mp4 without either ffmpeg.
    """
    values, spectrogram, centres = _checked(weights, sound, bands_hz, rate, 2)
    window = values.shape[1]
    shown = list(range(window - 1, len(values)) if frames is None else frames)
    if not shown or min(shown) < window - 1 or max(shown) >= len(values):
        raise ValueError(f"frames to show must be from {window - 1} (the first with a full window) to "
                         f"{len(values) - 1}, and at least one; got {shown[:3]}…")
    writer, ffmpeg = _writer(Path(path), fps)
    cut = np.stack([spectrogram[frame - window + 1:frame + 1] for frame in shown])
    figure, update = _draw(values[shown[0]], cut[0], centres, rate, f"{shown[0] / rate:.2f} s",
                           (float(cut.min()), float(cut.max())), float(values[shown].max()))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: nothing moves from frame to frame
    import matplotlib
    settings = matplotlib.rc_context({} if ffmpeg is None else {"animation.ffmpeg_path": ffmpeg})
    with settings, writer.saving(figure, str(path), dpi):
        for frame, part in zip(shown, cut, strict=True):
            update(values[frame], part, f"{frame / rate:.2f} s")
            writer.grab_frame()
    return Path(path)


def _checked(weights: ArrayLike, sound: ArrayLike, bands_hz: ArrayLike, rate: float, dimensions: int
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays as they are drawn."""
    values, spectrogram, centres = (np.asarray(array, dtype=float) for array in (weights, sound, bands_hz))
    if values.ndim != dimensions or spectrogram.shape != (len(values), centres.size) or centres.ndim != 1 or rate <= 0:
        expected = "(W,), (W, F)" if dimensions == 1 else "(T, W), (T, F)"
        raise ValueError(f"weights {values.shape}, sound {spectrogram.shape}, bands_hz {centres.shape}, rate {rate}: "
                         f"expected {expected}, (F,) and frames a second")
    return values, spectrogram, centres


def _draw(weights: np.ndarray, sound: np.ndarray, bands_hz: np.ndarray, rate: float, title: str,
          limits: tuple[float, float] | None, most: float | None
          ) -> tuple[Figure, Callable[[np.ndarray, np.ndarray, str], None]]:
    """The figure, and what shows another window in it."""
    window, n_bands = sound.shape
    figure = new_figure(10, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    low, high = limits or (float(sound.min()), float(sound.max()))
    start = -1000 * window / rate
    image = above.imshow(sound.T, origin="lower", aspect="auto", extent=(start, 0, -0.5, n_bands - 0.5), vmin=low,
                         vmax=high, interpolation="nearest")
    ticks = np.arange(0, n_bands, max(1, round(n_bands / 6)))
    above.set_yticks(ticks, [f"{bands_hz[tick]:.0f}" for tick in ticks])
    above.set(ylabel="frequency (Hz)", title=title)
    figure.colorbar(image, ax=above, label="band level")
    middles = start + (np.arange(window) + 0.5) * 1000 / rate
    line, = below.plot(middles, weights, color="black")
    below.set(xlabel="time before the answer (ms)", ylabel="attention", xlim=(start, 0),
              ylim=(0, 1.05 * (most or float(weights.max()))))

    def update(weights: np.ndarray, sound: np.ndarray, title: str) -> None:
        line.set_ydata(weights)
        image.set_data(sound.T)
        above.set_title(title)

    return figure, update


def _writer(path: Path, fps: int) -> tuple[Any, str | None]:
    """Matplotlib's writer for the ending of `path`, and the ffmpeg it needs, if it does."""
    from matplotlib.animation import FFMpegWriter, PillowWriter
    if path.suffix == ".gif":
        return PillowWriter(fps=fps), None
    if path.suffix != ".mp4":
        raise ValueError(f"{path.name} ends in {path.suffix or 'nothing'}: expected .gif or .mp4")
    return FFMpegWriter(fps=fps, codec="h264"), find_ffmpeg(path.name)


def find_ffmpeg(film: str) -> str:
    """Path of an ffmpeg: Matplotlib's setting or the PATH, else the one that comes with imageio-ffmpeg.

    Errors: FileNotFoundError for `film` if there is neither.
    """
    import matplotlib
    if found := shutil.which(matplotlib.rcParams["animation.ffmpeg_path"]):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise FileNotFoundError(f"{film} needs ffmpeg, which is not on the PATH: install it, or the extra `film` "
                                "(pip install -e '.[film]'), or choose .gif") from error
