"""Key-value caches for a batch whose rows have different lengths and enter and leave at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class RowCache(PrefillCache):
    """Keys and values of the rows, [S, G, C, D] for each layer. An update adds one position to every row."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    @property
    def capacity(self) -> int:
        """How many rows fit into the allocated memory."""
        return len(self.entries[0][0]) if self.entries else 0

    def start_step(self) -> None:
        """Prepare a step: compute where it writes, and make room for one more position."""
        self.width = max(self.lengths) + 1
        device = self.entries[0][0].device
        self.positions_B = torch.tensor(self.lengths, device=device)
        self.rows_B = torch.arange(len(self.lengths), device=device)
        self._reserve(len(self.lengths), self.width)

    def _reserve(self, rows: int, positions: int) -> None:
        for layer, pair in self.entries.items():
            size, _, capacity, _ = pair[0].shape
            if rows > size or positions > capacity:
                shape = (max(rows, size), positions + GROWTH if positions > capacity else capacity)
                self.entries[layer] = (_enlarged(pair[0], *shape), _enlarged(pair[1], *shape))

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        keys, values = self.entries[layer_idx]
        keys[self.rows_B, :, self.positions_B] = key_states[:, :, 0]
        values[self.rows_B, :, self.positions_B] = value_states[:, :, 0]
        rows = len(self.lengths)
        return keys[:rows, :, : self.width], values[:rows, :, : self.width]

    def append(self, prefill: PrefillCache, lengths: Sequence[int], copies: Sequence[int]) -> None:
        """Add rows: each left-padded prompt of the prefill, as many times as `copies` says."""
        first, width = len(self.lengths), max(lengths)
        total = first + sum(copies)
        for layer, (keys, values) in prefill.entries.items():
            if layer not in self.entries:
                shape = (total, width + GROWTH)
                self.entries[layer] = (_enlarged(keys[:0], *shape), _enlarged(values[:0], *shape))
        self._reserve(total, width)
        for layer, (keys, values) in prefill.entries.items():
            row_keys, row_values = self.entries[layer]
            row = first
            for number, (length, times) in enumerate(zip(lengths, copies, strict=True)):
                row_keys[row : row + times, :, :length] = keys[number, :, keys.shape[2] - length :]
                row_values[row : row + times, :, :length] = values[number, :, values.shape[2] - length :]
                row += times
        for length, times in zip(lengths, copies, strict=True):
            self.lengths += [length] * times

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
