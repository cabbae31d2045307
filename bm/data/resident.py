"""The same batches from data that lives on the GPU: one index per batch instead of reads, copies and transfers."""
import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bm.batch import Batch
from bm.data.loader import SegmentDataset
from bm.data.tracks import Bank


class ResidentDataset(SegmentDataset):
    """A `SegmentDataset` whose recordings, features and masks are held on `device`; batches are made there.

    Holds `Σ time · channels · 4` bytes of brain, as much again per feature bank, and 5 bytes a sample of indices.
    """

    def __init__(self, dataset: SegmentDataset, device: torch.device | str) -> None:
        self.__dict__.update(dataset.__dict__)
        banks = [bank for bank in self.banks if isinstance(bank, Bank)]
        if len(banks) < len(self.banks):
            raise ValueError("resident=true holds features at the brain's rate only: use resident=false with "
                             + ", ".join(bank.feature.name for bank in self.banks if not isinstance(bank, Bank)))
        lengths = np.array([len(array) for array in self.arrays])
        self.offset = torch.from_numpy(np.cumsum(lengths) - lengths).to(device)
        channels = self.montages.valid.shape[1]
        self.brain = torch.zeros(int(lengths.sum()), channels, device=device)
        for start, array in zip(self.offset.tolist(), self.arrays, strict=True):
            self.brain[start:start + len(array), :array.shape[1]] = _tensor(array, device)
        self.bank_rows = {bank.feature.name: _tensor(bank.rows, device) for bank in banks}
        self.bank_index = {bank.feature.name: _tensor(np.concatenate(bank.index), device) for bank in banks}
        self.word_mask = _tensor(np.concatenate(self.words), device)
        self.tables = {"channel_mask": _tensor(self.montages.valid, device),
                       "positions": _tensor(self.montages.positions, device),
                       "layout": _tensor(self.montages.layout, device)}
        self.firsts, self.recordings = _tensor(self.first, device), _tensor(self.recording, device)
        self.subject_of, self.heard_in = _tensor(self.subjects, device), _tensor(self.heard, device)

    def with_samples(self, samples: int) -> "ResidentDataset":
        """The same data, cut into segments of another length."""
        other = copy.copy(self)
        other.samples = samples
        return other

    def __getitems__(self, wanted: Sequence[int] | np.ndarray) -> Batch:
        ids = torch.as_tensor(np.array(wanted, dtype=np.int64), device=self.brain.device)
        recording, heard = self.recordings[ids], self.heard_in[ids]
        samples = torch.arange(self.samples, device=ids.device)
        at = (self.offset[recording] + self.firsts[ids])[:, None] + samples
        sound = (self.offset[self.recordings[heard]] + self.firsts[heard])[:, None] + samples
        features = {name: rows[self.bank_index[name][sound].long()].transpose(1, 2)
                    for name, rows in self.bank_rows.items()}
        return Batch(brain=self.brain[at].transpose(1, 2), subject=self.subject_of[recording], recording=recording,
                     segment=ids, features=features, masks={"word": self.word_mask[sound]},
                     **{name: table[recording] for name, table in self.tables.items()})


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.tensor(np.asarray(array), device=device)  # a copy, also of a read-only memory map
