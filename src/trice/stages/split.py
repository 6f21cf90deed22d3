"""Split: the base model answers every training question without a tool; what it gets wrong needs one.

Right and wrong go to `<dataset>_right.json` and `<dataset>_wrong.json` beside the data, with the response kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trice.calls import visible
from trice.errors import InputError
from trice.journal import read_rows, write_rows
from trice.records import Outcome, Question, Response
from trice.stages.generate import Asking, generate
from trice.tasks import Sources, Tasks, check_questions
from trice.tasks.reading import read
from trice.tools.many import beside


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
    task: str,
    asking: Asking,
    *,
    tools: Sources | None = None,
    limit: int | None = None,
    retry: bool = False,
) -> Halves:
    """Split `data` (rows of id, question, answer) by the model's own correctness.

    A response with a call is wrong here, whatever it would give, and is not run: the question is whether the model
    knows. `retry` asks those questions again that got no response, and so are in neither half.
    """
    tasks = Tasks(task, tools)
    check_questions(tasks, read_rows(data, Question)[:limit])
    _check_halves(data)
    answers = answers_path(data)
    rows = generate(
        data, answers, task, asking, origin="base", tools=tools, limit=limit, retry=retry, run_calls=False
    )
    judged = [_judged(tasks, row) for row in rows]
    right = [row for row in judged if row.correct]
    wrong = [row for row in judged if not row.correct]
    halves = Halves(
        data.with_name(f"{data.stem}_right.json"),
        data.with_name(f"{data.stem}_wrong.json"),
        len(right),
        len(wrong),
    )
    _write(halves.right, right)
    _write(halves.wrong, wrong)
    if asking.client is None:  # an endpoint's may have been paid for
        answers.unlink()
    return halves


def _check_halves(data: Path) -> None:
    """Raise InputError where a half would overwrite other questions: data sets may be called `x` and `x_right`."""
    ours = {str(row.id) for row in read_rows(data, Question)}
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


def answers_path(data: Path) -> Path:
    """Where the answers are while `data` is being split."""
    return beside(data, "answers")


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
