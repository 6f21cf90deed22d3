"""The starter set for math: word problems from our own templates (`starter.yaml`), for use without any files.

The same seed gives the same questions in any process. A template belongs to the training part or to the test
part, so no test question is a training question with other numbers. Level 1 is a sum of single figures,
level 5 has money, percent, averages and units; levels 2 to 4 grow in figures and steps.

Each question has one gold expression of `+ - * /`, whose intermediate results are positive.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from trice.datasets.expressions import decimal, values
from trice.datasets.starter_common import StarterSet, fill_gaps, read_yaml

NAME = "starter"
MAX_ROWS = 20_000  # of one part; every template can make its share of these distinct
MAX_DRAWS = 10_000  # tries at one question: numbers that do not divide, or a text already used


@dataclass(frozen=True)
class Template:
    """A problem with gaps; `solve` is its gold expression over the one-letter gaps, `places` the decimals
    its steps may have."""

    name: str
    level: int
    solve: str
    text: str
    places: int = 0
    test: bool = False


_file = partial(read_yaml, __file__)


@cache
def templates() -> tuple[Template, ...]:
    """All templates, in the file's order."""
    return tuple(Template(**template) for template in _file()["templates"])


def _fill(template: Template, rng: random.Random) -> tuple[str, dict[str, str]]:
    """The text with its gaps filled, and the word of each gap."""
    (name, he, his), (other, _, _) = (person.split() for person in rng.sample(_file()["people"], 2))
    words: dict[str, str] = {
        "name": name,
        "other": other,
        "he": he,
        "his": his,
        "He": he.title(),
        "His": his.title(),
    }
    return fill_gaps(template.text, words, _file()["pools"], rng), words


def _attempt(template: Template, rng: random.Random) -> dict[str, Any] | None:
    """The fields of one question; None if two of the drawn numbers are equal, or a step is not positive or has too
    many decimals."""
    text, words = _fill(template, rng)
    drawn = [word for gap, word in words.items() if len(gap) == 1]
    expression = re.sub("[a-z]", lambda gap: words[gap[0]], template.solve)
    steps = values(expression)
    sensible = all(step > 0 and (step * 10**template.places).denominator == 1 for step in steps)
    if len(set(drawn)) < len(drawn) or not sensible:
        return None
    return {
        "input": text,
        "answer": decimal(steps[-1]),
        "expression": expression,
        "template": template.name,
        "level": template.level,
    }


def rows(part: str, chosen: Sequence[Template], seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of distinct questions, with each template in turn."""
    rng = random.Random(f"{seed}:{part}")
    seen: set[str] = set()
    while True:
        for template in rng.sample(chosen, len(chosen)):
            tries = (_attempt(template, rng) for _ in range(MAX_DRAWS))
            row = next(each for each in tries if each and each["input"] not in seen)
            seen.add(row["input"])
            yield row


def _part(part: str, seed: int) -> Iterator[dict[str, Any]]:
    return rows(part, [each for each in templates() if each.test is (part == "test")], seed)


STARTER = StarterSet(NAME, "math", _part, (2000, 300), (MAX_ROWS, MAX_ROWS))
