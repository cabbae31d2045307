import numpy as np
import pytest

from bm.analysis.plots.strf import plot_strfs


def test_one_panel_a_unit(tmp_path):
    maps = np.random.default_rng(0).standard_normal((10, 34, 9))
    figure = plot_strfs(maps, 200.0, frequencies=np.geomspace(500, 22_627, 34), columns=4)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == 12 and len(shown) == 10
    picture = shown[3].images[0]
    np.testing.assert_array_equal(picture.get_array(), maps[3])
    assert picture.get_cmap().name == "RdBu_r" and picture.get_clim() == (-np.abs(maps[3]).max(), np.abs(maps[3]).max())
    assert list(picture.get_extent()) == [-45.0, 0.0, -0.5, 33.5] and picture.origin == "lower"
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["500", "1.26k", "3.17k", "8.98k", "22.6k"]
    assert figure.get_supylabel() == "frequency (Hz)" and shown[3].get_title() == "unit 3"
    figure.savefig(tmp_path / "strfs.png")
    assert (tmp_path / "strfs.png").stat().st_size > 5000


def test_channels_stay_together():
    maps = np.zeros((3, 2, 4, 5))
    maps[1, 1, 2, 3] = -3.0
    figure = plot_strfs(maps, 100.0, titles=["a", "b", "c"], channels=["ON", "OFF"], columns=5, shared_scale=True)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["a ON", "a OFF", "b ON", "b OFF", "c ON", "c OFF"]
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(-3.0, 3.0)}
    assert len(figure.axes) == 8 and figure.get_supylabel() == "band"
    assert plot_strfs(maps, 100.0).axes[0].images[0].get_clim() == (-1.0, 1.0)  # zeros


@pytest.mark.parametrize("maps, options, message", [
    (np.zeros((3, 4)), {}, r"shape \(3, 4\)"), (np.full((1, 2, 2), np.nan), {}, "all finite"),
    (np.zeros((3, 4, 5)), {"titles": ["a"]}, "1 titles .* expected 3"),
    (np.zeros((3, 4, 5)), {"frequencies": [1.0] * 5}, "5 frequencies .* expected 4")])
def test_what_does_not_fit(maps, options, message):
    with pytest.raises(ValueError, match=message):
        plot_strfs(maps, 100.0, **options)
