"""The starter set for mlqa: short English texts with questions in Spanish, French or German (`contexts.yaml`).

A context with gaps is filled with names, places and numbers from pools; the answer is a span of it. A context
belongs to the training part or to the test part, so no test text is a training text with other names. Most
questions are Spanish, the language of the embedded translator.

Questions that need two sentences, or whose answer is not a span of the text, are not included.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from trice.datasets.starter_common import fill_gaps, take_questions
from trice.tools.second_turn import with_context
from trice.types import Question

NAME = "starter-mlqa"
TASK = "mlqa"
LICENCE = "MIT"
TRAIN = 800
TEST = 200
MAX_ROWS = 5000  # of one part; every context can make its share of these distinct
LANGUAGES = {"es": 6, "fr": 1, "de": 1}  # and their weights


@cache
def _file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return content


def _row(context: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The fields of one question about a context."""
    words: dict[str, str] = {}
    text = fill_gaps(context["text"], words, _file()["pools"], rng)
    relation = rng.choice(sorted(context["asks"]))
    answers = context["asks"][relation]
    (language,) = rng.choices(list(LANGUAGES), list(LANGUAGES.values()))
    question = _file()["questions"][relation][language].format_map(words)
    return {
        "input": with_context(text, question),
        "answer": [each.format_map(words) for each in ([answers] if isinstance(answers, str) else answers)],
        "relation": relation,
        "template": context["name"],
        "language": language,
    }


def _rows(test: bool, seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of distinct questions, with each context in turn."""
    chosen = [each for each in _file()["contexts"] if each.get("test", False) is test]
    rng = random.Random(f"{seed}:{NAME}:{test}")
    seen: set[str] = set()
    while True:
        for context in rng.sample(chosen, len(chosen)):
            row = _row(context, rng)
            if row["input"] not in seen:
                seen.add(row["input"])
                yield row


def make(
    train: int | None = None, test: int | None = None, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """Training and test questions with `relation`, `template` and `language`; by default TRAIN and TEST of them.

    Raises InputError if more than MAX_ROWS of a part are requested."""
    return (
        take_questions(NAME, "train", _rows(False, seed), TRAIN if train is None else train, MAX_ROWS),
        take_questions(NAME, "test", _rows(True, seed), TEST if test is None else test, MAX_ROWS),
    )
