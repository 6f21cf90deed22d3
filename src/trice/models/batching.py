"""Decides which prompts are generated together: their shared prefix, which enter a batch, and where rows move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MIN_SHARED_PREFIX = 8  # with fewer tokens, a separate forward pass for the prefix takes longer
ADMIT_FRACTION = 8  # prompts enter when at least one row in so many is free


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as token ids. `key` and the sample numbers seed the random numbers of its responses."""

    ids: Sequence[int]
    key: str = ""
    samples: tuple[int, ...] = (0,)


def common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The length of the longest common prefix of two sequences."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices avoids a step in Python for each item
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving at least one token of each prompt."""
    if len(prompts) < 2:
        return 0
    first, last = min(map(list, prompts)), max(map(list, prompts))
    length = min(common_length(first, last), min(map(len, prompts)) - 1)
    return length if length >= MIN_SHARED_PREFIX else 0


def admit(waiting: list[int], rows: Sequence[int], size: int, running: int) -> list[int]:
    """Remove from the end of `waiting` the prompts whose rows fit into a batch of `size` with `running` rows.
    An empty batch admits at least one prompt. A running batch admits none until enough rows are free."""
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
