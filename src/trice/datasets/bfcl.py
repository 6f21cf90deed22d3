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

from trice.datasets.benchmark import Benchmark, Parts, Record, read_jsonl
from trice.errors import InputError
from trice.messages import read_tools
from trice.storage.files import validate
from trice.tasks import CONVERSATION
from trice.types import Question

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

HOME = "bfcl_eval/data of the repository ShishirPatil/gorilla on GitHub"
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
"""BFCL's types that JSON Schema does not have; `any` is a string for the leaderboard too"""


def read_bfcl(folder: Path, category: str) -> list[Question]:
    """Read the questions of a category.

    Args:
        folder: The folder of the official files, such as `BFCL_v4_multiple.json`, and of `possible_answer`.
        category: One of `CATEGORIES`; it becomes the rows' data set.

    Raises:
        InputError: The category is not one of these, or a file is missing or of another form.
    """
    return [_question(record) for record in _with_answers(folder, category)]


def _with_answers(folder: Path, category: str) -> list[Record]:
    """The questions of a category, with the fields `category` and `ground_truth`."""
    if category not in CATEGORIES:
        raise InputError(f"BFCL category '{category}' is not valid; choose {', '.join(CATEGORIES)}")
    name = f"BFCL_v4_{category}.json"
    records, answers = _records(folder / name), {}
    if category not in _WITHOUT_ANSWERS:
        path = folder / "possible_answer" / name
        answers = {each.name: each.items("ground_truth") for each in _records(path)}
        if missing := [record.name for record in records if record.name not in answers]:
            raise InputError(f"{path}: no answer to '{missing[0]}'")
    default = _WITHOUT_ANSWERS.get(category)
    return [
        record.with_fields(category=category, ground_truth=answers.get(record.name, default))
        for record in records
    ]


def _records(path: Path) -> list[Record]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Get it from {HOME}")
    return read_jsonl(path, path.stem, "id")


def _question(record: Record) -> Question:
    turns, answer = record.items("question"), record.fields["ground_truth"]
    if len(turns) != 1:
        raise InputError(f"{record.where}: field 'question': {len(turns)} turns where one is expected")
    try:
        functions = [
            {**function, "name": _name(function["name"]), "parameters": _schema(function["parameters"])}
            for function in record.items("function")
        ]
        fields = {
            "id": record.name,
            "dataset": record.fields["category"],
            "messages": turns[0],
            "tools": read_tools(functions),
            "expected_calls": answer if isinstance(answer, str) else [_expected(call) for call in answer],
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{record.where}: not a row of BFCL; get the official file again") from None
    return validate(Question, fields, record.where)


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


def _read(folder: Path) -> Parts:
    return {
        "test": [record for category in CATEGORIES for record in _with_answers(folder / "bfcl", category)]
    }


BENCHMARK = Benchmark(
    name="BFCL",
    task=CONVERSATION,
    licence="Apache 2.0, for evaluation only",
    files={"test": [f"bfcl/BFCL_v4_{category}.json" for category in CATEGORIES]},
    home=HOME,
    test=1514,
    question=_question,
    reader=_read,
)
