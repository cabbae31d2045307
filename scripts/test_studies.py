"""The main job on the twin of each study: from the files to the report, as a user types it."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
