"""Messages and tool calls in the form of the OpenAI API: the records, and the one reader of their variants.

`read_call`, `read_message`, `read_messages` and `read_tools` accept what chat models, TRL's data sets and the OpenAI
client write: calls with or without `function` around them, arguments as an object or as JSON text, content as text or
as text parts, tools as schemas or as functions. They raise ValueError with a reason in words. Texts in which a chat
template writes calls are parsed by `trice.formats.chat`, and files of other forms are read by `trice.datasets`.
"""

from __future__ import annotations

import json
import math
from bisect import bisect
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MAX_DEPTH = 50  # of the values in a call's arguments
Role = Literal["system", "developer", "user", "assistant", "tool"]


class ToolCall(BaseModel):
    """A call that a model wrote, in whatever format it wrote it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """the tool's name"""
    arguments: dict[str, Any]
    """the arguments by name"""


class ExpectedCall(BaseModel):
    """A call that is right, with all values that are accepted for its arguments."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """the tool's name"""
    arguments: dict[str, list[Any]]
    """the accepted values of each argument; `""` among them means that the argument may be missing. The values in an
    accepted object are lists of accepted values too"""

    @classmethod
    def of(cls, call: ToolCall) -> ExpectedCall:
        """Expects exactly the arguments of `call`."""
        return cls(
            name=call.name, arguments={name: [_accepted(value)] for name, value in call.arguments.items()}
        )

    def call(self) -> ToolCall:
        """The call with the first accepted value of each argument; an argument whose first one is `""` is left
        out."""
        return ToolCall(name=self.name, arguments=_first_values(self.arguments))


def _accepted(value: Any) -> Any:
    """A value as an accepted one: the values in an object, and in a list's objects, are lists of one value."""
    if isinstance(value, dict):
        return {name: [each] for name, each in value.items()}
    if isinstance(value, list):
        return [_accepted(each) if isinstance(each, dict) else each for each in value]
    return value


def _first_values(accepted: dict[str, list[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: next(iter(values), []) for name, values in accepted.items()}
    return {name: _first(value) for name, value in found.items() if value != ""}


def _first(value: Any) -> Any:
    """An accepted value with the first accepted value of each field of its objects."""
    if isinstance(value, dict):
        return _first_values(value)
    return [_first(each) for each in value] if isinstance(value, list) else value


class Execution(BaseModel):
    """The result of a call: an output or an error, never both."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    output: str | None = None
    """what the tool returned, as text"""
    error: str | None = None
    """why the tool failed"""
    seconds: float = Field(default=0.0, exclude=True)
    """how long it ran; not written to files, so that two runs write the same bytes"""


class Message(BaseModel):
    """One entry of a conversation, in the form of the OpenAI API except that arguments are objects, not JSON text."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    role: Role
    """who wrote it"""
    content: str = ""
    """its text"""
    reasoning_content: str | None = None
    """the reasoning before an assistant's message, which templates of reasoning models write"""
    tool_calls: list[ToolCall] = []
    """the calls of an assistant message, in order"""
    name: str | None = None
    """the tool whose result a tool message holds"""

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template expects it."""
        fields: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning_content:
            fields["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            fields["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return fields | ({"name": self.name} if self.name else {})


def read_call(value: Any) -> ToolCall:
    """A call as `{name, arguments}` or `{name, parameters}`, directly or under `function`; without arguments they are
    empty. Raises ValueError for another form, and for arguments that no JSON file can hold."""
    call = value.get("function", value) if isinstance(value, dict) else None
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(name, str) or not name:
        raise ValueError("the tool call has no name")
    check_storable(name, "the name")
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise ValueError(f"the arguments of '{name}' are not JSON") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of '{name}' are not an object")
    check_storable(arguments, f"the arguments of '{name}'")
    return ToolCall(name=name, arguments=arguments)


def read_message(value: Any) -> Message:
    """A message, whose `content` may also be a list of text parts or missing. Raises ValueError for another form."""
    if isinstance(value, Message):
        return value
    if not isinstance(value, dict):
        raise ValueError("a message is not an object with role and content")
    role = value.get("role")
    if role not in get_args(Role):
        raise ValueError(f"a message has the role '{role}'; expected {', '.join(get_args(Role))}")
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise ValueError("the name of a message is not text")
    calls = value.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError("the tool_calls of a message are not a list")
    return Message(
        role=role,
        content=read_text(value.get("content")),
        reasoning_content=read_text(value.get("reasoning_content") or value.get("thinking")) or None,
        tool_calls=[read_call(call) for call in calls],
        name=name,
    )


def read_messages(value: Any) -> list[Message]:
    """A conversation. A tool message belongs to the call of its `tool_call_id`, else to the next in order: it gets the
    call's name if it has none, and results take the order of their calls, since templates write no ids. Raises
    ValueError for another form, and for a result without a call."""
    if not isinstance(value, list):
        raise ValueError("expected a list of messages with role and content")
    messages: list[Message] = []
    open_calls: list[tuple[Any, str, int]] = []  # id, name and number of the latest calls without a result
    results: list[int] = []  # the numbers of the calls whose results are the latest messages
    for each in value:
        message = read_message(each)
        if message.role == "tool":
            if not open_calls:
                raise ValueError("a message has a tool's result without a call before it")
            id = each.get("tool_call_id") if isinstance(each, dict) else None
            found = next((call for call in open_calls if id is not None and call[0] == id), open_calls[0])
            open_calls = [call for call in open_calls if call is not found] or [found]
            message = message.model_copy(update={"name": message.name or found[1]})
            place = bisect(results, found[2])
            messages.insert(len(messages) - len(results) + place, message)
            results.insert(place, found[2])
        else:
            written = each.get("tool_calls") or [] if isinstance(each, dict) else message.tool_calls
            ids = [call.get("id") if isinstance(call, dict) else None for call in written]
            names = [call.name for call in message.tool_calls]
            open_calls, results = list(zip(ids, names, range(len(ids)), strict=True)), []
            messages.append(message)
    return messages


def read_text(content: Any) -> str:
    """The text of a message's content. Raises ValueError for a part that is not text, such as an image."""
    parts = content if isinstance(content, list) else [content or ""]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a message is not text alone")
    return "".join(map(str, texts))


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Tools as JSON schemas, from a list of them or of their functions, or from JSON text. Each has name, description
    and parameters first, in this order and also if they are empty, so that a model reads the same whoever wrote the
    tool. Raises ValueError for another form, and if two tools have the same name."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError("the tools are not JSON") from None
    if not isinstance(value, list):
        raise ValueError("the tools are not a list")
    functions = [each.get("function", each) if isinstance(each, dict) else each for each in value]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in functions):
        raise ValueError("a tool has no name")
    names = [each["name"] for each in functions]
    if len(set(names)) < len(names):
        raise ValueError("two tools have the same name")
    return [{"type": "function", "function": _whole(function)} for function in functions]


def _whole(function: dict[str, Any]) -> dict[str, Any]:
    read = {"description": function.get("description") or "", "parameters": _parameters(function)}
    return {"name": function["name"], **read} | function | read


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's parameters; one without parameters if there is none. Raises ValueError for another
    form."""
    schema = function.get("parameters")
    if schema in (None, [], {}):
        return {"type": "object", "properties": {}}
    if not (
        isinstance(schema, dict)
        and isinstance(schema.get("properties") or {}, dict)
        and isinstance(schema.get("required") or [], list)
    ):
        raise ValueError(
            f"the parameters of the tool '{function['name']}' are not a JSON schema of an object"
        )
    return schema


def tool_names(tools: Sequence[dict[str, Any]]) -> list[str]:
    """The names of tools that are JSON schemas."""
    return [tool["function"]["name"] for tool in tools]


def calls_text(calls: Sequence[ToolCall]) -> str:
    """Calls as one line of text for people: `weather(city="Oslo"), time(zone="CET")`."""
    texts = []
    for call in calls:
        values = (f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in call.arguments.items())
        texts.append(f"{call.name}({', '.join(values)})")
    return ", ".join(texts)


def check_storable(value: Any, what: str, depth: int = 0) -> None:
    """Raise ValueError for what no JSON file can hold: half of a surrogate pair, a number that is not finite, or a
    value that is nested too deeply."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{what} are nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} cannot be written as UTF-8") from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} have a number that is not finite")
    elif isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            check_storable(each, what, depth + 1)


Messages = Annotated[list[Message], BeforeValidator(read_messages)]
"""A field that holds a conversation in any form that `read_messages` accepts."""
ToolList = Annotated[list[dict[str, Any]], BeforeValidator(read_tools)]
"""A field that holds tools in any form that `read_tools` accepts."""
