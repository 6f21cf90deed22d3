"""Converts responses of the `paper` format to messages and back, for `trice export` and `trice import`.

Messages have the form of chat templates and TRL: `role`, `content` and `tool_calls`. Imported messages may also
have a call in their content, as `<tool_call>{"name": …, "arguments": …}</tool_call>`.

A response with a call becomes the text before it and one entry of `tool_calls`. Any other text, also a malformed
call, is `content`. If writing the message back as text gives another text than the response, the message has the
response in the field `text` as well, which templates ignore. A conversation that is not such a response raises
`Unreadable`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trice.datasets.conversations import Unreadable, split_tagged_calls
from trice.errors import InputError
from trice.formats.paper import find_call, parse
from trice.messages import read_message, read_text
from trice.progress import notice
from trice.stages.label import READING_FIELDS
from trice.storage.row_reader import without_nulls
from trice.tools import Tool
from trice.tools.call_text import first_call_is, write_call
from trice.training_data import LabeledQuestion
from trice.types import Question

Message = dict[str, Any]


class LeftOut:
    """Rows that are left out: their number for each reason, and the file and line of the first."""

    def __init__(self) -> None:
        self._where: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, where: str) -> None:
        self._where[reason].append(where)

    @contextmanager
    def unreadable(self, where: str) -> Iterator[None]:
        """Leave out the row that was read at `where` if the block raises Unreadable."""
        try:
            yield
        except Unreadable as reason:
            self.add(str(reason), where)

    @property
    def count(self) -> int:
        return sum(map(len, self._where.values()))

    def notify(self) -> None:
        """One notice for each reason."""
        for reason, where in self._where.items():
            notice(f"{len(where)} rows left out: {reason} (the first: {where[0]})")


def read_question(messages: Sequence[Message]) -> tuple[str, str]:
    """The instruction, which is empty without a system message, and the input. Raises Unreadable for anything but one
    question."""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["system", "user"], ["developer", "user"]):
        raise Unreadable(f"not one question with at most a system message before it, but {', '.join(roles)}")
    *system, user = messages
    return "".join(_content(message) for message in system), _content(user)


def assistant_message(tools: Sequence[Tool], text: str) -> Message:
    """A response as an assistant message."""
    reading = parse(text, {tool.name: tool.parse for tool in tools})
    if reading.call is None or reading.written is None:
        own = {"text": text} if "<tool_call>" in text else {}  # it must not be read as a tagged call
        return {"role": "assistant", "content": text} | own
    function = {"name": reading.call.name, "arguments": reading.call.arguments}
    message = {
        "role": "assistant",
        "content": text[: find_call(text, reading.written)],
        "tool_calls": [{"type": "function", "function": function}],
    }
    try:
        plain = read_response(tools, message)[0] == text
    except Unreadable:
        plain = False
    return message if plain else message | {"text": text}


def read_response(tools: Sequence[Tool], message: Message) -> tuple[str, Tool | None]:
    """An assistant message as a response, and the tool that it calls. Raises Unreadable for several calls, for a tool
    that is not offered, and for arguments that a call in text cannot express."""
    if message["role"] != "assistant":
        raise Unreadable(f"a {message['role']} message where the answer should be")
    text, content = message.get("text"), _content(message)
    if not message.get("tool_calls") and text == content:
        return content, None
    try:
        calls = read_message(message).tool_calls
        if not isinstance(text, str):  # else the content is ours, and its tags are text
            content, tagged = split_tagged_calls(content)
            calls += [call for call in tagged if call not in calls]
    except ValueError as error:
        raise Unreadable(str(error)) from None
    if not calls:
        return content, None
    if len(calls) > 1:
        raise Unreadable(f"{len(calls)} tool calls in one answer")
    call = calls[0]
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        raise Unreadable(f"a call of '{call.name}', which the task does not offer")
    if isinstance(text, str) and first_call_is(tools, text, call):
        return text, tool
    try:
        written = write_call(tool, call.arguments)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    apart = "\n" if content and not content[-1].isspace() else ""
    whole = f"{content}{apart}{written}"
    if not first_call_is(tools, whole, call):
        raise Unreadable("a text before a call that is read as another call, or as reasoning that never ends")
    return whole, tool


def read_exchange(tools: Sequence[Tool], messages: Sequence[Message]) -> tuple[str, Tool | None, str, str]:
    """The messages after a question: the response, the tool that it calls, that tool's output and the answer over it,
    each empty if it is missing. Raises Unreadable for a longer conversation."""
    if not messages:
        raise Unreadable("no answer")
    text, tool = read_response(tools, messages[0])
    roles = [message["role"] for message in messages[1:]]
    if roles and not (tool and roles in (["tool"], ["tool", "assistant"])):
        raise Unreadable(f"a conversation that continues after the answer: {', '.join(roles)}")
    if len(roles) == 2 and messages[2].get("tool_calls"):
        raise Unreadable("calls one after the other")
    output, answer = (*map(_content, messages[1:]), "", "")[:2]
    return text, tool, output, answer


def second_turn_row(
    row: LabeledQuestion, tool: Tool, output: str, answer: str, turn: int
) -> LabeledQuestion | None:
    """The second turn of a call as a separate row: the question over the tool's output, and the answer. None if the
    tool's output is the answer."""
    fields_given = row.model_dump(exclude={"output"}, exclude_unset=True)
    known = Question.model_validate(
        {"id": "1", "answer": answer or "-"} | {k: v for k, v in fields_given.items() if v}
    )
    passages = [" ".join(line.split()) for line in output.splitlines()]
    again = tool.second_turn(known, "\n".join(filter(None, passages)))
    if len(again) != 1:
        return None
    fields = again[0].model_dump(include=READING_FIELDS & {*fields_given, "task"})
    if row.id:
        fields |= {"id": f"{row.id}/{turn}", "turn": turn, "first_turn": row.id}
    texts = {"instruction": again[0].instruction, "input": again[0].input, "output": answer}
    return LabeledQuestion.model_validate(fields | texts)


def check_messages(value: object, field: str, where: str) -> list[Message]:
    """`value` as messages. Raises InputError if it is not a list of them."""
    known = isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in value
    )
    if not known:
        raise InputError(f"{where}: field '{field}': not a list of messages with role and content")
    return list(without_nulls(value))


def _content(message: Message) -> str:
    """The text of a message. Raises Unreadable for a part that is not text."""
    try:
        return read_text(message.get("content"))
    except ValueError as error:
        raise Unreadable(str(error)) from None
