"""Which prompts run together: what they begin with, which enter a batch, and where its rows then stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SHARED_PREFIX = 8  # tokens below which a shared prefix is not worth its own forward pass
ENTER = 8  # prompts enter when one part in so many of the batch is free


@dataclass(frozen=True)
class Ask:
    """A prompt as token ids; `key` and the numbers of the samples say which random numbers they are drawn with."""

    ids: Sequence[int]
    key: str = ""
    samples: tuple[int, ...] = (0,)


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving at least one token of each for itself."""
    if len(prompts) < 2:
        return 0
    first, last = min(map(list, prompts)), max(map(list, prompts))
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    length = min(length, limit)
    return length if length >= MIN_SHARED_PREFIX else 0


def entrants(waiting: list[int], rows: Sequence[int], size: int, live: int) -> list[int]:
    """Take from the end of `waiting` the prompts whose rows fit into a batch of `size` beside the `live` ones: at
    least one where there is no other, and none until a part of the batch is free that is worth a pass."""
    free = size - live
    if live and free < max(1, size // ENTER) and _more(waiting, rows, free):
        return []
    taken: list[int] = []
    while waiting and (rows[waiting[-1]] <= free or not (live or taken)):
        taken.append(waiting.pop())
        free -= rows[taken[-1]]
    return taken


def _more(waiting: list[int], rows: Sequence[int], free: int) -> bool:
    """Whether those that wait have more rows than are free; each has one, so that a few tell."""
    return sum(rows[number] for number in waiting[-free - 1 :]) > free


def packed(alive: Sequence[bool]) -> list[int]:
    """The rows that stay, those at the end moved into the places of the ones that leave."""
    order = [row for row, stays in enumerate(alive) if stays]
    count = len(order)
    holes = [row for row in range(count) if not alive[row]]
    movers = iter([row for row in order if row >= count])
    result = list(range(count))
    for hole in holes:
        result[hole] = next(movers)
    return result
