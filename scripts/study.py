"""Checks a local copy of a study, downloads one, or writes its twin.

    python -m scripts.study check NAME [--path P]      is it whole, and how well do its events fit? 1 if something fails
    python -m scripts.study download NAME [--dry-run]  fetch what is missing; or say what that is, and how to get access
    python -m scripts.study convert --trust FILE --sha256 HEX   a published pickle → Parquet or safetensors
    python -m scripts.study twin NAME FOLDER           a tiny dataset in the study's own formats, to try things with

NAME is a study or a selection of `conf/selections`, which `--set KEY=VALUE` changes (`check brennan2019 --set
onset_from_offset=false`). The folder is that of `conf/study_paths` (the environment variable BM_DATA), or `--path`.
Nothing is downloaded by `check`. Of a part of a study (some of its people, say) it checks what is there and counts
what is not; with `--whole` that fails.
"""
import argparse
import json
import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bm.studies import STUDIES, Study
from bm.studies.convert import convert
from bm.studies.files import download_folder
from bm.studies.quality import Quality, quality_of, worst
from bm.studies.sources import SOURCES, UNFINISHED, fetch, plan
from bm.studies.twins import FAULT_KINDS, TWINS, make_twin, twin_faults

CONF = Path(__file__).parents[1] / "conf"
#: facts that are numbers: how much a copy may differ
TOLERANCE = {"subjects": 0.0, "recordings": 0.0, "hours": 0.05, "sensors": 0.0, "rate": 0.0}
#: what the table of recordings shows, if any recording has it; shares as per cent
COLUMNS = {"sounds": "sounds", "words": "words", "phonemes": "phonemes", "matched": "anchors", "drift_ppm": "drift ppm",
           "residual_ms": "jitter ms", "audio_lag_ms": "lag ms", "gap_s": "gap s", "missed_triggers": "no trigger %",
           "spare_triggers": "no event %", "missing_words": "missing %", "doubled_words": "doubled %",
           "out_of_order": "order %", "outside_sounds": "outside %", "unmatched_words": "no text %"}
#: marks a folder as a twin, and says what it holds
TWIN = "twin.json"


def selection_of(name: str, options: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The study and the arguments of a selection, or of a study without one, changed by `key=value`.

    Raises:
        ValueError: an unknown name, or an option that is no `key=value`.
    """
    from omegaconf import OmegaConf
    known: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        OmegaConf.load(CONF / "selections/selections_definitions.yaml"))
    if name not in known and name not in STUDIES:
        raise ValueError(f"unknown study or selection {name!r}; known: {', '.join(sorted({*known, *STUDIES}))}")
    selection = dict(known.get(name, {"study": name}))
    if bad := [option for option in options if "=" not in option]:
        raise ValueError(f"{bad[0]!r}: expected key=value")
    selection |= OmegaConf.to_container(OmegaConf.from_dotlist(list(options)))  # type: ignore[arg-type, operator]
    return selection.pop("study"), selection


def folder_of(study: str, path: Path | None) -> Path:
    """`path`, or the folder that the config names."""
    from omegaconf import OmegaConf
    if path is not None:
        return path
    paths = OmegaConf.load(CONF / "study_paths/study_paths.yaml")
    if study not in paths:
        raise ValueError(f"conf/study_paths has no line for {study!r}: say --path")
    return Path(paths[study])


def table_text(rows: Iterable[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left, the others to the right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) if i else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in rows)


def expectation(study: Study, folder: Path) -> dict[str, Any]:
    """What the study's fact sheet promises; for a twin, what it says itself."""
    if (folder / TWIN).is_file():
        return json.loads((folder / TWIN).read_text())
    return {key: getattr(study.facts, key) for key in TOLERANCE} if study.facts else {}


def facts_table(expected: dict[str, Any], qualities: list[Quality], subjects: int
                ) -> tuple[str, list[str], list[str]]:
    """Expected and found numbers as text, those that are wrong, and how much is not here: where recordings are, fewer
    subjects and hours are no fault."""
    read = [quality for quality in qualities if quality.seconds is not None or quality.sensors is not None]
    found: dict[str, set[float]] = {
        "subjects": {subjects}, "recordings": {len(qualities)},
        "hours": {round(sum(quality.seconds or 0 for quality in read) / 3600, 4)},
        "sensors": {quality.sensors for quality in read if quality.sensors is not None},
        "rate": {quality.rate for quality in read if quality.rate is not None}}
    part = len(qualities) < expected.get("recordings", 0)
    rows, wrong, absent = [("", "expected", "found", "")], [], []
    for key, tolerance in TOLERANCE.items():
        want, said = expected.get(key), ""
        values = ", ".join(f"{value:g}" for value in sorted(found[key])) or "?"
        if want is not None and any(abs(value - want) > tolerance * want for value in found[key]):
            if part and key in ("subjects", "recordings", "hours") and max(found[key]) < want:
                said = "a part"
                absent.append(f"{want - max(found[key]):.4g} of {want:.4g} {key}")
            else:
                said = "FAIL"
                wrong.append(f"{key}: {values}, expected {want:g}")
        rows.append((key, "" if want is None else f"{want:.4g}", values, said))
    vocabulary = frozenset().union(*(quality.vocabulary for quality in qualities))
    rows += [(key, "", f"{value:.0f}", "") for key, value in {
        "words": sum(quality.measures.get("words", 0) for quality in qualities), "vocabulary": len(vocabulary)}.items()]
    return table_text(rows), wrong, absent


def quality_table(qualities: list[Quality]) -> str:
    """A row per recording: what was measured, and the worst of what is to be said about it."""
    shown = {key: title for key, title in COLUMNS.items() if any(key in quality.measures for quality in qualities)}
    rows = [("recording", "min", *shown.values(), "")]
    for quality in qualities:
        cells = []
        for key, title in shown.items():
            value = quality.measures.get(key)
            cells.append("" if value is None else f"{round(100 * value if title.endswith('%') else value, 3):.4g}")
        minutes = "" if quality.seconds is None else f"{quality.seconds / 60:.2f}"
        rows.append((quality.recording, minutes, *cells, quality.level))
    return table_text(rows)


def check(name: str, options: Sequence[str], path: Path | None, strict: bool, whole: bool) -> int:
    """Prints what a copy of a study holds and how well its events fit; 1 if something fails (`strict`: or warns;
    `whole`: or is not here)."""
    key, selection = selection_of(name, options)
    folder = folder_of(key, path)
    study = STUDIES[key](folder, **selection)
    print(f"study {key} in {folder}" + (" (a twin)" if (folder / TWIN).is_file() else ""))
    if study.facts:
        print(f"{study.facts.title}: {study.facts.citation}; {study.facts.licence}")
    try:
        recordings = list(study.recordings())
    except (OSError, ValueError) as error:
        print(f"fail: {error}")
        return 1
    qualities = [quality_of(recording) for recording in recordings]
    facts, wrong, absent = facts_table(expectation(study, folder), qualities, len({r.subject for r in recordings}))
    print(f"\n{facts}\n\n{quality_table(qualities)}\n")
    for quality in qualities:
        for finding in quality.findings:
            print(f"{finding.level}: {quality.recording}: {finding.measure}: {finding.text}")
    for text in wrong:
        print(f"fail: {text}")
    if any((place / UNFINISHED).exists() for place in (folder, download_folder(folder))):
        print(f"a download was interrupted: `python -m scripts.study download {name}` goes on with it")
    if absent:
        print(f"{'fail: ' if whole else ''}not here (or not in this selection): {', '.join(absent)}")
    levels = [quality.level for quality in qualities]
    counts = {level: levels.count(level) for level in ("ok", "warn", "fail")}
    print(f"{len(levels)} recordings: {counts['ok']} ok, {counts['warn']} with warnings, {counts['fail']} failed; "
          f"{len(wrong)} of the facts differ")
    level = worst([*levels, *(["fail"] if wrong or not levels or (whole and absent) else [])])
    return int(level == "fail" or (strict and level == "warn"))


def download(name: str, path: Path | None, subjects: list[str] | None, dry_run: bool) -> int:
    """Fetches what is missing, or says what would be fetched."""
    key, selection = selection_of(name, [])
    folder = folder_of(key, path)
    if key in SOURCES:
        if dry_run:
            print(plan(key, folder, subjects))
        else:
            print(f"study {key}: {fetch(key, folder, subjects, complete=True)} has all files")
        return 0
    if dry_run or subjects:
        raise ValueError(f"study {key} makes or fetches its own files as a whole: leave --dry-run and --subjects out")
    STUDIES[key](folder, **selection).prepare()
    print(f"study {key}: {folder} is ready")
    return 0


def twin(name: str, folder: Path, fault: str | None) -> int:
    """Writes a twin."""
    make_twin(name, folder, fault)
    marker = folder / TWIN
    if not marker.exists():
        marker.write_text(json.dumps({"study": name}))
    print(f"a twin of {name} is in {folder}" + (f", with the fault {fault}" if fault else "") +
          f": try `python -m scripts.study check {name} --path {folder}`")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m scripts.study", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    look = commands.add_parser("check", help="compare a local copy with the study's fact sheet")
    look.add_argument("name")
    look.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="options", help="change the selection")
    look.add_argument("--path", type=Path)
    look.add_argument("--strict", action="store_true", help="warnings fail, too")
    look.add_argument("--whole", action="store_true", help="a part of the study fails, too")
    load = commands.add_parser("download", help="fetch a study")
    load.add_argument("name")
    load.add_argument("--path", type=Path)
    load.add_argument("--subjects", nargs="+", metavar="SUBJECT", help="only what these need")
    load.add_argument("--dry-run", action="store_true", help="say what would be fetched, and how to get access")
    faults = sorted({fault for name in TWINS for fault in twin_faults(name)} | set(FAULT_KINDS))
    make = commands.add_parser("twin", help="write a tiny dataset in the study's formats")
    make.add_argument("name", choices=sorted(TWINS))
    make.add_argument("folder", type=Path)
    make.add_argument("--fault", choices=faults, help="what to get wrong")
    turn = commands.add_parser("convert", help="turn a pickle that you trust into a table or arrays")
    turn.add_argument("--trust", type=Path, required=True, metavar="FILE")
    turn.add_argument("--sha256", required=True, metavar="HEX", help="of the file that you trust")
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO if args.command == "download"
                        else logging.WARNING)
    try:
        if args.command == "check":
            return check(args.name, args.options, args.path, args.strict, args.whole)
        if args.command == "download":
            return download(args.name, args.path, args.subjects, args.dry_run)
        if args.command == "convert":
            print(f"{convert(args.trust, args.sha256)} is written")
            return 0
        return twin(args.name, args.folder, args.fault)
    except (OSError, ValueError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` ends quietly
    sys.exit(main())
