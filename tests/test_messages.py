"""The one reader of messages, calls and tools: forms that are read, and forms that are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from trice.messages import (
    ExpectedCall,
    Message,
    ToolCall,
    calls_text,
    read_call,
    read_message,
    read_messages,
    read_tools,
)
from trice.tasks.call_judge import judge_calls

CALLS = [
    ToolCall(name="multiply", arguments={"a": 3, "b": 4}),
    ToolCall(name="multiply", arguments={"a": 5, "b": 6}),
]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("hello", "not an object with role and content"),
        ({"content": "x"}, "has the role 'None'; expected system, developer, user, assistant, tool"),
        ({"role": "wizard"}, "has the role 'wizard'"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "of 'f' are not JSON"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": []}}]}, "'f' are not an object"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "the tool call has no name"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, "tool_calls of a message are not a list"),
        ({"role": "user", "content": [{"type": "image"}]}, "a message is not text alone"),
        ({"role": "user", "content": "x", "name": 5}, "^the name of a message is not text$"),
    ],
)  # fmt: skip
def test_a_message_of_another_form_is_refused(value: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_message(value)


def test_messages_are_read_as_other_tools_write_them() -> None:
    nested = {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "multiply", "arguments": '{"a": 3, "b": 4}'}},
        {"name": "multiply", "parameters": {"a": 5, "b": 6}},
    ]}  # fmt: skip
    assert read_message(nested) == Message(role="assistant", tool_calls=CALLS)
    assert read_call({"name": "now"}) == read_call({"name": "now", "arguments": ""})
    parts = {"role": "user", "content": [{"type": "text", "text": "3 "}, {"type": "text", "text": "* 4?"}]}
    assert read_messages([parts, nested])[0].content == "3 * 4?"
    with pytest.raises(ValueError, match="a tool's result without a call"):
        read_messages([parts, {"role": "tool", "content": "12"}])


def test_tools_are_read_as_schemas_or_functions() -> None:
    function = {"name": "now", "description": "The time."}
    schema = {"type": "function", "function": function | {"parameters": {"type": "object", "properties": {}}}}
    assert read_tools([function])[0]["function"].keys() == schema["function"].keys()  # type: ignore[attr-defined]
    assert read_tools([function]) == read_tools(read_tools([function])) == [schema]
    assert read_tools('[{"name": "now", "description": "The time."}]') == [schema]
    # The prompt is the same whoever wrote the tool.
    for written in ({}, {"description": None}, {"parameters": {}, "description": ""}, {"parameters": None}):
        (tool,) = read_tools([{"name": "now", "strict": True, **written}])
        (plain,) = read_tools([{"strict": True, "name": "now"}])
        assert str(tool) == str(plain)
    assert list(plain["function"]) == ["name", "description", "parameters", "strict"]


@pytest.mark.parametrize(
    "parameters",
    ["x", 3, [1], {"properties": ["a"]}, {"properties": "a"}, {"required": "a"}, {"required": True}],
)
def test_a_tool_whose_parameters_are_no_schema_is_refused(parameters: object) -> None:
    with pytest.raises(
        ValueError, match="the parameters of the tool 'now' are not a JSON schema of an object"
    ):
        read_tools([{"name": "now", "parameters": parameters}])


def test_results_take_the_order_of_their_calls() -> None:
    calls = [
        {"id": each, "function": {"name": "stock", "arguments": {"at": each}}} for each in ("a", "b", "c")
    ]
    results = [{"role": "tool", "tool_call_id": each, "content": f"of {each}"} for each in ("c", "a", "b")]
    asked = [{"role": "user", "content": "How many?"}, {"role": "assistant", "tool_calls": calls}]
    answer = {"role": "assistant", "content": "3"}
    messages = read_messages([*asked, *results, answer])
    assert [each.content for each in messages] == ["How many?", "", "of a", "of b", "of c", "3"]
    assert read_messages(messages) == messages


def test_an_expected_call_as_a_call() -> None:
    arguments = {
        "city": ["Oslo", "oslo"],
        "unit": ["", "C"],
        "at": [{"lat": [1, 2], "note": [""]}],
        "days": [[1, 2]],
    }
    wanted = ExpectedCall(name="weather", arguments=arguments)
    call = wanted.call()
    assert call.arguments == {"city": "Oslo", "at": {"lat": 1}, "days": [1, 2]}
    names = ("city", "unit", "at", "days")
    tool = {
        "name": "weather",
        "parameters": {"properties": {name: {} for name in names}, "required": ["city"]},
    }
    assert judge_calls([call], [wanted], [tool]).correct
    assert calls_text([call]) == 'weather(city="Oslo", at={"lat": 1}, days=[1, 2])'
    assert judge_calls(CALLS, [ExpectedCall.of(each) for each in CALLS[::-1]], [{"name": "multiply", "parameters": {
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}]).correct  # fmt: skip
