"""A training step of the EEG transformer with fused attention, beside attention written out."""
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from bm.batch import BatchSpec
from bm.bench import Comparison, interleaved
from bm.models import build_model
from bm.models.check import make_batch

#: channels, samples, tokens per channel, segments
SIZE = (64, 320, 4, 64)


def step(fused: bool, channels: int, samples: int, tokens: int, batch_size: int) -> Callable[[], None]:
    """A function that makes one training step on random data."""
    spec = BatchSpec(channels, samples, 160.0, 0.0, ("a",))
    torch.manual_seed(0)
    model = build_model("eeg_transformer", spec, 2, tokens=tokens, fused=fused).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch, target = make_batch(spec, batch_size), torch.arange(batch_size) % 2

    def one() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch), target).backward()
        optimizer.step()
    return one


def compare_step(channels: int, samples: int, tokens: int, batch_size: int, repeats: int = 3) -> Comparison:
    """A step at these sizes, five layers."""
    ours, written = interleaved(*(step(fused, channels, samples, tokens, batch_size) for fused in (True, False)),
                                repeats=repeats)
    return Comparison("eeg transformer", f"step, {batch_size} × {channels} × {samples}, {tokens} tokens a channel / "
                      "matmul, softmax, matmul", ours, written, 1.7)


def run() -> Iterator[Comparison]:
    """Yields the comparison at full size, in seconds."""
    yield compare_step(*SIZE)
