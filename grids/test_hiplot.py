"""What HiPlot gets: losses, the lowest so far, percentages where the test ran, and nothing a page cannot show."""
import json

import hiplot

from grids._hiplot import MainHP


def epoch(train: float, valid: float, **test: float) -> dict:
    # "best" as the solver says it is not asked: histories of other solvers lack it
    return {"train": {"loss": train}, "valid": {"loss": valid}} | ({"test": test} if test else {})


def test_metrics():
    history = [epoch(2.1234567, 3.0), epoch(1.5, 2.5, wer_vocab=0.81234, top10=0.2), epoch(1.0, float("nan")),
               epoch(1.0, 2.7, corr_MelSpectrum=0.1)]
    points = MainHP().process_history(None, history)
    assert points[0] == {"train_loss": 2.12346, "valid_loss": 3.0, "best_loss": 3.0}
    assert points[1] == {"train_loss": 1.5, "valid_loss": 2.5, "best_loss": 2.5, "wer_vocab": 81.23, "top10": 20.0}
    assert [point["best_loss"] for point in points] == [3.0, 2.5, 2.5, 2.5] and set(points[3]) == set(points[0])


def test_every_value_can_be_shown():
    exp = hiplot.Experiment()
    values = [{"feature_model": None, "optim.loss": "clip", "seed": 1, "dset.n_subjects": None},
              {"feature_model": "deep_mel", "optim.loss": {"name": "mse"}, "simpleconv.hidden": {"meg": 64}, "seed": 2}]
    exp.datapoints = [hiplot.Datapoint(uid=str(i), values=dict(one)) for i, one in enumerate(values)]
    MainHP().postprocess_exp(exp)
    found = [point.values for point in exp.datapoints]
    assert found[0] == {"feature_model": "(default)", "optim.loss": "clip", "seed": 1, "dset.n_subjects": None}
    assert found[1]["optim.loss"] == "mse" and found[1]["simpleconv.hidden"] == "{'meg': 64}"
    exp.validate()
    shown = json.loads(json.dumps(exp._asdict()))["display_data"]["XY"]
    assert shown == {"axis_x": "epoch", "axis_y": "valid_loss", "lines_thickness": 1.0, "lines_opacity": 1.0}
