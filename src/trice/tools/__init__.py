"""Tools: something with a name, a description, typed arguments and an `execute`.

`run` executes a call and always returns: whatever a tool does wrong becomes an execution with an error.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from trice.errors import InputError, ToolError
from trice.records import Call, Execution

MAX_OUTPUT = 10_000  # characters of a tool's output that are kept


class Tool(Protocol):
    """What every tool offers."""

    name: str
    description: str

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments written between a call's parentheses. Raises ValueError with the reason where the
        text is not something this tool accepts."""

    def execute(self, *args: Any, **arguments: Any) -> str:
        """Run the tool. Raises ToolError where a well-formed call cannot be done."""


def run(tool: Tool, call: Call) -> Execution:
    """Execute a call; a failure is an execution with an error, not an exception."""
    start = time.perf_counter()
    try:
        output = str(tool.execute(**call.arguments))[:MAX_OUTPUT]
    except ToolError as error:
        return Execution(error=str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # a tool is a stranger's code: its crash is data too
        return Execution(error=f"{type(error).__name__}: {error}", seconds=time.perf_counter() - start)
    return Execution(output=output, seconds=time.perf_counter() - start)


def load_tool(name: str) -> Tool:
    """The tool called `name`. Raises InputError naming those there are."""
    from trice.tools.calculator import Calculator

    tools: dict[str, Tool] = {"calculator": Calculator()}
    if name not in tools:
        raise InputError(f"unknown tool '{name}'; there is: {', '.join(tools)}")
    return tools[name]
