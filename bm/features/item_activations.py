"""Activations of every layer of a network for parts of sounds: words and phonemes, each as heard in its place.

The network hears a sound in overlapping windows, not once for each item. With c = `context`, the window of the items
that start in [k · c, (k + 1) · c) s of the sound goes from (k − 1) · c (at least 0) to (k + 1) · c s, or to the end of
the last of them: before an item the network hears between c and 2 · c s (or all that there is since the sound's start),
and after its start what is left of the window, between 0 and c s, of which a causal network makes nothing.
"""
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bm.features.activations import Activations, level, read
from bm.features.audio import read_audio, resample
from bm.features.networks import Network
from bm.progress import with_progress
from bm.store import Store, digest, file_sha256

logger = logging.getLogger(__name__)

VERSION = 2
#: s; starts are rounded to the millisecond, also beyond a sound's end
ROUNDING = 1e-3


@dataclass(frozen=True)
class ItemActivations(Activations):
    """Those of items of several sounds, one entry of the cache after the other; `sounds` are names of items."""

    parts: list[Activations] = field(default_factory=list)

    def layer(self, name: str) -> np.ndarray:
        """`(items, units)` of a layer, read from disk."""
        return np.concatenate([part.layer(name) for part in self.parts])


def compute_items(store: Store, network: Network, items: pd.DataFrame, context: float, *, rms: float | None = 0.1
                  ) -> ItemActivations:
    """Activations of items, means over the frames in the middle of which they are heard; computed unless they are in
    the cache, where each sound has an entry.

    Args:
        items: a row per item: `item` (its name), `path` of its sound, `start` and `duration` (s in the sound).
        context: s of sound before an item that the network hears at least.
        rms: of each whole sound, as in `activations.compute`.

    An item without the middle of any frame has the frame that is nearest to its own middle.

    Raises:
        ValueError: an item outside its sound, layers without time, values that are not finite, or windows that the
            network does not hear to their end.
    """
    if not len(items):
        raise ValueError("no item to compute activations of")
    untimed = [name for name, timed in network.timed.items() if not timed]
    if untimed or not network.timed:
        raise ValueError(f"{network.identity.get('model')}: layers {untimed[:5] or 'of no known time axis'} have no "
                         "axis of time, so that no part of a sound can be told from another: leave them out "
                         "(encoding.layers)")
    parts = []
    for path, own in items.groupby("path", sort=False):
        spans = own[["item", "start", "duration"]].reset_index(drop=True)
        key = {"version": VERSION, "network": network.identity, "rms": rms, "context": context,
               "sound": file_sha256(str(path)), "items": digest({"spans": spans.to_numpy().tolist()})}
        folder = store.get("item_activations", key, lambda target, path=str(path), spans=spans:  # type: ignore[misc]
                           _write(target, network, path, spans, context, rms))
        parts.append(read(folder))
    names = [name for part in parts for name in part.sounds]
    return ItemActivations(names, parts[0].layers, parts[0].file, parts)


def _write(folder: Path, network: Network, path: str, spans: pd.DataFrame, context: float, rms: float | None) -> None:
    from safetensors.numpy import save_file
    audio, rate = read_audio(path)
    seconds = len(audio) / rate
    start = spans["start"].to_numpy(float)
    stop = np.minimum(start + spans["duration"].to_numpy(float), seconds)  # a last word may be annotated longer
    if bad := np.flatnonzero((start < 0) | (start >= seconds + ROUNDING)).tolist():
        raise ValueError(f"{path} has {seconds:.3f} s, but item {spans['item'][bad[0]]} ({len(bad)} such items) is at "
                         f"{start[bad[0]]:.3f} s: is it the sound that was annotated?")
    start = np.minimum(start, seconds)
    logger.info("activations of %d items in %.1f min of sound: computed once, then in the cache", len(spans),
                seconds / 60)
    sound = resample(np.asarray(level(audio, rms), np.float32), rate, network.rate)
    arrays: dict[str, np.ndarray] = {}
    for rows, heard, begin in _windows(sound, start, stop, context, network.rate):
        for name, value in network.ask(heard).items():
            means = _means(name, network.grid(name), value, len(heard), (start[rows] * network.rate - begin),
                           (stop[rows] * network.rate - begin), path)
            whole = arrays.setdefault(name, np.full((len(spans), means.shape[1]), np.nan, np.float32))
            whole[rows] = means
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"layer {name} gives NaN or infinite values for {path}")
    save_file(arrays, folder / "activations.safetensors")
    layers = [{"name": name, "shape": list(array.shape)} for name, array in arrays.items()]
    (folder / "index.json").write_text(json.dumps({
        "sounds": spans["item"].tolist(), "layers": layers, "path": Path(path).name, "context": context, "rms": rms,
        "network": network.identity}, indent=1))


def _windows(sound: np.ndarray, start: np.ndarray, stop: np.ndarray, context: float, rate: int
             ) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Rows of items, what the network hears for them, and the sample where that begins; with a progress bar."""
    number = np.floor(start / context + 1e-9).astype(int)
    for k in with_progress(np.unique(number), "activations"):
        rows = np.flatnonzero(number == k)
        begin = max(round((k - 1) * context * rate), 0)
        end = max((k + 1) * context, float(stop[rows].max()))
        yield rows, sound[begin:round(end * rate)], begin


def _means(layer: str, grid: tuple[float, float], value: np.ndarray, samples: int, start: np.ndarray,
           stop: np.ndarray, path: str) -> np.ndarray:
    """`(items, units)` means of frames `(frames, …)` whose middle is in [start, stop) samples of the window.

    Raises:
        ValueError: frames end long before the window does.
    """
    middle, hop = grid
    frames, value = len(value), np.asarray(value, np.float64).reshape(len(value), -1)
    if middle + frames * hop < samples - 2 * (middle + hop) or not frames:
        raise ValueError(f"{path}: layer {layer} has {frames} frames for a window of {samples} samples, about the "
                         f"first {middle + frames * hop:.0f} of them: the network hears no longer sounds. Windows are "
                         "twice encoding.context, and as long as their last item: make it smaller")
    first = np.ceil((start - middle) / hop - 1e-6).astype(int).clip(0, frames)
    after = np.ceil((stop - middle) / hop - 1e-6).astype(int).clip(0, frames)
    empty = after <= first
    nearest = np.rint(((start + stop) / 2 - middle) / hop).astype(int).clip(0, frames - 1)
    first, after = np.where(empty, nearest, first), np.where(empty, nearest + 1, after)
    total = np.concatenate([np.zeros((1, value.shape[1])), np.cumsum(value, 0)])
    return (total[after] - total[first]) / (after - first)[:, None]
