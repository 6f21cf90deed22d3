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
    check_questions(chosen, rows)
    graded = [grade(chosen, row, row.response, row.origin, row.sample) for row in rows]
    measures = by_dataset(graded, read_rows(base, Response) if base else None)
    write_rows(output, graded)
    return measures


def describe(measures: Measures) -> str:
    """All measures with their 95% intervals in percent, a line for each data set."""
    return "\n".join(
        f"{dataset} ({shares['accuracy'].total:g}): "
        + ", ".join(f"{name.replace('_', ' ')} {_percent(share)}" for name, share in shares.items())
        for dataset, shares in measures.items()
    )


def _percent(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
