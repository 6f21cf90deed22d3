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


def read_examples(path: Path) -> tuple[Example, ...]:
    """Worked examples from a JSONL file of `input` and `output`."""
    return tuple(Example(row.input, row.output) for row in read_rows(path, FewShotRow))


def load_shipped_examples(task: str, kind: str) -> tuple[Example, ...]:
    """The examples that ship with a task: `direct` answers, `calls`, or `mixed`. Raises InputError for a task
    without examples, and for another kind."""
    file = resources.files("trice") / "tasks" / f"{task}_examples.json"
    if not file.is_file():
        raise InputError(
            f"few-shot '{kind}': task '{task}' ships no examples; give a .jsonl file of input and output"
        )
    kinds = json.loads(file.read_text(encoding="utf-8"))
    if kind not in kinds:
        raise InputError(f"few-shot '{kind}' is not valid; choose {', '.join(kinds)}, or a .jsonl file")
    return tuple(Example(row["input"], row["output"]) for row in kinds[kind])


def find_examples(task: str, name: str | tuple[Example, ...] | None) -> tuple[Example, ...]:
    """A task's examples by name (`direct`, `calls`, `mixed`) or from a file. Examples that are given are returned
    as they are."""
    if not isinstance(name, str):
        return name or ()
    return (
        read_examples(Path(name))
        if name.endswith((".json", ".jsonl", ".csv", ".gz", ".parquet"))
        else load_shipped_examples(task, name)
    )
