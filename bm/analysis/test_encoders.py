"""Tables of encoders from XP folders with invented predictions."""
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure

from bm.analysis.encoder_views import View, mel_frequencies, trf_fields
from bm.analysis.encoders import caution, encoder_names, encoder_table, paired, pretty, read_encoders, unit_table
from bm.analysis.report.encoding import _fields, best_units, encoding, unit_parts
from bm.analysis.xp import StoredXP
from bm.config import CONF, to_plain
from bm.metrics.ceilings import noise_ceilings
from bm.metrics.encoding import encoding_scores, stimulus_moments
from bm.solvers.trf import TrfSolver

N_UNITS, STIMULI = 6, [f"sound{i}" for i in range(12)]


@pytest.fixture(scope="module")
def plain() -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", ["model=encoder", "dset.n_folds=3", "dset.fold=0"]))


@pytest.fixture
def make(tmp_path, plain):
    """`make(sig, noise, overrides, stimuli)`: a finished XP whose predictions are the responses plus noise."""
    def one(sig: str, noise: float, changes: dict | None = None, stimuli: list[str] = STIMULI[:4]) -> StoredXP:
        config = json.loads(json.dumps(plain))
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            place = config
            for section in sections:
                place = place[section]
            place[last] = value
        folder = tmp_path / sig
        folder.mkdir()
        truth = [np.random.default_rng(STIMULI.index(name)).standard_normal((50, N_UNITS)) for name in stimuli]
        rng = np.random.default_rng(int(sig, 16))
        responses = [np.stack([x + rng.standard_normal(x.shape) for _ in range(3)]) for x in truth]
        predictions = [x + noise * rng.standard_normal(x.shape) for x in truth]
        place = np.arange(N_UNITS) / N_UNITS
        table = encoding_scores(predictions, responses, n_boot=10).assign(
            subject=0, channel=range(N_UNITS), name=[f"u{i}" for i in range(N_UNITS)], region=["a", "b"] * 3,
            layout_x=place, layout_y=place[::-1] ** 2, subject_name="study/one")
        table.to_parquet(folder / "encoding.parquet")
        np.savez(folder / "encoding_moments.npz", stimulus=np.array(stimuli),
                 moments=stimulus_moments(predictions, [x[None] for x in truth]).astype(np.float32),
                 powers=noise_ceilings(responses).powers.astype(np.float32))
        for name, content in (("config", config), ("result", {"test": {}}), (".argv", [f"encoder.name={sig}"])):
            (folder / f"{name}.json").write_text(json.dumps(content))
        return StoredXP(folder, Path("."))
    return one


def test_folds_are_pooled_and_compared_on_common_stimuli(make):
    good = [make(f"a{fold}", 0.5, {"dset.fold": fold, "encoder.name": "ln"}, STIMULI[4 * fold:4 * fold + 4])
            for fold in range(3)]
    poor = make("b0", 2.0, {"encoder.name": "linear"})
    encoders = read_encoders([*good, poor])
    assert [(one.name, one.n_folds, len(one.stimuli)) for one in encoders] == [("ln", 3, 12), ("linear", 1, 4)]
    table = encoder_table(encoders, "linear", n_boot=200).set_index("encoder")
    # r of a prediction with noise of deviation s is 1 / √(1 + s²)
    assert table.loc["ln", "r"] == pytest.approx(1 / np.sqrt(1.25), abs=0.03)
    assert table.loc["linear", "r"] == pytest.approx(1 / np.sqrt(5), abs=0.1)
    row = table.loc["ln"]
    assert row["r_low"] < row["r"] < row["r_high"] and row["stimuli_common"] == 4 and row["better"] == 1
    assert row["difference_low"] < row["difference"] < row["difference_high"] and row["difference_low"] > 0.2
    assert row["p"] == row["p_fdr"] == pytest.approx(2 / 2 ** N_UNITS) and np.isnan(table.loc["linear", "p"])
    # so is CCnorm, whose responses hold no noise here; of the same stimuli r and CCnorm go together
    assert row["ccnorm"] == pytest.approx(1 / np.sqrt(1.25), abs=0.05)
    assert row["ccnorm_low"] < row["ccnorm"] < row["ccnorm_high"] < row["ccnorm_low"] + 0.2
    assert 0.2 < row["ccnorm_difference_low"] < row["ccnorm_difference"] < row["ccnorm_difference_high"] < 0.7
    assert np.isnan(table.loc["linear", "ccnorm_difference"]) and "4 test stimuli are few" in caution(encoders)
    shown = pretty(table.reset_index())
    assert shown["better in"].tolist() == ["100 %", ""] and shown["parameters"].tolist() == ["–", "–"]
    assert shown["ccnorm difference [95 %]"][0].startswith("+0.") and shown["ccnorm [95 %]"].str.contains(", ").all()
    units = unit_table(encoders)
    assert len(units) == N_UNITS and (units["ln"] > units["linear"]).all()
    assert len(best_units(encoders, 2)) == 2 and best_units(encoders, 1)[0][0] == "study/one"


def test_differences_of_ccnorm_are_of_the_same_stimuli(make):
    """An encoder against itself: no difference in any draw. Of an older XP CCnorm is known, its interval is not."""
    one, other = read_encoders([make("1a", 0.5), make("1b", 0.5, {"encoder.name": "ln"})])
    same = paired(one, one, n_boot=100)
    assert same is not None
    assert [same[f"ccnorm_difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    apart = one.drawn(100, 0, score="ccnorm") - other.drawn(100, 1, score="ccnorm")
    together = one.drawn(100, 0, score="ccnorm") - other.drawn(100, 0, score="ccnorm")
    assert np.std(together, axis=0).mean() < 0.8 * np.std(apart, axis=0).mean()


def test_of_an_older_xp_ccnorm_has_no_interval(make, caplog):
    xp = make("2a", 0.5)
    with np.load(xp.folder / "encoding_moments.npz") as stored:
        kept = {name: stored[name] for name in ("stimulus", "moments")}
    np.savez(xp.folder / "encoding_moments.npz", **kept)
    (row,) = encoder_table(read_encoders([xp]), n_boot=50).to_dict("records")
    assert 0.7 < row["ccnorm"] < 1.1 and np.isnan(row["ccnorm_low"]) and "dora run -f 2a" in caplog.text


def test_seeds_are_averaged(make):
    encoders = read_encoders([make("c0", 0.5, {"seed": 1}), make("c1", 2.0, {"seed": 2})])
    (row,) = encoder_table(encoders, n_boot=50).to_dict("records")
    assert row["n_seeds"] == 2 and row["n_stimuli"] == 4
    assert row["r"] == pytest.approx((1 / np.sqrt(1.25) + 1 / np.sqrt(5)) / 2, abs=0.07)


def test_names_tell_encoders_apart(make):
    xps = [make("d0", 1, {"encoder.name": "ln"}), make("d1", 1, {"encoder.name": "ln", "dset.fold": 1}),
           make("d2", 1, {"encoder.name": "ln", "optim.lr": 0.5}), make("d3", 1, {"task.type": "trf"}),
           make("d4", 1, {"task.type": "trf", "dset.features": ["Pitch"]})]
    assert encoder_names(xps) == ["ln", "ln", "ln lr=0.5", "trf", "trf features=Pitch"] or encoder_names(xps)[3:] == [
        "trf features=MelSpectrum", "trf"]
    assert len(set(encoder_names(xps))) == 4


def test_what_does_not_fit_is_an_error(make):
    first = make("e0", 1)
    with pytest.raises(ValueError, match="another fold of 'gru' tests too, the first is 'sound0'"):
        read_encoders([first, make("e1", 1, {"dset.fold": 1})])
    with pytest.raises(ValueError, match="task decode: expected encode"):
        read_encoders([make("e2", 1, {"task.type": "decode"})])
    with pytest.raises(KeyError, match="'nobody' is none of the encoders"):
        encoder_table(read_encoders([first]), "nobody")
    with pytest.raises(ValueError, match="several encoders would be called x"):
        read_encoders([first, make("e3", 1, {"encoder.name": "ln"})], {"gru": "x", "ln": "x"})
    (first.folder / "encoding_moments.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no encoding_moments.npz.*dora run -f e0"):
        read_encoders([first])


def test_the_section_of_a_report(make, monkeypatch):
    from bm.analysis.xp import NotRestorable
    xp = make("f0", 0.5)

    def fails(self, device="cpu"):
        raise NotRestorable("the data moved")
    monkeypatch.setattr(StoredXP, "restore_encoder", fails)
    titles = {part.title: part for part in encoding(xp)}
    assert list(titles) == ["Scores", "Scores on the head", "By region", "Best units", "gru is not shown"]
    assert "the data moved" in titles["gru is not shown"].content
    assert "chosen by the same" in titles["Best units"].content
    assert encoding(make("f1", 1, {"task.type": "decode"})) == []
    assert encoding(make("f2", 1, {"task.type": "trf", "trf.direction": "backward"})) == []
    assert [part.title for part in unit_parts(read_encoders([xp]))][:1] == ["Scores on the head"]


def test_frequencies_are_those_of_the_filters(make):
    from torchaudio.functional import melscale_fbanks
    xp = make("0a", 1, {"dset.features_params.MelSpectrum.n_mels": 10, "dset.features_params.MelSpectrum.in_sampling":
                        16000})
    bank = melscale_fbanks(8001, 0.0, 8000.0, 10, 16000, mel_scale="htk")
    found = mel_frequencies(xp)
    assert found is not None
    np.testing.assert_allclose(found, bank.argmax(0).numpy(), atol=1)
    assert mel_frequencies(make("0b", 1, {"dset.features": ["Pitch"]})) is None


@pytest.mark.parametrize("first", [-2, 0, 3])
def test_kernels_stand_at_their_lags(first):
    """Also of a TRF that begins after the sound, or before it; what does not fit is left out."""
    lags = np.arange(first, first + 6)
    kernels = 100.0 * np.tile(lags, (2, 1))[..., None]  # per second: the value at a lag is the lag
    solver = SimpleNamespace(
        responses=SimpleNamespace(rate=100.0, units=pd.DataFrame({"subject": [0, 0]}), units_of=lambda _: slice(0, 2)),
        columns=[0, 1], used=[np.array([1])], models={"": [SimpleNamespace(kernels=kernels, lags=lags / 100)]})
    fields = trf_fields(cast(TrfSolver, solver), [0, 1], 6)
    expected = [lag if lag in lags else 0 for lag in range(6)]
    assert np.isnan(fields[0]).all() and fields[1][0, ::-1].tolist() == fields[1][1, ::-1].tolist() == expected


def test_one_column_of_features_is_a_curve_over_all_lags(make):
    encoder, = read_encoders([make("0c", 1)])
    lags, kernels = np.arange(-2, 4) / 50, np.random.default_rng(0).standard_normal((2, 1, 6))
    view = View(encoder.name, kernels[:, :, 2:][:, :, ::-1], None, "s", kernels[:, 0].T, kernels[:, 0].T, 50.0,
                lags=lags, kernels=kernels)
    part, = _fields([view], [encoder], [("study/one", "u0"), ("study/one", "u1")])
    assert isinstance(part.content, Figure)
    for axes, kernel in zip(part.content.axes, kernels[:, 0], strict=True):
        np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([1000 * lags, kernel / abs(kernel).max()], 1))
    network = View(encoder.name, view.fields, None, "s", view.predicted, view.measured, 50.0)
    np.testing.assert_allclose(network.courses[1], kernels[:, :, 2:])
    assert network.courses[0].tolist() == [0, 0.02, 0.04, 0.06]
