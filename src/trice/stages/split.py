"""Split: the base model answers every training question with tools withheld; what it does not know needs one.

A lucky guess is not knowledge: a question that was answered right is asked again, with sampled answers, and is
known only if the share of right answers, the first among them, is high enough. Where only a tool can know the
answer (`tool: required`) nothing is known. Known and unknown questions go to `<dataset>_right.json` and
`<dataset>_wrong.json` beside the data, with the first answer, the greedy one, as the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from trice.errors import InputError
from trice.formats.paper import visible
from trice.models.sampling import KNOWN, SPLIT_SAMPLES, SPLIT_TEMPERATURE
from trice.stages.generate import ModelSpec, More, generate
from trice.storage.files import read_rows, write_rows
from trice.tasks import Sources, TaskLike, Tasks, check_questions
from trice.tasks.outcome import read
from trice.tools.executor import sidecar
from trice.types import Outcome, Question, Response


class Halves(NamedTuple):
    """The two files of a split, and how many questions each holds (an empty half has no file)."""

    right: Path
    wrong: Path
    rights: int
    wrongs: int

    def __str__(self) -> str:
        total = self.rights + self.wrongs
        return f"{self.rights} of {total} right without a tool ({self.rights / max(1, total):.1%})"


def split(
    data: Path,
    task: str | TaskLike,
    spec: ModelSpec,
    *,
    samples: int = SPLIT_SAMPLES,
    temperature: float = SPLIT_TEMPERATURE,
    known: float = KNOWN,
    tools: Sources | None = None,
    limit: int | None = None,
    retry: bool = False,
) -> Halves:
    """Split `data` (rows of id, question, answer) by what the model knows.

    Each question is answered as `spec` says, with its tools withheld; a response with a call is wrong all the
    same, and is not run. Where that answer is right, `samples - 1` more are drawn at `temperature`, and the
    question is right if at least the share `known` of all answers is. `retry` asks those questions again that got
    no response, and so are in neither half.
    """
    if samples > 1 and (temperature <= 0 or not 0 < known <= 1):
        raise InputError(
            f"{samples} samples need a temperature above 0 and a known share of 0 to 1, "
            f"not temperature {temperature:g} and known {known:g}"
        )
    tasks = Tasks(task, tools)
    questions = read_rows(data, Question)
    check_questions(tasks, questions[:limit])
    _check_halves(data, questions)
    answers = answers_path(data)

    def passes(row: Response) -> bool:
        return bool(_judged(tasks, row).correct) and not tasks.requires_tool(row)

    drawn = replace(spec.sampling, samples=samples, temperature=temperature)
    rows = generate(
        data, answers, task, _withheld(spec), origin="base", tools=tools, limit=limit, retry=retry,
        run_calls=False, more=More(drawn, passes) if samples > 1 else None,
    )  # fmt: skip
    right, wrong = _halves(tasks, [_judged(tasks, row) for row in rows], samples, known)
    halves = Halves(
        data.with_name(f"{data.stem}_right.json"),
        data.with_name(f"{data.stem}_wrong.json"),
        len(right),
        len(wrong),
    )
    _write(halves.right, right)
    _write(halves.wrong, wrong)
    return halves


def _check_halves(data: Path, questions: list[Question]) -> None:
    """Raise InputError where a half would overwrite other questions: data sets may be called `x` and `x_right`."""
    ours = {row.id for row in questions}
    for half in ("right", "wrong"):
        path = data.with_name(f"{data.stem}_{half}.json")
        there = path.is_file() and path.stat().st_size
        other = next(
            (row for row in (read_rows(path, Question) if there else []) if row.id not in ours), None
        )
        if other:
            raise InputError(
                f"{other.where}: question '{other.id}' is not in {data}, and {path.name} would be overwritten; "
                "move that file, or rename the data"
            )


def _withheld(spec: ModelSpec) -> ModelSpec:
    """The same with tools withheld, where the endpoint can be told so."""
    at = spec.client
    if at is not None and at.api == "completions" and at.tokenizer is None:
        return spec
    return replace(spec, tool_choice="none" if spec.tool_choice == "auto" else spec.tool_choice)


def answers_path(data: Path) -> Path:
    """Where the answers are while `data` is being split."""
    return sidecar(data, "answers")


def _halves(
    tasks: Tasks, rows: Sequence[Response], samples: int, known: float
) -> tuple[list[Response], list[Response]]:
    """The first answers to known questions, and to the others. A question that lacks some of its sampled answers
    is in neither half."""
    right, wrong = [], []
    answers: list[list[Response]] = []  # of each question, the first one's sample is 0
    for row in rows:
        if row.sample:
            answers[-1].append(row)
        else:
            answers.append([row])
    for first, *others in answers:
        if not first.correct or tasks.requires_tool(first):
            wrong.append(first)
        elif samples == 1:
            right.append(first)
        elif len(others) == samples - 1:
            share = sum(bool(row.correct) for row in (first, *others)) / samples
            row = first.model_copy(update={"known_share": round(share, 6)})
            (right if share >= known else wrong).append(row)
    return right, wrong


def _judged(tasks: Tasks, row: Response) -> Response:
    task, reading, *_ = read(tasks, row)
    prediction = task.predict(visible(row.response)) if reading.outcome is Outcome.ANSWERED else None
    verdict = {"outcome": reading.outcome, "reason": reading.reason, "call": reading.call}
    correct = task.judge(prediction, row.answers)
    return row.model_copy(update=verdict | {"pred": prediction, "correct": correct})


def _write(path: Path, rows: list[Response]) -> None:
    if rows:
        write_rows(path, rows)
    else:
        path.unlink(missing_ok=True)
