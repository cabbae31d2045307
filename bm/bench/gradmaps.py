"""Gradient maps of 64 neurons in one pass, beside one neuron after the other."""
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from bm.analysis.gradmaps import strf_gradmap
from bm.bench import Comparison, interleaved
from bm.models.encoders import AudioEncoder, build_encoder

#: neurons, bands, frames: those of the published models
NEURONS, BANDS, FRAMES = 64, 34, 9
ENCODERS = ("linear", "ln", "dnet", "statenet")
#: maps of all neurons that are timed together: one takes a millisecond, too little to be timed by itself
PASSES = 20


def one_by_one(model: AudioEncoder) -> Tensor:
    """`(N, 1, F, T)`: a forward and a backward pass for each neuron."""
    maps = []
    for neuron in range(NEURONS):
        x = torch.zeros(1, 1, BANDS, FRAMES, requires_grad=True)
        model(x)[0, neuron, 0, -1].backward()
        assert x.grad is not None
        maps.append(x.grad)
    return torch.cat(maps)


def compare_maps(name: str, repeats: int = 7) -> Comparison:
    """CPU time of both on one thread, of an encoder with random weights.

    Small encoders win most: there a pass is mostly overhead. Of large ones, and of long maps, arithmetic is what takes
    time, which all copies have to do: of a statenet, half of it are the matrix products of its recurrent layer.

    Errors: ValueError if the maps differ by 1e-6 or more.
    """
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    model = build_encoder({"name": name}, n_bands=BANDS, rate=200.0, n_out=NEURONS).eval()
    torch.set_num_threads(1)
    try:
        difference = (strf_gradmap(model, FRAMES) - one_by_one(model)).abs().max()
        if difference >= 1e-6:
            raise ValueError(f"maps of {name} differ by {difference:.1e}: what is timed is not the same")
        ours, other = interleaved(lambda: [strf_gradmap(model, FRAMES) for _ in range(PASSES)],
                                  lambda: one_by_one(model), repeats=repeats, clock=time.process_time)
    finally:
        torch.set_num_threads(threads)
    return Comparison("gradmap " + name, f"{NEURONS} neurons, {BANDS} × {FRAMES} / neuron by neuron, backward()",
                      1000 * ours / PASSES, 1000 * other, 20, "ms")


def run() -> Iterator[Comparison]:
    """Yields one comparison per encoder."""
    for name in ENCODERS:
        yield compare_maps(name)
