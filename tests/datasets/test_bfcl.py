"""BFCL's rows as conversations: the JSON schemas, names and expected calls; the real files, if they are there."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trice.datasets.bfcl import CATEGORIES, read_bfcl
from trice.datasets.overlap import check_overlap
from trice.datasets.toolrl import read_toolrl
from trice.errors import InputError
from trice.messages import ExpectedCall
from trice.tasks.call_judge import judge_calls

REAL = Path(os.environ.get("TRICE_DATA", "")) / "bfcl"
COUNTS = (400, 200, 200, 200, 240, 258, 16)
NEVER_RIGHT = {"simple_python_200", "parallel_multiple_26", "live_simple_106-63-0", "live_simple_112-68-0"}
needs_files = pytest.mark.skipif(
    not os.environ.get("TRICE_DATA") or not REAL.is_dir(), reason="BFCL's files are not under TRICE_DATA"
)
ROW = {
    "id": "multiple_7",
    "question": [[{"role": "user", "content": "Paint a 3 by 2 wall."}]],
    "function": [
        {
            "name": "wall.paint.plan",
            "description": "Plans.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "size": {"type": "tuple", "items": {"type": "float"}, "description": "Metres."},
                    "coat": {
                        "type": "dict",
                        "properties": {
                            "layers": {"type": "array", "items": {"type": "dict", "properties": {}}}
                        },
                    },
                    "note": {"type": "any", "default": "x"},
                },
                "required": ["size"],
            },
        }
    ],
}
ANSWER = {"id": "multiple_7", "ground_truth": [{"wall.paint.plan": {"size": [[3, 2]], "note": ["", None]}}]}


def put(folder: Path, row: Any = ROW, answer: Any = ANSWER) -> Path:
    (folder / "possible_answer").mkdir()
    (folder / "BFCL_v4_multiple.json").write_text(json.dumps(row) + "\n")
    (folder / "possible_answer" / "BFCL_v4_multiple.json").write_text(json.dumps(answer) + "\n")
    return folder


def test_a_row_gets_json_schemas_and_names_without_dots(tmp_path: Path) -> None:
    (row,) = read_bfcl(put(tmp_path), "multiple")
    assert row.tools is not None
    assert row.messages is not None
    assert (row.id, row.dataset, row.input) == ("multiple_7", "multiple", "Paint a 3 by 2 wall.")
    assert [message.for_template() for message in row.messages] == ROW["question"][0]
    function = row.tools[0]["function"]
    assert (row.tools[0]["type"], function["name"]) == ("function", "wall_paint_plan")
    layers = {"type": "array", "items": {"type": "object", "properties": {}}}
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "size": {"type": "array", "items": {"type": "number"}, "description": "Metres."},
            "coat": {"type": "object", "properties": {"layers": layers}},
            "note": {"type": "string", "default": "x"},
        },
        "required": ["size"],
    }
    assert row.expected_calls == [
        ExpectedCall(name="wall_paint_plan", arguments={"size": [[3, 2]], "note": ["", None]})
    ]


def test_wrong_categories_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="BFCL category 'java' is not valid; choose simple_python, multiple"):
        read_bfcl(tmp_path, "java")
    with pytest.raises(InputError, match=r"BFCL_v4_multiple.json: no such file. Get it from"):
        read_bfcl(tmp_path, "multiple")
    put(tmp_path, answer=ANSWER | {"id": "multiple_8"})
    with pytest.raises(InputError, match="no answer to 'multiple_7'"):
        read_bfcl(tmp_path, "multiple")


def test_a_question_of_several_turns_is_refused(tmp_path: Path) -> None:
    put(tmp_path, ROW | {"question": [*ROW["question"], *ROW["question"]]})
    with pytest.raises(InputError, match="field 'question': 2 turns where one is expected"):
        read_bfcl(tmp_path, "multiple")


def test_a_row_of_another_form_is_refused(tmp_path: Path) -> None:
    put(tmp_path, ROW | {"function": [{"description": "x"}]})
    with pytest.raises(InputError, match=r"BFCL_v4_multiple.json:1: not a row of BFCL"):
        read_bfcl(tmp_path, "multiple")


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and those within it."""
    yield schema
    inner = list(schema.get("properties", {}).values())
    for each in inner + ([schema["items"]] if "items" in schema else []):
        yield from schemas(each)


@needs_files
def test_real_files_are_read_whole() -> None:
    rows = {category: read_bfcl(REAL, category) for category in CATEGORIES}
    assert tuple(len(each) for each in rows.values()) == COUNTS
    parameters = [
        tool["function"]["parameters"] for each in rows.values() for row in each for tool in row.tools or ()
    ]
    types = Counter(schema["type"] for each in parameters for schema in schemas(each))
    assert set(types) == {"object", "string", "integer", "number", "array", "boolean"}
    assert all(row.expected_calls == [] for row in rows["irrelevance"])
    assert all(row.expected_calls == "any" for row in rows["live_relevance"])


@needs_files
def test_the_first_accepted_values_are_right_except_where_no_call_can_be() -> None:
    wrong = set()
    for category in CATEGORIES:
        for row in read_bfcl(REAL, category):
            if not isinstance(row.expected_calls, list):
                continue
            calls = [wanted.call() for wanted in row.expected_calls]
            if not judge_calls(calls, row.expected_calls, row.tools or []).correct:
                wrong.add(row.id)
    assert wrong == NEVER_RIGHT


@needs_files
def test_training_data_holds_none_of_the_questions() -> None:
    train = [row.question for row in read_toolrl(REAL.parent / "toolrl/rlla_sft.json").rows]
    test = [row for category in CATEGORIES for row in read_bfcl(REAL, category)]
    assert check_overlap(train, test) == ([], [])
    assert len(check_overlap(test, test).exact) >= len(test)
