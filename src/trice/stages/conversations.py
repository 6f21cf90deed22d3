"""Our rows as conversations, and back: messages of `role` and `content`, calls under `tool_calls`, as chat
templates and TRL have them (Dataset formats and types, in TRL's documentation, and its section on tool
calling).

Imported messages may also hold a call in their content, as `<tool_call>{"name": …, "arguments": …}</tool_call>`.

A response with a call becomes the text before it and one entry of `tool_calls`; any other text, a malformed
call too, is plain `content`. Where a call was written in another way than these would be, the message also
holds the response itself under `text`, which templates do not look at. Conversations that have no such response
are `Unfit`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from trice.errors import InputError
from trice.formats.paper import find_call, parse
from trice.progress import notice
from trice.stages.label import READING_FIELDS
from trice.tools import Tool
from trice.tools.call_text import first_call_is, write_call
from trice.types import LabeledQuestion, Question, ToolCall

Message = dict[str, Any]

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)\s*", re.DOTALL)
"""A call as JSON in a message's content, as models of the Hermes family write it."""


class Unfit(Exception):
    """What a row of another trainer holds that ours cannot express, in words."""


class LeftOut:
    """Rows that are left out: how many for each reason, and the place of the first."""

    def __init__(self) -> None:
        self._where: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, where: str) -> None:
        self._where[reason].append(where)

    @property
    def count(self) -> int:
        return sum(map(len, self._where.values()))

    def notify(self) -> None:
        """One notice for each reason."""
        for reason, where in self._where.items():
            notice(f"{len(where)} rows left out: {reason} (the first: {where[0]})")


def asked(instruction: str, input: str) -> list[Message]:
    """The prompt: the instruction as system message, the input as the user's; where one is empty, the other."""
    if not instruction or not input:
        return [{"role": "user", "content": instruction or input}]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": input}]


def question(messages: Sequence[Message]) -> tuple[str, str]:
    """The instruction, empty where there is no system message, and the input. Raises Unfit for anything else than
    one question."""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"], ["developer", "user"]):
        raise Unfit(f"not one question with at most a system message before it, but {', '.join(roles)}")
    *system, user = messages
    return "".join(_content(message) for message in system), _content(user)


def said(tools: Sequence[Tool], text: str) -> Message:
    """A response as the assistant's message."""
    reading = parse(text, {tool.name: tool.parse for tool in tools})
    if reading.call is None or reading.written is None:
        own = {"text": text} if _TAGGED.search(text) else {}  # what looks like a call of another form is none
        return {"role": "assistant", "content": text} | own
    function = {"name": reading.call.name, "arguments": reading.call.arguments}
    message = {
        "role": "assistant",
        "content": text[: find_call(text, reading.written)],
        "tool_calls": [{"type": "function", "function": function}],
    }
    try:
        plain = response(tools, message)[0] == text
    except Unfit:
        plain = False
    return message if plain else message | {"text": text}


def response(tools: Sequence[Tool], message: Message) -> tuple[str, Tool | None]:
    """The assistant's message as a response, and the tool it calls. Raises Unfit for several calls, for a tool
    that is not offered, and for arguments that no call in text can hold."""
    if message["role"] != "assistant":
        raise Unfit(f"a {message['role']} message where the answer should be")
    text, content = message.get("text"), _content(message)
    given = message.get("tool_calls") or []
    if not isinstance(given, list):
        raise Unfit("tool_calls that are no list")
    if not given and text == content:
        return content, None
    calls = [_call(entry) for entry in given]
    if not isinstance(text, str):  # else the content is ours, and its tags are text
        calls += [call for call in map(_tagged, _TAGGED.findall(content)) if call not in calls]
        content = _TAGGED.sub("", content)
    if not calls:
        return content, None
    if len(calls) > 1:
        raise Unfit(f"{len(calls)} tool calls in one answer")
    call = calls[0]
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        raise Unfit(f"a call of '{call.name}', which the task does not offer")
    if isinstance(text, str) and first_call_is(tools, text, call):
        return text, tool
    try:
        written = write_call(tool, call.arguments)
    except ValueError as error:
        raise Unfit(str(error)) from None
    apart = "\n" if content and not content[-1].isspace() else ""
    whole = f"{content}{apart}{written}"
    if not first_call_is(tools, whole, call):
        raise Unfit("a text before a call that is read as another call, or as reasoning that never ends")
    return whole, tool


def exchange(tools: Sequence[Tool], messages: Sequence[Message]) -> tuple[str, Tool | None, str, str]:
    """What a model did with a question: its response, the tool it called, that tool's output and the answer
    over it, each empty where there is none. Raises Unfit for a longer conversation."""
    if not messages:
        raise Unfit("no answer")
    text, tool = response(tools, messages[0])
    roles = [message["role"] for message in messages[1:]]
    if roles and not (tool and roles in (["tool"], ["tool", "assistant"])):
        raise Unfit(f"a conversation that goes on after the answer: {', '.join(roles)}")
    if len(roles) == 2 and messages[2].get("tool_calls"):
        raise Unfit("calls one after the other")
    output, answer = (*map(_content, messages[1:]), "", "")[:2]
    return text, tool, output, answer


def reading(row: LabeledQuestion, tool: Tool, output: str, answer: str, turn: int) -> LabeledQuestion | None:
    """The second turn of a call as a row of its own: the question over the tool's output, and the answer. None
    where the tool's output is an answer itself."""
    told = row.model_dump(exclude={"output"}, exclude_unset=True)
    known = Question.model_validate(
        {"id": "1", "answer": answer or "-"} | {k: v for k, v in told.items() if v}
    )
    passages = [" ".join(line.split()) for line in output.splitlines()]
    again = tool.second_turn(known, "\n".join(filter(None, passages)))
    if len(again) != 1:
        return None
    fields = again[0].model_dump(include=READING_FIELDS & {*told, "task"})
    if row.id:
        fields |= {"id": f"{row.id}/{turn}", "turn": turn, "first_turn": row.id}
    texts = {"instruction": again[0].instruction, "input": again[0].input, "output": answer}
    return LabeledQuestion.model_validate(fields | texts)


def check_messages(value: object, field: str, where: str) -> list[Message]:
    """`value` as messages. Raises InputError where it is no list of them."""
    known = isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in value
    )
    if not known:
        raise InputError(f"{where}: field '{field}': not a list of messages with role and content")
    return list(value)  # type: ignore[call-overload, no-any-return]


def _content(message: Message) -> str:
    """A message's text. Raises Unfit where it has parts that are no text."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise Unfit("a message that is not of text alone")
    return "".join(map(str, texts))


def _call(entry: Any) -> ToolCall:
    """One entry of `tool_calls`, its arguments an object or that as JSON. Raises Unfit for another form."""
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise Unfit("a tool call whose arguments are not JSON") from None
    if isinstance(
        arguments, dict
    ):  # tables give every call the arguments of all tools, null where they are not its
        arguments = {name: value for name, value in arguments.items() if value is not None}
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict) or not arguments:
        raise Unfit("a tool call without a name or arguments")
    return ToolCall(name=name, arguments=arguments)


def _tagged(text: str) -> ToolCall:
    """The call between the tags in a message's content. Raises Unfit for another form."""
    try:
        return _call(json.loads(text))
    except (ValueError, RecursionError):
        raise Unfit("a <tool_call> that is not JSON") from None
