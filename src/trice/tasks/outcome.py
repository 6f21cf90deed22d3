"""Reading a response: its outcome, and the call in it with the tool that is meant. Nothing is run here."""

from __future__ import annotations

from typing import NamedTuple

from trice.formats import paper
from trice.tasks import TaskLike, Tasks
from trice.tools import Tool
from trice.types import Response, ToolCall


class Read(NamedTuple):
    """A response as it was read: its task, the reading, and the tool it calls, which may be the task's own."""

    task: TaskLike
    reading: paper.ParsedResponse
    tool: Tool | None
    own: bool


def read(tasks: Tasks, row: Response) -> Read:
    """Parse one response."""
    task = tasks.of(row)
    offered = {tool.name: tool for tool in task.tools}
    reading = paper.parse(row.response, {name: tool.parse for name, tool in offered.items()})
    tool = offered[reading.call.name] if reading.call else None
    return Read(task, reading, tool.for_question(row) if tool else None, tool in tasks.own_tools(task))


def called(tasks: Tasks, row: Response) -> tuple[Tool, ToolCall] | None:
    """The call of one response, with its tool."""
    _, reading, tool, _ = read(tasks, row)
    return (tool, reading.call) if tool and reading.call else None
