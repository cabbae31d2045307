"""Windows of past frames as views over a spectrogram, beside the tensor of all windows; a step of an attention GRU."""
import time
from collections.abc import Callable, Iterator

import torch

from bm.bench import Comparison, alone, interleaved, memory
from bm.models.encoders.attention_gru import AttentionGRU, window_chunks

#: seconds of sound, frames a second, bands, frames of a window
SIZE = (3600, 100, 31, 25)
#: the original's training step at our sizes, measured once on a 2-core AMD EPYC: seconds with two threads, and CPU
#: seconds with one, which count on a busy machine
ORIGINAL_STEP, ORIGINAL_CPU = 0.196, 0.38


def _growth(views: bool, frames: int, bands: int, window: int, queue) -> None:
    """Puts the growth of the resident memory at its peak, while a spectrogram is made and each window is used."""
    def use(frames: int) -> float:
        sound = torch.ones(1, frames, bands)
        if views:
            return float(sum(chunk.flatten(0, 1).sum() for chunk in window_chunks(sound, window, 512)))
        padded = torch.cat([torch.zeros(1, window - 1, bands), sound], 1)
        return float(torch.stack([padded[:, lag:lag + frames] for lag in range(window)], 2).sum())

    use(64)  # all that is loaded on first use is there
    before = memory("VmRSS")
    use(frames)
    queue.put(memory("VmHWM") - before)


def compare_memory(seconds: int, rate: int, bands: int, window: int) -> tuple[Comparison, Comparison]:
    """Memory of spectrogram and windows: ours beside the tensor of all windows, and beside 1.2 × the spectrogram."""
    frames = seconds * rate
    ours, other = (alone(_growth, views, frames, bands, window) / 1e6 for views in (True, False))
    what = f"{seconds / 3600:g} h × {bands} bands × {window} lags at {rate} Hz"
    return (Comparison("lagged windows", f"{what}: views, with the spectrogram / tensor of all windows", ours, other,
                       unit="MB"),
            Comparison("lagged memory", f"{what}: views, with the spectrogram / 1.2 × the spectrogram", ours,
                       1.2 * frames * bands * 4 / 1e6, 1, "MB"))


def step(batch_size: int, window: int, bands: int, hidden: int, layers: int) -> Callable[[], None]:
    """A function that makes one training step of `gru_attention` with two targets, on random data."""
    torch.manual_seed(0)
    model = AttentionGRU(in_channels=1, n_bands=bands, n_out=2, rate=50.0, window=window, hidden=hidden,
                         layers=layers, dropout=0.2).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    windows, targets = torch.randn(batch_size, window, bands), torch.randn(batch_size, 2)

    def one() -> None:
        optimizer.zero_grad()
        (model.attend(windows) - targets).square().mean().backward()
        optimizer.step()
    return one


def run() -> Iterator[Comparison]:
    """Yields memory in MB and the training step in seconds, at full size."""
    yield from compare_memory(*SIZE)
    one, threads = step(512, 25, 31, 150, 2), torch.get_num_threads()
    what = "step, 512 × 25 × 31, hidden 150 × 2"
    [ours] = interleaved(one)
    yield Comparison("gru attention", f"{what}, {threads} threads / the original's on 2, another day", ours,
                     ORIGINAL_STEP)
    torch.set_num_threads(1)
    try:
        [ours] = interleaved(one, clock=time.process_time)
    finally:
        torch.set_num_threads(threads)
    yield Comparison("gru attention", f"{what}, CPU seconds on 1 thread / the original's, another day", ours,
                     ORIGINAL_CPU)
