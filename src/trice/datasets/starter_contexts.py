"""The starter set for mlqa: short English texts with questions in Spanish, French or German (`contexts.yaml`).

A context with gaps is filled with names, places and numbers from pools; the answer is a span of it. A context
belongs to the training part or to the test part, so no test text is a training text with other names. Most
questions are Spanish, the language of the embedded translator.

Questions that need two sentences, or whose answer is not a span of the text, are not included.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from trice.datasets.starter_common import StarterSet, fill_gaps, read_yaml
from trice.tools.second_turn import with_context

NAME = "starter-mlqa"
MAX_ROWS = 5000  # of one part; every context can make its share of these distinct
LANGUAGES = {"es": 6, "fr": 1, "de": 1}  # and their weights


_file = partial(read_yaml, __file__)


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


def _rows(part: str, seed: int) -> Iterator[dict[str, Any]]:
    """An endless stream of distinct questions, with each context in turn."""
    test = part == "test"
    chosen = [each for each in _file()["contexts"] if each.get("test", False) is test]
    rng = random.Random(f"{seed}:{NAME}:{test}")
    seen: set[str] = set()
    while True:
        for context in rng.sample(chosen, len(chosen)):
            row = _row(context, rng)
            if row["input"] not in seen:
                seen.add(row["input"])
                yield row


CONTEXTS = StarterSet(NAME, "mlqa", _rows, (800, 200), (MAX_ROWS, MAX_ROWS))
