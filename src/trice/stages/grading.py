"""Grade: the one path from responses' texts to their outcomes, executions, predictions and verdicts.

Calls are run together, each distinct one once. Where a tool's output is no answer, such as passages, the
model is asked again with it, if there is one to ask; else a verdict says only whether the output supports a
gold answer. The prediction is chosen without the gold answers. They judge it, and they judge the answers over
each passage alone for the separate measure `any_passage`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trice.errors import InputError, TriceError
from trice.formats.paper import visible
from trice.stages.generate import generate
from trice.stages.model_spec import ModelSpec
from trice.storage.files import dump_row, read_text, write_text
from trice.tasks import TaskLike, Tasks, answers_from_result
from trice.tasks.final_answer import second_turn_text
from trice.tasks.outcome import Read, read
from trice.tasks.task import Task
from trice.tasks.word_judge import exact_match, f1
from trice.tools.executor import Runner, remove_sidecars, run_all, sidecar
from trice.tools.second_turn import sentence_question
from trice.types import REQUIRED, Execution, Outcome, Question, Response

AnswerSecondTurns = Callable[[Sequence[Question]], list[str]]
"""From questions with a tool's output to the model's answers."""


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
    """Parse, execute and judge responses. Never raises on what a model wrote.

    `output` is the file that is being made of them, beside which calls are kept (`trice.tools.executor`), `runner` what
    runs the calls, `earlier` the files of responses beside which some are kept already. `any_passage` also asks the
    model over each passage alone, which fills the field of that name. Raises InputError where a tool that is called
    lacks what it needs."""
    found = [read(tasks, row) for row in rows]
    executions = _execute(found, output, runner, earlier)
    turns, alone = _second_turns(rows, found, executions, answer, any_passage)
    done = [executed(*each) for each in zip(rows, found, executions, turns, strict=True)]
    graded = [_judged(*each) for each in zip(done, found, strict=True)]
    graded = [_with_need(tasks, row) for row in graded]
    if not any_passage:
        return graded
    return [_any_passage(*each) for each in zip(graded, found, alone, strict=True)]


def execute(
    tasks: Tasks, rows: Sequence[Response], answer: AnswerSecondTurns | None = None
) -> list[Response]:
    """The same without gold answers: outcome, call, execution, second turns and prediction of each response, which
    is all that `chat` and `Model.ask` need."""
    found = [read(tasks, row) for row in rows]
    executions = _execute(found, None, None, ())
    turns, _ = _second_turns(rows, found, executions, answer, any_passage=False)
    return [executed(*each) for each in zip(rows, found, executions, turns, strict=True)]


def _execute(
    found: Sequence[Read], output: Path | None, runner: Runner | None, earlier: Sequence[Path]
) -> list[Execution | None]:
    pairs = [(each.tool, each.reading.call) for each in found if each.tool and each.reading.call]
    for tool in {tool.name: tool for tool, _ in pairs}.values():
        tool.check()
    executions = iter(run_all(pairs, output, runner, earlier))
    return [next(executions) if each.tool else None for each in found]


def _second_turns(
    rows: Sequence[Response],
    found: Sequence[Read],
    executions: Sequence[Execution | None],
    answer: AnswerSecondTurns | None,
    any_passage: bool,
) -> tuple[list[list[str] | None], list[list[str] | None]]:
    """The model's answers to each row's output, and with `any_passage` those over each passage alone; None where
    it was not asked."""
    pairs = list(zip(rows, found, executions, strict=True))
    asked = [second_turn(*each) if answer else [] for each in pairs]
    each_alone = [_passages(*each) if answer and any_passage else [] for each in pairs]
    flat = [question for questions in (*asked, *each_alone) for question in questions]
    answers = iter(answer(flat) if answer and flat else ())
    turns, alone = (
        [[next(answers) for _ in questions] or None for questions in part] for part in (asked, each_alone)
    )
    return turns, alone


def second_turn(row: Response, found: Read, execution: Execution | None) -> list[Question]:
    """What the model is to be asked with the output of a response's call; nothing where that is the answer."""
    if found.tool is None or execution is None or execution.output is None:
        return []
    asked = found.tool.second_turn(row, execution.output)
    return (
        asked if asked or not answers_from_result(found.task) else [sentence_question(row, execution.output)]
    )


def _passages(row: Response, found: Read, execution: Execution | None) -> list[Question]:
    """The same over each passage of the output alone."""
    asked = bool(found.tool and found.tool.needs_second_turn and second_turn(row, found, execution))
    return (
        found.tool.second_turn_per_passage(row, execution.output or "")
        if asked and found.tool and execution
        else []
    )


def _with_need(tasks: Tasks, row: Response) -> Response:
    """The row says itself where its task requires a tool, for the measures that count need."""
    return row.model_copy(update={"tool": REQUIRED}) if tasks.requires_tool(row) else row


def _any_passage(row: Response, found: Read, alone: list[str] | None) -> Response:
    """With whether the answer over any one passage is right, as the paper counts; where no passage was read,
    whether the prediction is."""
    judged = [found.task.judge(found.task.predict(visible(turn)), row.answers) for turn in alone or ()]
    return row.model_copy(update={"any_passage": any(judged) if judged else row.correct})


def executed(row: Response, found: Read, execution: Execution | None, turns: list[str] | None) -> Response:
    """The response with what came of it, and the prediction in that."""
    task, (outcome, call, reason, _), tool, _ = found
    if turns is not None and tool is not None and execution is not None:
        prediction = task.predict(second_turn_text(turns, tool, execution.output or ""))
    elif tool is not None:
        prediction = execution.output if execution else None
    else:
        # A call that did not parse is no answer: numbers inside it are not what the model claims.
        prediction = None if outcome is Outcome.MALFORMED else task.predict(visible(row.response))
    told = {"outcome": outcome, "reason": reason, "call": call, "execution": execution, "any_passage": None}
    return row.model_copy(update=told | {"turns": turns, "prediction": prediction})


def _judged(row: Response, found: Read) -> Response:
    """The executed response with the verdict on its prediction."""
    task, tool = found.task, found.tool
    if tool is not None and tool.needs_second_turn and row.turns is None:
        # another task's tool may find the answer in passing, which says nothing
        correct = row.prediction is not None and found.own and tool.supports_answer(row, row.prediction)
    else:
        correct = task.judge(row.prediction, row.answers)
    return row.model_copy(update={"correct": correct} | _strictly(task, row.prediction, row.answers))


def _strictly(task: TaskLike, prediction: str | None, answers: Sequence[str]) -> dict[str, Any]:
    """The stricter measures, of a task whose answers are words."""
    if not isinstance(task, Task) or task.answers == "numbers":
        return {"exact": None, "f1": None}
    return {"exact": exact_match(prediction, answers), "f1": round(f1(prediction, answers), 6)}


@dataclass(frozen=True)
class SecondTurnModel:
    """A model that answers second turns as it answered the questions: an `AnswerSecondTurns` that survives a kill.
    `recorded` holds answers that exist already, by the text of what was asked."""

    tasks: Tasks
    spec: ModelSpec
    output: Path
    recorded: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        sampling = replace(self.spec.sampling, samples=1)
        examples = "direct" if self.spec.few_shot else None  # those of the task `second-turn`
        spec = replace(self.spec, tool_choice="auto", sampling=sampling, few_shot=examples)
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
        asked = second_turn(row, read(tasks, row), row.execution) if turns else []
        if len(asked) == len(turns):  # older versions asked over each passage alone
            found |= zip((question.input for question in asked), turns, strict=True)
    return found


def check_model_given(tasks: Tasks, rows: Sequence[Response]) -> None:
    """Raise InputError where a call's output would have to be read by a model, and there is none."""
    for row in rows:
        task, _, tool, _ = read(tasks, row)
        if tool and (tool.needs_second_turn or answers_from_result(task)):
            raise InputError(
                f"{row.where}: calls {tool.name}, whose output a model has to read: give --model"
            )
