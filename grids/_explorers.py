"""What the tables of `dora grid` and `scripts/run_grid.py` show."""
import os
import sys
from typing import Any

from dora import Explorer
from treetable import group, leaf
from treetable.table import _Node


class DecodeExplorer(Explorer):
    """Losses, and the share of test segments found among the best k candidates."""

    def get_colors(self) -> list[str] | None:
        """None in files and pipes, and where the environment says NO_COLOR."""
        return super().get_colors() if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else None

    def get_grid_metrics(self) -> list[_Node]:
        return [
            group("train", [leaf("epoch"), leaf("loss", ".4f")], align=">"),
            group("valid", [leaf("loss", ".4f"), leaf("best", ".4f")], align=">"),
            group("test", [leaf(name, ".3f") for name in ("top1", "top5", "top10")], align=">"),
        ]

    def process_history(self, history: list[dict]) -> dict:
        """The last value of each metric; those of the test stage may be of an earlier epoch than the losses."""
        out: dict = {"train": {"epoch": len(history)}, "valid": {}, "test": {}}
        for metrics in history:
            for stage, values in metrics.items():
                out.setdefault(stage, {}).update(values)
        return out


class ClipExplorer(DecodeExplorer):
    """The paper's tables: which study, and words beside segments (`wer` is 1 minus the accuracy among all words)."""

    def get_grid_metrics(self) -> list[_Node]:
        return [group("data", [leaf("study")]), *super().get_grid_metrics()[:2],
                group("test", [leaf(name, ".3f") for name in ("top1", "top10", "wer", "wer_vocab")], align=">")]

    def process_sheep(self, sheep: Any, history: list[dict]) -> dict:
        """As `process_history`, with the selections of the XP's config."""
        return {**self.process_history(history), "data": {"study": "+".join(sheep.xp.cfg.dset.selections)}}


class LayerExplorer(DecodeExplorer):
    """The best layer of a network and how well it predicts."""

    def get_grid_metrics(self) -> list[_Node]:
        return [group("test", [leaf("best_name"), leaf("r", ".3f"), leaf("r2", ".3f"), leaf("independent_r2", ".3f"),
                               leaf("position", ".2f")], align=">")]


class ClassifyExplorer(DecodeExplorer):
    """What classifiers reach on segments of people or blocks that were held out."""

    def get_grid_metrics(self) -> list[_Node]:
        return [*super().get_grid_metrics()[:2],
                group("test", [leaf(name, ".3f") for name in ("balanced_accuracy", "roc_auc", "macro_f1", "p")],
                      align=">")]


class EncodeExplorer(DecodeExplorer):
    """How well responses are predicted, and of those to repeated stimuli how well as a part of what could be."""

    def get_grid_metrics(self) -> list[_Node]:
        return [group("train", [leaf("epoch"), leaf("loss", ".4f")], align=">"),
                group("valid", [leaf("r", ".3f")], align=">"),
                group("test", [leaf(name, ".3f") for name in ("r", "r_low", "r_high", "r2", "ccnorm")], align=">")]
