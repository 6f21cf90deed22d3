"""Labels as conversations: the right calls of a question become a target for native tool calls.

These are the field `gold_calls`, by turn, or the field `expected_calls`. If the task has all the tools, the calls are
executed, and the target has their results and the gold answer after them; otherwise it is the message that calls. By
`expected_calls`, the calls are judged; by `gold_calls`, the results of the last turn, joined by `and`, are compared
with the gold answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trice.errors import InputError
from trice.formats.chat import result_message
from trice.messages import Execution, Message, ToolCall
from trice.stages.grading import judge_response
from trice.tasks import Tasks
from trice.tasks.outcome import parse
from trice.tools import Tool
from trice.tools.executor import run_all
from trice.types import GRADED, Outcome, Question, Response

MAX_SHOWN = 200  # characters of a wrong answer in a reason


class GoldConversation(NamedTuple):
    """The messages that answer a question by its gold calls, or the reason why they do not."""

    messages: list[Message]
    reason: str = ""


def gold_turns(question: Question) -> list[list[ToolCall]]:
    """The right calls of a question by turn, if only messages can express them: its gold calls, or several expected
    calls, or those of a conversation or of the question's own tools."""
    if question.gold_calls:
        return question.gold_calls
    if not isinstance(question.expected_calls, list):
        return []
    calls = [expected.call() for expected in question.expected_calls]
    native = question.messages is not None or question.tools is not None or len(calls) > 1
    return [calls] if calls and native else []


def gold_conversations(
    tasks: Tasks, questions: Mapping[int, Question], output: Path
) -> dict[int, GoldConversation]:
    """Execute the right calls of questions, given by their numbers, and judge them. `output` is the file that is being
    made.

    Raises InputError for a gold call of a tool that the question's task does not offer."""
    calls = {number: _executable(tasks, question) for number, question in questions.items()}
    flat = [each for pairs in calls.values() for each in pairs]
    for tool in {tool.name: tool for tool, _ in flat}.values():
        tool.check()
    executions = iter(run_all(flat, output))
    return {
        number: _conversation(tasks, questions[number], [next(executions) for _ in pairs])
        for number, pairs in calls.items()
    }


def _executable(tasks: Tasks, question: Question) -> list[tuple[Tool, ToolCall]]:
    """The calls with their tools; none if the task lacks one of them and the question offers it as a schema."""
    tools = {tool.name: tool for tool in tasks.of(question).tools}
    calls = [call for turn in gold_turns(question) for call in turn]
    missing = next((call for call in calls if call.name not in tools), None)
    if missing is None:
        return [(tools[call.name].for_question(question), call) for call in calls]
    if question.gold_calls:
        raise InputError(
            f"{question.where}: field 'gold_calls': the task offers no tool '{missing.name}'; it offers: "
            f"{', '.join(tools) or 'none'}"
        )
    return []


def _conversation(tasks: Tasks, question: Question, executions: Sequence[Execution]) -> GoldConversation:
    left = iter(executions)
    messages: list[Message] = []
    results: list[Execution] = []
    for turn in gold_turns(question):
        results = [next(left) for _ in turn] if executions else []
        messages.append(Message(role="assistant", tool_calls=list(turn)))
        messages += [result_message(call, result) for call, result in zip(turn, results, strict=False)]
    for execution in executions:
        if execution.error:
            return GoldConversation(messages, f"execution error: {execution.error}")
    if question.gold_calls:
        return _with_answer(tasks, question, messages, results)
    if results and question.answers:
        messages.append(Message(role="assistant", content=question.answers[0]))
    fields = question.model_dump(exclude=GRADED)
    response = Response(**fields, response="", outcome=Outcome.CALLED, completion=messages)
    verdict = judge_response(response, parse(tasks, response))
    return GoldConversation(messages, "" if verdict.correct else f"wrong calls: {verdict.reason}")


def _with_answer(
    tasks: Tasks, question: Question, messages: list[Message], results: Sequence[Execution]
) -> GoldConversation:
    """The conversation with the gold answer that the results of the last turn give."""
    found = " and ".join(result.output or "" for result in results)
    task = tasks.of(question)
    answer = next((each for each in question.answers if task.judge(found, [each])), None)
    if answer is None:
        return GoldConversation(messages, f"wrong answer: {found[:MAX_SHOWN]}")
    return GoldConversation([*messages, Message(role="assistant", content=answer)])
