"""Key-value caches for a batch whose rows have different lengths and enter and leave at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import Cache

from trice.models.batch_attention import KeysValues

GROWTH = 64  # positions that are added when rows outgrow the cache


class PrefillCache(Cache):  # type: ignore[misc]
    """Collects the keys and values of one prefill pass, by layer."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.entries: dict[int, KeysValues] = {}

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        self.entries[layer_idx] = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class CachedRow(NamedTuple):
    """The keys and values of a row that left the batch, [G, length, D] for each layer, without the shared prefix."""

    length: int
    entries: dict[int, KeysValues]


class RowCache(PrefillCache):
    """Keys and values of the rows, [S, G, C, D] for each layer. An update adds positions to the last rows, which
    may be all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    @property
    def capacity(self) -> int:
        """How many rows fit into the allocated memory."""
        return len(self.entries[0][0]) if self.entries else 0

    def start_update(self, positions: Sequence[Sequence[int]]) -> None:
        """Prepare an update of the last rows, which writes to these positions of each, and make room for it."""
        self.first, self.width = len(self.lengths) - len(positions), max(map(max, positions)) + 1
        self._reserve(len(self.lengths), self.width)
        device = self.entries[0][0].device
        self.positions_BQ = torch.tensor(positions, device=device)
        self.rows_B1 = torch.arange(self.first, len(self.lengths), device=device).unsqueeze(1)

    def _reserve(self, rows: int, positions: int) -> None:
        for layer, pair in self.entries.items():
            size, _, capacity, _ = pair[0].shape
            if rows > size or positions > capacity:
                shape = (max(rows, size), positions + GROWTH if positions > capacity else capacity)
                self.entries[layer] = (_enlarged(pair[0], *shape), _enlarged(pair[1], *shape))

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        keys, values = self.entries[layer_idx]
        keys[self.rows_B1, :, self.positions_BQ] = key_states.transpose(1, 2)
        values[self.rows_B1, :, self.positions_BQ] = value_states.transpose(1, 2)
        rows = slice(self.first, len(self.lengths))
        return keys[rows, :, : self.width], values[rows, :, : self.width]

    def append(self, prefill: PrefillCache, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """Add rows: each left-padded prompt of the prefill, as many times as `copies` says."""
        row = len(self.lengths)
        for layer, pair in prefill.entries.items():
            self.entries.setdefault(layer, (pair[0][:0, :, :0], pair[1][:0, :, :0]))
        self._reserve(row + sum(copies), max(lengths))
        for number, (length, times) in enumerate(zip(lengths, copies, strict=True)):
            for layer, pair in prefill.entries.items():
                for whole, part in zip(self.entries[layer], pair, strict=True):
                    whole[row : row + times, :, :length] = part[number, :, part.shape[2] - length :]
            row += times
            self.lengths += [length] * times

    def row(self, row: int) -> CachedRow:
        """A copy of one row."""
        length = self.lengths[row]
        copies = {
            layer: (keys[row, :, :length].clone(), values[row, :, :length].clone())
            for layer, (keys, values) in self.entries.items()
        }
        return CachedRow(length, copies)

    def append_cached(self, rows: Sequence[CachedRow]) -> None:
        """Add rows that left before."""
        first = len(self.lengths)
        for layer, pair in rows[0].entries.items():
            self.entries.setdefault(layer, (pair[0][None, :, :0], pair[1][None, :, :0]))
        self._reserve(first + len(rows), max(row.length for row in rows))
        for number, row in enumerate(rows, first):
            for layer, pair in row.entries.items():
                for whole, part in zip(self.entries[layer], pair, strict=True):
                    whole[number, :, : row.length] = part
        self.lengths += [row.length for row in rows]

    def reorder(self, order: Sequence[int], start: int = 0) -> None:
        """Row i becomes what row `order[i]` was, from position `start` on. Rows beyond are dropped."""
        moved = [(to, source) for to, source in enumerate(order) if to != source]
        if moved:
            device = self.entries[0][0].device
            to, source = (torch.tensor(each, device=device) for each in zip(*moved, strict=True))
            end = max(self.lengths[source] for _, source in moved)
            for pair in self.entries.values():
                for each in pair:
                    each[to, :, start:end] = each[source, :, start:end]
        self.lengths = [self.lengths[source] for source in order]


def _enlarged(tensor_SGCD: torch.Tensor, rows: int, positions: int) -> torch.Tensor:
    size, groups, capacity, width = tensor_SGCD.shape
    larger = tensor_SGCD.new_zeros((rows, groups, positions, width))
    larger[:size, :, :capacity] = tensor_SGCD
    return larger
