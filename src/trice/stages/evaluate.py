"""Evaluate: read, execute and judge responses, and measure accuracy and selective use."""

from __future__ import annotations

from pathlib import Path

from trice.metrics import Share, by_dataset, check_base
from trice.stages.generate import ModelSpec
from trice.stages.grading import Model, check_model_given, grade, known_turns
from trice.storage.files import check_output, read_rows, refuse_repeated, write_rows
from trice.tasks import Sources, Tasks, check_questions
from trice.tools.executor import Runner, remove_sidecars
from trice.types import Response

Measures = dict[str, dict[str, Share]]


def evaluate(
    data: Path,
    output: Path,
    task: str,
    *,
    base: Path | None = None,
    spec: ModelSpec | None = None,
    tools: Sources | None = None,
    limit: int | None = None,
    runner: Runner | None = None,
    any_passage: bool = False,
    turned: Path | None = None,
) -> Measures:
    """Grade the responses of `data` into `output`; returns the measures of each data set and in total.

    `base` is an evaluated file of the base model without a tool, against which over-use, under-use and
    harmful use are counted. `spec` is the model that wrote the responses, for tools whose output it has to read.
    `runner` is what runs the calls. `any_passage` also asks the model over each passage alone, at the cost of those
    calls of the model, and counts as the paper does: right where any of these answers is. `turned` is an evaluated
    file of the same model asked in the same way: the second turns that it has there are not asked for again.
    Raises InputError for gold answers that could never be matched, and where such a tool is called without a model.
    """
    check_output(output, data, base, turned)
    tasks = Tasks(task, tools)
    rows = read_rows(data, Response)[:limit]
    check_questions(tasks, rows)
    known = read_rows(base, Response) if base else None
    if known is not None:
        refuse_repeated(known, by_question=True)
        check_base(rows, known)
    if spec is None:
        check_model_given(tasks, rows)
    answered = known_turns(tasks, read_rows(turned, Response)) if turned else {}
    model = Model(task, spec, output, tools, answered) if spec else None
    graded = grade(tasks, rows, model, output=output, runner=runner, earlier=[data], any_passage=any_passage)
    measures = by_dataset(graded, known)
    write_rows(output, graded)
    remove_sidecars(output)
    if limit is None:  # else the other rows' calls would be run again
        remove_sidecars(data, "calls")
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
