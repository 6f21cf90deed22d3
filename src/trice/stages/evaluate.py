"""Evaluate: execute and judge responses, and measure accuracy and selective use of tools."""

from __future__ import annotations

from pathlib import Path

from trice.metrics import Share, by_dataset, check_base
from trice.stages.grading import SecondTurnModel, check_model_given, grade, recorded_second_turns
from trice.stages.model_spec import ModelSpec
from trice.storage.files import check_output, read_rows, refuse_repeated, write_rows
from trice.tasks import Tasks, check_questions
from trice.tools.executor import Runner, remove_sidecars
from trice.types import Response

Measures = dict[str, dict[str, Share]]


def evaluate(
    data: Path,
    output: Path,
    tasks: Tasks,
    *,
    base: Path | None = None,
    spec: ModelSpec | None = None,
    limit: int | None = None,
    runner: Runner | None = None,
    any_passage: bool = False,
    auto_results: Path | None = None,
) -> Measures:
    """Judge the responses of `data` into `output`, and return the measures of each data set and in total.

    Args:
        data: Responses.
        output: Where the judged responses go.
        tasks: What the questions belong to.
        base: Judged responses of the base model without a tool, for over-use, under-use and harmful use.
        spec: The model that wrote the responses, for tools whose output it has to read.
        limit: Only the first `limit` responses.
        runner: What executes the calls.
        any_passage: Whether the model also answers over each passage alone. A response is then right, in the measure
            of that name, if any of these answers is.
        auto_results: Judged responses of the same model with tool choice `auto`. Its second turns there are reused.

    Raises:
        InputError: If a gold answer could never be matched, or a tool's output has to be read without a model.
    """
    check_output(output, data, base, auto_results)
    rows = read_rows(data, Response)[:limit]
    check_questions(tasks, rows)
    known = read_rows(base, Response) if base else None
    if known is not None:
        refuse_repeated(known, by_question=True)
        check_base(rows, known)
    if spec is None:
        check_model_given(tasks, rows)
    answered = recorded_second_turns(tasks, read_rows(auto_results, Response)) if auto_results else {}
    model = SecondTurnModel(tasks, spec, output, answered) if spec else None
    graded = grade(tasks, rows, model, output=output, runner=runner, earlier=[data], any_passage=any_passage)
    measures = by_dataset(graded, known)
    write_rows(output, graded)
    remove_sidecars(output)
    if limit is None:  # otherwise the other rows still need them
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
