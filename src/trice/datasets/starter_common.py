"""The common parts of the starter sets: their files, filling the gaps of a template, and the questions of a part."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from trice.errors import InputError
from trice.types import Question

LICENCE = "MIT"
Parts = tuple[list[Question], list[Question]]
"""Questions to train on, and to test."""
FIELD = re.compile(r"\{([A-Za-z]+)([0-9]?)(?::([0-9.]+)-([0-9.]+)(?:/([0-9.]+))?)?\}")


@dataclass(frozen=True)
class StarterSet:
    """A set whose questions `rows` makes, a stream of distinct ones for a part and a seed. `sizes` are how many there
    are by default, and `most` how many there can be, to train on and to test."""

    name: str
    task: str
    rows: Callable[[str, int], Iterator[dict[str, Any]]]
    sizes: tuple[int, int]
    most: tuple[int, int]

    def make(self, train: int | None = None, test: int | None = None, seed: int = 0) -> Parts:
        """Training and test questions. Raises InputError if more than `most` are requested."""
        sizes = (
            default if size is None else size for size, default in zip((train, test), self.sizes, strict=True)
        )
        made = [
            take_questions(self.name, part, self.rows(part, seed), size, most)
            for part, size, most in zip(("train", "test"), sizes, self.most, strict=True)
        ]
        return made[0], made[1]


@cache
def read_yaml(module: str) -> dict[str, Any]:
    """The YAML file next to a module's file, with its name."""
    content: dict[str, Any] = yaml.safe_load(Path(module).with_suffix(".yaml").read_text(encoding="utf-8"))
    return content


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
