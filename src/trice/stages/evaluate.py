"""Evaluate: read, execute and judge responses, and measure accuracy and selective use."""

from __future__ import annotations

from pathlib import Path

from trice.journal import read_rows, write_rows
from trice.measures import Share, by_dataset
from trice.records import Response
from trice.tasks import check_questions, grade, load_task

Measures = dict[str, dict[str, Share]]


def evaluate(
    data: Path, output: Path, task: str, *, base: Path | None = None, limit: int | None = None
) -> Measures:
    """Grade the responses of `data` into `output`; returns the measures of each data set and in total.

    `base` is an evaluated file of the base model without a tool, against which over-use, under-use and
    harmful use are counted. Raises InputError for gold answers that could never be matched.
    """
    chosen = load_task(task)
    rows = read_rows(data, Response)[:limit]
    check_questions(chosen, rows, str(data))
    graded = [grade(chosen, row, row.response, row.origin, row.sample) for row in rows]
    measures = by_dataset(graded, read_rows(base, Response) if base else None)
    write_rows(output, graded)
    return measures
