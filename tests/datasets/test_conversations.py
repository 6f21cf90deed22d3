"""Rows in the forms of TRL and ShareGPT as conversations, and the questions that two data sets share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import datasets
from trice.datasets.benchmark import hub_rows
from trice.datasets.conversations import (
    ConversationRow,
    Conversations,
    read_conversation,
    read_conversations,
)
from trice.datasets.overlap import check_overlap
from trice.errors import InputError
from trice.messages import ExpectedCall, Message
from trice.storage.files import read_rows, write_rows
from trice.tasks.call_judge import judge_calls
from trice.types import Question

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": WEATHER}
USER = {"role": "user", "content": "Is it cold in Oslo?"}
ANSWER = {"role": "assistant", "content": "Yes, -3 degrees."}
RESULT = {"role": "tool", "name": "weather", "content": "-3"}


def call(city: str, **also: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}} | also


def called(*cities: str, content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [call(city) for city in cities]}


def expected(*cities: str) -> list[ExpectedCall]:
    return [ExpectedCall(name="weather", arguments={"city": [city]}) for city in cities]


def read(folder: Path, *rows: dict[str, Any]) -> Conversations:
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_conversations(folder / "chats.jsonl")


def only(folder: Path, row: dict[str, Any]) -> ConversationRow:
    found = read(folder, row)
    assert not found.dropped, found.dropped
    return found.rows[0]


def dumped(messages: Sequence[Message] | None) -> list[dict[str, Any]]:
    return [message.for_template() for message in messages or ()]


def test_messages_end_with_the_last_question_and_the_response_follows(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    before = [system, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, USER]
    question, response = only(
        tmp_path, {"messages": [*before, called("Oslo", "Bergen"), RESULT, RESULT, ANSWER], "tools": [TOOL]}
    )
    assert (question.id, question.dataset, question.input) == ("chats-1", "chats", USER["content"])
    assert (dumped(question.messages), question.tools) == (before, [TOOL])
    assert dumped(response) == [called("Oslo", "Bergen"), RESULT, RESULT, ANSWER]
    assert question.expected_calls == expected("Oslo", "Bergen")
    assert question.answer == "Yes, -3 degrees."


def test_prompt_and_completion_as_messages_or_as_text(tmp_path: Path) -> None:
    called_, text, not_called = (
        row.question
        for row in read(
            tmp_path,
            {"prompt": [USER], "completion": [called("Oslo")], "tools": json.dumps([WEATHER]), "id": 7},
            {"prompt": "2 + 2?", "completion": "4"},
            {"prompt": "2 + 2?", "completion": "4", "tools": [TOOL]},
        ).rows
    )
    assert (called_.id, called_.tools, called_.expected_calls, called_.answer) == (
        "7",
        [TOOL],
        expected("Oslo"),
        None,
    )
    assert dumped(text.messages) == [{"role": "user", "content": "2 + 2?"}]
    assert (text.answer, text.expected_calls) == ("4", None)  # no tools: the answer is judged
    assert (not_called.answer, not_called.expected_calls) == ("4", [])


def test_a_question_alone_has_no_response(tmp_path: Path) -> None:
    wanted = [{"name": "weather", "arguments": {"city": ["Oslo", "oslo, NO"]}}]
    rows = read(
        tmp_path,
        {"prompt": [USER], "tools": [TOOL]},
        {"messages": [USER], "tools": [TOOL], "expected_calls": wanted, "level": 3},
        {"messages": [USER], "answer": ["-3", "minus three"]},
        {"messages": [USER], "tools": [TOOL], "expected_calls": "any"},
    ).rows
    assert [row.completion for row in rows] == [[]] * 4
    first, calls, answers, any_call = (row.question for row in rows)
    assert (first.expected_calls, first.answer) == (None, None)
    assert (calls.expected_calls, calls.model_extra) == (
        [ExpectedCall.model_validate(wanted[0])],
        {"level": 3},
    )
    assert answers.answer == ["-3", "minus three"]
    assert answers.tools is None  # so that its task's tools are offered
    assert any_call.expected_calls == "any"
    with pytest.raises(InputError, match=r"chats.jsonl:1: field 'expected_calls"):
        read(tmp_path, {"messages": [USER], "expected_calls": [{"name": "weather"}]})


def test_what_a_row_states_is_judged_and_not_its_response(tmp_path: Path) -> None:
    row = {"messages": [USER, called("Oslo"), RESULT, ANSWER], "tools": [TOOL], "answer": "-3"}
    question = only(tmp_path, row).question
    assert (question.answer, question.expected_calls) == ("-3", None)


def test_calls_in_other_forms_are_read(tmp_path: Path) -> None:
    text = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    tag = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    tagged = f"<think>\nCold?\n</think>\nI look.\n{tag}"
    forms = [
        {"role": "assistant", "content": None, "tool_calls": [text]},
        {"role": "assistant", "tool_calls": [text["function"]]},
        {"role": "assistant", "content": [{"type": "text", "text": tagged}]},
        {
            "role": "assistant",
            "content": "I look.",
            "thinking": "Cold?",
            "tool_calls": [call("Oslo")],
        },
    ]
    rows = [
        dumped(only(tmp_path, {"prompt": [USER], "completion": [form], "tools": [TOOL]}).completion)[0]
        for form in forms
    ]
    assert rows[:2] == [called("Oslo")] * 2
    assert rows[2:] == [{**called("Oslo", content="I look."), "reasoning_content": "Cold?"}] * 2


def test_results_are_named_by_the_id_of_their_call(tmp_path: Path) -> None:
    clock = {"name": "clock", "arguments": {}}
    calls = [call("Oslo", id="c1"), {"type": "function", "function": clock, "id": "c2"}]
    results = [{"role": "tool", "content": "noon", "tool_call_id": "c2"}, {**RESULT, "tool_call_id": "c1"}]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    row = only(tmp_path, {"messages": [USER, asked, *results, ANSWER], "tools": [TOOL, {"name": "clock"}]})
    assert [message.name for message in row.completion] == [None, "weather", "clock", None]
    assert row.completion[2].content == "noon"
    open_end = {"messages": [USER, asked, *results], "tools": [TOOL, {"name": "clock"}], "id": "q"}
    question = Question.model_validate(open_end)  # the same rule where a question is read directly
    assert [message.name for message in question.messages or ()] == [None, None, "weather", "clock"]


def test_sharegpt(tmp_path: Path) -> None:
    function_call = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})
    turns = [
        {"from": "human", "value": USER["content"]},
        {"from": "function_call", "value": f"<think>\nCold?\n</think>\n{function_call}"},
        {"from": "observation", "value": "-3"},
        {"from": "gpt", "value": ANSWER["content"]},
    ]
    question, response = only(
        tmp_path,
        {"conversations": turns, "system": "Be brief.", "tools": json.dumps([WEATHER]), "images": []},
    )
    assert dumped(question.messages) == [{"role": "system", "content": "Be brief."}, USER]
    assert dumped(response) == [{**called("Oslo"), "reasoning_content": "Cold?"}, RESULT, ANSWER]
    turns[1]["value"] = f"[{function_call}, {function_call}]"
    question = only(tmp_path, {"conversations": turns[:2], "tools": [TOOL]}).question
    assert (question.expected_calls, question.answer) == (expected("Oslo", "Oslo"), None)


def test_calls_of_the_response_are_right_by_their_own_expectation(tmp_path: Path) -> None:
    question, response = only(tmp_path, {"messages": [USER, called("Oslo")], "tools": [TOOL]})
    assert question.expected_calls is not None
    assert judge_calls(response[0].tool_calls, question.expected_calls, question.tools or []).correct


def test_nulls_of_a_table_are_left_out() -> None:
    other = {"name": "clock", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}
    table = datasets.Dataset.from_list(
        [
            {"messages": [USER, called("Oslo")], "tools": [TOOL]},
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "content": "",
                        "tool_calls": [
                            {"type": "function", "function": {"name": "clock", "arguments": {"zone": "CET"}}}
                        ],
                    },
                ],
                "tools": [{"type": "function", "function": other}],
            },
        ]
    )
    assert "zone" in table[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    records = hub_rows({"train": table}, "train", "train")
    rows = [read_conversation(record, "hub") for record in records]
    assert rows[0].question.tools == [TOOL]
    assert dumped(rows[0].completion) == [called("Oslo")]
    assert rows[1].question.expected_calls == [ExpectedCall(name="clock", arguments={"zone": ["CET"]})]


UNREADABLE: list[tuple[dict[str, Any], str]] = [
    ({"text": "x"}, "no field messages, conversations or prompt"),
    ({"messages": "x", "images": ["a.png"]}, "images, videos or sound"),
    ({"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}, "a preference"),
    ({"prompt": "x", "completion": "y", "label": False}, "an answer that is not wanted"),
    ({"messages": 5}, "expected a list of messages with role and content"),
    ({"conversations": ["x"]}, "no list of messages"),
    ({"messages": [USER]}, "no answer after the last question"),
    ({"messages": [ANSWER], "answer": "x"}, "no question"),
    ({"prompt": [USER, ANSWER]}, "a prompt that ends with an answer"),
    (
        {"messages": [{"role": "judge", "content": "x"}]},
        "a message has the role '…'; expected system, developer, user, assistant, tool",
    ),
    ({"conversations": [{"from": "judge", "value": "x"}]}, "a message has the role '…'"),
    ({"messages": [USER, {"role": "assistant", "content": ""}]}, "an empty answer"),
    ({"messages": [{"role": "user", "content": [{"image": "a.png"}]}]}, "a message is not text alone"),
    ({"prompt": "x", "completion": [ANSWER, USER]}, "an answer that holds another question"),
    ({"messages": [USER, RESULT, ANSWER]}, "a message has a tool's result without a call before it"),
    ({"messages": [USER, called("Oslo")]}, "a call of a tool that is not offered"),
    ({"messages": [USER, ANSWER], "tools": "{"}, "the tools are not JSON"),
    ({"messages": [USER, ANSWER], "tools": [{"description": "x"}]}, "a tool has no name"),
    ({"messages": [USER, ANSWER], "tools": 5}, "the tools are not a list"),
    ({"messages": [USER, ANSWER], "tools": [TOOL, WEATHER]}, "two tools have the same name"),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": {"name": "x"}}]},
        "the tool_calls of a message are not a list",
    ),
    ({"messages": [USER, {"role": "assistant", "tool_calls": ["x"]}]}, "the tool call has no name"),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "{"}]}]},
        "the arguments of '…' are not JSON",
    ),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "[]"}]}]},
        "the arguments of '…' are not an object",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": "<tool_call>weather</tool_call>"}]},
        "a tool call is not JSON",
    ),
]


@pytest.mark.parametrize(("row", "reason"), UNREADABLE)
def test_unreadable_rows_are_counted_by_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    found = read(tmp_path, row, {"messages": [USER, ANSWER]}, row)
    assert [each.question.id for each in found.rows] == ["chats-2"]
    assert found.reasons == {reason: 2}
    assert [each.id for each in found.dropped] == ["chats-1", "chats-3"]


def test_json_lists_and_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"messages": [USER, ANSWER]}], indent=1))
    assert read_conversations(path, "mine").rows[0].question.dataset == "mine"
    path.write_text("[1]")
    with pytest.raises(InputError, match="record 1: not a JSON object"):
        read_conversations(path)
    path.write_text("[")
    with pytest.raises(InputError, match="not JSON"):
        read_conversations(path)
    with pytest.raises(InputError, match="no such file"):
        read_conversations(tmp_path / "none.json")


def test_rows_are_written_and_read_unchanged(tmp_path: Path) -> None:
    row = only(tmp_path, {"messages": [USER, called("Oslo"), RESULT, ANSWER], "tools": [TOOL]}).question
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl", Question) == [row]


def test_overlap_by_text_and_by_words(tmp_path: Path) -> None:
    def rows(*texts: str) -> list[Question]:
        return [row.question for row in read(tmp_path, *({"prompt": text} for text in texts)).rows]

    train = rows("Is it cold in Oslo?", "How far is Rome?", "Ask me.", "?!")
    test = rows("is it  cold in oslo", "How far is Rome?", "How far is Roma?", "!")
    assert check_overlap(train, test) == ([("chats-2", "chats-2")], [("chats-1", "chats-1")])
    talk = {"messages": [USER, ANSWER, {"role": "user", "content": "And Rome?"}, ANSWER]}
    assert check_overlap([only(tmp_path, talk).question], train).exact == [("chats-1", "chats-1")]
