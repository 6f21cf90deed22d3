"""SVAMP: 1,000 short problems with one gold equation each, in one JSON list (`SVAMP.json`).

The hub's copy has the same rows in two splits; this module restores the official order.
"""

from __future__ import annotations

import re
from functools import partial

from trice.datasets.benchmark import (
    Benchmark,
    Dropped,
    HubRows,
    Parts,
    Record,
    numbered,
    read_list,
    tidy_text,
)
from trice.datasets.expressions import number, tidy
from trice.types import Question

NAME = "SVAMP"
FILE = "svamp/SVAMP.json"


def from_hub(splits: HubRows) -> Parts:
    """The hub's rows, in the official order (`chal-1`, `chal-2`, …)."""
    rows = [dict(row) for split in splits.values() for row in split]
    rows.sort(key=lambda row: int(re.sub("[^0-9]", "", str(row.get("ID"))) or 0))
    return {"all": numbered(rows, f"{BENCHMARK.hub['path']}: record ", "all", "ID")}


def question(record: Record) -> Question | Dropped:
    """A record as a question; the expression is the equation without spaces, `.0` and outer parentheses."""
    text = tidy_text(record.text("Body"), record.text("Question"))
    answer, equation = record.text("Answer"), record.text("Equation")
    gold = number(answer)
    if gold is None:
        return record.dropped(NAME, f"the answer '{answer}' is not a number")
    return record.question(NAME, text, gold, expression=tidy(equation))


BENCHMARK = Benchmark(
    name=NAME,
    task="math",
    licence="MIT",
    files={"all": [FILE]},
    home="arkilpatel/SVAMP on GitHub",
    hub={"path": "ChilleD/SVAMP"},
    train=800,
    test=200,
    parse=partial(read_list, field="ID"),
    from_hub=from_hub,
    question=question,
)
