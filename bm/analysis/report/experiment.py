"""What the XP is and how it was trained."""
import html
import importlib.metadata
import platform
import sys
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from bm.analysis.plots.training import curve_names, plot_curves
from bm.analysis.report.parts import Part, note, paragraph, percent, table, table_html
from bm.analysis.xp import StoredXP
from bm.solvers.base import duration

_PACKAGES = ["bm", "torch", "torchaudio", "numpy", "scipy", "pandas", "mne", "transformers", "matplotlib", "hydra-core",
             "dora-search"]


def status(xp: StoredXP) -> str:
    """How far it is, in words."""
    if xp.result is not None:
        return "finished"
    return f"not finished: {len(xp.history)} of at most {xp.get('optim.epochs', '?')} epochs are done"


def best_epoch(xp: StoredXP) -> int | None:
    """The epoch (from 1) with the lowest validation loss, the first of them."""
    if xp.result is not None:
        return xp.result.get("best_epoch")
    losses = [epoch.get("valid", {}).get("loss") for epoch in xp.history]
    known = {i: loss for i, loss in enumerate(losses, 1) if loss is not None and loss == loss}
    return min(known, key=lambda i: known[i]) if known else None


def _compared(xp: StoredXP) -> dict[str, Any]:
    """What the brain is compared with, and by what: what the task uses alone."""
    task, features = xp.get("task.type"), ", ".join(xp.get("dset.features", []))
    if task in ("ridge", "rsa"):
        own = xp.get("encoding")
        kinds = [kind for kind in ("permuted", "random") if own.get(kind)]
        layers = [str(name) for name in (xp.test or {}).get("dimensionality", {})]
        return {"network": own.get("model") or own.get("activations"),
                "weights": {(): "trained", ("permuted",): "permuted"}.get(tuple(kinds), "untrained (random)"),
                "items": f"{own.get('items', 'sound')}s", "layers": f"{len(layers)}: {', '.join(layers)}" if layers else
                None}
    if task == "trf":
        lags = [xp.get(f"trf.{end}") for end in ("tmin", "tmax")]
        return {"features": features, "model": f"temporal response function, {xp.get('trf.direction')}",
                "lags": None if None in lags else f"{1000 * lags[0]:g} to {1000 * lags[1]:g} ms"}
    if task == "encode" and xp.get("model_name") == "encoder":
        return {"features": features, "encoder": xp.get("encoder.name")}
    if task in ("linear_decode", "linear_encode"):
        return {"features": features, "model": "ridge regression"}
    return {"features": features, "model": xp.get("model_name")}


def overview(xp: StoredXP) -> list[Part]:
    """What it is, how far, and how good."""
    seconds = sum(stage.get("duration", 0.0) for epoch in xp.history for stage in epoch.values())
    rows: dict[str, Any] = {
        "signature": xp.sig,
        "status": status(xp),
        "changes to the base config": " ".join(xp.overrides) or "none",
        "task": xp.get("task.type"),
        "studies": ", ".join(xp.get("dset.selections", [])),
        **_compared(xp),
        "epochs": f"{len(xp.history)}, best: {best_epoch(xp)}" if xp.history else None,
        "time of all epochs": duration(seconds) if seconds else None,
    }
    test = xp.test or {}
    for k in reversed(xp.get("test.topk", [])):
        if f"top{k}" in test and f"top{k}_chance" in test:
            rows[f"top-{k} accuracy"] = (f"{percent(test[f'top{k}'])} (chance {percent(test[f'top{k}_chance'])}, "
                                         f"{test.get('n', '?')} test segments)")
            break
    if "balanced_accuracy" in test:
        rows["balanced accuracy"] = (f"{percent(test['balanced_accuracy'])} (chance {percent(test['chance'])}, "
                                     f"{test.get('n', '?')} test segments)")
    shown = pd.DataFrame([(key, value) for key, value in rows.items() if value])
    return [Part("What it is", table_html(shown, header=False))]


def config(xp: StoredXP) -> list[Part]:
    """The overrides, then everything else, folded."""
    lines = "\n".join(xp.overrides) or "none: the base config"
    whole = html.escape(OmegaConf.to_yaml(OmegaConf.create(xp.config)))
    return [Part("Changes to the base config", f"<pre>{html.escape(lines)}</pre>"),
            Part("Whole config", "<details><summary>as stored when the XP was made</summary>"
                                 f"<pre>{whole}</pre></details>")]


def training(xp: StoredXP) -> list[Part]:
    """Curves of training and validation."""
    if not curve_names(xp.history):
        return []
    return [Part("Training and validation", plot_curves(xp.history, best_epoch(xp)), f"Training is {status(xp)}.")]


def leak_audit(xp: StoredXP) -> list[Part]:
    """What the splits share."""
    if xp.audit is None:
        return [note("No leak audit", "The XP's folder has no audit.csv, so nothing is known about leaks.")]
    shared = xp.audit[["brain_s", "stimulus_s"]].to_numpy().sum()
    verdict = ("No two splits share a second of brain or of stimulus." if shared == 0 else
               f"SPLITS SHARE DATA ({shared:g} s of brain or stimulus): no score here can be trusted.")
    texts = int(xp.audit["texts"].sum())
    if texts:
        verdict += f" {texts} sentences are in two splits, in other recordings of the same words."
    return [table("What splits share", xp.audit.rename(columns={
        "a": "split a", "b": "split b", "segments_a": "segments of a", "segments_b": "segments of b",
        "brain_s": "shared brain (s)", "stimulus_s": "shared stimulus (s)", "subjects": "shared subjects",
        "texts": "shared sentences"}), verdict)]


def environment(xp: StoredXP) -> list[Part]:
    """Versions of what made the report."""
    rows = [("made on", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")), ("Python", sys.version.split()[0]),
            ("machine", f"{platform.system()} {platform.machine()}")]
    for name in _PACKAGES:
        rows.append((name, importlib.metadata.version(name)))
    text = paragraph("Of the machine that made this report; the XP may have been trained on another one.")
    return [Part("Versions", table_html(pd.DataFrame(rows), header=False) + text)]
