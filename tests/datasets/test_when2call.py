"""When2Call's rows as conversations with given responses; the real file, if it is there."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from trice import datasets
from trice.errors import InputError

FILE = "when2call/when2call_test_llm_judge.jsonl"
REAL = Path(os.environ.get("TRICE_DATA", "")) / FILE
TOOL = {"name": "shop.stock", "parameters": {"type": "dict", "properties": {"product": {"type": "string"}}}}
ANSWERS = {
    "direct": "There are 7.",
    "tool_call": '{"name": "shop.stock", "arguments": {"product": "chair"}}',
    "request_for_info": "In which shop?",
    "cannot_answer": "I cannot see the stock.",
}
ROW = {
    "uuid": "a-1",
    "question": "How many chairs are there?",
    "correct_answer": "tool_call",
    "answers": ANSWERS,
    "target_tool": json.dumps(TOOL),
    "tools": [json.dumps(TOOL)],
}


def put(folder: Path, *rows: Any, name: str = FILE) -> Path:
    (folder / "when2call").mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_row_is_a_conversation_with_four_responses_of_which_one_is_right(tmp_path: Path) -> None:
    (row,) = datasets.load("When2Call", put(tmp_path, ROW)).test
    assert (row.id, row.dataset, row.input) == ("a-1", "tool_call", "How many chairs are there?")
    assert row.tools == [
        {"type": "function", "function": TOOL | {"description": ""}}
    ]  # names and types as in the file
    assert row.expected_calls == "any"
    assert row.model_extra == {
        "choices": ANSWERS | {"tool_call": {"name": "shop.stock", "arguments": {"product": "chair"}}},
        "right_choice": "tool_call",
    }


@pytest.mark.parametrize("right", ["request_for_info", "cannot_answer"])
def test_where_no_call_is_right_none_is_expected(tmp_path: Path, right: str) -> None:
    (row,) = datasets.load("When2Call", put(tmp_path, ROW | {"correct_answer": right, "tools": []})).test
    assert (row.dataset, row.tools, row.expected_calls) == (right, [], [])


def test_the_larger_file_is_read_if_it_is_there(tmp_path: Path) -> None:
    put(tmp_path, ROW)
    put(tmp_path, ROW, ROW | {"uuid": "a-2"}, name="when2call/when2call_test_mcq.jsonl")
    assert {row.id for row in datasets.load("When2Call", tmp_path).test} == {"a-1", "a-2"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"correct_answer": "guess"}, "the right answer is 'guess'"),
        ({"answers": {"direct": "7"}}, "not a row of When2Call"),
        ({"answers": ANSWERS | {"tool_call": "shop.stock()"}}, "not a row of When2Call"),
        ({"tools": ["not JSON"]}, "not a row of When2Call"),
        ({"tools": None}, "field 'tools': not a list"),
    ],
)
def test_a_row_of_another_form_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"judge\.jsonl:2: .*{message}"):
        datasets.load("When2Call", put(tmp_path, ROW, ROW | {"uuid": "a-2"} | changed))


@pytest.mark.skipif(not REAL.is_file(), reason="When2Call's file is not under TRICE_DATA")
def test_the_official_rows_are_read() -> None:
    rows = datasets.load("When2Call", test=300).test
    assert Counter(row.dataset for row in rows) == {
        "cannot_answer": 100, "request_for_info": 100, "tool_call": 100,
    }  # fmt: skip
    assert sum(not row.tools for row in rows) == 17
