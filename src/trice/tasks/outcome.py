"""Parses responses: the outcome, and the call with the tool that it names. Nothing is run here."""

from __future__ import annotations

from typing import NamedTuple

from trice.formats import paper
from trice.tasks import TaskLike, Tasks
from trice.tools import Tool
from trice.types import Response, ToolCall


class Parsed(NamedTuple):
    """A parsed response: its task, what was parsed, the tool that it calls, and whether that is one of the task's own
    tools or one that a mix offers as well."""

    task: TaskLike
    reading: paper.ParsedResponse
    tool: Tool | None
    is_own: bool


def parse(tasks: Tasks, row: Response) -> Parsed:
    """Parse one response."""
    task = tasks.of(row)
    if row.completion is not None and row.outcome is not None:  # parsed and executed when it was generated
        return Parsed(task, paper.ParsedResponse(row.outcome, row.call, row.reason), None, True)
    offered = {tool.name: tool for tool in task.tools}
    reading = paper.parse(row.response, {name: tool.parse for name, tool in offered.items()})
    tool = offered[reading.call.name] if reading.call else None
    return Parsed(task, reading, tool.for_question(row) if tool else None, tool in tasks.own_tools(task))


def called(tasks: Tasks, row: Response) -> tuple[Tool, ToolCall] | None:
    """The call of one response, with its tool."""
    _, reading, tool, _ = parse(tasks, row)
    return (tool, reading.call) if tool and reading.call else None
