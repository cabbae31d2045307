import sys

import matplotlib
import numpy as np
import pytest

from bm.analysis.plots.attention_time import _draw, attention_film, plot_attention

RATE, WINDOW, BANDS = 50.0, 25, 31
CENTRES = np.linspace(0, 8000, BANDS)


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    weights = rng.random((40, WINDOW))
    return weights / weights.sum(1, keepdims=True), rng.standard_normal((40, BANDS))


def test_one_window(made, tmp_path):
    weights, sound = made
    figure = plot_attention(weights[30], sound[6:31], CENTRES, RATE, title="one", most=0.2)
    above, below = figure.axes[:2]
    picture = above.images[0]
    np.testing.assert_array_equal(picture.get_array(), sound[6:31].T)
    assert list(picture.get_extent()) == [-500, 0, -0.5, 30.5] and picture.origin == "lower"
    assert [label.get_text() for label in above.get_yticklabels()][:3] == ["0", "1333", "2667"]
    assert below.lines[0].get_xdata()[[0, -1]].tolist() == [-490, -10] and below.get_ylim() == (0, pytest.approx(0.21))
    np.testing.assert_array_equal(below.lines[0].get_ydata(), weights[30])
    assert "ms" in below.get_xlabel() and "Hz" in above.get_ylabel() and above.get_title() == "one"
    figure.savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_limits_stay_while_windows_change(made):
    weights, sound = made
    figure, update = _draw(weights[24], sound[:25], CENTRES, RATE, "", (-3.0, 3.0), 0.1)
    limits = figure.axes[0].images[0].get_clim(), figure.axes[1].get_ylim()
    update(weights[30] * 9, sound[6:31] * 9, "later")
    assert (figure.axes[0].images[0].get_clim(), figure.axes[1].get_ylim()) == limits
    assert limits == ((-3, 3), (0, pytest.approx(0.105)))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), 9 * sound[6:31].T)


def test_a_film(made, tmp_path):
    from PIL import Image
    path = attention_film(*made, CENTRES, RATE, tmp_path / "film.gif", frames=range(26, 32), fps=10, dpi=40)
    with Image.open(path) as film:
        assert film.n_frames == 6 and film.size == (400, 280) and film.info["duration"] == 100
        pictures = []
        for frame in range(6):
            film.seek(frame)
            pictures.append(np.asarray(film.convert("L"), dtype=float))
    changes = [np.abs(one - other).max() for one, other in zip(pictures, pictures[1:], strict=False)]
    assert min(changes) > 50  # every picture is another
    assert np.ptp([picture[-20:].mean() for picture in pictures]) < 2  # the axis below does not move


def test_a_film_as_mp4(made, tmp_path, monkeypatch):
    """With the ffmpeg of the extra, even if the machine has none; it plays, and each picture is another."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `film` is not installed")
    monkeypatch.setitem(matplotlib.rcParams, "animation.ffmpeg_path", "no-such-ffmpeg")
    path = attention_film(*made, CENTRES, RATE, tmp_path / "film.mp4", frames=range(26, 36), fps=10, dpi=40)
    assert matplotlib.rcParams["animation.ffmpeg_path"] == "no-such-ffmpeg"
    assert ffmpeg.count_frames_and_secs(str(path)) == (10, pytest.approx(1.0))
    film = ffmpeg.read_frames(str(path), pix_fmt="gray", bits_per_pixel=8)
    found = next(film)
    assert found["size"] == (400, 280) and found["fps"] == 10 and "yuv420p" in found["pix_fmt"]  # what browsers play
    pictures = [np.frombuffer(picture, np.uint8).astype(float) for picture in film]
    assert len(pictures) == 10
    assert min(np.abs(one - other).max() for one, other in zip(pictures, pictures[1:], strict=False)) > 50


def test_an_mp4_without_ffmpeg(made, tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "animation.ffmpeg_path", "no-such-ffmpeg")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(FileNotFoundError, match=r"film.mp4 needs ffmpeg.*the extra `film`.*choose .gif"):
        attention_film(*made, CENTRES, RATE, tmp_path / "film.mp4")


def test_wrong_use(made, tmp_path):
    weights, sound = made
    with pytest.raises(ValueError, match=r"expected \(W,\), \(W, F\)"):
        plot_attention(weights[30], sound[:25, :4], CENTRES, RATE)
    with pytest.raises(ValueError, match=r"expected \(T, W\), \(T, F\)"):
        attention_film(weights[:9], sound, CENTRES, RATE, tmp_path / "film.gif")
    for frames in ([23], [40], []):
        with pytest.raises(ValueError, match="from 24"):
            attention_film(weights, sound, CENTRES, RATE, tmp_path / "film.gif", frames=frames)
    with pytest.raises(ValueError, match="expected .gif or .mp4"):
        attention_film(weights, sound, CENTRES, RATE, tmp_path / "film.avi")
