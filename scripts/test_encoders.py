"""Three encoders of simulated neurons, from training to the page, the report and the notebook."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from bm.analysis.encoder_views import load_encoder, sound_of
from bm.analysis.xp import NotRestorable, StoredXP
from scripts.encoders import check_units, main

ROOT = Path(__file__).parents[1]
NEURONS = [
    "model=encoder", "dset.selections=[simulated_neurons]", "dset.sample_rate=200", "dset.feature_resampling=nearest",
    "dset.features_params.MelSpectrum={n_fft: 320, n_mels: 24, norm_audio: false, normalized: false}", "dset.purge=0",
    "selections.simulated_neurons={clips: 8, neurons: 4, seconds: 2, repeats: 4, snr: 1, test_clips: [7, 8], "
    "valid_clips: [6]}", "encode.window_s=0.5", "optim.batch_size=8", "optim.lr=1e-2"]
ENCODERS = [["encoder.name=linear", "optim.epochs=10"],
            ["encoder.name=gru_attention", "+encoder.params={window: 12, hidden: 8}", "optim.epochs=1"],
            ["task.type=trf", "optim.name=adam", "optim.weight_decay=0", "optim.epochs=1", "trf.tmin=0",
             "trf.tmax=0.06", "trf.folds=4"]]


def test_wrong_arguments_say_what_is_known(tmp_path, monkeypatch, capsys):
    from bm.train import main as train
    monkeypatch.setattr(train.dora, "dir", tmp_path)
    with pytest.raises(SystemExit):
        main([])
    assert "signatures or --grid" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no grid 'nothing' .*run_grid nothing"):
        main(["--grid", "nothing"])
    with pytest.raises(SystemExit, match="no XP 'abcdef01'"):
        main(["abcdef01"])


def test_encoders_of_two_studies_are_one_line():
    def encoder(sig, *units):
        index = pd.MultiIndex.from_tuples(units, names=["subject_name", "name"])
        return SimpleNamespace(name="linear", xps=[SimpleNamespace(sig=sig)], units=pd.DataFrame(index=index))
    one, same = (encoder(sig, ("strflab/finch", "neuron"), ("strflab/finch", "b")) for sig in ("aa", "ab"))
    check_units([one, same])
    with pytest.raises(SystemExit, match=r"no unit in common: XP aa \(linear\) has 2, the first is strflab/finch/"
                                         r"neuron; XP ac \(linear\) has 1, the first is ns1/ferret/u1. Give XPs"):
        check_units([one, same, encoder("ac", ("ns1/ferret", "u1"))])


@pytest.mark.slow
def test_the_way_of_the_guide(tmp_path):
    pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | {
        f"BM_{name.upper()}": str(tmp_path / name) for name in ("outputs", "cache", "data")}

    def command(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True,
                              text=True)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    for own in ENCODERS:
        command("dora", "run", *NEURONS, *own)
    xps = {("trf" if "kernels.npz" in {file.name for file in folder.iterdir()} else "network", folder.name): folder
           for folder in (tmp_path / "outputs/xps").iterdir()}
    sigs = [sig for _, sig in xps]
    (trf,) = [sig for kind, sig in xps if kind == "trf"]

    networks = [StoredXP(folder, ROOT) for (kind, _), folder in xps.items() if kind == "network"]
    (gru,) = [xp for xp in networks if xp.get("encoder.name") == "gru_attention"]
    model, responses = load_encoder(gru)
    assert model.history == 11 and not model.training and len(responses.units) == 4
    assert model(sound_of(responses.of("test")[0])).shape == (1, 4, 1, 11 + 400)
    with pytest.raises(NotRestorable, match="kernels.npz"):
        load_encoder(StoredXP(tmp_path / "outputs/xps" / trf, ROOT))

    said = command("scripts.encoders", *sigs, "--no-sound", "--output", str(tmp_path / "page"))
    table = pd.read_csv(tmp_path / "page/encoders.csv").set_index("encoder")
    assert set(table.index) == {"linear", "gru_attention", "trf", "no sound"}
    assert all(name in said for name in table.index)
    # the neurons are linear: the closed form is the best there is, gradient descent comes near
    assert table.loc["trf", "r"] > 0.8 and table.loc["linear", "r"] > 0.6 and (table["n_units"] == 4).all()
    assert table["difference"].isna().to_dict() == {name: name == "trf" for name in table.index}
    assert (table.drop("trf")["difference"] < 0).all() and abs(table.loc["no sound", "r"]) < 0.3
    assert 0.5 < table.loc["trf", "ccnorm"] < 1.2
    # what all clips have in common is nothing, so that little is lost without it
    assert table.loc["trf", "r_beyond"] == pytest.approx(table.loc["trf", "r"], abs=0.1) and "beyond the mean" in said
    units = pd.read_csv(tmp_path / "page/units.csv")
    assert units["trf"].median() == pytest.approx(table.loc["trf", "r"])
    page = (tmp_path / "page/encoders.html").read_text()
    for title in ("Encoders", "Receptive fields: MelSpectrum", "Attention over lags", "Attention of gru_attention",
                  "Predicted and measured"):
        assert title in page
    assert "is not shown" not in page and (tmp_path / "page/attention_over_lags.png").stat().st_size > 5000

    command("scripts.report", trf, "--output", str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text()
    assert "Receptive fields: MelSpectrum" in report and "No scores" not in report

    environment["BM_SIGS"] = " ".join(sigs)
    command("scripts.notebook", "notebook_templates/encoders.ipynb", "--output", str(tmp_path))
    book = (tmp_path / "encoders.html").read_text()
    assert "gru_attention" in book and book.count("data:image/png") == 5 and "time-lock p: " in book
