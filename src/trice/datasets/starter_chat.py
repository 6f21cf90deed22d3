"""The starter set for native tool calls (`starter-chat`): problems and facts of the other starter sets, in four kinds.

- `problem` needs one call of the calculator, and `fact` one call of QA.
- `both` asks for a problem and a fact, whose calls belong into one message.
- `steps` is a problem whose calls use the results of earlier ones.

The field `gold_calls` holds the calls by turn. A test question uses templates and facts of the test parts alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from trice.datasets import starter_math
from trice.datasets.expressions import operations
from trice.datasets.starter_common import StarterSet
from trice.datasets.starter_facts import QA, fact_rows

NAME = "starter-chat"
_JOINED = (
    "First: {} Second: {}",
    "Two questions. {} {}",
    "{} I also want to know: {}",
    "{} And one more thing: {}",
)


def _calculator(expression: str) -> dict[str, Any]:
    return {"name": "calculator", "arguments": {"expression": expression}}


def _fact(row: dict[str, Any]) -> dict[str, Any]:
    """A fact with its call."""
    call = {"name": "QA", "arguments": {"question": row["input"]}}
    return {"input": row["input"], "answer": row["answer"], "gold_calls": [[call]]}


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    """A problem with its calls, one for each operation; without calls if a result has too many decimals."""
    turns = operations(row["expression"])
    fields = {"input": row["input"], "answer": row["answer"], "template": row["template"]}
    return fields | {"gold_calls": [[_calculator(each) for each in turn] for turn in turns]}


def _both(problem: dict[str, Any], fact: dict[str, Any], joined: str) -> dict[str, Any]:
    """A question that asks for both; its answer is `228 and Paris`, in the order of the questions."""
    answers = fact["answer"] if isinstance(fact["answer"], list) else [fact["answer"]]
    return {
        "input": joined.format(problem["input"], fact["input"]),
        "answer": [f"{problem['answer']} and {answer}" for answer in answers],
        "template": problem["template"],
        "gold_calls": [[*problem["gold_calls"][0], *fact["gold_calls"][0]]],
    }


def _rows(part: str, seed: int) -> Iterator[dict[str, Any]]:
    """A stream of distinct questions, with each kind in turn."""
    rng = random.Random(f"{seed}:{NAME}:{part}")
    test = part == "test"
    chosen = [each for each in starter_math.templates() if each.test is test]
    single = [each for each in chosen if len(re.findall(r"[-+*/]", each.solve)) == 1]
    several = [each for each in chosen if each not in single and not re.search(r"[0-9]", each.solve)]
    problems, steps = (
        (_problem(row) for row in starter_math.rows(part, templates, rng.randrange(2**31)))
        for templates in (single, several)
    )
    facts = map(_fact, fact_rows([fact for fact in QA.facts() if fact.test is test], rng))
    for fact, second_fact in zip(facts, facts, strict=False):
        yield next(problems) | {"kind": "problem"}
        yield fact | {"kind": "fact"}
        yield _both(next(problems), second_fact, rng.choice(_JOINED)) | {"kind": "both"}
        yield next(row for row in steps if len(row["gold_calls"]) > 1) | {"kind": "steps"}


CHAT = StarterSet(NAME, "assistant", _rows, (800, 200), (1600, 400))
