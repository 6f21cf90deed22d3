"""The batches of a server: one for each model and prompt prefix, stepped in turn.

Prompts with the same prefix (the template and its instruction) share a batch, which computes the prefix once. A few
empty batches are kept for their prefixes and free all other memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import shared_prefix
from trice.models.continuous_batch import BatchRow, ContinuousBatch
from trice.models.decoder_check import needs_model_head
from trice.progress import notice
from trice.server.model_registry import ServedModel

MAX_EMPTY = 8  # empty batches that are kept
PROBES = ("Who is it?", "7 and 8")  # two questions without a common prefix


class PrefixBatches:
    """Batches by model and prefix. They belong to one thread."""

    def __init__(self) -> None:
        self._batches: dict[tuple[str, tuple[int, ...]], ContinuousBatch] = {}

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def busy(self) -> bool:
        """Whether any batch has rows to write."""
        return any(len(batch) for batch in self._batches.values())

    def allocated_rows(self) -> int:
        """The number of rows that hold memory, without the prefixes."""
        return sum(batch.decoder.cache.capacity for batch in self._batches.values())

    def batch_for(
        self, model: ServedModel, encode: Callable[[str], list[int]], ids: list[int]
    ) -> ContinuousBatch:
        """The batch that a prompt enters. `encode` gives the prompt of another question with the same prefix."""
        loaded = model.loaded
        probes = [encode(text) for text in PROBES]
        prefix = tuple(probes[0][: shared_prefix(probes)])
        if tuple(ids[: len(prefix)]) != prefix or len(ids) <= len(prefix):
            prefix = ()  # this prompt is tokenised differently
        batch = self._batches.pop((model.name, prefix), None)
        if batch is None:
            if loaded.use_model_head is None:
                loaded.use_model_head = needs_model_head(loaded, ids)
            batch = ContinuousBatch(loaded, BatchDecoder(loaded, prefix, loaded.use_model_head))
            batch.end_ids = loaded.eos_ids | (model.chat.end_ids if model.chat else set())
        self._batches[model.name, prefix] = batch  # the most recently used batch is last
        return batch

    def remove(self, matches: Callable[[Any], bool]) -> None:
        """Remove the rows whose owner matches."""
        for batch in self._batches.values():
            batch.remove(matches)
        self._trim()

    def step(self) -> Iterator[BatchRow | tuple[Any, Exception]]:
        """Write a token of every row. Gives the rows, or the owners of a batch that failed, each with the failure."""
        for key, batch in [each for each in self._batches.items() if len(each[1])]:
            try:
                yield from batch.step(sum(owner.keeps_cache for owner in batch.owners))
            except Exception as failure:  # usually out of memory: the other batches continue
                notice(f"a batch of {len(batch)} responses failed: {type(failure).__name__}: {failure}")
                self._batches.pop(key, None)
                yield from ((owner, failure) for owner in batch.owners)
        self._trim()

    def _trim(self) -> None:
        empty = [key for key, batch in self._batches.items() if not len(batch)]
        for key in empty:
            self._batches[key].decoder.clear()
        for key in empty[: max(0, len(empty) - MAX_EMPTY)]:
            del self._batches[key]
