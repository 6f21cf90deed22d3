"""Split: the base model answers every training question without a tool; what it gets wrong needs one.

Right and wrong go to `<dataset>_right.json` and `<dataset>_wrong.json` beside the data, with the response kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trice.journal import read_rows, write_rows
from trice.records import Question, Response
from trice.stages.generate import Asking, generate
from trice.tasks import check_questions, grade, load_task


class Halves(NamedTuple):
    """The two files of a split, and how many questions each holds (an empty half has no file)."""

    right: Path
    wrong: Path
    rights: int
    wrongs: int

    def __str__(self) -> str:
        total = self.rights + self.wrongs
        return f"{self.rights} of {total} right without a tool ({self.rights / max(1, total):.1%})"


def split(data: Path, task: str, asking: Asking, *, limit: int | None = None) -> Halves:
    """Split `data` (rows of id, question, answer) by the model's own correctness.

    A response with a call is wrong here, whatever it gives: the question is whether the model knows.
    """
    chosen = load_task(task)
    check_questions(chosen, read_rows(data, Question)[:limit])
    answers = data.with_name(f".{data.stem}_answers.json")  # removed at the end: no name a user's file has
    rows = generate(data, answers, task, asking, origin="base", limit=limit)
    graded = [grade(chosen, row, row.response, row.origin) for row in rows]
    right = [row for row in graded if row.correct and row.call is None]
    wrong = [row for row in graded if not row.correct or row.call is not None]
    halves = Halves(
        data.with_name(f"{data.stem}_right.json"),
        data.with_name(f"{data.stem}_wrong.json"),
        len(right),
        len(wrong),
    )
    _write(halves.right, right)
    _write(halves.wrong, wrong)
    answers.unlink()
    return halves


def _write(path: Path, rows: list[Response]) -> None:
    if rows:
        write_rows(path, rows)
    else:
        path.unlink(missing_ok=True)
