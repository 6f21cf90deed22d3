"""Tasks: how a family of questions is asked, which tool belongs to it, how a response is read and judged.

`grade` is the one path from a response's text to its outcome, execution, prediction and verdict; every stage
uses it. A task with a second turn (the model reads a tool's result) is not covered yet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from trice import calls, tools
from trice.errors import InputError
from trice.own import load_own
from trice.records import Execution, Outcome, Question, Response
from trice.tools import Tool


@runtime_checkable
class Task(Protocol):
    """What every task offers."""

    name: str
    instruction: str
    tool: Tool

    def predict(self, text: str, execution: Execution | None) -> str | None:
        """The prediction in a response, or None where there is none; `execution` is that of its call."""

    def judge(self, prediction: str | None, answers: Sequence[str]) -> bool:
        """Whether a prediction matches one of the gold answers."""

    def check(self, answers: Sequence[str]) -> None:
        """Raise ValueError, with the reason, where these gold answers could never be matched."""


TASK = ("name", "instruction", "tool", "predict", "judge", "check")


def load_task(name: str) -> Task:
    """The task called `name`: one that ships, or the user's own as `module:name`. Raises InputError where there is
    none."""
    from trice.tasks.math import Math

    tasks: dict[str, Task] = {"math": Math()}
    if name in tasks:
        return tasks[name]
    if ":" not in name:
        raise InputError(f"unknown task '{name}'; there is: {', '.join(tasks)}, or your own as module:name")
    own = load_own("task", name)
    own = own() if isinstance(own, type) else own
    if not isinstance(own, Task):
        lacking = [member for member in TASK if not hasattr(own, member)]
        raise InputError(f"task '{name}': has no {' and no '.join(lacking)}")
    if not isinstance(own.tool, Tool):
        raise InputError(
            f"task '{name}': its tool is no Tool; a function becomes one as FunctionTool(function)"
        )
    if "\n" in own.instruction:  # stage-2 files tell the instruction from the question by the line break
        raise InputError(f"task '{name}': its instruction holds a line break")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", own.name):  # folders and files are called after it
        raise InputError(f"task '{name}': its name '{own.name}' is not of small letters, digits and '-'")
    return own


def grade(task: Task, question: Question, text: str, origin: str = "", sample: int = 0) -> Response:
    """Parse, execute and judge one response. Never raises on what a model wrote."""
    reading = calls.read(text, {task.tool.name: task.tool.parse})
    execution = tools.run(task.tool, reading.call) if reading.call else None
    # A call that did not parse is no answer: numbers inside it are not what the model claims.
    malformed = reading.outcome is Outcome.MALFORMED
    prediction = None if malformed else task.predict(text, execution)
    return Response.model_validate(
        question.model_dump()
        | {
            "response": text,
            "origin": origin,
            "sample": sample,
            "outcome": reading.outcome,
            "reason": reading.reason,
            "call": reading.call,
            "execution": execution,
            "pred": prediction,
            "correct": task.judge(prediction, question.answers),
        }
    )


def check_questions(task: Task, questions: Sequence[Question]) -> None:
    """Raise InputError for the first question whose gold answer the task's own judge could never accept."""
    for question in questions:
        try:
            task.check(question.answers)
        except ValueError as error:
            raise InputError(f"{question.where}: field 'answer': {error}") from None
