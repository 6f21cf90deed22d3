"""The common parts of the starter sets: filling the gaps of a template, and numbering the questions of a part."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from trice.errors import InputError
from trice.types import Question

FIELD = re.compile(r"\{([A-Za-z]+)([0-9]?)(?::([0-9.]+)-([0-9.]+)(?:/([0-9.]+))?)?\}")


def _draw(low: str, high: str, step: str | None, rng: random.Random) -> str:
    """A random number from `low` to `high` in steps, with the step's decimals."""
    first, by = Decimal(low), Decimal(step or 1)
    return str(first + by * rng.randint(0, int((Decimal(high) - first) / by)))


def fill_gaps(
    text: str, words: dict[str, str], pools: Mapping[str, Sequence[str]], rng: random.Random
) -> str:
    """The text with its gaps filled. The word for a new gap is drawn at random and added to `words`."""

    def put(match: re.Match[str]) -> str:
        kind, count, low, high, step = match.groups()
        if kind + count not in words:
            fresh = [word for word in pools.get(kind, []) if word not in words.values()]
            words[kind + count] = _draw(low, high, step, rng) if low else rng.choice(fresh)
        return words[kind + count]

    return FIELD.sub(put, text)


def take_questions(
    name: str, part: str, rows: Iterator[dict[str, Any]], size: int, most: int
) -> list[Question]:
    """The first `size` rows as questions of the data set `name`, numbered from 1.

    Raises InputError if `size` is negative or more than `most`."""
    if not 0 <= size <= most:
        raise InputError(f"{name}: {size} {part} questions wanted; it makes 0 to {most} distinct ones")
    return [
        Question.model_validate({"id": f"{name}_{part}-{number}", "dataset": name, **row})
        for number, row in enumerate(islice(rows, size), start=1)
    ]
