"""`dora grid` on a genuine SLURM of one machine, from a copy of the project with commits of its own."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LAB = [str(ROOT / "scripts/slurm_local.sh")]

GRID = """
from grids._explorers import DecodeExplorer
from grids.demo import SMALL

@DecodeExplorer
def explorer(launcher):
    launcher.slurm_(cpus_per_gpu=1, mem_per_gpu=1, time=30)
    launcher.bind_(SMALL)
    launcher.bind_({"optim.epochs": 2})
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment that speaks to a running SLURM of this machine; one that is started here ends with the tests."""
    paths = os.environ["PATH"] + ":/usr/sbin"
    programs = "slurmctld", "slurmdbd", "mariadbd", "munged"
    missing = [name for name in programs if shutil.which(name, path=paths) is None]
    if missing or os.getuid() != 0:
        problem = f"{', '.join(missing)} not found: make slurm" if missing else "only root may start one"
        (pytest.fail if os.environ.get("BM_REQUIRE_ALL") == "1" else pytest.skip)(f"no SLURM: {problem}")
    up = subprocess.run([*LAB, "status"], capture_output=True).returncode == 0
    (_, assignment) = shlex.split(subprocess.check_output([*LAB, "env"], text=True))
    name, _, value = assignment.partition("=")
    # what somebody has stopped there is kept
    stop = ["stop"] if Path(value).exists() else ["stop", "--wipe"]
    try:
        if not up:
            subprocess.run([*LAB, "start", "--allow-root"], check=True)
        # BM_…: the project's own folders, which are relative paths
        yield {key: text for key, text in os.environ.items() if not key.startswith("BM_")} | {
            name: value, "OMP_NUM_THREADS": "1"}
    finally:
        if not up:
            subprocess.run([*LAB, *stop], check=True)


@dataclass
class Project:
    """A copy of the project in which `dora` is called."""

    root: Path
    env: dict[str, str]

    def call(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True)

    def read(self, *command: str) -> str:
        done = self.call(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)

    def grid(self, *arguments: str) -> str:
        return self.read(sys.executable, "-m", "dora", "grid", *arguments)

    def write_grid(self, name: str, *lines: str) -> None:
        (self.root / f"grids/{name}.py").write_text(GRID + "".join(f"    {line}\n" for line in lines))

    def xp(self, dummy: str) -> Path:
        """The folder of the XP with that `dummy`."""
        paths = (self.root / "outputs/xps").glob("*/.argv.json")
        (path,) = (path for path in paths if f'dummy="{dummy}"' in json.loads(path.read_text()))
        return path.parent

    def job(self, folder: Path) -> str:
        return json.loads((folder / "job.json").read_text())["job_id"]

    def log(self, folder: Path) -> str:
        return (folder / "submitit" / f"{self.job(folder)}_0_log.out").read_text()

    def sacct(self, folder: Path, column: str) -> str:
        """What the accounting says of the last job of an XP."""
        lines = self.read("sacct", "-nPX", "-j", self.job(folder), "-o", column).splitlines()
        return lines[0].split(" ")[0] if lines else ""

    def wait(self, folder: Path, wanted: str) -> None:
        """Until the last job of an XP is in the state `wanted`."""
        self.until(lambda: self.sacct(folder, "State") == wanted,
                   lambda: f"{self.sacct(folder, 'State')} instead of {wanted}: {self.log(folder)[-2000:]}")

    def until(self, ready: Callable[[], bool], problem: Callable[[], str]) -> None:
        end = time.monotonic() + 240  # for a busy machine
        while not ready():
            assert time.monotonic() < end, problem()
            time.sleep(0.2)


def history(folder: Path) -> list[dict]:
    """The metrics of an XP, but for how long they took."""
    path = folder / "history.json"
    epochs = json.loads(path.read_text()) if path.exists() else []
    for stage in (stage for epoch in epochs for stage in epoch.values()):
        stage.pop("duration")
    return epochs


@pytest.fixture(scope="module")
def project(slurm, tmp_path_factory) -> Project:
    root = tmp_path_factory.mktemp("slurm") / "project"
    for name in ("bm", "conf", "grids", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    shutil.copy(ROOT / ".gitignore", root)
    config = root / "conf/config.yaml"
    text = config.read_text()
    assert "git_save: false" in text
    config.write_text(text.replace("git_save: false", "git_save: true"))
    project = Project(root, slurm)
    project.read("git", "init", "-q")
    for key, value in [("user.name", "test"), ("user.email", "test@localhost"), ("commit.gpgsign", "false")]:
        project.read("git", "config", key, value)
    commit(project)
    return project


def commit(project: Project) -> str:
    project.read("git", "add", "-A")
    project.read("git", "commit", "-qm", "a change")
    return project.read("git", "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def demo(project) -> list[Path]:
    """Two XPs of the demo grid, trained as a job array."""
    said = project.grid("demo", "0", "7", "-i", "0.03")
    assert said.count("Scheduled job") == 2 and "COM" in said
    return [link.resolve() for link in (project.root / "outputs/grids/demo").iterdir()]


def test_demo_grid_as_a_job_array(project, demo):
    jobs = sorted(project.job(folder) for folder in demo)
    assert [job.split("_")[1] for job in jobs] == ["0", "1"] and len({job.split("_")[0] for job in jobs}) == 1
    for folder in demo:
        assert project.sacct(folder, "State") == "COMPLETED"
        assert len(history(folder)) == 6 and (folder / "result.json").exists()
    again = project.grid("demo", "0", "7", "--no_monitoring")
    assert "Scheduled" not in again and again.count("COM") == 2
    # relative paths start where the command was typed, not in the clone in which jobs run
    assert not list((project.root / "outputs/codes").glob("*/data")) and (project.root / "data").is_dir()


def test_the_same_without_slurm(project, demo, tmp_path):
    here = Project(project.root, project.env | {"BM_OUTPUTS": str(tmp_path)})
    here.read(sys.executable, "-m", "scripts.run_grid", "demo", "0", "7", "--jobs", "2")
    assert {path.name for path in (tmp_path / "xps").iterdir()} == {folder.name for folder in demo}
    for folder in demo:
        assert history(tmp_path / "xps" / folder.name) == history(folder)


def test_evaluation_as_jobs(project, demo):
    asked = "cpus_per_task=1", "timeout_min=10", "slurm_mem_per_gpu=1GB", "n_negatives=50"
    said = project.read(sys.executable, "-m", "scripts.run_eval_probs", "grid_name=demo", "distributed=true", *asked)
    assert "2 jobs" in said
    jobs = sorted((project.root / "outputs/eval/jobs").glob("*_submission.sh"))
    assert len(jobs) == 1 and "--array=0-1" in jobs[0].read_text()
    for folder in demo:
        assert f"signatures/{folder.name}: top-10" in said
        assert (project.root / "outputs/eval/signatures" / folder.name / "complete.json").exists()


def test_a_removed_line_is_cancelled_and_a_failed_one_tried_again(project, demo):
    # an XP that continues another, which does not exist yet
    failing = 'launcher.slurm(gpus=0)({"continue_sig": "abcd1234", "dummy": "failing"})'
    endless = 'launcher.slurm(gpus=0)({"optim.epochs": 100000, "early_stop_patience": 0, "dummy": "endless"})'
    project.write_grid("edited", failing, endless)
    project.grid("edited", "--no_monitoring")
    project.wait(project.xp("failing"), "FAILED")
    assert "continue_sig=abcd1234: no checkpoint.th of it" in project.log(project.xp("failing"))
    project.until(lambda: bool(history(project.xp("endless"))), lambda: project.log(project.xp("endless")))
    first = project.job(project.xp("failing"))

    project.write_grid("edited", failing)
    said = project.grid("edited", "--no_monitoring")
    assert f"Canceling job {project.job(project.xp('endless'))}" in said and "Scheduled" not in said
    project.wait(project.xp("endless"), "CANCELLED")
    assert project.job(project.xp("failing")) == first

    (project.root / "outputs/xps/abcd1234").mkdir()
    shutil.copy(demo[0] / "checkpoint.th", project.root / "outputs/xps/abcd1234")
    project.grid("edited", "-r", "-i", "0.03")
    assert project.job(project.xp("failing")) != first
    assert project.sacct(project.xp("failing"), "State") == "COMPLETED" and len(history(project.xp("failing"))) == 2


def test_at_its_time_limit_a_job_is_put_back_and_resumes_exactly(project, demo):
    # without an end of their own: SLURM looks at the limits twice a minute, whatever an epoch takes
    endless = '{"optim.epochs": 100000, "early_stop_patience": 0, "eval_every": 1000000, "dummy": "%s"}'
    project.write_grid("limited", *(f"launcher.slurm(gpus=0)({endless % name})" for name in ("whole", "cut")))
    project.grid("limited", "--no_monitoring")
    cut, whole = project.xp("cut"), project.xp("whole")
    project.until(lambda: len(history(cut)) > 1, lambda: project.log(cut))
    # SLURM warns jobs 90 s before their end
    project.read("scontrol", "update", f"JobId={project.job(cut)}", "TimeLimit=1")
    project.until(lambda: "Exiting gracefully after preemption/timeout" in project.log(cut),
                  lambda: project.log(cut)[-2000:])
    at = len(history(cut))
    assert at > 1 and not (cut / "failed.json").exists()
    # SLURM keeps the limit for the next start
    longer = "scontrol", "update", f"JobId={project.job(cut)}", "TimeLimit=30"
    project.until(lambda: project.call(*longer).returncode == 0, lambda: project.call(*longer).stderr)
    project.until(lambda: min(len(history(cut)), len(history(whole))) >= at + 20, lambda: project.log(cut)[-2000:])
    project.write_grid("limited")
    assert project.grid("limited", "--no_monitoring").count("Canceling job") == 2
    assert re.search(rf"resumed after epoch ({at}|{at - 1}) from checkpoint", project.log(cut))
    assert "resumed after" not in project.log(whole)
    assert history(cut)[:at + 20] == history(whole)[:at + 20]


def test_a_job_that_dora_lost_sight_of_is_ended(project, demo):
    """As when Dora is killed between sending a job and writing its number down; without a terminal."""
    job = project.read("sbatch", "--parsable", "--job-name=bm_lost", "--output=/dev/null", "--wrap=sleep 600").strip()
    (project.root / "outputs/orphans/bm_lost").touch()
    said = project.read("setsid", "-w", sys.executable, "-m", "dora", "info", "-f", demo[0].name)
    assert f"Found orphan job ids ['{job}']" in said and not list((project.root / "outputs/orphans").iterdir())
    project.until(lambda: "CANCELLED" in project.read("sacct", "-nPX", "-j", job, "-o", "State"),
                  lambda: project.read("squeue"))


def test_several_gpus_are_as_many_processes(project, demo):
    # what each process drops is drawn by itself
    whole = '{"simpleconv.conv_dropout": 0.0, "simpleconv.merger_dropout": 0.0, "dummy": "%s"}'
    project.write_grid("two", *(f"launcher.slurm(gpus={n})({whole % name})" for n, name in ((2, "two"), (0, "one"))))
    project.grid("two", "-i", "0.03")
    two, one = project.xp("two"), project.xp("one")
    assert "gres/gpu=2" in project.sacct(two, "AllocTRES") and "gres" not in project.sacct(one, "AllocTRES")
    assert "Distributed init: 0/2" in project.log(two)
    for a, b in zip(history(two), history(one), strict=True):
        assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-4)


def test_a_queued_xp_keeps_its_code(project, demo):
    project.write_grid("frozen", 'launcher.slurm(gpus=0)(dummy="before")')
    before = commit(project)
    code = project.root / "bm/train.py"
    text = code.read_text()
    broken = text.replace('    xp = get_xp()\n', '    raise RuntimeError("the new code")\n')
    assert broken != text
    code.write_text(broken)
    refused = project.call(sys.executable, "-m", "dora", "grid", "frozen", "--no_monitoring")
    assert refused.returncode != 0 and "Repository is not clean" in refused.stderr and "bm/train.py" in refused.stderr
    code.write_text(text)

    project.read("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        project.grid("frozen", "--no_monitoring")
        code.write_text(broken)
        commit(project)
    finally:
        project.read("scontrol", "update", "PartitionName=main", "State=UP")
    project.wait(project.xp("before"), "COMPLETED")
    assert (project.xp("before") / "code").resolve().name == before
    # the control: an XP that is queued now has the new code
    project.write_grid("frozen", 'launcher.slurm(gpus=0)(dummy="before")', 'launcher.slurm(gpus=0)(dummy="after")')
    project.grid("frozen", "--no_monitoring")
    project.wait(project.xp("after"), "FAILED")
    assert "the new code" in project.log(project.xp("after"))
    code.write_text(text)
