"""A call as a model would write it, from its name and arguments: the way back from `Tool.parse`.

A call counts only if it reads back as the same one. Every text can be written; arguments that the tool's own
`parse` cannot return, such as an empty query, raise ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trice.formats.paper import argument_texts, parse, quote, render_call
from trice.tools import Tool
from trice.types import ToolCall

SIGNS = set(",=()[]{}\"'")  # that mean something between the parentheses of a call


def function_schema(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates are told of it: a function with its arguments' JSON schema, without the titles that
    pydantic adds."""
    parameters = {key: value for key, value in tool.schema.items() if key not in ("title", "description")}
    properties = parameters.get("properties", {}).items()
    parameters["properties"] = {
        name: {key: value for key, value in each.items() if key != "title"} for name, each in properties
    }
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def write_call(tool: Tool, arguments: dict[str, Any]) -> str:
    """The call as text on one line. Raises ValueError where none reads back as these arguments."""
    wanted = argument_texts(arguments)
    for text in _forms(tool, arguments):
        written = render_call(tool.name, text)
        if not is_one_line(written):
            continue
        reading = parse(written, {tool.name: tool.parse}, complete=False)
        if reading.call and reading.written == written and argument_texts(reading.call.arguments) == wanted:
            return written
    raise ValueError(f"no text between parentheses is read as these arguments of {tool.name}")


def first_call_is(tools: Sequence[Tool], text: str, call: ToolCall) -> bool:
    """Whether a text's first call is this one."""
    found = parse(text, {tool.name: tool.parse for tool in tools}).call
    return (
        found is not None
        and found.name == call.name
        and argument_texts(found.arguments) == argument_texts(call.arguments)
    )


def is_one_line(text: str) -> bool:
    """Whether a text has no line break."""
    return not set(text) & set("\r\n")


def _forms(tool: Tool, arguments: dict[str, Any]) -> Iterator[str]:
    """Ways to write them, the plainest first: bare, with quotes where a sign could be mistaken, by name, in quotes
    whatever they are."""
    bare = argument_texts(arguments)
    quoted = {name: quote(text) if isinstance(arguments[name], str) else text for name, text in bare.items()}
    careful = {name: quoted[name] if set(text) & SIGNS else text for name, text in bare.items()}
    if list(arguments) == list(tool.schema.get("properties", {}))[: len(arguments)]:
        if len(arguments) == 1:
            yield next(iter(bare.values()))
        yield ", ".join(careful.values())
        yield ", ".join(quoted.values())
    for values in (careful, quoted):
        yield ", ".join(f"{name}={text}" for name, text in values.items())
