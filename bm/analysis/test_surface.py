"""Places on the cortex: planted values are on the right vertices, and what is not known is said."""
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.io
from matplotlib.figure import Figure

from bm.analysis import layers, surface
from bm.analysis.report import places as report
from bm.analysis.report.layers import layers as section
from bm.analysis.test_layers import PEOPLE, deep, make, outputs, plain  # noqa: F401
from bm.studies.natsounds.study import _electrodes, load_mat


@pytest.fixture(scope="module")
def meshes():
    pytest.importorskip("nilearn", reason="the extra `surface` is not installed")
    return surface.fsaverage5()


@pytest.fixture(autouse=True)
def no_patch(monkeypatch):
    monkeypatch.delenv(report.PATCH, raising=False)


def table(frame: surface.Frame, places: np.ndarray, values: np.ndarray, side: str = "left") -> surface.Places:
    rows = pd.DataFrame(places, columns=list(surface.FRAMES[frame]))
    return surface.Places(frame, rows.assign(side=side, score=values, position=values), "R²", None, len(rows))


def place_voxels(xp, **columns) -> None:
    """A place for each target of `make`: three people with two voxels each."""
    pd.DataFrame({"subject": np.repeat(PEOPLE, 2), "voxel": ["v0", "v1"] * 3, **columns}).to_csv(
        xp.folder / "channels.csv", index=False)


def test_a_planted_pattern_is_on_its_vertices(meshes):
    """Voxels every 2 mm in a box around auditory cortex, whose value is where they lie."""
    middle = meshes["left"].middle
    axes = [np.arange(low, high, 2.0) for low, high in ((-66, -40), (-40, -4), (-4, 16))]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    found = surface.on_vertices(table("ras", grid, grid[:, 1]), "score")
    inside = (middle > grid.min(0)).all(1) & (middle < grid.max(0)).all(1)
    assert inside.sum() > 150 and np.isnan(found["right"]).all()
    assert np.abs(found["left"][inside] - middle[inside, 1]).max() <= 1.001
    known = np.flatnonzero(~np.isnan(found["left"]))
    distance = np.linalg.norm(middle[known][:, None] - grid[None], axis=2).min(1)
    assert distance.max() <= surface.RADIUS["ras"] and inside.sum() < len(known) < 1500


def test_a_flattened_patch(tmp_path, meshes):
    """Vertices of fsaverage and their flat coordinates, of which fsaverage5 has some, right hemisphere first."""
    vertices = np.array([5, 70, 9000, 20000, 163841], np.int32)
    flat = np.array([[0.2, 0.3], [2.9, 0], [9, 9], [4, 4], [2, 2]])
    cells = [np.empty(2, dtype=object) for _ in range(2)]
    cells[0][:], cells[1][:] = [flat + 100, flat], [vertices + 1, vertices]
    files = {"voxel_matrix.mat": {"ras_coords_fsaverage": cells[0], "voxel_indices_fsaverage": cells[1]},
             "responses.mat": {"G": {"vras": cells[0], "vi": cells[1]}}}
    grid = np.array([[0, 0], [2, 0], [4, 0], [0, 2]])
    for name, content in files.items():
        scipy.io.savemat(tmp_path / name, content)
        patch = surface.read_patch(tmp_path / name)
        assert patch["right"][0].tolist() == (vertices + 1).tolist() and patch["right"][1].min() == 100
        found = surface.on_vertices(table("flat", grid, np.array([0.1, 0.2, 0.3, 0.4])), "score", patch)
        assert np.flatnonzero(~np.isnan(found["left"])).tolist() == [5, 70]  # 9000 is too far from any voxel
        np.testing.assert_allclose(found["left"][[5, 70]], [0.1, 0.2])
        assert np.isnan(found["right"]).all()
    scipy.io.savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(ValueError, match="neither ras_coords_fsaverage"):
        surface.read_patch(tmp_path / "other.mat")
    with pytest.raises(ValueError, match="flattened patch, expected its file"):
        surface.on_vertices(table("flat", grid, np.ones(4)), "score")


def test_medians_over_people_and_networks(outputs, plain):  # noqa: F811
    """Everyone's primary voxel is at one place, where the scores are .4, .5 and .6; the lateral ones are apart."""
    here = {"x_ras": [1, 5, 1, 7, 1, 9], "y_ras": 2, "hemi": ["rh", "lh"] * 3}
    for sig, best, gain in (("s1", (0, 2), 0.0), ("s2", (1, 2), 0.1), ("s3", (1, 1), 0.3)):
        place_voxels(make(outputs, plain, sig, f"org/{sig}", deep(best, gain)), **here)
    xps = layers.find_layers(["s1", "s2", "s3"], outputs)
    found = [surface.find_places(one) for one in xps]
    assert found[0].frame == "flat" and found[0].n_targets == 6 and found[0].latency is None
    assert found[0].table["side"].tolist() == ["left"] * 3 + ["right"]
    np.testing.assert_allclose(found[0].of("right", "score")[1], [0.5])
    np.testing.assert_allclose(found[0].of("left", "score")[1], [0.4, 0.5, 0.6])
    np.testing.assert_allclose(found[0].of("left", "position")[1], 1)
    median = surface.over_networks(found)
    np.testing.assert_allclose(median.of("right", "score")[1], [0.6])
    assert [one.of("right", "position")[1].tolist() for one in (*found, median)] == [[0], [0.5], [0.5], [0.5]]
    with pytest.raises(ValueError, match="2 frames"):
        surface.over_networks([found[0], table("ras", np.zeros((1, 3)), np.zeros(1))])


def test_what_is_no_place(outputs, plain):  # noqa: F811
    xp = make(outputs, plain, "s1", "org/good", deep((0, 2)), latencies=[0.25, 0.75])
    one = layers.open_layers(xp)
    assert surface.find_places(one) is None  # no channels.csv
    place_voxels(xp, x_ras=1.0, y_ras=2.0)
    assert surface.find_places(one) is None  # no hemisphere
    place_voxels(xp, x_infl=[1, 2, 3, 4, 5, np.nan], y_infl=2, z_infl=3, hemisphere="left")
    found = surface.find_places(one)
    assert found is not None and found.frame == "inflated" and len(found.table) == 5 and found.latency == 0.25
    place_voxels(xp, x_ras=1.0, y_ras=2.0, hemi="both")
    with pytest.raises(ValueError, match=r"hemi is \['both'\]"):
        surface.find_places(one)
    rsa = make(outputs, plain, "s2", "org/good", deep((0, 2))[..., 0], "rsa")
    place_voxels(rsa, x_ras=1.0, y_ras=2.0, hemi="lh")
    assert surface.find_places(layers.open_layers(rsa)) is None


def colours(figure: Figure, panel: int) -> np.ndarray:
    """Which faces of a panel have a colour, not a grey."""
    faces = figure.axes[panel].collections[0].get_facecolor()
    return np.ptp(np.asarray(faces)[:, :3], 1) > 1e-3


def test_the_figure(meshes):
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from bm.analysis.plots.surface import Row, plot_cortex
    values = np.full(surface.VERTICES, np.nan)
    values[[100, 2000]] = [0.1, 0.9]
    touched = np.isin(meshes["left"].faces, [100, 2000]).any(1).sum()
    lateral = meshes["left"].inflated[:, 0].argmin()
    dots = {"left": (meshes["left"].inflated[[lateral, lateral]], np.array([0.5, np.nan]))}
    before = meshes["left"].inflated.copy()
    figure = plot_cortex(meshes, [Row("R²", (0, 1), vertices={"left": values}), Row("position", (0, 1), dots=dots)])
    np.testing.assert_array_equal(before, meshes["left"].inflated)
    FigureCanvasAgg(figure).draw()
    panels = figure.axes
    assert len(panels) == 10 and [panels[i].get_ylabel() for i in (4, 9)] == ["R²", "position"]
    assert [colours(figure, i).sum() for i in range(4)] == [touched, touched, 0, 0]
    assert [len(panels[5 + i].collections) for i in range(4)] == [2, 2, 1, 1]
    shown = [panels[5 + i].collections[1].get_facecolor() for i in range(2)]
    assert sorted(shown[0][:, 3]) == [0, 1] and len(shown[1]) == 0  # an empty dot; none on the medial side
    drawn = np.concatenate([path.vertices for path in panels[5].collections[0].get_paths()])
    dot = panels[5].collections[1].get_offsets()[0]
    assert np.linalg.norm(drawn - dot, axis=1).min() < 1e-9  # the dot is on a vertex as both are drawn
    assert plt.get_fignums() == []


def test_pages_with_and_without_nilearn(outputs, plain, meshes, tmp_path, monkeypatch):  # noqa: F811
    place = meshes["left"].middle[[10, 500, 10, 900, 10, 1300]]
    here = dict(zip(("x_ras", "y_ras", "z_ras"), place.T, strict=True), hemi="lh")
    for sig, best in (("s1", (0, 2)), ("s2", (1, 2))):
        place_voxels(make(outputs, plain, sig, f"org/{sig}", deep(best)), **here)
    xps = layers.find_layers(["s1", "s2"], outputs)
    files = report.write_surfaces(xps, tmp_path, "nh2015 voxels")
    assert [path.name for path in files[-2:]] == [f"nh2015_voxels_median.{side}.func.gii" for side in ("lh", "rh")]
    import nibabel
    maps = nibabel.load(files[-2])
    assert [array.meta["Name"] for array in maps.darrays] == ["score", "position", "10 position + 1"]
    np.testing.assert_allclose([array.data[10] for array in maps.darrays], [0.5, 0.25, 3.5], atol=1e-6)
    np.testing.assert_allclose(maps.darrays[0].data[[500, 900, 1300]], [0.4, 0.5, 0.6], atol=1e-6)
    assert len(files) == 6 and np.isnan(nibabel.load(files[-1]).darrays[0].data).all()
    titles = [part.title for part in report.places_together(xps)]
    assert titles == ["s1: Where", "s1: Cortex", "s2: Where", "s2: Cortex", "Median over networks: Cortex"]
    surface.fsaverage5.cache_clear()
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    where, cortex = report.places(xps[0])
    assert isinstance(where.content, Figure) and "pip install -e &#x27;.[surface]&#x27;" in cortex.content
    assert report.write_surfaces(xps, tmp_path, "none") == []


def test_flat_places_without_their_patch(outputs, plain):  # noqa: F811
    xp = make(outputs, plain, "s1", "org/good", deep((0, 2)))
    place_voxels(xp, x_ras=[1, 3, 5, 7, 9, 11], y_ras=2, hemi="lh")
    parts = {part.title: part.content for part in section(xp)}
    assert isinstance(parts["Where"], Figure) and report.PATCH in parts["Cortex"]
    assert report.write_surfaces([layers.open_layers(xp)], xp.folder, "flat") == []


def test_electrodes_of_natsounds_lie_on_the_mesh(shared_data, meshes):
    """Their frame is that of nilearn's inflated mesh: near it, and at the vertices that both meshes have."""
    known = _electrodes(load_mat(shared_data("natsound165_neural") / "nh2022_ecog_component_weights.mat"))
    for side, mesh in meshes.items():
        own = known[known["hemisphere"] == side]
        place = own[["x_infl", "y_infl", "z_infl"]].to_numpy()
        assert np.linalg.norm(place[:, None] - mesh.inflated[None], axis=2).min(1).max() < 1.7
        shared = (own["fsaverage_vertex"] < surface.VERTICES).to_numpy()
        vertex = mesh.inflated[own["fsaverage_vertex"][shared]]
        assert shared.sum() > 10 and np.linalg.norm(place[shared] - vertex, axis=1).max() < 0.2


def test_sensors_on_the_head(outputs, plain):  # noqa: F811
    xp = make(outputs, plain, "s1", "org/good", deep((0, 2)), latencies=[0.25, 0.75])
    place_voxels(xp, layout_x=[0, 1, 0, 1, 0.5, 0.5], layout_y=[0, 0, 1, 1, 0.2, 0.8])
    parts = {part.title: part.content for part in section(xp)}
    panels = parts["Sensors: scores"].axes
    assert [axes.get_title() for axes in panels[:2]] == ["0.25 s (best)", "0.75 s"] and "Where" not in parts
    np.testing.assert_allclose([axes.images[0].get_clim() for axes in panels[:2]], [(0, 0.6)] * 2)
    assert parts["Sensors: best layer"].axes[0].images[0].get_clim() == (0, 1)
