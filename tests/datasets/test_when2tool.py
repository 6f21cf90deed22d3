"""When2Tool's files in the form of its generators: questions with the schemas of the tools on offer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trice import datasets
from trice.errors import InputError

ADD = {
    "name": "add",
    "description": "Add.",
    "parameters": {"type": "object", "properties": {}, "required": []},
}
FORGET = {"name": "forget", "description": "Forget.", "parameters": {"type": "object", "properties": {}}}


def row(id: int, text: str, **changed: Any) -> dict[str, Any]:
    environments = [{"name": "SumEnv", "tools": ["add"], "parameters": {}}]
    return {
        "id": id, "difficulty": "hard", "multi_step": False, "instruction": text, "environments": environments,
        "expected": {"answer": "3"}, "tags": ["sum"],
    } | changed  # fmt: skip


def put(folder: Path, *test: Any) -> Path:
    for name in ("data", "envs"):
        (folder / "when2tool" / name).mkdir(parents=True, exist_ok=True)
    train = [row(11001, "What is 1 plus 1?", difficulty="easy", expected={"answer": 2})]
    for part, rows in (("train", train), ("test", list(test))):
        (folder / f"when2tool/data/tasks_v1_{part}.json").write_text(json.dumps(rows))
    (folder / "when2tool/envs/SumEnv.json").write_text(json.dumps([ADD, FORGET]))
    return folder


def test_a_task_is_a_question_with_the_schemas_of_the_tools_on_offer(tmp_path: Path) -> None:
    split = datasets.load("When2Tool", put(tmp_path, row(13501, "What is 1 plus 2?")))
    (question,) = split.test
    assert (question.id, question.dataset, question.input) == ("13501", "When2Tool hard", "What is 1 plus 2?")
    assert question.tools == [{"type": "function", "function": ADD}]
    assert (question.answer, question.model_extra) == ("3", {"environment": "SumEnv"})
    assert [(each.dataset, each.answer) for each in split.train] == [("When2Tool easy", "2")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"environments": [{"name": "SumEnv", "tools": ["subtract"]}]}, "no such tool .'subtract'"),
        ({"environments": [{"name": "OtherEnv", "tools": ["add"]}]}, "OtherEnv.json"),
        ({"expected": {}}, "field 'expected': no answer"),
        ({"instruction": ""}, "field 'instruction': missing or empty"),
    ],
)
def test_a_task_of_another_form_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        datasets.load("When2Tool", put(tmp_path, row(13501, "What is 1 plus 2?", **changed)))


def test_missing_files_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tasks_v1_train\.json: no such file.*generate_data\.sh"):
        datasets.load("When2Tool", tmp_path)
