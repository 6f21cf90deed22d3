"""ToolRL: 400 questions with tools and a response of a reasoning model, of which 346 call tools. May be trained on.

A row is text: the tools are in its instruction, the dialogue in its input, and the response, with its reasoning, in
its output. The tools become JSON schemas, which the texts describe with Python's types. The instruction's own
description of the response's form is left out, since the model's chat template gives another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trice.datasets.benchmark import Benchmark, Dropped, Record, read_list
from trice.datasets.conversations import (
    ConversationRow,
    Conversations,
    Unreadable,
    make_row,
    read_calls,
    read_records,
)
from trice.messages import ExpectedCall, Message, ToolCall, read_messages, read_tools
from trice.tasks import CONVERSATION
from trice.tasks.call_judge import judge_calls
from trice.types import Question

NAME = "ToolRL"

_TOOLS = re.compile(
    r"\*\*Available Tools\*\*\n.*?\n(1\. Name: .*?)\n\n\*\*Steps for Each Turn\*\*", re.DOTALL
)
_TOOL = re.compile(r"\d+\. Name: (.*)\nDescription: ((?:.|\n)*?)\nParameters: (.*)(?:\n|\Z)")
_PART = re.compile(r"\s*<(user|think|tool_call|obs|response)>(.*?)</\1>\s*", re.DOTALL)
_HISTORY = "**Dialogue Records History**"
_TYPE = re.compile(r"(\w+)(?:\[(.*)\])?")
_TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "tuple": "array",
    "dict": "object",
    "object": "object",
}


def read_toolrl(path: Path) -> Conversations:
    """Read `rlla_sft.json`. Rows that cannot be read are dropped, with a reason.

    Raises:
        InputError: The file is missing, or is not a JSON list of objects.
    """
    return read_records(read_list(path, NAME), _row)


def _row(record: Record) -> ConversationRow:
    instruction, input, output = (record.text(field) for field in ("instruction", "input", "output"))
    try:
        prompt = _messages(input.removeprefix(_HISTORY))
        whole = read_messages([*prompt, *_messages(output)])
        calls = [call for message in whole for call in message.tool_calls]
        tools = _read_tools(instruction, calls)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    fields = {"id": record.name, "dataset": NAME}
    row = make_row(record, fields, whole[: len(prompt)], tools, whole[len(prompt) :])
    if not all(judge_calls([call], [ExpectedCall.of(call)], tools).correct for call in calls):
        raise Unreadable("a call whose arguments are not those of its tool")
    return row


def _question(record: Record) -> Question | Dropped:
    try:
        return _row(record).question
    except Unreadable as reason:
        return Dropped(record.name, str(reason))


def _read_tools(instruction: str, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """The tools that an instruction lists. `calls` are the row's calls, which show what is not required."""
    listed = _TOOLS.search(instruction)
    if not listed:
        raise Unreadable("no list of tools")
    functions, end = [], 0
    while end < len(listed[1]):
        tool = _TOOL.match(listed[1], end)
        if not tool:
            raise Unreadable("a tool of another form")
        name, description = _name(tool[1]), tool[2].strip()
        parameters = _parameters(tool[3], [call.arguments for call in calls if call.name == name])
        functions.append({"name": name, "description": description, "parameters": parameters})
        end = tool.end()
    return read_tools(functions)


def _name(name: str) -> str:
    """A tool's name in the characters that OpenAI allows: `Search Managers` is `Search_Managers`."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name.strip())[:64]


def _parameters(text: str, given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of parameters, of which each has a description, a type and a default.

    The defaults are left out, because the data set gives the default of one parameter to others of the tool. A
    parameter is required if its type and description do not say that it is optional, and no call leaves it out.
    """
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("a tool whose parameters are not JSON") from None
    if not isinstance(described, dict) or not all(
        isinstance(each, dict) and {"type", "description"} <= each.keys() for each in described.values()
    ):
        raise Unreadable("a tool of another form")
    properties, required = {}, []
    for name, each in described.items():
        properties[name] = _schema(each["type"]) | {"description": each["description"]}
        optional = re.search("optional|default", f"{each['type']} {each['description']}", re.IGNORECASE)
        if not optional and all(name in arguments for arguments in given):
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _schema(written: Any) -> dict[str, Any]:
    """The JSON schema of a type such as `List[int]` or `str, optional`; without a type if JSON has none like it."""
    if isinstance(written, list):
        return {"type": written}
    found = _TYPE.fullmatch(str(written).removesuffix(", optional").strip())
    outer = _TYPES.get(found[1].lower()) if found else None
    if not found or outer is None:
        return {"type": "number"} if written == "Union[int, float]" else {}
    if outer != "array" or not found[2]:
        return {"type": outer}
    # The items of a tuple are described by the first of them.
    item = found[2].split(",")[0] if found[1].lower() == "tuple" else found[2]
    return {"type": outer, "items": _schema(item)}


def _messages(text: str) -> list[Any]:
    """The messages of a dialogue in tags. Results have no name yet."""
    messages: list[Any] = []
    parts: dict[str, str] = {}
    end = 0
    while end < len(text):
        part = _PART.match(text, end)
        if not part:
            raise Unreadable("a dialogue of another form")
        kind, content = part[1], part[2].strip()
        if kind in ("user", "obs", "think") or kind in parts:
            messages += _assistant(parts)
            parts = {}
        if kind == "user":
            messages.append({"role": "user", "content": content})
        elif kind == "obs":
            messages += _results(content, messages)
        else:
            parts[kind] = content
        end = part.end()
    return messages + _assistant(parts)


def _assistant(parts: dict[str, str]) -> list[Message]:
    """The assistant's message of its parts, if there are any."""
    if not parts:
        return []
    calls = [
        ToolCall(name=_name(call.name), arguments=call.arguments)
        for call in read_calls(parts.get("tool_call", ""))
    ]
    content, reasoning = parts.get("response", ""), parts.get("think") or None
    return [Message(role="assistant", content=content, reasoning_content=reasoning, tool_calls=calls)]


def _results(text: str, messages: Sequence[Any]) -> list[dict[str, str]]:
    """A tool message for each call, if the results are a list of as many; else one with the text."""
    last = messages[-1] if messages else None
    calls = last.tool_calls if isinstance(last, Message) else ()
    try:
        results = json.loads(text)
    except (ValueError, RecursionError):
        results = None
    if not isinstance(results, list) or len(results) != len(calls):
        return [{"role": "tool", "content": text}]
    contents = [
        json.dumps(each.get("results", each) if isinstance(each, dict) else each, ensure_ascii=False)
        for each in results
    ]
    return [{"role": "tool", "content": content} for content in contents]


BENCHMARK = Benchmark(
    name=NAME,
    task=CONVERSATION,
    licence="Apache 2.0",
    files={"train": ["toolrl/rlla_sft.json"]},
    home="dataset/rlla_4k_raw of the repository qiancheng0/ToolRL on GitHub",
    train=388,
    question=_question,
    parse=lambda path, part: read_list(path, NAME),
)
