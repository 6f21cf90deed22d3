"""BFCL: questions with tools from the Berkeley Function Calling Leaderboard, version 4. For evaluation only.

The rows keep the questions as they are. The tools become JSON schemas as OpenAI has them, so types and names
change as in the leaderboard's handlers: `float` is `number`, `geometry.area` is `geometry_area`. The handlers
also add sentences to descriptions (which language a function is in, which numbers are floats); these are left out.
`trice.tasks.call_judge` judges the calls. Categories in other languages, with several turns or with executed calls are
not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trice.datasets.benchmark import Record, read_jsonl
from trice.datasets.conversations import ConversationRow, Unreadable, as_tools
from trice.errors import InputError
from trice.storage.files import validate

CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
    "live_simple",
    "live_relevance",
)
_WITHOUT_ANSWERS: Mapping[str, list[Any] | str] = {"irrelevance": [], "live_relevance": "any"}
"""The expected calls of the categories that have no file of answers"""

_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""BFCL's types that JSON Schema does not have; `any` is a string for the leaderboard too"""


def read_bfcl(folder: Path, category: str) -> list[ConversationRow]:
    """Read the questions of a category.

    Args:
        folder: The folder of the official files, such as `BFCL_v4_multiple.json`, and of `possible_answer`.
        category: One of `CATEGORIES`; it becomes the rows' data set.

    Raises:
        InputError: The category is not one of these, or a file is missing or of another form.
    """
    if category not in CATEGORIES:
        raise InputError(f"BFCL category '{category}' is not valid; choose {', '.join(CATEGORIES)}")
    name = f"BFCL_v4_{category}.json"
    records = _records(folder / name)
    if category in _WITHOUT_ANSWERS:
        return [_row(record, category, _WITHOUT_ANSWERS[category]) for record in records]
    path = folder / "possible_answer" / name
    answers = {each.name: each.items("ground_truth") for each in _records(path)}
    missing = [record.name for record in records if record.name not in answers]
    if missing:
        raise InputError(f"{path}: no answer to '{missing[0]}'")
    return [_row(record, category, answers[record.name]) for record in records]


def _records(path: Path) -> list[Record]:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Get it from bfcl_eval/data of the repository ShishirPatil/gorilla on GitHub"
        )
    return read_jsonl(path, path.stem, "id")


def _row(record: Record, category: str, answer: list[Any] | str) -> ConversationRow:
    turns = record.items("question")
    if len(turns) != 1:
        raise InputError(f"{record.where}: field 'question': {len(turns)} turns where one is expected")
    try:
        functions = [
            {**function, "name": _name(function["name"]), "parameters": _schema(function["parameters"])}
            for function in record.items("function")
        ]
        fields = {
            "id": record.name,
            "dataset": category,
            "messages": turns[0],
            "tools": as_tools(functions),
            "expected": answer if isinstance(answer, str) else [_expected(call) for call in answer],
        }
    except (AttributeError, KeyError, TypeError, ValueError, Unreadable):
        raise InputError(f"{record.where}: not a row of BFCL; get the official file again") from None
    return validate(ConversationRow, fields, record.where)


def _expected(call: Mapping[str, Any]) -> dict[str, Any]:
    ((name, arguments),) = call.items()
    return {"name": _name(name), "arguments": arguments}


def _name(name: str) -> str:
    return name.replace(".", "_")


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with JSON Schema's types, also in its properties and items."""
    known = {**schema, "type": _TYPES.get(schema["type"], schema["type"])}
    if "properties" in schema:
        known["properties"] = {name: _schema(each) for name, each in schema["properties"].items()}
    if "items" in schema:
        known["items"] = _schema(schema["items"])
    return known
