"""What the tables of `dora grid` show."""
from dora import Explorer
from treetable import group, leaf
from treetable.table import _Node


class DecodeExplorer(Explorer):
    """Losses, and the share of test segments found among the best k candidates."""

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
