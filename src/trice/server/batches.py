"""The batches of a server: one for each model and beginning of prompts, stepped in turn.

Prompts that begin alike (with the template and its instruction) are in one batch, whose beginning is computed once.
A batch without rows is kept for its beginning, as long as there are few, and gives back all other memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trice.models.batch_decoder import BatchDecoder
from trice.models.batching import shared_prefix
from trice.models.continuous_batch import BatchRow, ContinuousBatch
from trice.models.decoder_check import needs_model_head
from trice.models.engine import GenerationSettings
from trice.progress import notice
from trice.server.model_registry import Served

KEPT = 8  # batches without rows
PROBES = ("Who is it?", "7 and 8")  # two questions that have nothing in common


class Groups:
    """Belongs to one thread."""

    def __init__(self) -> None:
        self._live: dict[tuple[str, tuple[int, ...]], ContinuousBatch] = {}

    def __len__(self) -> int:
        """How many batches there are, with rows or without."""
        return len(self._live)

    @property
    def busy(self) -> bool:
        """Whether there are rows to write."""
        return any(len(live) for live in self._live.values())

    def held(self) -> int:
        """Rows for which there is memory, beside the beginnings."""
        return sum(live.decoder.cache.capacity for live in self._live.values())

    def of(self, model: Served, instruction: str, how: GenerationSettings, ids: list[int]) -> ContinuousBatch:
        """The batch for a prompt."""
        loaded = model.loaded
        probes = [how.template.encode(loaded.tokenizer, instruction, text) for text in PROBES]
        prefix = tuple(probes[0][: shared_prefix(probes)])
        if tuple(ids[: len(prefix)]) != prefix or len(ids) <= len(prefix):  # cut otherwise into tokens
            prefix = ()
        live = self._live.pop((model.name, prefix), None)
        if live is None:
            if loaded.use_model_head is None:
                loaded.use_model_head = needs_model_head(loaded, ids)
            live = ContinuousBatch(loaded, BatchDecoder(loaded, prefix, loaded.use_model_head))
        self._live[model.name, prefix] = live  # the last used stand last
        return live

    def leave(self, gone: Callable[[Any], bool]) -> None:
        """Drop the rows whose number is `gone`."""
        for live in self._live.values():
            live.remove(gone)
        self._tidy()

    def step(self) -> Iterator[BatchRow | tuple[Any, Exception]]:
        """Write a token of every row, batch by batch: the rows, or where a batch fails, the numbers of its prompts
        with the failure."""
        for key, live in [each for each in self._live.items() if len(each[1])]:
            try:
                yield from live.step()
            except Exception as failure:  # out of memory, most likely: this batch is lost, and no other
                notice(f"a batch of {len(live)} is given up: {type(failure).__name__}: {failure}")
                self._live.pop(key, None)
                yield from ((number, failure) for number in live.owners)
        self._tidy()

    def _tidy(self) -> None:
        idle = [key for key, live in self._live.items() if not len(live)]
        for key in idle:
            self._live[key].decoder.clear()  # what many rows took is not kept for few
        for key in idle[: max(0, len(idle) - KEPT)]:
            del self._live[key]
