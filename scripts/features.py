"""Features: fetches the networks, fills the cache ahead, shows what a feature says.

    python -m scripts.features fetch NAME [--to FOLDER]
        a model of the Hugging Face hub (facebook/wav2vec2-large-xlsr-53) into the folder of `features_models`
    python -m scripts.features compute [OVERRIDES …] [--slurm] [--partition P] [--gpus N] [--minutes M]
        all data of that XP (dset.features=[Wav2VecTransformer] …), so that its start finds it in the cache; with
        --slurm as an array of jobs, one per feature
    python -m scripts.features show SIG|FILE [--features A,B] [--start S] [--seconds S] [--out X.png]
        a picture of features over time above words and phonemes: of an XP, as its model sees them in its first
        recording; of a sound file, at their own rates (words and phonemes from the TextGrid beside it, if there is one)
"""
import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

_SETTINGS = ["*.json", "*.txt", "*.model"]


def fetch(name: str, folder: Path) -> Path:
    """Downloads a model's settings and weights (safetensors where there are any) unless they are there; returns its
    folder."""
    from huggingface_hub import list_repo_files, snapshot_download

    from bm.features.model_files import WEIGHTS, find_model, is_whole
    target = folder / name.replace("/", "--")
    if is_whole(target):
        print(f"{name} is there already; to fetch it anew, remove {target}", file=sys.stderr)
        return target
    print(f"asking the Hugging Face hub for {name} …", file=sys.stderr)
    try:
        files = list_repo_files(name)
        weights = next((p for p in WEIGHTS if any(Path(file).match(p) for file in files)), None)
        if weights is None:
            raise SystemExit(f"{name} has no weights ({' or '.join(WEIGHTS)}) on the Hugging Face hub")
        snapshot_download(name, local_dir=target, allow_patterns=[*_SETTINGS, weights])
    except Exception as error:  # of a library below huggingface_hub, which is another one in each version
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise SystemExit(f"cannot fetch {name!r} from the Hugging Face hub: {first.rstrip('.')}. Is the name right "
                         f"(org/name), and the network there? A folder copied to {target} does as well") from error
    return find_model(name, folder)


def submit(argv: list[str], cluster: str, partition: str | None, gpus: int, minutes: int) -> None:
    """Makes the features of the XP of these overrides in an array of jobs, one per feature; waits for all.

    Raises:
        SystemExit: a job failed; the message has its last line.
    """
    import submitit
    from dora.git_save import to_absolute_path

    from bm.config import check_config, to_plain
    from bm.train import main as train
    cfg = check_config(to_plain(train.get_xp(argv).cfg))
    executor = submitit.AutoExecutor(Path(to_absolute_path(cfg.cache)) / "jobs", cluster=cluster)
    executor.update_parameters(name="features", gpus_per_node=gpus, cpus_per_task=4, timeout_min=minutes,
                               **({} if partition is None else {"slurm_partition": partition}))
    with executor.batch():
        jobs = [executor.submit(compute, [*argv, f"dset.features=[{name}]"]) for name in cfg.dset.features]
    print(f"{len(jobs)} jobs, logs in {executor.folder}")
    failed = []
    for name, job in zip(cfg.dset.features, jobs, strict=True):
        error = job.exception()
        print(f"{name}: {'done' if error is None else 'failed'} (job {job.job_id})")
        if error is not None:
            lines = str(error).splitlines()  # a traceback, and where the logs are
            failed.append(f"{name}: " + next((line for line in reversed(lines) if "Error: " in line), lines[-1]))
    if failed:
        raise SystemExit("\n".join(failed))


def compute(argv: list[str]) -> None:
    """Makes all data of the XP of these overrides, and says what its features are."""
    from dora.git_save import to_absolute_path

    from bm.config import check_config, to_plain
    from bm.data.assemble import assemble
    from bm.train import main as train
    begin = time.monotonic()
    cfg = check_config(to_plain(train.get_xp(argv).cfg))
    data = assemble(cfg, Path(to_absolute_path(".")))
    for bank in data.banks:
        n, dim = bank.rows.shape
        print(f"{bank.feature.name}: {n:,} rows of {dim} ({bank.rows.dtype}, {bank.rows.nbytes / 1e6:.1f} MB)")
    print(f"{len(data.recordings)} recordings, {len(data.banks)} features: {time.monotonic() - begin:.1f} s")


def show(what: str, names: list[str], start: float, seconds: float, out: Path) -> None:
    """Writes the picture."""
    from bm.analysis.plots.features import plot_features
    tracks, events, start = (_of_file if Path(what).is_file() else _of_xp)(what, names, start, seconds)
    stop = start + min(seconds, max(len(rows) / rate for _, rows, rate in tracks))
    out.parent.mkdir(parents=True, exist_ok=True)
    plot_features(tracks, events, start, stop).savefig(out)
    print(f"{out}: {', '.join(name for name, _, _ in tracks)}, {start:g} to {stop:g} s")


Tracks = tuple[list[tuple[str, np.ndarray, float]], pd.DataFrame, float]


def _of_file(path: str, names: list[str], start: float, seconds: float) -> Tracks:
    """Features of a sound file, with the parameters of the base config."""
    import soundfile
    from dora.git_save import to_absolute_path

    from bm.config import check_config, to_plain
    from bm.features import FeatureContext, SoundFeature, build_feature
    from bm.features.audio import read_audio
    from bm.train import main as train
    cfg = check_config(to_plain(train.get_xp([]).cfg))
    context = FeatureContext(Path(to_absolute_path(cfg.features_models)), cfg.device)
    audio, rate = read_audio(path, start, min(start + seconds, soundfile.info(path).duration))
    tracks = []
    for name in names or cfg.dset.features:
        feature = build_feature(name, cfg.dset.features_params.get(name, {}), context)
        if not isinstance(feature, SoundFeature):
            raise SystemExit(f"{name} describes {feature.kind} events, of which a sound file has none: show an XP")
        tracks.append((name, feature.compute(audio, rate), feature.rate))
    return tracks, _textgrid(Path(path).with_suffix(".TextGrid")), start


def _textgrid(path: Path) -> pd.DataFrame:
    """Words and phonemes of a TextGrid as events; none where there is no file."""
    from bm.studies.textgrid import read_textgrid
    tables = [pd.DataFrame(columns=["kind", "start", "duration", "word", "phoneme"])]
    for name, tier in (read_textgrid(path) if path.is_file() else {}).items():
        kind = "word" if "word" in name.lower() else "phoneme" if "phon" in name.lower() else ""
        said = tier[tier["text"].str.strip() != ""]
        if kind:
            tables.append(pd.DataFrame({"kind": kind, "start": said["start"], "duration": said["stop"] - said["start"],
                                        kind: said["text"]}))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _of_xp(sig: str, names: list[str], start: float, seconds: float) -> Tracks:
    """Features as an XP's model sees them, from `start` s after its first recording's first block."""
    from dora.git_save import to_absolute_path

    from bm.analysis.plots.features import tracks_of
    from bm.analysis.xp import find_xp
    from bm.config import check_config
    from bm.data.assemble import assemble
    try:
        stored = find_xp(sig).folder / "config.json"
    except FileNotFoundError as error:
        raise SystemExit(f"{sig!r} is no file, and there is {error}") from None
    if not stored.is_file():
        raise SystemExit(f"{sig!r} is neither a file nor an XP that was started: no {stored}")
    cfg = check_config(json.loads(stored.read_text()))
    if cfg.task.type in ("ridge", "rsa"):
        raise SystemExit(f"XP {sig} (task.type={cfg.task.type}) compares layers of a network with the brain: it has no "
                         f"features over time. Its curves: python -m scripts.layers {sig}; or show a sound file")
    try:
        return tracks_of(assemble(cfg, Path(to_absolute_path("."))), names, start, seconds)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"XP {sig}: {error}") from None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.features", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("fetch", help="download a model")
    one.add_argument("name", help="org/name")
    one.add_argument("--to", type=Path, default=Path("features_models"), help="folder (./features_models)")
    one = commands.add_parser("compute", help="fill the cache ahead")
    one.add_argument("overrides", nargs="*", help="of the config, as for dora run")
    one.add_argument("--slurm", dest="cluster", action="store_const", const="slurm", help="an array of SLURM jobs")
    one.add_argument("--cluster", choices=["slurm", "local"], help="where jobs run; local: processes of this machine")
    one.add_argument("--partition")
    one.add_argument("--gpus", type=int, default=1, help="per job")
    one.add_argument("--minutes", type=int, default=1200, help="time limit of a job")
    one = commands.add_parser("show", help="draw features over time")
    one.add_argument("what", metavar="SIG|FILE")
    one.add_argument("--features", default="", help="names, with commas between (those of the config)")
    one.add_argument("--start", type=float, default=0.0, help="s")
    one.add_argument("--seconds", type=float, default=10.0)
    one.add_argument("--out", type=Path, default=Path("features.png"))
    args = parser.parse_args(argv)
    if args.command == "fetch":
        print(fetch(args.name, args.to))
    elif args.command == "compute" and args.cluster:
        submit(args.overrides, args.cluster, args.partition, args.gpus, args.minutes)
    elif args.command == "compute":
        compute(args.overrides)
    else:
        show(args.what, [name for name in args.features.split(",") if name], args.start, args.seconds, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
