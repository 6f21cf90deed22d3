"""Tools of MCP servers: `mcp(server)` returns them, with the names, descriptions and schemas of the server.

Arguments are checked against the schema with `jsonschema` before a call. `trice.tools.mcp_connection` holds the
connections, and `trice.tools.mcp_server` says how a server is reached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trice.errors import InputError, ToolError, ToolUnavailable
from trice.tools import TIME_LIMIT, Tool
from trice.tools.function_tool import read_arguments
from trice.tools.mcp_connection import ListedTool, call_tool, list_tools
from trice.tools.mcp_server import CONNECT_LIMIT, McpServer

if TYPE_CHECKING:
    from mcp_types import CallToolResult

WORKERS = 8  # calls of one tool that run at the same time
SHOWN = 60  # characters of a wrong value that an error shows
TYPES = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "an object", "null": "null",
}  # fmt: skip
LITERALS = {"True": True, "False": False, "None": None}


class McpTool(Tool):
    """A tool of an MCP server. It limits its own time, so that starting a server again is not part of a call's."""

    time_limit = None
    workers = WORKERS

    def __init__(self, server: McpServer, origin: str, listed: ListedTool) -> None:
        """`origin` is the name and version that the server gives itself."""
        self.name, self.description = listed.name, listed.description
        self.backend = f"{origin} ({server.name})"
        self._server, self._origin, self._listed = server, origin, listed

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return {key: value for key, value in self._listed.schema.items() if key != "$schema"}

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments in `text`: a JSON object, or written as for a function. Raises ValueError if they do not fit
        the schema."""
        text, names = text.strip(), list(self._properties)
        arguments = _json_object(text)
        if arguments is None or (arguments and not set(arguments) & set(names)):
            if text and not names:
                raise ValueError(f"{self.name} takes no argument")
            arguments = read_arguments(text, names) if text else {}
        return self._checked(arguments)

    def execute(self, /, *args: Any, **arguments: Any) -> str:
        """Call the tool. Raises ToolError if the call fails, and TriceError if the server cannot run."""
        try:
            checked = self._checked(arguments)
        except ValueError as error:
            raise ToolError(str(error)) from None
        result = call_tool(self._server, self._origin, self._listed, checked)
        text = self._server.hide(result_text(result))
        if result.is_error:
            raise ToolError(text or f"{self.name} failed and gives no reason")
        return text

    @property
    def _properties(self) -> dict[str, Any]:
        return self._listed.schema.get("properties") or {}

    def _checked(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments, in which a text that should be a number, for example, is converted. Raises ValueError if
        they do not fit the schema. Arguments that the schema does not mention are refused unless it allows them."""
        from jsonschema.exceptions import best_match

        schema = self._listed.schema
        if self._properties and "additionalProperties" not in schema and "patternProperties" not in schema:
            for name in given:
                if name not in self._properties:
                    known = ", ".join(self._properties)
                    raise ValueError(f"{self.name} has no argument '{name}'; it has {known}")
        validator = _validator(json.dumps(schema))
        wrong = {error.absolute_path[0] for error in validator.iter_errors(given) if error.absolute_path}
        converted = {name: _typed(value) if name in wrong else value for name, value in given.items()}
        error = best_match(validator.iter_errors(converted))
        if error is not None:
            raise ValueError(_complaint(error))
        return converted


def mcp(
    server: str,
    *,
    env: Sequence[str] = (),
    token_env: str | None = None,
    time_limit: float = TIME_LIMIT,
    connect_limit: float = CONNECT_LIMIT,
) -> list[Tool]:
    """Get the tools of an MCP server, with the names, descriptions and schemas that the server gives them.

    Args:
        server: The command that starts a server on stdio, or the URL of a server on streamable HTTP.
        env: For a command: the names of environment variables that the server gets besides `HOME`, `LOGNAME`,
            `PATH`, `SHELL`, `TERM` and `USER`.
        token_env: For a URL: the name of the environment variable that holds the bearer token.
        time_limit: Seconds for one call. A call that takes longer becomes an error.
        connect_limit: Seconds for starting the server, or for connecting to it.

    Returns:
        The tools, for `Task(tools=…)`.

    Raises:
        InputError: If the command cannot be started, a variable is not set, or the package `mcp` is missing.
        ToolUnavailable: If the server ends, does not answer, or refuses the connection.

    Example:
        >>> import trice
        >>> tools = trice.mcp("uvx mcp-server-time")                             # doctest: +SKIP
        >>> task = trice.Task("time", "Answer; convert_time converts.", tools)   # doctest: +SKIP
    """
    if isinstance(env, str):
        raise InputError(f"trice.mcp: env={env!r}: expected a list of names, such as [{env!r}]")
    limits = {"time_limit": time_limit, "connect_limit": connect_limit}
    return tools_of(read_server({"mcp": server, "env": tuple(env), "token_env": token_env, **limits}))


def read_server(entry: Mapping[str, Any]) -> McpServer:
    """The server of an entry `{mcp: …}` in a task or recipe. Raises InputError for an invalid entry."""
    try:
        return McpServer.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"MCP server: unknown key '{key}'; choose one of {', '.join(McpServer.model_fields)}"
            ) from None
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"MCP server: key '{key}': {reason}" if key else f"MCP server: {reason}") from None


def tools_of(server: McpServer) -> list[Tool]:
    """The tools of a server. Raises InputError if it has none, and TriceError if it cannot run."""
    if find_spec("mcp") is None:
        raise InputError("tools of MCP servers need the package mcp; run: pip install 'trice-rlef[mcp]'")
    listing = list_tools(server)
    if not listing.tools:
        raise InputError(f"{server.name}: has no tools")
    for tool in listing.tools:
        _check_schema(f"{server.name}: tool '{tool.name}'", tool.schema)
    return [McpTool(server, listing.origin, tool) for tool in listing.tools]


def result_text(result: CallToolResult) -> str:
    """The text of a result. Structured content is written as JSON if there is no text; images and other content are
    named, not included."""
    parts = [block.text if block.type == "text" else _named(block) for block in result.content]
    if result.structured_content is not None and not any(block.type == "text" for block in result.content):
        parts.insert(0, json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def _named(block: Any) -> str:
    """Content that is not text, by its kind, address and type."""
    source = getattr(block, "resource", block)
    details = (block.type.replace("_", " "), getattr(source, "uri", None), source.mime_type)
    return f"[{' '.join(str(each) for each in details if each)}, not included]"


def _json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, if it is one."""
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be stored
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _typed(value: Any) -> Any:
    """The number, truth value, null, list or object that a text denotes, or the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return LITERALS[value] if value in LITERALS else json.loads(value)
    except (ValueError, RecursionError):
        return value


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """The validator of a JSON schema. It does not fetch other schemas, which a server could name."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    value = json.loads(schema)
    return validator_for(value, default=Draft202012Validator)(value, registry=Registry())


def _check_schema(where: str, schema: dict[str, Any]) -> None:
    """Raise ToolUnavailable, beginning with `where`, for an invalid JSON schema."""
    from jsonschema.exceptions import SchemaError

    try:
        _validator(json.dumps(schema)).check_schema(schema)
    except SchemaError as error:
        raise ToolUnavailable(f"{where}: its JSON schema is not valid ({error.message[:200]})") from None


def _complaint(error: Any) -> str:
    """An error of the validation in words."""
    path = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, error.absolute_path)))
    where = f"argument '{path}': " if path else ""
    value = json.dumps(error.instance, ensure_ascii=False)
    value = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
    expected = error.validator_value
    if error.validator == "required":
        missing = next(name for name in expected if name not in error.instance)
        return f"argument '{path}.{missing}' is missing" if path else f"argument '{missing}' is missing"
    if error.validator == "type":
        kinds = [expected] if isinstance(expected, str) else expected
        return f"{where}expected {' or '.join(TYPES.get(kind, kind) for kind in kinds)}, got {value}"
    if error.validator == "enum":
        choices = ", ".join(json.dumps(each, ensure_ascii=False) for each in expected)
        return f"{where}expected one of {choices}, got {value}"
    return f"{where}{error.message[:200]}"
