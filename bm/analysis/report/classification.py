"""Classification: what was taken for what, by whom, and what the network attends to."""
import pandas as pd

from bm.analysis.attention_summary import AttentionOptions, AttentionSummary, batch_size, batches, summarise
from bm.analysis.faithfulness import deletion_curves, verdict
from bm.analysis.plots.attention import plot_attention_maps, plot_attention_time
from bm.analysis.plots.classification import plot_confusion, plot_deletion
from bm.analysis.report.parts import Part, note, percent, table
from bm.analysis.xp import NotRestorable, StoredXP
from bm.models.eeg_transformer import EEGTransformer
from bm.solvers.classify import ClassifySolver

TITLE = "Attention of the class token"
#: segments whose tokens are deleted: a report should not take longer than the training
DELETED = 200


def _interval(test: dict, name: str) -> str:
    limits = [test.get(f"{name}_{side}") for side in ("low", "high")]
    value = percent(test[name])
    return value if None in limits else f"{value} [{percent(limits[0])}, {percent(limits[1])}]"  # type: ignore[arg-type]


def classes(xp: StoredXP) -> list[Part]:
    """The confusion matrix and a row per subject, of the test stage."""
    confusion, people = (xp.folder / f"test_{name}.csv" for name in ("confusion", "subjects"))
    if xp.get("task.type") != "classify" or not confusion.exists():
        return []
    counts, test = pd.read_csv(confusion, index_col=0), xp.test or {}
    caption = ""
    if "balanced_accuracy" in test:
        caption = f"Balanced accuracy {_interval(test, 'balanced_accuracy')}, chance {percent(test['chance'])}"
        if "chance_low" in test:
            caption += (f" (permuted labels: 95 % between {percent(test['chance_low'])} and "
                        f"{percent(test['chance_high'])}, p = {test['p']:.3g})")
        caption += "."
    parts = [Part("Confusion matrix", plot_confusion(counts.to_numpy(), [str(name) for name in counts]), caption)]
    if people.exists():
        rows = pd.read_csv(people)
        numbers = rows.columns.difference(["subject", "n"], sort=False)
        shown = rows.assign(**{name: [percent(x) if x == x else "–" for x in rows[name]] for name in numbers})
        parts.append(table("By subject", shown.rename(columns={name: name.replace("_", " ") for name in rows}),
                           "–: the subject lacks a class."))
    return parts


def attention(xp: StoredXP) -> list[Part]:
    """Maps of the attention on the test segments, and whether the network needs what it attends to."""
    if xp.get("task.type") != "classify" or xp.get("classify.method") != "network" \
            or xp.get("model_name") != "eeg_transformer":
        return []
    try:
        solver = xp.restored()
        assert isinstance(solver, ClassifySolver) and isinstance(solver.model, EEGTransformer)
        summary = summarise(solver, AttentionOptions("test"))
    except (NotRestorable, ValueError) as error:
        return [note(TITLE, f"No map: the network cannot be run again, because {error}.")]
    caption = (f"Rollout of {summary.layers.shape[1]} layers, mean over test segments that were classified rightly "
               f"with a probability of at least 0.5 ({len(summary.of())} of {len(summary.segments)}); state of the "
               f"best epoch. More, and a head to turn: python -m scripts.attention {xp.sig}")
    if not len(summary.of()):
        return [note(TITLE, "No map: no test segment was classified rightly with a probability of at least 0.5.")]
    parts = [Part(TITLE, plot_attention_maps(summary), caption)]
    if len(summary.times) > 1:
        parts.append(Part("Attention over time", plot_attention_time(summary), "Shaded: ± 1 standard error."))
    return [*parts, _deletion(solver, summary)]


def _deletion(solver: ClassifySolver, summary: AttentionSummary) -> Part:
    """The curves of deletion of the first test segments of each class in turn."""
    import torch
    assert isinstance(solver.model, EEGTransformer)
    turn = summary.segments.groupby("label").cumcount().sort_values(kind="stable").index[:DELETED]
    rows = summary.segments.loc[turn.sort_values()]
    ids, size = rows["segment"].to_numpy(), batch_size(solver.model, AttentionOptions().memory)
    with solver.use_best():
        solver.modules.eval()
        curves = deletion_curves(solver.estimate, lambda: batches(solver, "test", ids, size),
                                 torch.from_numpy(summary.tokens[rows.index]), solver.model.length, draws=1)
    found = verdict(curves, rows["subject"].tolist(), rows["block"].tolist(), n_boot=solver.cfg.test.n_boot)
    return Part("Deletion", plot_deletion(curves, found, len(solver.classes)),
                f"Tokens of {len(rows)} test segments replaced by their mean over segments, in three orders. The area "
                "between the curves of random and most-attended-first deletion of the probability of the true class, "
                "with its 95 % bootstrap interval over subjects and blocks, decides the title.")
