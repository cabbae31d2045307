"""Computing and loading the features of speech models."""
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bm.bench import Comparison, interleaved
from bm.data.loader import Montages, SegmentDataset
from bm.data.tracks import Bank
from bm.features import FeatureContext, build_feature
from bm.features.check import speechlike
from bm.features.speech import HuggingFaceFeature

#: the sizes of Whisper tiny: how long it takes does not depend on the weights
WHISPER_TINY = {"model_type": "whisper", "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6,
                "encoder_ffn_dim": 1536, "num_mel_bins": 80, "max_source_positions": 1500, "vocab_size": 51_864,
                "decoder_layers": 4, "decoder_attention_heads": 6, "decoder_ffn_dim": 1536, "pad_token_id": 50_256}
DIM, TIMES, BATCH = 1024, 361, 32


def run(minutes: float = 1.0) -> Iterator[Comparison]:
    """Yields the comparisons of this file; `minutes` of sound in chunks of 12 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            yield forward_share(Path(name), minutes)
            yield gather(Path(name))
    finally:
        torch.set_num_threads(threads)


def forward_share(folder: Path, minutes: float) -> Comparison:
    """All that a feature does to a sound, beside the network's own forward pass."""
    model = folder / "whisper-tiny"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(WHISPER_TINY))
    feature = build_feature("SpeechModel", {"model": str(model), "random": True}, FeatureContext(device="cpu"))
    assert isinstance(feature, HuggingFaceFeature)
    network, spent = feature.network(), [0.0]
    forward = network.forward

    def timed(*args: object, **kwargs: object) -> object:
        begin = time.perf_counter()
        try:
            return forward(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - begin
    chunks = [(speechlike(12.0, 44_100, seed), 44_100) for seed in range(max(round(minutes * 5), 1))]
    feature.compute(*chunks[0])  # the first one imports
    network.forward = timed
    begin = time.perf_counter()
    feature.compute_many(chunks)
    total = time.perf_counter() - begin
    network.forward = forward
    return Comparison("whisper forward", f"{minutes:g} min of sound at 44.1 kHz to rows / the network's own forward",
                      total, spent[0], 0.9)


def gather(folder: Path) -> Comparison:
    """Batches of a float16 bank of 1024 dimensions, in a file, as the cache leaves it."""
    rng, n = np.random.default_rng(0), 40_000
    np.save(folder / "rows.npy", rng.standard_normal((n, DIM), dtype=np.float32).astype(np.float16))
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    first = np.arange(0, n - TIMES, 60)
    valid = np.ones((1, 1), dtype=bool)
    montages = Montages(valid, np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 2), np.float32))
    segments = pd.DataFrame({"first": first, "recording": 0})
    feature = build_feature("MelSpectrum", {})
    dataset = SegmentDataset([np.zeros((n, 1), np.float32)], montages, segments, TIMES, [0],
                             [Bank(feature, rows, [np.arange(n, dtype=np.int32)])], [np.ones(n, dtype=bool)])
    ids = rng.permutation(len(first))[:4 * BATCH].reshape(4, BATCH)
    out = np.zeros((BATCH, TIMES, DIM), np.float16)

    def plain(batch: np.ndarray) -> np.ndarray:
        for row, i in zip(out, batch, strict=True):
            row[:] = rows[first[i]:first[i] + TIMES]
        return out
    ours: Callable[[], object] = lambda: [dataset.__getitems__(batch) for batch in ids]  # noqa: E731
    each, bare = interleaved(ours, lambda: [plain(batch) for batch in ids])
    return Comparison("float16 bank", f"batches of {DIM} dimensions / a preallocated numpy gather of the same bytes",
                      each, bare, 0.6)
