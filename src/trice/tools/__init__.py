"""Tools: something with a name, a description, typed arguments and an `execute`.

`run` executes a call and always returns: whatever a tool does wrong becomes an execution with an error.
"""

from __future__ import annotations

import inspect
import time
from queue import Empty, Queue
from threading import Thread
from typing import Any, Protocol, runtime_checkable

from trice.errors import InputError, ToolError
from trice.own import load_own
from trice.records import Call, Execution

MAX_OUTPUT = 10_000  # characters of a tool's output that are kept


@runtime_checkable
class Tool(Protocol):
    """What every tool offers."""

    name: str
    description: str

    @property
    def time_limit(self) -> float | None:
        """Seconds for one execution; None for a tool that is bounded by itself."""

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments written between a call's parentheses. Raises ValueError with the reason where the
        text is not something this tool accepts."""

    def execute(self, *args: Any, **arguments: Any) -> str:
        """Run the tool. Raises ToolError where a well-formed call cannot be done."""


def run(tool: Tool, call: Call) -> Execution:
    """Execute a call; a failure is an execution with an error, not an exception.

    A tool that takes longer than its time limit is left to itself in a thread, which no one waits for."""
    if tool.time_limit is None:
        return _timed(tool, call)
    finished: Queue[Execution] = Queue(1)
    Thread(target=lambda: finished.put(_timed(tool, call)), daemon=True).start()
    try:
        return finished.get(timeout=tool.time_limit)
    except Empty:
        return Execution(error=f"no result within {tool.time_limit:g} seconds", seconds=tool.time_limit)


def _timed(tool: Tool, call: Call) -> Execution:
    start = time.perf_counter()
    try:
        output, error = str(tool.execute(**call.arguments))[:MAX_OUTPUT], None
    except ToolError as failure:
        output, error = None, str(failure)
    except (Exception, SystemExit) as failure:  # a tool is a stranger's code: its crash is data too
        output, error = None, f"{type(failure).__name__}: {failure}"
    return Execution(output=output, error=error, seconds=time.perf_counter() - start)


def load_tool(name: str, source: str | None = None) -> Tool:
    """The tool called `name`: one that ships, or the user's own as `module:name`, a typed function or a Tool.

    `source` is where WikiSearch searches. Raises InputError where there is no such tool or source."""
    from trice.tools.calculator import Calculator
    from trice.tools.function import FunctionTool
    from trice.tools.wikisearch import WikiSearch

    if name == WikiSearch.name:
        return WikiSearch(source)
    if source is not None:
        raise InputError(f"tool '{name}': takes no source")
    if name == Calculator.name:
        return Calculator()
    if ":" not in name:
        raise InputError(
            f"unknown tool '{name}'; there is: {Calculator.name}, {WikiSearch.name}, or your own as module:name"
        )
    own = load_own("tool", name)
    own = own() if isinstance(own, type) else own
    if isinstance(own, Tool):
        return own
    if not inspect.isfunction(own) or inspect.iscoroutinefunction(own):
        raise InputError(f"tool '{name}': neither a plain function nor a Tool")
    return FunctionTool(own)
