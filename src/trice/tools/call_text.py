"""Writing a call as the text that a model would generate: the inverse of `Tool.parse`.

A written call is accepted only if it parses back to the same arguments. Every text value can be written; arguments
that `parse` cannot return, such as an empty query, raise ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trice.formats.paper import argument_texts, parse, quote, render_call
from trice.tools import Tool
from trice.types import ToolCall

SIGNS = set(",=()[]{}\"'")  # that have a meaning between the parentheses of a call


def function_schema(tool: Tool) -> dict[str, Any]:
    """A tool in the form of the OpenAI API, which chat templates expect; without the titles that pydantic adds."""
    parameters = {key: value for key, value in tool.schema.items() if key not in ("title", "description")}
    properties = parameters.get("properties", {}).items()
    parameters["properties"] = {
        name: {key: value for key, value in each.items() if key != "title"}
        if isinstance(each, dict)
        else each
        for name, each in properties  # the schema of another's tool may be `true`
    }
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def write_call(tool: Tool, arguments: dict[str, Any]) -> str:
    """The call as one line of text. Raises ValueError if no text parses back to these arguments."""
    wanted = argument_texts(arguments)
    for text in _forms(tool, arguments):
        written = render_call(tool.name, text)
        if not is_one_line(written):
            continue
        reading = parse(written, {tool.name: tool.parse}, complete=False)
        if reading.call and reading.written == written and argument_texts(reading.call.arguments) == wanted:
            return written
    raise ValueError(f"no text parses as these arguments of {tool.name}")


def first_call_is(tools: Sequence[Tool], text: str, call: ToolCall) -> bool:
    """Whether the first call in a text is this one."""
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
    """Forms of the arguments, the simplest first: bare, quoted where needed, all quoted, and both with names."""
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
