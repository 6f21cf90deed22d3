"""Worked examples in a prompt: those that ship with a task, and those of a file."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from pydantic import Field

from trice.errors import InputError
from trice.formats.prompt import Example
from trice.storage.files import read_rows
from trice.types import Row


class FewShotRow(Row):
    """A worked example in a file."""

    input: str
    output: str = Field(min_length=1)


def find_examples(task: str, name: str | tuple[Example, ...] | None) -> tuple[Example, ...]:
    """A task's examples by name: those that ship with it (`direct` answers, `calls`, or `mixed`), or those of a file
    with `input` and `output`. Examples that are given are returned as they are. Raises InputError for a task without
    examples, and for another name."""
    if not isinstance(name, str):
        return name or ()
    if name.endswith((".json", ".jsonl", ".csv", ".gz", ".parquet")):
        return tuple(Example(row.input, row.output) for row in read_rows(Path(name), FewShotRow))
    file = resources.files("trice") / "tasks" / f"{task}_examples.json"
    if not file.is_file():
        raise InputError(
            f"few-shot '{name}': task '{task}' ships no examples; give a .jsonl file of input and output"
        )
    kinds = json.loads(file.read_text(encoding="utf-8"))
    if name not in kinds:
        raise InputError(f"few-shot '{name}' is not valid; choose {', '.join(kinds)}, or a .jsonl file")
    return tuple(Example(row["input"], row["output"]) for row in kinds[name])
