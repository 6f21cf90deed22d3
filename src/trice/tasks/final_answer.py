"""The answer that a user reads, which is the same text in `chat`, `serve` and the Python API.

`evaluate` judges the prediction that the task reads from this text. This module does not run, judge or store anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trice.formats.paper import call_opening, visible
from trice.tasks import TaskLike
from trice.tools import Tool, read_failure
from trice.tools.second_turn import final_answer
from trice.types import Message, Outcome, Response, ToolCall

SHOWN = 200  # characters of a call's arguments that a sentence repeats
_LOOKUPS = ("KeyError", "IndexError", "LookupError", "FileNotFoundError")


def final_text(row: Response, task: TaskLike) -> str:
    """The final answer of an executed response: its text, its call's result, or a sentence on what went wrong."""
    if row.completion and row.outcome is not Outcome.MALFORMED:
        return unread_result(row.completion) or visible(row.completion[-1].content)
    if row.outcome is Outcome.ANSWERED:
        return visible(row.response).strip()
    if row.outcome is Outcome.MALFORMED or row.call is None:
        return f"The tool could not be called: {row.reason}."
    if row.execution is None or row.execution.output is None:
        return failure_text(row.call, (row.execution and row.execution.error) or "it was not run")
    if row.turns is None:
        return row.execution.output
    name = row.call.name
    return second_turn_text(
        row.turns, next(tool for tool in task.tools if tool.name == name), row.execution.output
    )


def unread_result(messages: Sequence[Message]) -> str | None:
    """The result of the last call in a rollout over which the model said nothing; else None."""
    *_, last = messages
    if last.role == "assistant" and not last.tool_calls and not last.content.strip() and len(messages) > 1:
        last = messages[-2]
    return last.content if last.role == "tool" else None


def second_turn_text(turns: Sequence[str], tool: Tool, result: str) -> str:
    """The model's answer over a tool's result. If the result is an answer already, it replaces a model's answer that
    is empty or that is another call of the tool."""
    if tool.needs_second_turn:
        return final_answer(turns)
    call = re.compile(call_opening([tool.name]).pattern, re.IGNORECASE)
    return final_answer([turn for turn in turns if not call.search(visible(turn))]) or result


def failure_text(call: ToolCall, error: str) -> str:
    """A failed execution in a sentence without the name of a Python exception."""
    message, kind = read_failure(error)
    message = message.strip().rstrip(".")
    arguments = ", ".join(map(str, call.arguments.values()))
    if len(arguments) > SHOWN:
        arguments = f"{arguments[: SHOWN - 1]}…"
    if kind in _LOOKUPS:
        return f"The tool found nothing for {arguments}."
    if kind and (kind != "ValueError" or not message):
        return f"The tool failed for {arguments}."
    return f"The tool gave {'' if message.startswith('no result') else 'no result: '}{message}."
