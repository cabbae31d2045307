"""The contrastive decoder: a step of training, spatial attention, and retrieval among thousands of candidates."""
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bm.batch import Batch, BatchSpec
from bm.bench import Comparison, interleaved
from bm.bench.cold import memory
from bm.bench.plain import PlainClipConv, spatial_weights
from bm.losses import ClipLoss
from bm.metrics.retrieval import ROWS, retrieval
from bm.models import SimpleConv
from bm.models.blocks.spatial import Montages, SpatialAttention
from bm.models.check import make_batch

SENSORS, TIMES, OUTPUTS, SUBJECTS, RECORDINGS = 208, 343, 1024, 27, 4
HEADS, POS_DIM, SHAPE = 270, 2048, (120, 343)
MAX_BYTES = 2 ** 30


def clip_conv(hidden: int = 320, merged: int = HEADS, pos_dim: int = POS_DIM) -> dict:
    """Options of `SimpleConv` as in `conf/model/clip_conv.yaml`."""
    return {"hidden": hidden, "batch_norm": True, "depth": 10, "dilation_period": 5, "kernel_size": 3, "skip": True,
            "subject_layers": True, "subject_dim": 0, "complex_out": True, "glu": 2, "glu_context": 1, "merger": True,
            "initial_linear": merged, "merger_channels": merged, "gelu": True, "merger_pos_dim": pos_dim}


def make_spec(times: int = TIMES, subjects: int = SUBJECTS) -> BatchSpec:
    return BatchSpec(SENSORS, times, 120.0, -0.5, tuple(f"s{i:02}" for i in range(subjects)))


def training_step(model: nn.Module, batch: Batch, target: Tensor) -> Callable[[], None]:
    """Forward, contrastive loss, backward and Adam."""
    loss, optimizer = ClipLoss(), torch.optim.Adam(model.parameters(), lr=3e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(batch), target).backward()
        optimizer.step()
    return step


def compare_step(size: int = 8, times: int = TIMES, hidden: int = 320, repeats: int = 5) -> Comparison:
    spec = make_spec(times)
    batch = make_batch(spec, size, RECORDINGS)
    target = torch.randn(size, OUTPUTS, times)
    models = SimpleConv(spec, OUTPUTS, **clip_conv(hidden)), PlainClipConv(spec, OUTPUTS, hidden)
    ours, plain = interleaved(*(training_step(model, batch, target) for model in models), repeats=repeats)
    return Comparison("clip_conv step", f"{size} segments of {times} samples, forward to Adam / the same layers "
                      "written straight down", ours, plain, 1)


def compare_attention(size: int = 64, repeats: int = 5) -> Iterator[Comparison]:
    """The weights alone, which only positions decide, and with the mixing of sensors, which costs both the same."""
    batch = make_batch(make_spec(), size, RECORDINGS)
    block = SpatialAttention(HEADS, POS_DIM).eval()
    brain, heads = batch.brain, block.heads.detach()
    known = batch.channel_mask & batch.layout.isfinite().all(dim=2)
    assert brain is not None

    def montages() -> Montages:
        return Montages.of(batch.layout, batch.channel_mask, batch.recording, batch.subject)

    def plain() -> Tensor:
        return spatial_weights(heads, batch.layout, known)

    with torch.no_grad():
        times = interleaved(lambda: block.weights(montages()), plain, lambda: block(brain, montages()),
                            lambda: torch.einsum("boc,bct->bot", plain(), brain), repeats=repeats)
    what = f"{size} segments of {RECORDINGS} recordings, {SENSORS} sensors, {HEADS} heads / for every segment"
    yield Comparison("attention", what, times[0], times[1], 5)
    yield Comparison("attention + mix", "the same, then applied to the sensors", times[2], times[3])


def compare_retrieval(number: int, shape: tuple[int, int] = SHAPE, repeats: int = 1) -> Iterator[Comparison]:
    """In turns without warming up whole: at full size a turn takes a minute."""
    generator = torch.Generator().manual_seed(0)
    estimates, candidates = (torch.randn(number, *shape, generator=generator) for _ in range(2))
    ids = np.arange(number)
    retrieval(estimates[:ROWS], candidates[:ROWS], ids[:ROWS], ids[:ROWS])
    times: dict[str, list[float]] = {"ours": [], "product": []}
    extra = 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        torch.mm(estimates.flatten(1), candidates.flatten(1).t())
        times["product"].append(time.perf_counter() - begin)
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that is taken again would not be counted
        Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from now on (Linux)
        before, begin = memory("VmRSS"), time.perf_counter()
        retrieval(estimates, candidates, ids, ids, max_bytes=MAX_BYTES)
        times["ours"].append(time.perf_counter() - begin)
        extra = max(extra, memory("VmHWM") - before)
    ours, product = (statistics.median(times[name]) for name in ("ours", "product"))
    size = f"{number} × {number} segments of {shape[0]} × {shape[1]}"
    yield Comparison("retrieval", f"{size} / the bare matrix product of the same operands", ours, product, 1 / 1.5)
    yield Comparison("retrieval memory", "at its peak, operands apart / max_bytes", extra / 1e6, MAX_BYTES / 1e6, 1,
                     "MB")


def run() -> Iterator[Comparison]:
    yield compare_step()
    yield from compare_attention()
    yield from compare_retrieval(5000)
