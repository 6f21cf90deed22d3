"""Labels of several calls: the calls of the field `gold_calls`, by turn, become a target for native tool calls.

The calls are executed, and the target is the conversation: a message with the calls of each turn, their results, and
the gold answer. The results of the last turn, joined by `and`, are judged by the gold answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trice.errors import InputError
from trice.formats.chat import result_text
from trice.tasks import Tasks
from trice.tools import Tool
from trice.tools.executor import run_all
from trice.types import Execution, Message, Question, ToolCall

MAX_SHOWN = 200  # characters of a wrong answer in a reason


class GoldConversation(NamedTuple):
    """The messages that answer a question by its gold calls, or the reason why they do not."""

    messages: list[Message]
    reason: str = ""


def gold_conversations(
    tasks: Tasks, questions: Mapping[int, Question], output: Path
) -> dict[int, GoldConversation]:
    """Execute the gold calls of questions, given by their numbers. `output` is the file that is being made.

    Raises InputError for a call of a tool that the question's task does not offer."""
    calls = {
        number: [(_tool(tasks, question, call), call) for call in _flat(question)]
        for number, question in questions.items()
    }
    executions = iter(run_all([each for pairs in calls.values() for each in pairs], output))
    return {
        number: _conversation(tasks, questions[number], [next(executions) for _ in pairs])
        for number, pairs in calls.items()
    }


def _flat(question: Question) -> Iterable[ToolCall]:
    return (call for turn in question.gold_calls or () for call in turn)


def _tool(tasks: Tasks, question: Question, call: ToolCall) -> Tool:
    tools = {tool.name: tool for tool in tasks.of(question).tools}
    if call.name not in tools:
        raise InputError(
            f"{question.where}: field 'gold_calls': the task offers no tool '{call.name}'; it offers: "
            f"{', '.join(tools) or 'none'}"
        )
    return tools[call.name].for_question(question)


def _conversation(tasks: Tasks, question: Question, executions: Sequence[Execution]) -> GoldConversation:
    task, left = tasks.of(question), iter(executions)
    messages: list[Message] = []
    results: list[Execution] = []
    for turn in question.gold_calls or ():
        results = [next(left) for _ in turn]
        messages.append(Message(role="assistant", tool_calls=list(turn)))
        messages += [
            Message(role="tool", name=call.name, content=result_text(result))
            for call, result in zip(turn, results, strict=True)
        ]
    for execution in executions:
        if execution.error:
            return GoldConversation(messages, f"execution error: {execution.error}")
    found = " and ".join(result.output or "" for result in results)
    answer = next((each for each in question.answers if task.judge(found, [each])), None)
    if answer is None:
        return GoldConversation(messages, f"wrong answer: {found[:MAX_SHOWN]}")
    return GoldConversation([*messages, Message(role="assistant", content=answer)])
