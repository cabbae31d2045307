"""What a trained EEG transformer attends to: maps, times, connections, and whether it needs what it attends to.

    python -m scripts.attention SIG [SIG …] [--split test] [--reference] [--bands 8-12 12-30] …

Writes `attention/<split>[_reference]` into each XP's folder, whole or not at all: segments.parquet (prediction,
confidence, label, subject of every segment), tokens.npy (rollout from the class token: segments × channels × tokens in
time), channels.npy, times.npy, layers.npy, between.npy (channel to channel), channels.csv, attention.json, figures,
connections.html (a head to turn; needs no network), deletion.csv (accuracy when the most attended tokens are deleted,
beside random ones), and for two conditions power.csv (correlation of the maps with their difference in band power).
Of several XPs with different band-pass filters, `<split>_bands` in the first one's folder has the maps of all; those of
one band (such as folds that leave out other people) are pooled in `<split>_pooled`.
"""
import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from bm.analysis.attention_power import compare, power_difference
from bm.analysis.attention_summary import (
    AttentionOptions,
    AttentionSummary,
    Folder,
    band_name,
    batch_size,
    batches,
    pool,
    save,
    summarise,
    transformer,
)
from bm.analysis.faithfulness import Deletion, deletion_curves, pool_deletions, save_deletion, verdict
from bm.analysis.head3d import head_html
from bm.analysis.plots.attention import (
    plot_attention_maps,
    plot_attention_time,
    plot_band_maps,
    plot_layer_maps,
    plot_power_maps,
)
from bm.analysis.plots.classification import plot_confusion, plot_deletion
from bm.analysis.xp import NotRestorable, StoredXP, find_xp
from bm.solvers.classify import ClassifySolver
from bm.solvers.classify_baseline import BaselineSolver, log_band_power


def restore(xp: StoredXP, device: str) -> ClassifySolver:
    """The solver of a classification with a network. Raises NotRestorable with the reason."""
    if xp.get("task.type") != "classify" or xp.get("classify.method") != "network":
        raise NotRestorable(f"task.type={xp.get('task.type')}, classify.method={xp.get('classify.method')} has no "
                            "attention: expected a network that classifies")
    solver = xp.restore(device)
    assert isinstance(solver, ClassifySolver) and not isinstance(solver, BaselineSolver)
    return solver


def parse_bands(texts: Sequence[str]) -> list[list[float]]:
    """`["8-12"]` → `[[8.0, 12.0]]`. Errors: ValueError for anything else."""
    bands = []
    for text in texts:
        try:
            low, high = (float(part) for part in text.split("-"))
        except ValueError:
            raise ValueError(f"--bands {text}: expected LOW-HIGH in Hz, e.g. 8-12") from None
        if not 0 <= low < high:
            raise ValueError(f"--bands {text}: expected 0 ≤ LOW < HIGH")
        bands.append([low, high])
    return bands


def fitting_bands(solver: ClassifySolver, asked: list[list[float]] | None) -> list[list[float]]:
    """The bands asked for, or those of `classify.bands` that the XP's filters let through.

    Errors: ValueError for a band asked for that they do not.
    """
    dset = solver.cfg.dset
    top = dset.lowpass or dset.sample_rate / 2
    outside = [band for band in asked or [] if band[1] > top or band[0] < dset.highpass]
    if outside:
        raise ValueError(f"bands {outside} are not inside {dset.highpass:g}–{top:g} Hz, which the filters of this XP "
                         "let through")
    return asked or [band for band in solver.cfg.classify.bands if dset.highpass <= band[0] and band[1] <= top]


def power_maps(solver: ClassifySolver, split: str, bands: list[list[float]], subject: np.ndarray) -> np.ndarray:
    """Difference of log band power between the second and the first class, `(bands, C)`."""
    parts, labels = [], []
    for batch in batches(solver, split, solver.data.ids(split), 256):
        assert batch.brain is not None and batch.target is not None
        x = batch.brain.cpu().double().numpy()
        parts.append(log_band_power(x, solver.data.spec.sample_rate, bands).reshape(len(x), x.shape[1], len(bands)))
        labels.append(batch.target.cpu().numpy())
    return power_difference(np.concatenate(parts), np.concatenate(labels), subject)


@dataclass(frozen=True)
class Found:
    """What is known of an XP: `deletion` of the segments `rows` of the summary; `power (bands, C)`, if it has two
    conditions."""

    summary: AttentionSummary
    deletion: Deletion
    rows: pd.DataFrame
    bands: list[list[float]]
    power: np.ndarray | None


def look(xp: StoredXP, options: AttentionOptions, bands: list[list[float]] | None, limit: int, device: str) -> Found:
    """Runs the network of an XP over the split."""
    solver = restore(xp, device)
    fitting, power = fitting_bands(solver, bands), None
    summary = summarise(solver, options)
    model, ids = transformer(solver), solver.data.ids(options.split)
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(limit, len(ids))).round().astype(int))
    size = batch_size(model, options.memory)
    with solver.use_best():
        solver.modules.eval()
        deletion = deletion_curves(solver.estimate, lambda: batches(solver, options.split, ids[chosen], size),
                                   torch.from_numpy(summary.tokens[chosen]), model.length, seed=solver.cfg.seed)
    if len(summary.classes) == 2:
        power = power_maps(solver, options.split, fitting, summary.segments["subject"].to_numpy())
    return Found(summary, deletion, summary.segments.iloc[chosen], fitting, power)


def figures(summary: AttentionSummary) -> dict[str, Figure]:
    """File → figure, of all but deletion and power."""
    out = {"confusion": plot_confusion(summary.confusion(), summary.classes)}
    if not len(summary.of()):
        print("  no maps: no segment was classified rightly with the confidence asked for (--all, --confidence)")
        return out
    out |= {"maps": plot_attention_maps(summary, len(summary.times) > 1), "layers": plot_layer_maps(summary)}
    if len(summary.times) > 1:
        out["time"] = plot_attention_time(summary)
    return out


def write_power(found: Found, folder: Path) -> pd.DataFrame | None:
    """power.csv, power.npy and a figure of each band; None unless there are two conditions, both with used segments."""
    summary, power = found.summary, found.power
    means = {label: mean.mean(1) for label, mean in summary.condition_means().items()}
    if power is None or len(means) < 2:
        print(f"  no comparison with band power: it needs two conditions with used segments, there are {list(means)}")
        return None
    first, second = means
    maps = {"all": np.mean(list(means.values()), axis=0), **means, f"{second} − {first}": means[second] - means[first]}
    table = compare(maps, power, found.bands, summary.positions)
    table.to_csv(folder / "power.csv", index=False)
    np.save(folder / "power.npy", power)
    for (low, high), figure in zip(found.bands, plot_power_maps(summary, power, table).values(), strict=True):
        figure.savefig(folder / f"power_{low:g}-{high:g}Hz.png")
    return table


def write(found: Found, path: Path, title: str, n_boot: int, seed: int) -> None:
    """All files of one XP, or of several pooled; prints what was found."""
    summary = found.summary
    print(f"{title}: {len(summary.segments)} segments, {summary.segments['correct'].mean():.1%} right, "
          f"{len(summary.of())} in the maps")
    with Folder(path) as folder:
        save(summary, folder)
        for name, figure in figures(summary).items():
            figure.savefig(folder / f"{name}.png")
        means = {label: summary.between[i] for i, label in enumerate(summary.classes) if len(summary.of(label))}
        if means:
            (folder / "connections.html").write_text(head_html(
                means, summary.channels, summary.positions, f"{title}: attention between electrodes, "
                f"{len(summary.of())} segments"), encoding="utf-8")
        result = verdict(found.deletion, found.rows["subject"].tolist(), found.rows["block"].tolist(), n_boot=n_boot,
                         seed=seed)
        save_deletion(found.deletion, result, folder)
        plot_deletion(found.deletion, result, len(summary.classes)).savefig(folder / "deletion.png")
        print(f"  {result}")
        table = write_power(found, folder)
        if table is not None:
            difference = " − ".join(reversed(summary.classes))
            print(f"  attention beside log band power ({difference}), Pearson's r over channels:")
            print("  " + table.round(3).to_string(index=False).replace("\n", "\n  "))
    print(f"  {os.path.relpath(path)}")


def write_together(xps: list[StoredXP], found: list[Found], options: AttentionOptions) -> None:
    """Of several XPs, into the first one's folder: maps of all bands, or, of one band (folds), all of them pooled."""
    home = xps[0].folder / "attention"
    bands = [band_name(xp) for xp in xps]
    if len(set(bands)) == len(bands):
        with Folder(home / f"{options.name}_bands") as folder:
            plot_band_maps(dict(zip(bands, [one.summary for one in found], strict=True))).savefig(folder / "bands.png")
        print(os.path.relpath(home / f"{options.name}_bands" / "bands.png"))
        return
    if len(set(bands)) > 1:
        raise ValueError(f"XPs of the bands {', '.join(bands)}: give XPs of one band (they are pooled), or of as many "
                         "bands as XPs (their maps are drawn side by side)")
    powers = [one.power for one in found if one.power is not None]
    together = Found(pool([one.summary for one in found]), pool_deletions([one.deletion for one in found]),
                     pd.concat([one.rows for one in found]), found[0].bands,
                     np.mean(powers, axis=0) if len(powers) == len(found) else None)
    write(together, home / f"{options.name}_pooled", f"{len(xps)} XPs, {options.split}", xps[0].get("test.n_boot"),
          xps[0].get("seed"))


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.attention", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sigs", nargs="+", metavar="SIG", help="signatures of XPs")
    parser.add_argument("--split", default="valid", choices=["train", "valid", "test"])
    parser.add_argument("--reference", action="store_true", help="rollout as in the original program")
    parser.add_argument("--head-fusion", choices=["mean", "max", "min"], help="default: mean; max with --reference")
    parser.add_argument("--all", action="store_true", help="maps of wrongly classified segments, too")
    parser.add_argument("--confidence", type=float, default=0.5, help="of segments in the maps, at least")
    parser.add_argument("--bands", nargs="+", metavar="LOW-HIGH", help="Hz, of the comparison with band power; by "
                        "default those of classify.bands that the filters let pass")
    parser.add_argument("--deletion-segments", type=int, default=1000, help="at most so many are used for deletion")
    parser.add_argument("--memory", type=int, default=512, help="MiB that the attention of a batch may take")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    try:
        options = AttentionOptions(args.split, args.reference, args.head_fusion, not args.all, args.confidence,
                                   args.memory * 2 ** 20)
        bands = parse_bands(args.bands) if args.bands else None
        xps, found = [find_xp(sig) for sig in args.sigs], []
        for xp in xps:
            found.append(look(xp, options, bands, args.deletion_segments, args.device))
            write(found[-1], xp.folder / "attention" / options.name, f"XP {xp.sig}, {options.split}",
                  xp.get("test.n_boot"), xp.get("seed"))
        if len(xps) > 1:
            write_together(xps, found, options)
    except (NotRestorable, ValueError, FileNotFoundError) as error:
        raise SystemExit(f"attention: {error}") from None


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    main()
