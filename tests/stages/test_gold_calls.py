"""Labels of several calls: executed by turn, judged by the gold answer, written as a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import trice
from tiny import read, write
from trice.errors import InputError
from trice.formats.prompt import load_template, prompt_template
from trice.stages.label import label
from trice.stages.teachers import Annotations
from trice.tasks import Tasks
from trice.training.clone import examples
from trice.training.rlef import examples as rlef_examples
from trice.types import Question


@trice.tool
def stock(product: str, place: str) -> int:
    """Say how many pieces of a product a place holds."""
    return {("chair", "north"): 7, ("chair", "south"): 2}[product, place]


@trice.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TASK = trice.Task("shop", "Answer the customer.", tools=[stock, add], answers="auto")


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


NORTH, SOUTH = call("stock", product="chair", place="north"), call("stock", product="chair", place="south")
WEST, TOTAL = call("stock", product="chair", place="west"), call("add", a=7, b=2)
QUESTIONS = [
    {"id": "both", "question": "How many in each?", "answer": "7 and 2", "gold_calls": [[NORTH, SOUTH]]},
    {"id": "sum", "question": "How many?", "answer": ["8", "9"], "gold_calls": [[NORTH, SOUTH], [TOTAL]]},
    {"id": "wrong", "question": "How many?", "answer": "5", "gold_calls": [[NORTH]]},
    {"id": "failing", "question": "How many in the west?", "answer": "5", "gold_calls": [[WEST]]},
]


def test_gold_calls_become_conversations_with_results_and_the_answer_that_they_give() -> None:
    labels = trice.label(QUESTIONS, TASK)
    assert [row.id for row in labels] == ["both", "sum"]
    both, total = ([m.model_dump(exclude_defaults=True) for m in row.completion or ()] for row in labels)
    assert both == [
        {"role": "assistant", "tool_calls": [NORTH, SOUTH]},
        {"role": "tool", "name": "stock", "content": "7"},
        {"role": "tool", "name": "stock", "content": "2"},
        {"role": "assistant", "content": "7 and 2"},
    ]
    assert total == [
        *both[:3],
        {"role": "assistant", "tool_calls": [call("add", a=7, b=2)]},
        {"role": "tool", "name": "add", "content": "9"},
        {"role": "assistant", "content": "9"},  # the accepted answer that the calls give, not the first
    ]


def test_rejected_labels_say_why(tmp_path: Path) -> None:
    data = write(tmp_path / "q.json", QUESTIONS)
    found = label(data, tmp_path / "labels.json", Tasks(TASK), Annotations())
    assert (found.kept, found.total) == (2, 4)
    rejected = {row["id"]: row["rejected"] for row in read(tmp_path / "labels_rejected.json")}
    assert rejected["wrong"] == "wrong answer: 7"
    assert rejected["failing"].startswith("execution error: stock failed: nothing found")


class _Model:
    """A teacher that is a model, and answers every question with the same text."""

    turns = 1
    description: ClassVar[dict[str, Any]] = {"teacher": "model"}
    endpoint: Any = SimpleNamespace(account=SimpleNamespace(resume=lambda spent, save: None))

    def __init__(self, text: str) -> None:
        self.text = text

    def teach(self, tasks: Tasks, questions: Mapping[int, Question], turn: int, done: Any) -> dict[int, str]:
        done(dict.fromkeys(questions, self.text))
        return {}


def test_the_label_of_a_model_is_judged_and_not_replaced(tmp_path: Path) -> None:
    data = write(tmp_path / "q.json", [QUESTIONS[1]])
    found = label(data, tmp_path / "none.json", Tasks(TASK), _Model("I cannot call."))
    assert (found.kept, found.reasons) == (0, {"no call": 1})
    assert label(data, tmp_path / "one.json", Tasks(TASK), _Model("add(7, 2)")).kept == 1
    (row,) = read(tmp_path / "one.json")
    assert (row["output"], row["result"]) == ("add(7, 2)", "9")
    assert "completion" not in row


def test_a_call_of_another_tool_is_refused() -> None:
    row = QUESTIONS[0] | {"gold_calls": [[call("weather", place="north")]]}
    with pytest.raises(
        InputError, match="field 'gold_calls': the task offers no tool 'weather'; it offers: stock, add"
    ):
        trice.label([row], TASK)


def test_the_format_chat_trains_with_the_tools_of_a_known_task_alone(tmp_path: Path) -> None:
    data = tmp_path / "labels.json"
    label(write(tmp_path / "q.json", QUESTIONS[:1]), data, Tasks(TASK), Annotations())
    examples(data, prompt_template("chat"), tasks=Tasks(TASK))
    with pytest.raises(
        InputError, match=r"labels.json:1: no task that ships has this instruction, .* --task"
    ):
        examples(data, prompt_template("chat"))


def test_the_format_paper_refuses_several_calls(tmp_path: Path) -> None:
    label(write(tmp_path / "q.json", QUESTIONS[:1]), tmp_path / "labels.json", Tasks(TASK), Annotations())
    message = (
        "labels.json:1: field 'completion': has 2 tool calls, and the format paper has one; use the format"
    )
    with pytest.raises(InputError, match=message):
        examples(tmp_path / "labels.json", load_template("plain"))


def test_stage_2_refuses_native_calls_in_the_format_paper(tmp_path: Path) -> None:
    calls = {"role": "assistant", "tool_calls": [NORTH]}
    candidates = [
        {"response": "<tool_call>…</tool_call>", "reward": 1, "completion": [calls]},
        {"response": "5", "reward": 0},
    ]
    row = {"id": "north", "instruction": "Answer.", "input": "How many?", "candidates": candidates}
    data = write(tmp_path / "candidates.json", [row])
    message = (
        "candidates.json:1: field 'completion': a candidate has native tool calls.*; choose --format chat"
    )
    with pytest.raises(InputError, match=message):
        rlef_examples(data, load_template("plain"))
