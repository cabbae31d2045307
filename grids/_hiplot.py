"""What HiPlot shows of a sweep: `uri=GRID explorer=MainHP`."""
import math
from pathlib import Path
from typing import Any

import hiplot
from dora.hiplot import HiPlotExplorer, roundf
from dora.xp import XP

#: config groups: an XP that keeps the default of one has no value for it
GROUPS = {folder.name for folder in (Path(__file__).parents[1] / "conf").iterdir() if folder.is_dir()}


class MainHP(HiPlotExplorer):
    """Losses with five decimals, and the test stage in % where it ran."""

    def process_history(self, xp: XP, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One flat dict per epoch; `best_loss` is the lowest validation loss so far."""
        points, best = [], math.inf
        for metrics in history:
            best = min(best, metrics["valid"]["loss"])
            point = {"train_loss": roundf(metrics["train"]["loss"], 5),
                     "valid_loss": roundf(metrics["valid"]["loss"], 5), "best_loss": roundf(best, 5)}
            test = metrics.get("test", {})
            point |= {name: roundf(100 * test[name], 2) for name in ("wer_vocab", "top10") if name in test}
            points.append(point)
        return points

    def postprocess_exp(self, exp: hiplot.Experiment) -> None:
        """Makes every value one that the page can show, and draws validation loss over epochs."""
        for point in exp.datapoints:
            for name, value in point.values.items():
                if isinstance(value, dict):
                    point.values[name] = value.get("name", str(value))
                elif value is None and name in GROUPS:
                    point.values[name] = "(default)"
        exp.display_data(hiplot.Displays.XY).update(
            {"axis_x": "epoch", "axis_y": "valid_loss", "lines_thickness": 1.0, "lines_opacity": 1.0})
