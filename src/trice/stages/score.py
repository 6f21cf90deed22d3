"""Score: parse, execute and judge every candidate response, and give it its reward.

Reads `<task>_gold_response.json` (the targets) and every other `<task>_<origin>_response.json` of a folder, and
writes one row of `Candidates` per question. A question with few candidates is kept. Which reward is used is decided
by the caller (`trice.rewards`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trice.errors import InputError
from trice.rewards import RewardFunction, paper
from trice.stages.chat_responses import target_messages
from trice.stages.collect import GOLD
from trice.stages.grading import SecondTurnModel, grade
from trice.stages.model_spec import ModelSpec
from trice.storage.files import check_output, read_rows, refuse_repeated, validate, write_rows
from trice.tasks import Tasks, check_questions
from trice.tools.executor import Runner, remove_sidecars
from trice.training_data import Candidates, LabeledQuestion
from trice.types import GRADED, Execution, Outcome, Question, Response


def score(
    data: Path,
    output: Path,
    tasks: Tasks,
    *,
    reward: RewardFunction = paper,
    distinct: bool = True,
    spec: ModelSpec | None = None,
    runner: Runner | None = None,
) -> list[Candidates]:
    """Reward the candidates in folder `data` and write them to `output`.

    `distinct` keeps one of several candidates with the same text. A tool's output that is not an answer, such as a
    passage, is read by the model of `spec`; without a model, a call is correct if its output supports a gold answer.
    `runner` executes the calls. Raises InputError for a folder without targets.
    """
    target_path = data / f"{tasks.name}_{GOLD}_response.json"
    if not target_path.is_file():
        raise InputError(f"{data}: no gold responses here ({target_path.name} is missing)")
    paths = sorted(data.glob(f"{tasks.name}_*_response.json"))
    check_output(output, target_path, *paths)
    labeled = read_rows(target_path, LabeledQuestion)
    questions = _questions(labeled, tasks)
    others = _responses(paths, target_path, tasks.name)
    native = any(row.messages is not None or row.completion is not None for row in labeled)
    native |= any("completion" in each for found in others.values() for each in found)
    written = []
    for row, question in zip(labeled, questions, strict=True):
        fields = question.model_dump(exclude=GRADED)
        found = others.get((question.dataset, question.id), ())
        target = _response(question, fields, {"response": row.output, "origin": GOLD})
        if native:
            target = _conversation(tasks, row, target)
        rows = [target, *(_response(question, fields, each) for each in found)]
        rows = _distinct(rows) if distinct else rows
        written.append([each.model_copy(update={"sample": sample}) for sample, each in enumerate(rows)])
    model = SecondTurnModel(tasks, spec, output) if spec else None
    flat = [row for rows in written for row in rows]
    graded = iter(grade(tasks, flat, model, output=output, runner=runner, earlier=paths))
    scored = []
    for question, rows in zip(questions, written, strict=True):
        responses = [without_guess(tasks, next(graded)) for _ in rows]
        target = responses[0]
        scored.append(Candidates.of(question, responses, reward(responses, target), target))
    write_rows(output, scored)
    remove_sidecars(output)
    for path in paths:
        remove_sidecars(path, "calls")
    return scored


def _questions(labeled: Sequence[LabeledQuestion], tasks: Tasks) -> list[Question]:
    """The questions of the targets. Raises InputError for one without an id, or with a gold answer that could never
    be matched."""
    questions = [validate(Question, row.model_dump(exclude={"output"}), row.where) for row in labeled]
    refuse_repeated(questions)
    check_questions(tasks, questions)
    return questions


def _responses(
    paths: Sequence[Path], target_path: Path, task: str
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The fields of every response except the targets, by data set and id of its question."""
    found = defaultdict(list)
    for path in paths:
        if path == target_path:
            continue
        # Rows of published files name no origin; there it is a part of the file's name.
        published = path.name.removeprefix(f"{task}_").removesuffix("_response.json")
        for row in read_rows(path, Response, repeated=True):
            names = GRADED if row.completion is not None else {"response", "origin", "tokens"}
            fields = row.model_dump(include=names, exclude_none=True)
            found[row.dataset, row.id].append(fields | {"origin": row.origin or published})
    return found


def _response(question: Question, fields: dict[str, object], written: dict[str, Any]) -> Response:
    row = Response.model_validate(fields | written)
    row._where = question.where
    return row


def _conversation(tasks: Tasks, labeled: LabeledQuestion, target: Response) -> Response:
    """The target as an executed conversation, like the other candidates."""
    task = tasks.of(target)
    messages = target_messages(labeled, task.tools)
    calls = messages[0].tool_calls
    last, results = messages[-1], [message.content for message in messages if message.role == "tool"]
    prediction = last.content if last.role == "tool" else task.predict(last.content)
    return target.model_copy(
        update={
            "completion": messages,
            "outcome": Outcome.CALLED if calls else Outcome.ANSWERED,
            "call": calls[0] if calls else None,
            "execution": Execution(output=results[0]) if results else None,
            "prediction": prediction,
        }
    )


def _distinct(rows: Sequence[Response]) -> list[Response]:
    """The first of several responses with the same text. If white space around a text is removed, its token ids are
    dropped, since they are those of another text."""
    first: dict[str, Response] = {}
    for row in rows:
        text = row.response.strip()
        stripped = row.model_copy(update={"response": text, "tokens": None})
        first.setdefault(text, row if text == row.response else stripped)
    return list(first.values())


def without_guess(tasks: Tasks, row: Response) -> Response:
    """The response; if only a tool can know the answer, one without a call is a guess and counts as wrong."""
    guessed = row.outcome is Outcome.ANSWERED and tasks.requires_tool(row)
    return row.model_copy(update={"correct": False}) if guessed else row
