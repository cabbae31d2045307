"""One, two and four processes: the same loss, the same gradients, the same history; a dead one ends the run."""
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn

from bm import distrib
from bm.losses import ClipLoss, MaskedLoss
from bm.solvers.test_decode import TINY

ROOT = Path(__file__).parents[1]


class Net(nn.Module):
    """A convolution, batch norm and a non-linearity on either side of the comparison."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.brain = nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.GELU(), nn.Conv1d(8, 5, 1))
        self.sound = nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5))


def work(kind: str) -> dict:
    """Loss, gradients and running statistics after one step on this process's part of a batch of 13."""
    generator = torch.Generator().manual_seed(1)
    brain, sound = (torch.randn(13, c, 20, generator=generator) for c in (4, 3))
    mask = torch.rand(13, 1, 18, generator=generator) < 0.7
    own = slice(distrib.rank(), None, distrib.world_size())
    net = Net()
    distrib.synchronise_batch_norm(net)
    estimate, target = net.brain(brain[own]), net.sound(sound[own])
    estimate, target, kept = (distrib.gather(x) for x in (estimate, target, mask[own]))
    loss = ClipLoss()(estimate, target) if kind == "clip" else MaskedLoss(kind)(estimate, target, kept)
    loss = loss + 0.1 * net.brain[0].weight.square().sum()  # a penalty, the same everywhere
    loss.backward()
    distrib.average_gradients(net.parameters())
    return {"loss": float(loss.detach()), "grads": [p.grad.flatten().tolist() for p in net.parameters()],
            "buffers": [b.double().flatten().tolist() for b in net.buffers()]}


def main() -> None:
    dist.init_process_group("gloo", init_method="env://")
    print(json.dumps([work(kind) for kind in ("clip", "mse", "l1")]))
    dist.destroy_process_group()


def run(world_size: int) -> list[list[dict]]:
    """What `work` gives in each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size),
           "OMP_NUM_THREADS": "1"}
    children = [subprocess.Popen([sys.executable, "-c", "from bm.test_distrib import main; main()"], cwd=ROOT,
                                 env={**env, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
                for rank in range(world_size)]
    return [json.loads(child.communicate(timeout=120)[0].splitlines()[-1]) for child in children]


@pytest.mark.parametrize("world_size", [2, 4])
def test_losses_and_gradients_do_not_depend_on_the_number_of_processes(world_size):
    alone = [work(kind) for kind in ("clip", "mse", "l1")]
    for part in run(world_size):
        for found, expected in zip(part, alone, strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
            for name in ("grads", "buffers"):
                for x, y in zip(found[name], expected[name], strict=True):
                    torch.testing.assert_close(torch.tensor(x), torch.tensor(y), rtol=1e-5, atol=1e-5)


def test_batch_norm_alone_is_torchs_own():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 10)
    plain, ours = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    distrib.synchronise_batch_norm(ours)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)


# random masks are drawn by each process for its own part
QUIET = [*TINY, "simpleconv.conv_dropout=0.", "simpleconv.merger_dropout=0."]


def dora(*args: str) -> list[str]:
    return [sys.executable, "-m", "dora", "-P", "bm", "run", *args]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "BM_OUTPUTS": str(folder / "outputs"), "BM_DATA": str(folder / "data"),
            "BM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def history(folder: Path) -> list[dict]:
    return json.loads(next((folder / "outputs" / "xps").glob("*/history.json")).read_text())


@pytest.mark.slow
def test_two_processes_have_the_history_of_one(tmp_path):
    histories = []
    for name, flags in [("one", []), ("two", ["-d", "--ddp_workers=2"])]:
        folder = tmp_path / name
        out = subprocess.run(dora(*flags, *QUIET, "optim.epochs=2"), cwd=ROOT, env=environment(folder),
                             capture_output=True, text=True, timeout=300)
        assert out.returncode == 0, out.stderr[-3000:]
        histories.append(history(folder))
    one, two = histories
    for epoch in range(2):
        assert two[epoch]["train"]["loss"] == pytest.approx(one[epoch]["train"]["loss"], abs=1e-4)
        assert two[epoch]["valid"]["loss"] == pytest.approx(one[epoch]["valid"]["loss"], abs=1e-3)
    assert two[-1]["test"]["n"] == one[-1]["test"]["n"]
    assert two[-1]["test"]["top10"] == pytest.approx(one[-1]["test"]["top10"], abs=0.02)


@pytest.mark.slow
def test_a_dead_process_ends_the_xp(tmp_path):
    command = dora("-d", "--ddp_workers=2", *QUIET, "optim.epochs=500", "early_stop_patience=0")
    with open(tmp_path / "out.txt", "w") as out:
        manager = subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=out, stderr=subprocess.STDOUT)
        end = time.monotonic() + 180
        while not list((tmp_path / "outputs").glob("xps/*/checkpoint.th")):
            assert manager.poll() is None and time.monotonic() < end, (tmp_path / "out.txt").read_text()[-3000:]
            time.sleep(0.5)
        children = subprocess.run(["pgrep", "-P", str(manager.pid)], capture_output=True, text=True).stdout.split()
        assert len(children) == 2
        os.kill(int(children[1]), 9)
        assert manager.wait(timeout=60) != 0
    assert "Worker 1 died" in (tmp_path / "out.txt").read_text()
    time.sleep(2)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text()
                   for pid in children)
