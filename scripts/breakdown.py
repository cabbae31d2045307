"""Where the accuracy of a decoder comes from: words, sensors, time, and what predicts its probabilities.

    python -m scripts.breakdown SIG [--parts words sensors time probabilities] [--device auto] …

Evaluates the XP if that is not done (as `scripts.run_eval_probs` does), and writes tables and figures beside it, in
`<dora.dir>/eval/signatures/SIG`; the report shows them.

    words          breakdown.csv: accuracy by class, frequency, place and length of the word, density of speech, subject
    sensors        sensors.csv: what is lost when a sensor (--by region: a region) has what it recorded elsewhere in the
                   recording (--how shuffle), or its mean (--how mean)
    time           timing.csv: with the brain up to a time, and in windows of --width s, every --step s
    probabilities  explained.csv: R of linear models of the probability of the true segment, from phonemes, frequency,
                   part of speech, and embeddings: --word-feature (WordEmbedding, which needs spaCy's vectors) of words
                   and bags of words, --text-model (a language model in features_models) of phrases
"""
import argparse
import logging
import os
from pathlib import Path
from typing import Any

PARTS = {"words": "breakdown", "sensors": "sensors", "time": "timing", "probabilities": "explained"}


def main(argv: list[str] | None = None) -> list[Path]:
    """Writes the tables and returns their paths."""
    parser = argparse.ArgumentParser(prog="python -m scripts.breakdown", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sig", help="signature of the XP")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="all of them by default")
    parser.add_argument("--by", choices=["sensor", "region"], default="sensor", help="what is spoiled at once")
    parser.add_argument("--how", choices=["shuffle", "mean"], default="shuffle", help="what it has instead")
    parser.add_argument("--segments", type=int, default=1000, help="test segments for sensors and time (1000; 0: all)")
    parser.add_argument("--step", type=float, default=0.25, help="s between windows (0.25)")
    parser.add_argument("--width", type=float, default=0.5, help="s, of sliding windows (0.5)")
    parser.add_argument("--word-feature", default="WordEmbedding", help="feature of single words, or none")
    parser.add_argument("--text-model", help="language model for phrases (none)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    from bm.analysis.xp import NotRestorable, find_xp
    try:
        return write(find_xp(args.sig), args)
    except (NotRestorable, ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None


def write(xp: Any, args: argparse.Namespace) -> list[Path]:
    """Makes the parts that were asked for."""
    import pandas as pd

    from bm.analysis.breakdown import breakdown
    from bm.analysis.evaluate import Evaluation, evaluate
    from bm.analysis.explain import explain, families
    from bm.analysis.importance import sensor_importance
    from bm.analysis.plots.breakdown import figure_of
    from bm.analysis.timing import accuracy_in_time
    from bm.features import FeatureContext
    from bm.train import main as train
    folder = Path(train.dora.dir) / "eval" / "signatures" / xp.sig
    if not (folder / "complete.json").exists():
        evaluate(xp, Evaluation(device=args.device), folder)
    draws = {"n_boot": xp.get("test.n_boot", 2000), "seed": xp.get("seed", 0)}
    solver = xp.restore(args.device) if {"sensors", "time"} & set(args.parts) else None
    segments = args.segments or None
    paths = []
    for part in args.parts:
        if part == "words":
            table = breakdown(folder, **draws)
        elif part == "probabilities":
            context = FeatureContext(xp.root / xp.config["features_models"], args.device)
            word = None if args.word_feature == "none" else args.word_feature
            table = explain(folder, families(word, args.text_model, context), **draws)
        elif part == "sensors":
            table = sensor_importance(solver, by=args.by, how=args.how, n_segments=segments)
        else:
            table = accuracy_in_time(solver, step=args.step, width=args.width, n_segments=segments)
        path = folder / f"{PARTS[part]}.csv"
        table.to_csv(path, index=False)
        figure = figure_of(PARTS[part], pd.read_csv(path, keep_default_na=False, na_values=[""]))
        if figure is not None:
            figure.savefig(path.with_suffix(".png"))
        print(f"{os.path.relpath(path)}: {len(table)} rows" + (", figure beside it" if figure is not None else ""))
        paths.append(path)
    return paths


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
