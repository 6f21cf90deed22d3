"""From responses to outcomes, executions and predictions (`execute`), and from there to verdicts (`judge`).

All calls run together, each distinct one once. If a tool's output is not an answer yet, such as passages, the model
reads it in a second turn. The prediction never depends on the gold answers; only `judge` looks at them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from trice.errors import InputError, TriceError
from trice.formats.paper import visible
from trice.stages.chat_responses import offered_tools
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.storage.files import dump_row, read_text, write_text
from trice.tasks import TaskLike, Tasks, answers_from_result, whole_response_judge
from trice.tasks.call_judge import Verdict, judge_calls
from trice.tasks.final_answer import second_turn_text
from trice.tasks.outcome import Parsed, parse
from trice.tasks.task import Task
from trice.tasks.word_judge import exact_match, f1
from trice.tools.executor import Runner, remove_sidecars, run_all, sidecar
from trice.tools.second_turn import sentence_question
from trice.types import REQUIRED, Execution, Outcome, Question, Response

AnswerSecondTurns = Callable[[Sequence[Question]], list[str]]
"""From questions with a tool's output to the model's answers."""


class Executed(NamedTuple):
    """A response whose calls were run, and what judging it needs: how it was parsed, and the model's answers over
    each passage alone, if these were asked for."""

    response: Response
    parsed: Parsed
    per_passage: list[str] | None


def grade(
    tasks: Tasks,
    rows: Sequence[Response],
    answer: AnswerSecondTurns | None = None,
    *,
    output: Path | None = None,
    runner: Runner | None = None,
    earlier: Sequence[Path] = (),
    any_passage: bool = False,
) -> list[Response]:
    """Parse, execute and judge responses: `execute`, then `judge`.

    Args:
        tasks: What the questions belong to.
        rows: Responses to questions with gold answers.
        answer: The model that reads outputs that are not answers yet.
        output: The file that is being made of the responses. Calls are cached next to it.
        runner: What executes the calls.
        earlier: Files of responses next to which calls are cached already.
        any_passage: Whether the model also answers over each passage alone, for the metric of that name.

    Raises:
        InputError: If a tool that is called lacks what it needs. What a model wrote never raises.
    """
    executed = execute(
        tasks, rows, answer, output=output, runner=runner, earlier=earlier, per_passage=any_passage
    )
    return [judge(tasks, each, any_passage=any_passage) for each in executed]


def execute(
    tasks: Tasks,
    rows: Sequence[Response],
    answer: AnswerSecondTurns | None = None,
    *,
    output: Path | None = None,
    runner: Runner | None = None,
    earlier: Sequence[Path] = (),
    per_passage: bool = False,
) -> list[Executed]:
    """Parse responses, run their calls, and find their predictions. Needs no gold answers.

    The arguments are those of `grade`; `per_passage` also asks the model over each passage alone."""
    found = [parse(tasks, row) for row in rows]
    executions = _run(found, output, runner, earlier)
    turns, alone = _second_turns(rows, found, executions, answer, per_passage)
    done = [with_execution(*each) for each in zip(rows, found, executions, turns, strict=True)]
    return [Executed(*each) for each in zip(done, found, alone, strict=True)]


def judge(tasks: Tasks, executed: Executed, *, any_passage: bool = False) -> Response:
    """The response with the verdict: `correct`, and for answers in words `exact` and `f1`.

    What is judged is what the question carries: its expected calls, else the prediction by the gold answers. A
    task's `judge_response` judges the whole response instead. If the output of a call still
    has to be read and no model has read it, the verdict says whether the output supports a gold answer. With
    `any_passage`, the field of that name says whether any of the answers over one passage is right, as the paper
    counts; if no passage was read, whether the prediction is."""
    row, task = executed.response, executed.parsed.task
    correct, reason = judge_response(row, executed.parsed)
    verdict: dict[str, Any] = {"correct": correct} | _strict(task, row)
    if row.expected_calls is not None and row.outcome is not Outcome.MALFORMED:
        verdict["reason"] = reason or None
    if tasks.requires_tool(row):
        verdict["tool"] = REQUIRED  # for the metrics that count need
    if any_passage:
        answers = map(visible, executed.per_passage or ())
        judged = [task.judge(task.predict(text), row.answers) for text in answers]
        verdict["any_passage"] = any(judged) if judged else correct
    return row.model_copy(update=verdict)


def judge_response(row: Response, parsed: Parsed) -> Verdict:
    """Whether an executed response is right. The reason is given if its calls are not the expected ones."""
    task, _, tool, is_own = parsed
    if judge_whole := whole_response_judge(task):
        return Verdict(judge_whole(row))
    if row.expected_calls is not None:
        if row.outcome is Outcome.MALFORMED:
            return Verdict(False)
        return judge_calls(row.calls, row.expected_calls, offered_tools(row, task.tools))
    if tool is not None and tool.needs_second_turn and row.turns is None:
        # The tool of another task may find the answer by chance.
        return Verdict(row.prediction is not None and is_own and tool.supports_answer(row, row.prediction))
    return Verdict(task.judge(row.prediction, row.answers))


def _run(
    found: Sequence[Parsed], output: Path | None, runner: Runner | None, earlier: Sequence[Path]
) -> list[Execution | None]:
    pairs = [(each.tool, each.reading.call) for each in found if each.tool and each.reading.call]
    for tool in {tool.name: tool for tool, _ in pairs}.values():
        tool.check()
    executions = iter(run_all(pairs, output, runner, earlier))
    return [next(executions) if each.tool else None for each in found]


def _second_turns(
    rows: Sequence[Response],
    found: Sequence[Parsed],
    executions: Sequence[Execution | None],
    answer: AnswerSecondTurns | None,
    any_passage: bool,
) -> tuple[list[list[str] | None], list[list[str] | None]]:
    """The model's answers over each row's output, and with `any_passage` those over each passage alone; None if the
    model was not asked."""
    pairs = list(zip(rows, found, executions, strict=True))
    asked = [second_turn(*each) if answer else [] for each in pairs]
    each_alone = [_passages(*each) if answer and any_passage else [] for each in pairs]
    flat = [question for questions in (*asked, *each_alone) for question in questions]
    answers = iter(answer(flat) if answer and flat else ())
    turns, alone = (
        [[next(answers) for _ in questions] or None for questions in part] for part in (asked, each_alone)
    )
    return turns, alone


def second_turn(row: Response, found: Parsed, execution: Execution | None) -> list[Question]:
    """The questions of the second turn over the output of a response's call; none if the output is the answer."""
    if found.tool is None or execution is None or execution.output is None:
        return []
    asked = found.tool.second_turn(row, execution.output)
    if not asked and answers_from_result(found.task):
        return [sentence_question(row, execution.output)]
    return asked


def _passages(row: Response, found: Parsed, execution: Execution | None) -> list[Question]:
    """The questions of a second turn over each passage of the output alone."""
    tool = found.tool
    if not (tool and tool.needs_second_turn and execution and second_turn(row, found, execution)):
        return []
    return tool.second_turn_per_passage(row, execution.output or "")


def with_execution(
    row: Response, found: Parsed, execution: Execution | None, turns: list[str] | None
) -> Response:
    """The response with its outcome, call, execution, second turns and prediction."""
    if row.completion is not None:  # a native response, which was executed when it was generated
        return row
    task, (outcome, call, reason, _), tool, _ = found
    if turns is not None and tool is not None and execution is not None:
        prediction = task.predict(second_turn_text(turns, tool, execution.output or ""))
    elif tool is not None:
        prediction = execution.output if execution else None
    else:
        # Numbers inside a malformed call are not what the model claims.
        prediction = None if outcome is Outcome.MALFORMED else task.predict(visible(row.response))
    fields = {"outcome": outcome, "reason": reason, "call": call, "execution": execution, "any_passage": None}
    return row.model_copy(update=fields | {"turns": turns, "prediction": prediction})


def _strict(task: TaskLike, row: Response) -> dict[str, Any]:
    """The stricter metrics of a task whose answers are words."""
    if not isinstance(task, Task) or task.answers == "numbers" or row.expected_calls is not None:
        return {"exact": None, "f1": None}
    return {
        "exact": exact_match(row.prediction, row.answers),
        "f1": round(f1(row.prediction, row.answers), 6),
    }


@dataclass(frozen=True)
class SecondTurnModel:
    """An `AnswerSecondTurns`: the model answers second turns as it answered the questions, and a killed run resumes.
    `recorded` holds answers that exist already, by the text of their question."""

    tasks: Tasks
    spec: ModelSpec
    output: Path
    recorded: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        sampling = replace(self.spec.sampling, samples=1)
        examples = "direct" if self.spec.few_shot else None  # those of the task `second-turn`
        spec = replace(
            self.spec, tool_choice="auto", sampling=sampling, few_shot=examples, call_threshold=None
        )
        asked = {question.input: question for question in questions if question.input not in self.recorded}
        answers = self._answers(dict(enumerate(asked.values())), spec) if asked else []
        found = {**self.recorded, **dict(zip(asked, answers, strict=True))}
        return [found[question.input] for question in questions]

    def _answers(self, distinct: dict[int, Question], spec: ModelSpec) -> list[str]:
        """The answers in order of the numbers. Those of an earlier, interrupted run of the same model are reused."""
        asked, answered = (sidecar(self.output, part) for part in ("turns", "turned"))
        model = hashlib.sha256(json.dumps(spec.settings(), default=str).encode()).hexdigest()
        names = {"dataset": f"turns of {model}"}
        rows = [
            distinct[number].model_copy(update=names | {"id": str(number)}) for number in sorted(distinct)
        ]
        text = "".join(dump_row(row) + "\n" for row in rows)
        if not asked.is_file() or read_text(asked) != text:  # left by a run with other questions
            remove_sidecars(self.output, "turned")
            write_text(asked, text)
        answers = generate(asked, answered, self.tasks, spec, retry=True, empty_if_too_long=True)
        if len(answers) < len(rows):
            lost = f"{len(rows) - len(answers)} of {len(rows)} questions got no second turn"
            raise TriceError(f"{self.output}: {lost}; run the same command again to ask for those alone")
        return [row.response for row in answers]


def recorded_second_turns(tasks: Tasks, rows: Sequence[Response]) -> dict[str, str]:
    """The second turns of evaluated responses: what the model was asked, and what it answered."""
    found: dict[str, str] = {}
    for row in rows:
        turns = row.turns or []
        asked = second_turn(row, parse(tasks, row), row.execution) if turns else []
        if len(asked) == len(turns):  # older versions asked over each passage alone
            found |= zip((question.input for question in asked), turns, strict=True)
    return found


def check_model_given(tasks: Tasks, rows: Sequence[Response]) -> None:
    """Raise InputError if a call's output has to be read by a model, since none is given."""
    for row in rows:
        task, _, tool, _ = parse(tasks, row)
        if tool and (tool.needs_second_turn or answers_from_result(task)):
            raise InputError(
                f"{row.where}: calls {tool.name}, whose output a model has to read; give one with --model"
            )
