"""Decides which prompts are generated together: their shared prefix, which enter a batch, and where rows move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SHARED_PREFIX = 8  # tokens below which a shared prefix is not worth a forward pass
ADMIT_FRACTION = 8  # prompts enter when at least one row in so many is free


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as token ids. `key` and the sample numbers seed the random numbers of its responses."""

    ids: Sequence[int]
    key: str = ""
    samples: tuple[int, ...] = (0,)


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving at least one token of each prompt."""
    if len(prompts) < 2:
        return 0
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    length = min(length, limit)
    return length if length >= MIN_SHARED_PREFIX else 0


def admit(waiting: list[int], rows: Sequence[int], size: int, running: int) -> list[int]:
    """Remove from the end of `waiting` the prompts whose rows fit into a batch of `size` with `running` rows.
    An empty batch admits at least one prompt. A running batch admits none until enough of it is free to be
    worth a pass."""
    free = size - running
    if running and free < max(1, size // ADMIT_FRACTION) and _more_rows(waiting, rows, free):
        return []
    admitted: list[int] = []
    while waiting and (rows[waiting[-1]] <= free or not (running or admitted)):
        admitted.append(waiting.pop())
        free -= rows[admitted[-1]]
    return admitted


def _more_rows(waiting: list[int], rows: Sequence[int], free: int) -> bool:
    """Whether the waiting prompts have more rows than are free. Each has at least one, so a few of them suffice."""
    return sum(rows[number] for number in waiting[-free - 1 :]) > free


def compact_order(stays: Sequence[bool]) -> list[int]:
    """The rows that stay, where those at the end fill the places of the rows that leave."""
    order = [row for row, stay in enumerate(stays) if stay]
    count = len(order)
    movers = iter([row for row in order if row >= count])
    return [row if stays[row] else next(movers) for row in range(count)]
