"""clip_conv beside a second one that shares no code with it (`bm/bench/plain.py`)."""
import json
from pathlib import Path

import pytest
import torch
from dora.link import Link
from hydra import compose, initialize_config_dir

from bm import networks
from bm.bench.decoder import clip_conv
from bm.bench.plain import PlainClipConv
from bm.config import check_config, to_plain
from bm.models import BrainModel, SimpleConv
from bm.models.check import make_batch
from bm.models.test_models import make_spec
from bm.solvers import build_solver

CONF = Path(__file__).parents[2] / "conf"
NARROW = {"hidden": 24, "merged": 20, "pos_dim": 288}
FULL = {"hidden": 320, "merged": 270, "pos_dim": 2048}


def pairs(ours: SimpleConv, plain: PlainClipConv) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """The layers of both that do the same."""
    encoder = ours.encoders["meg"]
    out = [(ours.initial[0], plain.initial), (ours.head[0], plain.head1), (ours.head[2], plain.head2)]
    out += [(layer[0], conv) for layer, conv in zip(encoder.layers, plain.convs, strict=True)]
    out += [(layer[1], norm) for layer, norm in zip(encoder.layers, plain.norms, strict=True)]
    return out + [(gate[0], conv) for gate, conv in zip(encoder.gates[1::2], plain.gates, strict=True)]


def parameters(ours: SimpleConv, plain: PlainClipConv) -> list[tuple[torch.Tensor, torch.Tensor]]:
    out = [(ours.merger.heads, plain.heads), (ours.subject_layers.weight, plain.subject)]
    for mine, other in pairs(ours, plain):
        out += zip(mine.parameters(), other.parameters(), strict=True)
    assert len(out) == len(list(ours.parameters())) == len(list(plain.parameters()))
    return out


def close(mine: torch.Tensor, other: torch.Tensor, what: str = "") -> None:
    scale = other.abs().max().clamp(min=1e-12)
    assert ((mine - other).abs().max() / scale).item() < 1e-8, what


@pytest.mark.parametrize("sizes, spec, out", [(NARROW, make_spec(30, 3, 90), 16), (FULL, make_spec(208, 27, 180), 120)],
                         ids=["narrow", "full"])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_same_outputs_and_gradients(sizes, spec, out, train):
    torch.manual_seed(0)
    ours, plain = SimpleConv(spec, out, **clip_conv(**sizes)).double(), PlainClipConv(spec, out, **sizes).double()
    with torch.no_grad():
        for mine, other in parameters(ours, plain):
            other.copy_(mine)
        for mine, other in pairs(ours, plain):
            if isinstance(mine, torch.nn.BatchNorm1d):  # evaluation must use them
                other.running_mean.copy_(mine.running_mean.normal_())
                other.running_var.copy_(mine.running_var.uniform_(0.5, 2.0))
    batch = make_batch(spec, 4, 2, dtype=torch.float64)
    outputs = []
    for model in (ours.train(train), plain.train(train)):
        torch.manual_seed(1)  # the same disc of sensors is dropped
        outputs.append(model(batch))
        weights = torch.linspace(-1, 1, outputs[-1].numel(), dtype=torch.float64)
        (outputs[-1].flatten() * weights).sum().backward()
    close(*outputs)
    largest = max(other.grad.abs().max() for _, other in parameters(ours, plain))
    for index, (mine, other) in enumerate(parameters(ours, plain)):
        if other.grad.abs().max() > 1e-10 * largest:  # that of a bias before a batch norm is rounding alone
            close(mine.grad, other.grad, f"gradient {index}, {tuple(mine.shape)}")
    if train:
        for mine, other in pairs(ours, plain):
            for name, value in mine.named_buffers():
                close(value, dict(other.named_buffers())[name], name)


def test_a_seed_gives_both_the_same_weights():
    made = []
    for model in (SimpleConv, PlainClipConv):
        torch.manual_seed(3)
        made.append(model(make_spec(30, 3, 90), 16, **(clip_conv(**NARROW) if model is SimpleConv else NARROW)))
    assert all(torch.equal(mine, other) for mine, other in parameters(*made))


DATA = ["selections.simulated.subjects=2", "selections.simulated.sessions=1", "selections.simulated.minutes=2.5",
        "selections.simulated.snr=1.0", "selections.simulated.rate=100.", "dset.sample_rate=25", "dset.tmin=0",
        "dset.tmax=1.5", "dset.condition=0.25", "dset.features_params.MelSpectrum.n_mels=16", "dset.test_ratio=0.3",
        "dset.valid_ratio=0.2", "device=cpu", "test.n_boot=100", "model=clip_conv", "optim.batch_size=32",
        "optim.lr=1e-3"]


def train(root: Path, name: str, sizes: dict, overrides: list[str]) -> dict:
    """Metrics of the whole XP."""
    options = [f"simpleconv.hidden.meg={sizes['hidden']}", f"simpleconv.initial_linear={sizes['merged']}",
               f"simpleconv.merger_channels={sizes['merged']}", f"simpleconv.merger_pos_dim={sizes['pos_dim']}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(to_plain(compose("config", [*DATA, *options, *overrides])))
    folder = root / "xps" / name
    folder.mkdir(parents=True)
    torch.manual_seed(0)  # of the dropped discs
    build_solver(cfg, folder, root, Link(folder / "history.json")).run()
    return json.loads((folder / "result.json").read_text())["test"]


def test_trains_to_the_same_accuracy(tmp_path, monkeypatch):
    ours = train(tmp_path, "ours", NARROW, ["optim.epochs=3"])
    made: list[BrainModel] = []

    def build(name, spec, out_channels, **options):
        made.append(PlainClipConv(spec, out_channels, **NARROW))
        return made[-1]

    monkeypatch.setattr(networks, "build_model", build)
    plain = train(tmp_path, "plain", NARROW, ["optim.epochs=3"])
    print({name: (ours[name], plain[name]) for name in ("top1", "top10", "top10_chance")})
    assert len(made) == 1
    assert ours["top10"] > 5 * ours["top10_chance"]  # there is something to agree about
    assert abs(ours["top10"] - plain["top10"]) <= 0.03
