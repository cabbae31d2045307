"""Probabilities of all candidates for all test segments of trained XPs, with accuracies, chance and what was said.

    python -m scripts.run_eval_probs 'sigs=[SIG,SIG]' | grid_name=nmi.main_table [key=value …]

Writes `<dora.dir>/eval/signatures/<sig>[/<study>][/nrec_<n>][/control_<name>][/subject_layer_<how>]`:
solver_config.yaml, probs_segment.npy (segments × candidates), vocab_segment.npy (ids of the candidates),
metadata.parquet (a row per segment), acc.csv and negative_stats.csv. What is done is skipped. Keys, with defaults:

    sigs=null                signatures to evaluate
    grid_name=null           or all XPs of a grid that have a checkpoint (grids/nmi/main_table.py is nmi.main_table)
    exclude_sigs=null        but for these
    overwrite=false          true: do again what is done
    n_negatives=20000        at most so many candidates, drawn once; segments whose own is not drawn are left out
    n_recordings=null        the first so many test recordings
    multistudy=false         true: each study by itself
    control=none             noise_brain, reversed_brain, other_subject, untrained, or all: none and each of these
    subject_layer=own        weights of test subjects who were not trained on: own (what training left), average (of the
                             trained ones) or nearest (of the one whose brain data are most alike)
    device=auto
    load_batch_size=100      segments that go through the network at once
    probs_batch_size=null    rows of probabilities that are computed at once; null: as many as 1 GiB allows
    distributed=false        true: one SLURM job per XP, with slurm_partition, slurm_array_parallelism=100,
                             gpus_per_node=1, cpus_per_task=4, timeout_min=4320, slurm_job_name=eval_bm,
                             slurm_mem_per_gpu=500GB
    cluster=slurm            what runs the jobs: slurm, or local (processes) and debug (this one), to try it out
"""
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError

from bm.analysis.controls import CONTROLS, check_control
from bm.analysis.evaluate import Evaluation, evaluate
from bm.analysis.grids import grid_signatures
from bm.analysis.unseen import check_subject_layer
from bm.analysis.xp import NotRestorable, StoredXP, find_xp
from bm.config import nearest
from bm.progress import with_progress
from bm.train import main as train_main

Count = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """The keys of the command."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sigs: list[str] | None = None
    grid_name: str | None = None
    exclude_sigs: list[str] | None = None
    overwrite: bool = False
    n_negatives: Annotated[int, Field(ge=2)] | None = 20000
    n_recordings: Count | None = None
    multistudy: bool = False
    control: str = "none"
    subject_layer: str = "own"
    device: str = "auto"
    load_batch_size: Annotated[int, Field(ge=2)] = 100
    probs_batch_size: Count | None = None
    distributed: bool = False
    cluster: Literal["slurm", "local", "debug"] = "slurm"
    slurm_partition: str | None = None
    slurm_array_parallelism: Count = 100
    gpus_per_node: Annotated[int, Field(ge=0)] = 1
    cpus_per_task: Count = 4
    timeout_min: Count = 4320
    slurm_job_name: str = "eval_bm"
    slurm_mem_per_gpu: str = "500GB"

    @model_validator(mode="after")
    def _coherent(self) -> "Options":
        if (self.sigs is None) == (self.grid_name is None):
            raise ValueError("give either sigs=[…] or grid_name=…")
        if self.control != "all":
            check_control(self.control)
        check_subject_layer(self.subject_layer)
        return self

    @property
    def evaluations(self) -> list[Evaluation]:
        """What is done with each XP."""
        controls = ["none", *CONTROLS] if self.control == "all" else [self.control]
        return [Evaluation(self.n_negatives, self.n_recordings, self.multistudy, control, self.subject_layer,
                           self.load_batch_size, self.probs_batch_size, self.device) for control in controls]


def parse(argv: list[str]) -> Options:
    """The options of a command line. Errors: SystemExit with one line that says what is wrong."""
    plain: dict[str, Any] = {}
    for arg in argv:
        key, equals, value = arg.partition("=")
        if not equals:
            raise SystemExit(f"cannot read the argument {arg!r}: expected key=value")
        if key not in Options.model_fields:
            raise SystemExit(f"unknown key {key!r}{nearest(key, Options.model_fields)}; there are: "
                             + ", ".join(Options.model_fields))
        if key in ("sigs", "exclude_sigs", "grid_name"):  # 34219380 and 557e5081 are no numbers
            names = [name.strip(" '\"") for name in value.strip("[] ").split(",") if name.strip()]
            plain[key] = value if key == "grid_name" else None if value == "null" else names
            continue
        try:
            plain |= OmegaConf.to_container(OmegaConf.from_cli([arg]))  # type: ignore[operator]
        except (OmegaConfBaseException, YAMLError) as error:
            raise SystemExit(f"cannot read {arg!r}: {str(error).splitlines()[0]}") from None
    try:
        return Options.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            raise SystemExit(str(first["ctx"]["error"])) from None
        raise SystemExit(f"{first['loc'][0]}={json.dumps(first['input'])}: {first['msg'].lower()}") from None


def find_xps(options: Options) -> list[StoredXP]:
    """The XPs to evaluate. Errors: SystemExit if there is no such XP, or none with a checkpoint in the grid."""
    excluded = set(options.exclude_sigs or [])
    try:
        sigs = options.sigs
        if sigs is None:
            sigs = grid_signatures(str(options.grid_name), Path(train_main.dora.dir))
        found = [find_xp(sig) for sig in sigs if sig not in excluded]
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    if not found:
        raise SystemExit(f"nothing is left to evaluate: {len(sigs)} XPs, of which {len(excluded)} are excluded")
    if options.sigs is not None:
        return found
    ready = [xp for xp in found if (xp.folder / "checkpoint.th").exists()]
    if not ready:
        raise SystemExit(f"none of the {len(found)} XPs of the grid {options.grid_name} has a checkpoint yet")
    if len(ready) < len(found):
        print(f"{len(found) - len(ready)} of {len(found)} XPs have no checkpoint yet and are left out")
    return ready


def run_one(xp: StoredXP, evaluations: list[Evaluation], home: Path, overwrite: bool, progress: bool = True
            ) -> list[Path] | str:
    """Folders of the evaluations of an XP, or why it could not be evaluated."""
    try:
        return [folder for how in evaluations for folder in evaluate(xp, how, home / xp.sig, overwrite, progress)]
    except (NotRestorable, ValueError, FileNotFoundError) as error:
        return f"XP {xp.sig} was not evaluated: {error}"


def submit(xps: list[StoredXP], options: Options, home: Path) -> list[list[Path] | str]:
    """One job per XP, through submitit; waits for all."""
    import submitit
    executor = submitit.AutoExecutor(home.parent / "jobs", cluster=options.cluster)
    executor.update_parameters(
        name=options.slurm_job_name, gpus_per_node=options.gpus_per_node, cpus_per_task=options.cpus_per_task,
        timeout_min=options.timeout_min, slurm_array_parallelism=options.slurm_array_parallelism,
        slurm_mem_per_gpu=options.slurm_mem_per_gpu,
        **({} if options.slurm_partition is None else {"slurm_partition": options.slurm_partition}))
    with executor.batch():
        jobs = [executor.submit(run_one, xp, options.evaluations, home, options.overwrite, False) for xp in xps]
    print(f"{len(jobs)} jobs, logs in {executor.folder}")
    return [_result(job, xp) for job, xp in zip(with_progress(jobs, "jobs"), xps, strict=True)]


def _result(job: Any, xp: StoredXP) -> list[Path] | str:
    error = job.exception()
    return job.result() if error is None else f"XP {xp.sig}: job {job.job_id} failed: {str(error).splitlines()[-1]}"


def main(argv: list[str] | None = None) -> list[Path]:
    """Evaluates and returns the folders; the process fails in the end if an XP could not be evaluated."""
    options = parse(sys.argv[1:] if argv is None else argv)
    xps = find_xps(options)
    home = Path(train_main.dora.dir) / "eval" / "signatures"
    if options.distributed:
        results = submit(xps, options, home)
    else:
        results = [run_one(xp, options.evaluations, home, options.overwrite)
                   for xp in with_progress(xps, "XPs", show=len(xps) > 1)]
    folders: list[Path] = []
    for result in results:
        if isinstance(result, str):
            print(result, file=sys.stderr)
        else:
            folders += result
    for folder in folders:
        _show(folder)
    if any(isinstance(result, str) for result in results):
        raise SystemExit(1)
    return folders


def _show(folder: Path) -> None:
    import pandas as pd
    for row in pd.read_csv(folder / "acc.csv").itertuples():
        print(f"{folder.parent.name}/{folder.name}: top-{row.topk} {row.acc_segment:.1%} [{row.low:.1%}, "
              f"{row.high:.1%}], chance {row.chance:.2%}, {row.n} segments of {row.n_subjects} subjects among "
              f"{row.n_candidates}")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
    else:
        main()
