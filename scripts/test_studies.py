"""The main job on the twin of each study: from the files to the report, as a user types it."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm.analysis.report import make_report
from bm.analysis.xp import StoredXP
from bm.config import check_config, to_plain
from bm.solvers import build_solver
from bm.studies.twins import make_twin

ROOT = Path(__file__).parents[1]
#: a small network, a minute of data
SMALL = ["optim.epochs=2", "optim.batch_size=16", "dset.sample_rate=40", "dset.tmin=0", "dset.tmax=1",
         "dset.apply_baseline=false", "dset.condition=0.25", "dset.test_ratio=0.3", "dset.valid_ratio=0.3",
         "dset.purge=0", "dset.min_block_duration=1", "simpleconv.hidden.meg=16", "simpleconv.depth=2",
         "simpleconv.merger_channels=16", "simpleconv.initial_linear=16", "test.n_boot=100", "device=cpu"]


@pytest.fixture(scope="module")
def twins(tmp_path_factory) -> Path:
    """A folder with the twins of all four studies."""
    home = tmp_path_factory.mktemp("twins")
    for name in ("gwilliams2022", "schoffelen2019", "broderick2019", "brennan2019"):
        make_twin(name, home / "data" / name)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("selections, more", [
    ("gwilliams2022", []), ("audio_mous", []), ("broderick2019", []), ("brennan2019", []),
    # what is read has no sound
    ("visual_mous", ["dset.features=[WordLength,WordPulse]"]),
    # sensors of two kinds in one model
    ("gwilliams2022,broderick2019", []),
])
def test_from_the_files_to_the_report(twins, selections, more):
    env = {**os.environ, "BM_DATA": str(twins / "data"), "BM_CACHE": str(twins / "cache"),
           "BM_OUTPUTS": str(twins / selections.replace(",", "-")), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=env, capture_output=True, text=True,
                              timeout=300)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    run("dora", "-P", "bm", "run", f"dset.selections=[{selections}]", *SMALL, *more)
    folder = next((Path(env["BM_OUTPUTS"]) / "xps").iterdir())
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] == 2 and result["test"]["n"] > 5
    # a twin's brain is noise, in too few blocks for a p-value: only what cannot be is refused
    assert result["test"]["top10"] < 3 * result["test"]["top10_chance"] and 0 < result["test"]["top10_p"] <= 1
    run("scripts.report", folder.name)
    page = (folder / "report.html").read_text()
    assert "Accuracy by subject" in page and "Leak audit" in page


#: between sound and brain, both ways
ENCODING = ["dset.sample_rate=20", "dset.tmin=0", "dset.tmax=1", "dset.condition=0.25", "dset.test_ratio=0.3",
            "dset.valid_ratio=0.3", "dset.purge=0", "dset.min_block_duration=1", "test.n_boot=50", "device=cpu",
            "dset.features_params.MelSpectrum.n_mels=4"]
TRF = ["task.type=trf", "task.offset_meg_ms=0", "trf.tmin=0", "trf.tmax=0.2", "trf.folds=2", "optim.epochs=1"]
ATTENTION = ["model=encoder", "encoder.name=gru_attention", "+encoder.params={window: 6, hidden: 4}",
             "encode.window_s=1.0", "optim.batch_size=8", "optim.epochs=2"]


def encoded(home: Path, name: str, selection: str, *overrides: str) -> tuple[dict, str]:
    """Test metrics and the report's page of an XP, without processes of their own."""
    folder = home / f"{name}_{selection}"
    folder.mkdir()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = to_plain(compose("config", [*ENCODING, f"dset.selections=[{selection}]", f"cache={home}/cache",
                                            *overrides]))
    plain["study_paths"] = {study: str(home / "data" / study) for study in plain["study_paths"]}
    solver = build_solver(check_config(plain), folder, home, Link(folder / "history.json"))
    metrics = solver.run()
    (folder / "config.json").write_text(json.dumps(plain))
    make_report(StoredXP(folder, home)).save(folder / "report.html", open_browser=False, verbose=False)
    return metrics, (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["gwilliams2022", "audio_mous", "broderick2019", "brennan2019"])
def test_encoding_from_the_files_to_the_report(twins, selection):
    """A network with attention, response functions forward and backward; a twin's brain is noise, so r is small."""
    metrics, page = encoded(twins, "attention", selection, *ATTENTION)
    assert abs(metrics["r"]) < 0.5 and metrics["n_units"] > 10
    assert "Receptive fields: MelSpectrum" in page and "Attention of gru_attention" in page
    metrics, page = encoded(twins, "forward", selection, *TRF)
    assert abs(metrics["r"]) < 0.5 and "Receptive fields: MelSpectrum" in page and "Best units" in page
    metrics, page = encoded(twins, "backward", selection, *TRF, "trf.direction=backward", "trf.candidates=segments")
    assert metrics["top10"] < 3 * metrics["top10_chance"] and metrics["n"] > 5
    assert "Reconstructed features" in page and "Accuracy by subject" in page


@pytest.mark.slow
def test_a_network_encodes_the_simulated_brain(tmp_path):
    metrics, page = encoded(tmp_path, "network", "simulated", *ATTENTION, "selections.simulated.subjects=2",
                            "selections.simulated.sessions=1", "selections.simulated.minutes=2.5",
                            "selections.simulated.snr=1.0", "selections.simulated.rate=100.", "optim.epochs=12",
                            "optim.lr=1e-2", "dset.lowpass=8")
    assert metrics["r_low"] > 0.05 and "Scores on the head" in page and "Attention of gru_attention" in page
