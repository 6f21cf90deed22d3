"""ToolRL's rows, which are text, as conversations; the real file, if it is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from trice.datasets.conversations import Conversations
from trice.datasets.toolrl import read_toolrl
from trice.tasks.call_judge import judge_calls

REAL = Path(os.environ.get("TRICE_DATA", "")) / "toolrl/rlla_sft.json"
INSTRUCTION = """You help.

**Available Tools**
In your response, you can use the following tools:
1. Name: Find Boats
Description: Finds boats.
Two lines of it.
Parameters: {"port": {"description": "The port.", "type": "str", "default": ""}, "sizes": {"description": "", \
"type": "List[List[int]]", "default": 0.05}, "sail": {"description": "With sails.", "type": "bool, optional", \
"default": ""}, "at": {"description": "Where.", "type": "Tuple[float, float]", "default": ""}, "f": \
{"description": "", "type": "Callable[[float], float]", "default": ""}, "limit": {"description": "Defaults to 5.", \
"type": ["integer", "null"], "default": ""}}
2. Name: tides
Description: The tides.
Parameters: {}

**Steps for Each Turn**
1. **Think:** Recall.
"""
HISTORY = "**Dialogue Records History**\n"
CALL = (
    '<tool_call>\n{"name": "Find Boats", "parameters": {"port": "Kiel", "sizes": [], "f": "x"}}\n</tool_call>'
)
TIDES = '{"name": "tides", "parameters": {}}'
ASKED = f"{HISTORY}<user> Boats in Kiel? </user>"


def read(folder: Path, input: str, output: str, instruction: str = INSTRUCTION) -> Conversations:
    path = folder / "rows.json"
    path.write_text(json.dumps([{"instruction": instruction, "input": input, "output": output}]))
    return read_toolrl(path)


def test_a_row_is_a_question_with_tools_and_a_target(tmp_path: Path) -> None:
    read_ = read(tmp_path, ASKED, f"<think> Not a <tool_call> yet. </think>\n{CALL}")
    ((row, response),) = read_.rows
    assert (row.id, row.dataset) == ("ToolRL-1", "ToolRL")
    assert [each.for_template() for each in row.messages or ()] == [
        {"role": "user", "content": "Boats in Kiel?"}
    ]
    arguments = {"port": "Kiel", "sizes": [], "f": "x"}
    call = {"type": "function", "function": {"name": "Find_Boats", "arguments": arguments}}
    reasoning = "Not a <tool_call> yet."
    message = {"role": "assistant", "content": "", "reasoning_content": reasoning, "tool_calls": [call]}
    assert [each.for_template() for each in response] == [message]
    assert [each.name for each in row.expected_calls or []] == ["Find_Boats"]  # type: ignore[union-attr]
    assert row.answer is None
    boats, tides = (tool["function"] for tool in row.tools or ())
    assert boats["description"] == "Finds boats.\nTwo lines of it."
    described = {name: {**each} for name, each in boats["parameters"]["properties"].items()}
    assert described == {
        "port": {"type": "string", "description": "The port."},
        "sizes": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer"}},
            "description": "",
        },
        "sail": {"type": "boolean", "description": "With sails."},
        "at": {"type": "array", "items": {"type": "number"}, "description": "Where."},
        "f": {"description": ""},
        "limit": {"type": ["integer", "null"], "description": "Defaults to 5."},
    }
    assert boats["parameters"]["required"] == ["port", "sizes", "f"]  # the call leaves out `at`
    assert tides == {
        "name": "tides",
        "description": "The tides.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }


def test_a_dialogue_is_messages_with_a_result_for_each_call(tmp_path: Path) -> None:
    results = [{"name": "tides", "results": {"high": 3}}, {"name": "tides", "results": "ebb"}]
    history = (
        f"{ASKED}\n\n<think> Look. </think>\n<tool_call>\n{TIDES}\n{TIDES}\n</tool_call>\n"
        f"<obs> {json.dumps(results)} </obs>\n\n<think> Say. </think>\n<response> It is ebb. </response>\n\n"
        f"<user> Again? </user>\n\n<tool_call>\n{TIDES}\n</tool_call>\n<obs> out of order </obs>"
    )
    ((row, _),) = read(tmp_path, history, "<think> Hm. </think>\n<response> I cannot. </response>").rows
    messages = [each.for_template() for each in row.messages or ()]
    tool = {"role": "tool", "name": "tides"}
    assert [message["role"] for message in messages] == [
        *("user", "assistant", "tool", "tool", "assistant", "user", "assistant", "tool")
    ]
    assert messages[2:4] == [{**tool, "content": '{"high": 3}'}, {**tool, "content": '"ebb"'}]
    assert messages[7] == {**tool, "content": "out of order"}
    assert (row.expected_calls, row.answer) == ([], "I cannot.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"output": "Just text."}, "a dialogue of another form"),
        ({"output": "<think> Hm. </think>"}, "an empty answer"),
        ({"output": "<tool_call> {port} </tool_call>"}, "a tool call is not JSON"),
        ({"output": '<tool_call> {"name": 3} </tool_call>'}, "the tool call has no name"),
        (
            {"output": '<tool_call> {"name": "radar", "parameters": {}} </tool_call>'},
            "a call of a tool that is not offered",
        ),
        (
            {"output": '<tool_call> {"name": "tides", "parameters": {"x": 1}} </tool_call>'},
            "a call whose arguments are not those of its tool",
        ),
        ({"instruction": "No tools here."}, "no list of tools"),
        ({"instruction": INSTRUCTION.replace("2. Name: tides", "2. tides")}, "a tool of another form"),
        ({"instruction": INSTRUCTION.replace("tides", "Find_Boats")}, "two tools have the same name"),
        (
            {"instruction": INSTRUCTION.replace("Parameters: {}", "Parameters: none")},
            "a tool whose parameters are not JSON",
        ),
    ],
)
def test_unreadable_rows_are_counted_by_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    found = read(tmp_path, **{"input": ASKED, "output": CALL} | row)
    assert (found.rows, found.reasons) == ([], {reason: 1})


@pytest.mark.skipif(
    not os.environ.get("TRICE_DATA") or not REAL.is_file(), reason="ToolRL's file is not under TRICE_DATA"
)
def test_the_real_file() -> None:
    found = read_toolrl(REAL)
    assert len(found.rows) == 388
    assert found.reasons == {
        "a call whose arguments are not those of its tool": 9,
        "a call of a tool that is not offered": 2,
        "two tools have the same name": 1,
    }
    assert sum(row.answer is not None for row, _ in found.rows) == 52
    for row, response in found.rows:
        assert len(response) == 1
        assert judge_calls(response[0].tool_calls, row.expected_calls or [], row.tools or []).correct
