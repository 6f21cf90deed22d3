"""SVAMP: 1,000 short problems with one gold equation each, in one JSON list (`SVAMP.json`).

The hub's copy cuts the same rows into two splits; they are put back in the official order here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from trice.datasets._benchmark import Benchmark, Dropped, HubRows, Parts, Record, tidy_text
from trice.datasets._expressions import number, tidy
from trice.errors import InputError
from trice.records import Question

NAME = "SVAMP"
FILE = "svamp/SVAMP.json"


def records(rows: object, where: str) -> Parts:
    """A list of official rows as records. Raises InputError naming the row that does not fit."""
    if not isinstance(rows, list):
        raise InputError(f"{where}: not a JSON list of problems; get the official SVAMP.json")
    found = []
    for position, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{where}: record {position}: not a JSON object")
        record = Record(f"{where}: record {position}", "", row)
        found.append(record._replace(name=record.text("ID")))
    return {"all": found}


def read(folder: Path) -> Parts:
    """The official file under `folder`. Raises InputError where it is missing or not the official form."""
    text, where = BENCHMARK.file_text(folder, FILE), str(folder / FILE)
    try:
        return records(json.loads(text), where)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); get the official file again") from None


def from_hub(splits: HubRows) -> Parts:
    """The hub's rows, in the official order (`chal-1`, `chal-2`, …)."""
    rows = [dict(row) for split in splits.values() for row in split]
    rows.sort(key=lambda row: int(re.sub("[^0-9]", "", str(row.get("ID"))) or 0))
    return records(rows, BENCHMARK.hub["path"])


def question(record: Record) -> Question | Dropped:
    """A record as a question; the expression is the equation without blanks, `.0` and outer parentheses."""
    text = tidy_text(record.text("Body"), record.text("Question"))
    answer, equation = record.text("Answer"), record.text("Equation")
    gold = number(answer)
    if gold is None:
        return record.dropped(NAME, f"the answer '{answer}' is not a number")
    return record.question(NAME, text, gold, tidy(equation))


BENCHMARK = Benchmark(
    name=NAME,
    task="math",
    licence="MIT",
    files=(FILE,),
    hub={"path": "ChilleD/SVAMP"},
    train=800,
    test=200,
    read=read,
    from_hub=from_hub,
    question=question,
)
