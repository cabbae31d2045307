"""Evaluation that one can publish: the probability of every candidate for every test segment, and what was said there.

Unlike the test within training it takes all test recordings and keeps the whole distribution. Memory does not grow
with the number of segments: candidates and probabilities lie on disk, estimates are made and used batch by batch.
"""
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from bm.analysis.controls import CONTROLS, OtherData, check_control
from bm.analysis.describe import describe
from bm.analysis.unseen import check_subject_layer, place_subjects
from bm.analysis.xp import NotRestorable, StoredXP
from bm.data.assemble import Data
from bm.metrics.probabilities import OnDisk, frequency_prior, write_probabilities
from bm.metrics.retrieval import Retrieval
from bm.metrics.stats import bootstrap_interval, permutation_chance
from bm.progress import with_progress
from bm.solvers.base import write_atomic
from bm.solvers.linear import LinearSolver
from bm.solvers.trf_segments import TrfSegments
from bm.store import stable_id

if TYPE_CHECKING:
    from bm.solvers.decode import DecodeSolver

logger = logging.getLogger(__name__)

MARKER, STUDIES = "complete.json", "studies.json"


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    Args:
        n_negatives: at most so many candidates, drawn with the XP's seed; test segments whose own one is not drawn are
            left out. None: all different test segments.
        n_recordings: the first so many test recordings (with `multistudy`, of each study); None: all.
        multistudy: each study by itself, with its own candidates, in a folder of its own.
        control: one of `bm.analysis.controls.CONTROLS`, or "none".
        subject_layer: the personal weights of test subjects who were not trained on, one of
            `bm.analysis.unseen.SUBJECT_LAYERS`.
        load_batch_size: segments that go through the network at once.
        probs_batch_size: rows of probabilities that are computed at once; None: as many as 1 GiB allows.
        device: where.
    """

    n_negatives: int | None = 20000
    n_recordings: int | None = None
    multistudy: bool = False
    control: str = "none"
    subject_layer: str = "own"
    load_batch_size: int = 100
    probs_batch_size: int | None = None
    device: str = "auto"

    def folder(self, signature: Path, study: str | None = None) -> Path:
        """Where it is written: `<signature>[/<study>][/nrec_<n>][/control_<name>][/subject_layer_<how>]`."""
        parts = [study, self.n_recordings and f"nrec_{self.n_recordings}",
                 None if self.control == "none" else f"control_{self.control}",
                 None if self.subject_layer == "own" else f"subject_layer_{self.subject_layer}"]
        return signature.joinpath(*[part for part in parts if part])

    def identity(self, xp: StoredXP) -> dict[str, Any]:
        """What decides the result, for the marker of a finished evaluation: settings, and which state was best."""
        own = asdict(self)
        losses = [epoch["valid"]["loss"] for epoch in xp.history if "valid" in epoch]
        return {key: own[key] for key in ("n_negatives", "n_recordings", "multistudy", "control")} | {
            "loss": min((loss for loss in losses if loss == loss), default=None)}

    def finished(self, xp: StoredXP, signature: Path) -> list[Path]:
        """Folders of this evaluation, if all of it is done; else none.

        Errors: ValueError if it was done with other settings, or before further training.
        """
        folders = [self.folder(signature)]
        if self.multistudy:
            listed = signature / STUDIES
            folders = [self.folder(signature, study) for study in json.loads(listed.read_text())] \
                if listed.exists() else []
        if not folders or not all((folder / MARKER).exists() for folder in folders):
            return []
        expected = self.identity(xp)
        for folder in folders:
            found = json.loads((folder / MARKER).read_text())["identity"]
            other = [f"{key}: {found.get(key)} there, {expected[key]} now" for key in expected
                     if found.get(key) != expected[key]]
            if other:
                raise ValueError(f"{folder} was evaluated otherwise ({'; '.join(other)}): overwrite=true does it anew")
        return folders


def evaluate(xp: StoredXP, how: Evaluation, signature: Path, overwrite: bool = False, progress: bool = True
             ) -> list[Path]:
    """Evaluates an XP into its folder `signature` and returns the folders written, or those that were done already.

    Each has solver_config.yaml, probs_segment.npy `(N, V)`, vocab_segment.npy `(V,)`, metadata.parquet (N rows),
    acc.csv, negative_stats.csv, data.csv (what the splits hold), and last of all complete.json. Files are written
    aside and renamed.

    Raises:
        NotRestorable: the XP has no network that could be run, or none whose estimates are compared with candidates.
        ValueError: an unknown control; no test segment left; an evaluation with other settings is there.
    """
    check_control(how.control)
    check_subject_layer(how.subject_layer)
    done = [] if overwrite else how.finished(xp, signature)
    if done:
        return done
    solver = xp.restore(how.device, how.load_batch_size, linear=True)
    if isinstance(solver, LinearSolver | TrfSegments) and (how.control == "untrained" or how.subject_layer != "own"):
        logger.warning("%s: ridge regression has no state before its training and no personal weights: %s is left out",
                       xp.sig, how.folder(Path(xp.sig)))
        return []
    if any(feature.n_classes for feature in solver.data.spec.features):
        raise NotRestorable("it estimates classes, which are not compared with candidates")
    data = solver.data  # candidates stay what they are, whatever the control
    table = test_table(data)
    if how.control != "none":
        CONTROLS[how.control](solver)
    place_subjects(solver, how.subject_layer)
    parts = [(None, table)] if not how.multistudy else list(table.groupby("study", sort=True))
    folders = []
    for study, part in parts:
        folder = how.folder(signature, study)
        logger.info("%s: %s", xp.sig, folder)
        _evaluate(solver, data, part, how, folder, progress)
        _write(folder / "solver_config.yaml", OmegaConf.to_yaml(OmegaConf.create(xp.config)))
        _write(folder / MARKER, json.dumps({"identity": how.identity(xp)}))
        folders.append(folder)
    if how.multistudy:
        _write(signature / STUDIES, json.dumps([study for study, _ in parts]))
    return folders


def _write(path: Path, text: str) -> None:
    write_atomic(path, text.encode())


def test_table(data: Data) -> pd.DataFrame:
    """All test segments, in order: rows of the segment table, and the columns of metadata.parquet."""
    table = data.segments[data.segments["split"] == "test"]
    recordings = [data.recordings[r] for r in table["recording"]]
    names = np.asarray(data.spec.subjects)[np.asarray(data.subjects)[table["recording"]]]
    ids = {text: stable_id(text) for column in (table["word"].str.lower(), table["sentence"]) for text in column}
    ids[""] = -1
    return table.rename(columns={"recording": "recording_id"}).assign(
        segment_hashes=table["candidate"], word_hashes=table["word"].str.lower().map(ids),
        word_indices=table["word_index"].astype(np.int64), seq_indices=table["sentence"].map(ids),
        word_segment_strings=words_inside(data, table), word_strings=table["word"],
        phoneme_segment_strings=_inside(data, table, "phoneme"), language=_of_words(data, table, "language"),
        pos=_of_words(data, table, "pos"),
        subject_id=np.asarray(data.subjects)[table["recording"]], subject_uid=names,
        recording_uid=[recording.uid for recording in recordings],
        study=[recording.study for recording in recordings],
        subject=[recording.subject for recording in recordings],
        recording=[recording.name for recording in recordings]).rename_axis("segment").reset_index()


def words_inside(data: Data, table: pd.DataFrame) -> list[str]:
    """The words of which at least one sample lies in each test segment, joined by spaces."""
    return _inside(data, table, "word")


def _inside(data: Data, table: pd.DataFrame, kind: str) -> list[str]:
    """The labels (column `kind`) of events of that kind that last into each test segment, joined by spaces."""
    rate = round(data.spec.sample_rate)
    samples = data.windows["test"].samples(rate)
    said = pd.Series("", index=table.index)
    for recording, own in table.groupby("recording"):
        events = data.events[recording]
        events = events[events["kind"] == kind]
        start = np.rint(events["start"].to_numpy() * rate)
        stop = np.rint((events["start"] + events["duration"]).to_numpy() * rate)
        text = events[kind].to_numpy(str) if len(events) else np.zeros(0, str)
        for segment, first in own["first"].items():
            said[segment] = " ".join(text[(start < first + samples) & (stop > first)])
    return said.tolist()


def _of_words(data: Data, table: pd.DataFrame, column: str) -> list[str]:
    """A column of the word event that triggered each test segment, "" where there is none."""
    rate, told = round(data.spec.sample_rate), pd.Series("", index=table.index)
    for recording, own in table.groupby("recording"):
        events = data.events[recording]
        words = events[(events["kind"] == "word") & events.get(column, pd.Series(dtype=str)).notna()]
        of = dict(zip(np.rint(words["start"] * rate).astype(int), words[column].astype(str), strict=True)) if len(
            words) else {}
        told[own.index] = [of.get(sample, "") for sample in np.rint(own["time"] * rate).astype(int)]
    return told.tolist()


def _evaluate(solver: "DecodeSolver", data: Data, table: pd.DataFrame, how: Evaluation, folder: Path, progress: bool
              ) -> None:
    """Writes all that is computed into `folder`; candidates are those of `data`."""
    rows, candidates = choose(table, how, solver.cfg.seed)
    if isinstance(solver.data, OtherData):
        rows = rows[solver.data.partner[rows["segment"]] >= 0]
    if not len(rows):
        raise ValueError(f"{folder.name}: no test segment is left to evaluate, of {len(table)}")
    work = folder / ".unfinished"
    if work.exists():  # of an evaluation that was stopped
        shutil.rmtree(work)
    (folder / MARKER).unlink(missing_ok=True)
    work.mkdir(parents=True)
    vocabulary = candidates["candidate"].to_numpy()
    probabilities = np.lib.format.open_memmap(work / "probs_segment.npy", "w+", np.float32,
                                              (len(rows), len(vocabulary)))
    with solver.use_best(), with_progress(None, folder.name, len(rows), progress) as bar:
        columns = OnDisk.write(work / "candidates.npy", len(vocabulary),
                               (block.numpy() for block in solver.target_batches(candidates["segment"].to_numpy(),
                                                                                data.dataset("test"))))
        solver.scorer.eval()
        result = write_probabilities(
            probabilities, solver.estimates(rows["segment"].to_numpy()), columns, vocabulary,
            rows["candidate"].to_numpy(), segment=rows["segment"].to_numpy(), ks=solver.cfg.test.topk,
            loss=solver.scorer, rows=how.probs_batch_size, device=solver.device, advance=bar.update)
    probabilities.flush()
    (work / "candidates.npy").unlink()
    np.save(work / "vocab_segment.npy", vocabulary)
    rows.assign(**result.values).to_parquet(work / "metadata.parquet", index=False)
    accuracy(result, rows, solver.cfg.test.n_boot, solver.cfg.test.n_permutations, solver.cfg.seed).to_csv(
        work / "acc.csv", index=False)
    pd.DataFrame([{"n_test_samples": len(table), "n_test_vocab": table["word_hashes"].nunique(),
                   "n_test_segments": table["candidate"].nunique(), "n_neg_samples": len(rows),
                   "n_neg_segments": len(vocabulary)}]).to_csv(work / "negative_stats.csv", index=False)
    about = describe(data)
    about[about["study"].isin(table["study"])].to_csv(work / "data.csv", index=False)
    for path in sorted(work.iterdir()):
        os.replace(path, folder / path.name)
    work.rmdir()


def choose(table: pd.DataFrame, how: Evaluation, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The segments to evaluate, and the first one of each candidate."""
    table = table[table["recording_id"].isin(table["recording_id"].unique()[:how.n_recordings])]
    candidates = table.drop_duplicates("candidate")
    if how.n_negatives is not None and how.n_negatives < len(candidates):
        drawn = np.random.default_rng(seed).permutation(len(candidates))[:how.n_negatives]
        candidates = candidates.iloc[np.sort(drawn)]
    return table[table["candidate"].isin(candidates["candidate"])], candidates


def accuracy(result: Retrieval, rows: pd.DataFrame, n_boot: int, n_permutations: int, seed: int) -> pd.DataFrame:
    """One row for each k: `acc_segment` with its 95 % interval, and what chance and stimuli alone would give.

    Columns: `topk`, `acc_segment`, `low`, `high` (bootstrap over subjects, or subjects and blocks; NaN where there is
    one block alone), `n` segments among `n_candidates`, `n_subjects`, `chance`, `chance_low`, `chance_high`, `p`
    (pairings rotated within recordings), `prior` (the most frequent segments, without the brain).
    """
    subject, block = rows["subject_id"], rows["block"]
    null = permutation_chance(result, rows["recording_id"], block, rows["time"], n_permutations=n_permutations,
                              seed=seed) if n_permutations else None
    lines = []
    for k in result.ks:
        values = result.values[f"top{k}"]
        line = {"topk": k, "acc_segment": values.mean(), "low": np.nan, "high": np.nan, "n": len(rows),
                "n_candidates": result.n_candidates, "n_subjects": subject.nunique(), "chance": result.chance(k)}
        if block.nunique() > 1:
            interval = bootstrap_interval(values, subject, block, n_boot=n_boot, seed=seed)
            line |= {"low": interval.low, "high": interval.high}
        if null is not None:
            low, high = null.interval(k)
            line |= {"chance_low": low, "chance_high": high, "p": null.p_value(k)}
        lines.append(line | {"prior": frequency_prior(rows["candidate"], k)})
    return pd.DataFrame(lines)
