"""Every section, on a hand-made XP: the numbers in the report are those of the files."""
import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure

from bm.analysis.report import SECTIONS, make_report
from bm.analysis.report.experiment import best_epoch, config, leak_audit, overview, training
from bm.analysis.report.parts import Part
from bm.analysis.report.results import PERCENTILES, choose, examples, metrics, subjects, top_candidates
from bm.analysis.report.sensors import attention_weights, most_concentrated, spatial_attention
from bm.analysis.report.stimulus import features
from bm.analysis.xp import NotRestorable, StoredXP, find_xp
from bm.batch import BatchSpec, FeatureSpec
from bm.config import to_plain
from bm.losses import ClipLoss
from bm.metrics.stats import bootstrap_interval
from bm.models import build_model
from bm.models.blocks.spatial import Montages, SpatialAttention
from bm.test_config import CONF

V, PEOPLE = 12, 3


def segment_rows() -> pd.DataFrame:
    """`V` different segments heard by `PEOPLE` people in 4 blocks; ranks by a fixed stream."""
    rng = np.random.default_rng(0)
    rows = [{"word": f"word{i}", "sentence": f"word{i} <b> of a sentence", "stimulus": "s", "stimulus_start": float(i),
             "stimulus_stop": i + 3.0, "block": f"b{i % 4}", "candidate": 100 + i, "recording": p, "subject": p,
             "split": "test"} for p in range(PEOPLE) for i in range(V)]
    table = pd.DataFrame(rows)
    rank = rng.integers(1, V + 1, len(table)).astype(float)
    return table.assign(segment=table.index, rank=rank, **{f"top{k}": (rank <= k).astype(float) for k in (1, 5, 10)})


class Stub(StoredXP):
    """An XP whose solver is given."""

    solver: Any = None

    def restored(self) -> Any:
        if self.solver is None:
            raise NotRestorable("it is a stub")
        return self.solver

    def use(self, solver: Any) -> Any:
        object.__setattr__(self, "solver", solver)
        return solver


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_plain(compose("config", ["optim.lr=5e-4", "test.n_boot=100", "optim.epochs=40"]))


@pytest.fixture
def folder(tmp_path, plain) -> Path:
    """A finished XP."""
    folder = tmp_path / "xps" / "0a1b2c3d"
    folder.mkdir(parents=True)
    table = segment_rows()
    table.to_parquet(folder / "test_segments.parquet")
    test: dict[str, Any] = {"n": len(table), "n_candidates": V, "n_nan": 0, "description": "different segments"}
    for k in (1, 5, 10):
        value = table[f"top{k}"].mean()
        test |= {f"top{k}": value, f"top{k}_chance": k / V, f"top{k}_low": value - 0.05, f"top{k}_high": value + 0.05}
    test |= {"mrr": 0.3217, "median_rank": 6.5, "correlation": 0.0123}
    history = [{"train": {"loss": 3.0, "duration": 60.0}, "valid": {"loss": 3.1, "duration": 5.0}},
               {"train": {"loss": 2.0, "duration": 60.0}, "valid": {"loss": 2.5, "duration": 5.0}, "test": test}]
    write(folder, config=plain, history=history, result={"epochs": 2, "best_epoch": 2, "best_loss": 2.5, "test": test})
    (folder / ".argv.json").write_text(json.dumps(["optim.lr=5e-4", "test.n_boot=100"]))
    pd.DataFrame([{"a": "train", "b": "test", "segments_a": 50, "segments_b": 36, "brain_s": 0.0, "stimulus_s": 0.0,
                   "subjects": 3, "texts": 2, "example": "the <old> ferry"}]).to_csv(folder / "audit.csv", index=False)
    return folder


@pytest.fixture
def xp(folder, tmp_path) -> Stub:
    return Stub(folder, tmp_path)


def text_of(parts: list[Part]) -> str:
    """All HTML and captions, without the tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", " ".join(
        f"{part.title} {part.caption} {part.content if isinstance(part.content, str) else ''}" for part in parts)))


def figures(parts: list[Part]) -> list[Figure]:
    return [part.content for part in parts if isinstance(part.content, Figure)]


def network(layout: np.ndarray, merger: bool = True, **options: Any) -> Any:
    """A stand-in for a restored solver: a small untrained model, estimates that are noisy targets."""
    table = segment_rows()
    spec = BatchSpec(len(layout), 20, 10.0, 0.0, ("toy/a", "toy/b", "toy/c"), (FeatureSpec("mel", 3, 10.0),))
    torch.manual_seed(0)
    model = build_model("simpleconv", spec, 3, hidden=8, depth=1, merger=merger, merger_channels=6, merger_pos_dim=8,
                        subject_dim=0, complex_out=True, **options)
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(V, 3, 20, generator=generator)
    noise = torch.randn(len(table), 3, 20, generator=generator)
    estimates = targets[table["candidate"].to_numpy() - 100] + noise
    montages = SimpleNamespace(layout=np.stack([layout] * PEOPLE).astype(np.float32),
                               valid=np.ones((PEOPLE, len(layout)), dtype=bool))
    recordings = [SimpleNamespace(name=f"toy/r{i}") for i in range(PEOPLE)]
    bank = SimpleNamespace(feature=SimpleNamespace(name="mel"), gather=lambda at, n, pool: np.eye(3)[None].repeat(n, 1))
    events = pd.DataFrame({"kind": ["word"], "start": [0.5], "duration": [0.3], "word": ["ferry"]})
    return SimpleNamespace(
        model=model, scorer=ClipLoss().eval(), use_best=nullcontext, all_estimates=estimates, all_targets=targets,
        data=SimpleNamespace(segments=table, montages=montages, recordings=recordings, spec=spec, banks=[bank],
                             blocks=pd.DataFrame({"recording": [0], "start": [0.0]}), events=[events],
                             prepared=[SimpleNamespace(array=np.zeros((50, len(layout))))]),
        cfg=SimpleNamespace(optim=SimpleNamespace(batch_size=5)), estimates=lambda ids: iter([estimates[ids]]),
        targets=lambda ids: targets[table["candidate"].to_numpy()[ids] - 100])


LAYOUT = np.random.default_rng(2).random((10, 2))


def test_overview_and_config(xp):
    said = text_of(overview(xp))
    for expected in ("0a1b2c3d", "finished", "optim.lr=5e-4 test.n_boot=100", "2, best: 2", "2 min 10 s",
                     "MelSpectrum"):
        assert expected in said
    first, whole = config(xp)
    assert "optim.lr=5e-4\ntest.n_boot=100" in first.content
    assert "<details>" in whole.content and "lr: 0.0005" in whole.content and "n_boot: 100" in whole.content
    assert len(figures(training(xp))) == 1


def test_the_config_is_the_stored_one(xp, folder):
    stored = json.loads((folder / "config.json").read_text())
    stored["optim"]["lr"], stored["an_old_key"] = 0.125, "<was> here"
    write(folder, config=stored)
    assert "lr: 0.125" in config(xp)[1].content and "an_old_key: &lt;was&gt; here" in config(xp)[1].content


@pytest.mark.parametrize(("changes", "expected", "absent"), [
    ({"task": {"type": "ridge"}, "encoding": {"model": "openai/net", "permuted": True, "items": "word"}},
     ["openai/net", "permuted", "words", "2: a, b"], ["simpleconv", "MelSpectrum"]),
    ({"task": {"type": "rsa"}, "encoding": {"model": "openai/net"}}, ["trained", "sounds"], ["simpleconv"]),
    ({"task": {"type": "trf"}, "trf": {"direction": "forward", "tmin": -0.1, "tmax": 0.4}},
     ["forward", "-100 to 400 ms", "MelSpectrum"], ["simpleconv"]),
    ({"task": {"type": "encode"}, "model_name": "encoder", "encoder": {"name": "gru_attention"}},
     ["gru_attention", "MelSpectrum"], ["simpleconv"])])
def test_overview_says_what_the_task_uses(xp, folder, plain, changes, expected, absent):
    write(folder, config=plain | changes, result={"test": {"dimensionality": {"a": 1.0, "b": 2.0}}})
    said = text_of(overview(StoredXP(folder, xp.root)))
    assert all(word in said for word in expected) and not any(word in said for word in absent), said


def test_intervals_and_p_of_tasks_without_candidates(xp, folder, plain):
    similar = {"similarity": 0.4817, "p": 0.001, "position": float("nan"), "ceiling_low": 0.5, "ceiling_high": 0.6,
               "low": 0.41, "high": 0.52}
    write(folder, config=plain | {"task": {"type": "rsa"}}, result={"test": similar})
    said = text_of(metrics(StoredXP(folder, xp.root)))
    assert "similarity 0.4817 [0.41, 0.52] – 0.001" in said and "ceiling: 0.5 to 0.6" in said and "nan" not in said
    assert "draws of subjects" not in said
    write(folder, config=plain | {"task": {"type": "trf"}}, result={"test": {"r": 0.1, "r_low": 0.0, "r_high": 0.2}})
    said = text_of(metrics(StoredXP(folder, xp.root)))
    assert "r 0.1 [0, 0.2]" in said and "100 draws of test stimuli" in said and "draws of subjects" not in said


def test_metrics_are_those_of_the_result(xp, folder):
    test = json.loads((folder / "result.json").read_text())["test"]
    said = text_of(metrics(xp))
    for k in (1, 5, 10):
        low, high = (f"{100 * test[f'top{k}_{end}']:.1f} %" for end in ("low", "high"))
        assert f"top-{k} accuracy {100 * test[f'top{k}']:.1f} % [{low}, {high}] {100 * k / V:.1f} %" in said
    assert "mean reciprocal rank (mrr) 0.3217 – 0.2586" in said  # chance: the mean of 1/1 … 1/12
    assert "median rank (median_rank) 6.5 – 6.5" in said and "correlation 0.0123" in said
    assert f"{PEOPLE * V} test segments, each among {V} candidates (different segments)" in said
    assert "ideal observer" not in said
    write(folder, ideal_observer={"top1": 0.875})
    assert "ideal observer" in text_of(metrics(Stub(xp.folder, xp.root)))
    assert "87.5 %" in text_of(metrics(Stub(xp.folder, xp.root)))


def test_subjects_with_intervals(xp, folder):
    table = segment_rows()
    table.loc[table["subject"] == 2, "block"] = "b0"  # one block: nothing to draw
    table.to_parquet(folder / "test_segments.parquet")
    torch.save({"solver": {"spec": {"subjects": ["toy/a", "toy/b", "toy/c"]}}}, folder / "checkpoint.th")
    parts = subjects(xp)
    said = text_of(parts)
    for subject, name in enumerate(["toy/a", "toy/b"]):
        own = table[table["subject"] == subject]
        interval = bootstrap_interval(own["top5"], own["subject"], own["block"], n_boot=100, seed=xp.config["seed"])
        assert f"{name} {V} 4" in said
        assert f"{100 * own['top5'].mean():.1f} % [{100 * interval.low:.1f} %, {100 * interval.high:.1f} %]" in said
    assert f"toy/c {V} 1" in said and said.count("(one block: no interval)") == 3
    (figure,) = figures(parts)
    assert len(figure.axes) == 3


def test_a_damaged_checkpoint_is_named(xp, folder, caplog):
    (folder / "checkpoint.th").write_bytes(b"nonsense")
    assert "subject 0" in text_of(subjects(xp)) and "checkpoint.th cannot be read" in caplog.text


def test_attention_is_that_of_the_merger(xp):
    merger = SpatialAttention(6, 8)
    weights = attention_weights(merger, LAYOUT)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    x = torch.eye(10)[None]  # sensor i alone at time i: the output is the weights
    whole = Montages(torch.from_numpy(LAYOUT).float()[None], torch.ones(1, 10, dtype=torch.bool),
                     torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    np.testing.assert_allclose(weights, merger(x, whole)[0].detach().numpy(), rtol=1e-5)
    each = SpatialAttention(6, 8, n_subjects=2)
    both = SpatialAttention(6, 8)
    both.heads.data = each.heads.data[1]
    each.heads.data[0] = each.heads.data[1]
    np.testing.assert_allclose(attention_weights(each, LAYOUT), attention_weights(both, LAYOUT), rtol=1e-5)
    flat, peak = np.full((1, 4), 0.25), np.array([[0.97, 0.01, 0.01, 0.01]])
    assert most_concentrated(np.concatenate([flat, peak, flat]), 2).tolist() == [1, 0]


def test_topomap_or_why_not(xp):
    xp.use(network(LAYOUT))
    parts = spatial_attention(xp)
    assert len(figures(parts)) == 1 and "10 good sensors" in text_of(parts) and "3 of 3 recordings" in text_of(parts)
    xp.use(network(LAYOUT, merger=False))
    assert "no spatial attention (merger)" in text_of(spatial_attention(xp))
    xp.use(network(np.full((10, 2), np.nan)))
    assert "no recording has a 2-D sensor layout" in text_of(spatial_attention(xp))
    xp.use(None)
    assert "because it is a stub" in text_of(spatial_attention(xp))
    assert "because it is a stub" in text_of(features(xp))


def test_examples_are_chosen_by_rank():
    table = segment_rows()
    chosen = choose(table)
    ranks = table["rank"].loc[list(chosen.values())].tolist()
    assert len(chosen) == len(PERCENTILES) and ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (table["rank"].min(), table["rank"].max())
    assert next(iter(chosen)) == "best" and list(chosen)[-1] == "worst"
    assert table["rank"][chosen["median"]] == np.sort(table["rank"])[round((len(table) - 1) / 2)]


def test_examples_show_the_probabilities_of_the_model(xp):
    solver = xp.use(network(LAYOUT))
    ids = np.array([3, 17, 30])
    tables = top_candidates(solver, segment_rows(), ids, 4)
    expected = ClipLoss().eval().probabilities(solver.all_estimates[ids], solver.all_targets).sort(
        dim=1, descending=True)
    for i, table in enumerate(tables):
        np.testing.assert_allclose(table["probability"], expected.values[i, :4], rtol=1e-5)
        assert table["word"].tolist() == [f"word{v}" for v in expected.indices[i, :4]]
        assert table["true"].tolist() == [bool(v == ids[i] % V) for v in expected.indices[i, :4]]
    parts = examples(xp)
    said = text_of(parts)
    chosen = choose(segment_rows())
    best = segment_rows().loc[chosen["best"]]
    assert f"best: rank {best['rank']:g} of {V}" in said and f"“{best['word']}”" in said
    assert "&lt;b&gt; of a sentence" in parts[0].content and "<b> of a sentence" not in parts[0].content
    solver.data.segments["candidate"] += 1
    assert "because the data have changed since the test" in text_of(examples(xp))
    xp.use(None)
    said = text_of(examples(xp))
    assert "because it is a stub" in said and f"best: rank {best['rank']:g}" in said


def test_audit(xp, folder):
    said = text_of(leak_audit(xp))
    assert "No two splits share a second" in said and "2 sentences are in two splits" in said
    assert "train test 50 36 0.0 0.0 3 2 the &lt;old&gt; ferry" in said
    xp.audit.assign(brain_s=1.5).to_csv(folder / "audit.csv", index=False)
    assert "SPLITS SHARE DATA (1.5 s" in text_of(leak_audit(StoredXP(folder, xp.root)))
    (folder / "audit.csv").unlink()
    assert "nothing is known about leaks" in text_of(leak_audit(StoredXP(folder, xp.root)))


def test_an_unfinished_xp(xp, folder):
    (folder / "result.json").unlink()
    (folder / "test_segments.parquet").unlink()
    history = [{"train": {"loss": 3.0}, "valid": {"loss": value}} for value in (3.1, 2.4, 2.6, float("nan"))]
    write(folder, history=history)
    assert "not finished: 4 of at most 40 epochs are done" in text_of(overview(xp))
    assert best_epoch(xp) == 2
    assert "4 of at most 40 epochs are done and none was tested" in text_of(metrics(xp))
    assert subjects(xp) == [] and examples(xp) == []
    write(folder, history=[*history, {"test": {"top1": 0.5, "top1_chance": 0.1, "n": 8, "n_candidates": 10}}])
    said = text_of(metrics(StoredXP(folder, xp.root)))
    assert "Not final" in said and "50.0 %" in said


def test_another_task_leaves_out_what_it_has_not(xp, folder, plain):
    write(folder, config={**plain, "task": {**plain["task"], "type": "linear_decode"}})
    (folder / "history.json").unlink()
    xp = StoredXP(folder, xp.root)
    assert spatial_attention(xp) == [] and training(xp) == []
    assert "linear_decode" in text_of(overview(xp)) and len(figures(subjects(xp))) == 1
    table = segment_rows()
    table.assign(subject="toy/" + table["subject"].astype(str)).to_parquet(folder / "test_segments.parquet")
    xp = StoredXP(folder, xp.root)
    assert f"toy/2 {V} 4" in text_of(subjects(xp))
    said = text_of(examples(xp))
    assert "best: rank" in said and "Their candidates are not shown" in said


def test_why_an_xp_cannot_be_restored(folder, tmp_path, plain):
    with pytest.raises(NotRestorable, match="no checkpoint that can be read"):
        StoredXP(folder, tmp_path).restored()
    write(folder, config={**plain, "optim": {**plain["optim"], "forgotten": 1}})
    with pytest.raises(NotRestorable, match=r"unknown key 'optim.forgotten'"):
        StoredXP(folder, tmp_path).restored()


def test_nothing_to_report(tmp_path, plain):
    folder = tmp_path / "xp"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        StoredXP(folder, tmp_path).require_result()
    write(folder, config=plain)
    with pytest.raises(FileNotFoundError, match="no epoch of it is done"):
        StoredXP(folder, tmp_path).require_result()


def test_unknown_signature(folder, monkeypatch):
    from bm.train import main
    monkeypatch.setattr(main.dora, "dir", folder.parents[1])
    assert find_xp("0a1b2c3d").folder == folder
    with pytest.raises(FileNotFoundError, match=r"no XP '0a1b2c3e' .*near it: 0a1b2c3d"):
        find_xp("0a1b2c3e")


#: what makes a browser fetch something: attributes of elements that load (links are only followed when clicked), CSS
LOADS = re.compile(r"""<(?!a\b)[a-z]+\b[^>]*?\s(?:src|href|srcset)\s*=\s*["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
                   r"""|@import\s+(?:url|["'])""")


def test_the_file_needs_nothing_else(xp, tmp_path):
    xp.use(network(LAYOUT))
    assert LOADS.search('<img alt="" src="https://x.org/a.png">') and LOADS.search("url('//x.org/a.woff')")
    path = tmp_path / "report.html"
    make_report(xp).save(path, open_browser=False, verbose=False)
    page = path.read_text()
    found = LOADS.search(page)
    assert found is None, found
    assert path.stat().st_size < 5e6
    for title in [title for title, section in SECTIONS.items() if section(xp)]:
        assert f'"#{title.replace(" ", "_")}' in page or f">{title}<" in page
