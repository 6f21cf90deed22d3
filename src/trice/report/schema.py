"""`results.json`: a run's figures for other programs, in a form that stays.

`RunResults` is the file of one run, `SeveralResults` that of several; `schema` counts up when a field changes its
meaning or goes. Shares lie between 0 and 1, differences between -1 and 1; a part whose files are missing is empty.
Working the figures out is `trice.report.results`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trice.metrics import Share
from trice.report.headline import Headline
from trice.report.results import Comparison, Results
from trice.report.run_reader import About, Run, Step, Yield

DIGITS = 6


class Part(BaseModel):
    """An object whose fields are exactly those named here."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class ShareResult(Part):
    """A share of questions, with its 95% Wilson interval; value, low and high are null where total is 0."""

    count: int | float = Field(description="questions that count; a mean over seeds can have decimals")
    total: int = Field(description="questions in all")
    value: float | None = Field(description="count / total")
    low: float | None
    high: float | None


class DifferenceResult(Part):
    """A paired difference of two accuracies on the same questions, with its 95% interval."""

    delta: float
    low: float
    high: float
    by_seed: list[float] = Field(description="of each training seed both sides have, where there are several")


class StageResult(Part):
    """One stage's figures on all test questions."""

    name: str
    accuracy: ShareResult
    tool_use: ShareResult


class HeadlineResult(Part):
    """What the report says first."""

    sentence: str
    stages: list[StageResult]
    notes: list[str]


Measured = dict[str, dict[str, ShareResult]]


class RunResults(Part):
    """The results of one run."""

    version: Literal[2] = Field(2, alias="schema", description="the version of this form")
    run: About = Field(description="the run's name, model, seed, versions, hardware and licences")
    headline: HeadlineResult = Field(description="one sentence, a figure for each stage, notes")
    conditions: dict[str, Measured] = Field(
        description="condition → data set or `total` → measure → share; conditions that differ in training seed alone "
        "are one, the mean over them. The measures are those of `trice.metrics.measure`"
    )
    seeds: dict[str, dict[str, Measured]] = Field(
        description="condition → condition as run → the same, for conditions with more than one training seed"
    )
    comparison: dict[str, dict[str, DifferenceResult]] = Field(
        description="`a - b` → data set or `total` → the accuracy of a minus that of b"
    )
    need: dict[str, ShareResult] = Field(
        description="task → questions that need a tool: the base model, asked as in evaluation with tools "
        "withheld and with the examples of `split`, is wrong, or the question requires a tool"
    )
    confusion: dict[str, dict[str, dict[str, dict[str, ShareResult]]]] = Field(
        description="condition → data set or `total` → `needed` or `not needed` → called, answered or malformed → "
        "share of those questions"
    )
    frontier: list[str] = Field(
        description="conditions that no other beats in accuracy with as few calls, on all questions together; from "
        "few calls to many"
    )
    split: dict[str, dict[str, int]] = Field(
        description="data set → training questions the base model got `right` and `wrong`"
    )
    yields: dict[str, Yield] = Field(
        description="data set → tool-call labels kept, asked for, and why not kept"
    )
    steps: list[Step] = Field(description="the steps of the run: wall time in seconds, peak memory in MB")


class SeveralResults(Part):
    """The results of several runs side by side."""

    version: Literal[2] = Field(2, alias="schema", description="the version of this form")
    runs: dict[str, RunResults] = Field(description="run → its results")
    differences: dict[str, dict[str, str]] = Field(
        description="recipe key → run → its value, of keys whose values differ"
    )
    comparison: dict[str, dict[str, DifferenceResult]] = Field(
        description="`a - b` → condition → the accuracy of run a minus that of b, on the questions both were asked"
    )


def run_results(run: Run, results: Results, found: Headline) -> RunResults:
    """The content of one run's `results.json`."""
    return RunResults(
        run=About.model_validate(run.info.model_dump()),
        headline=_headline(found),
        conditions={name: _measured(measures) for name, measures in results.conditions.items()},
        seeds={
            group: {name: _measured(measures) for name, measures in members.items()}
            for group, members in results.seeds.items()
        },
        comparison={
            f"{a} - {b}": {part: difference_result(one) for part, one in parts.items()}
            for (a, b), parts in results.comparison.items()
        },
        need={task: share_result(share) for task, share in results.need.items()},
        confusion={
            name: {part: _measured(confusion) for part, confusion in parts.items()}
            for name, parts in results.confusion.items()
        },
        frontier=results.frontier,
        split=run.split,
        yields=run.yields,
        steps=run.info.steps,
    )


def as_json(found: RunResults | SeveralResults) -> str:
    """The text of the file."""
    return found.model_dump_json(by_alias=True, indent=1) + "\n"


def share_result(share: Share) -> ShareResult:
    count = int(share.count) if share.count == int(share.count) else round(share.count, DIGITS)
    value, low, high = (
        None if end is None else round(end, DIGITS) for end in (share.value, share.low, share.high)
    )
    return ShareResult(count=count, total=share.total, value=value, low=low, high=high)


def difference_result(found: Comparison) -> DifferenceResult:
    delta, low, high = (round(value, DIGITS) for value in found.overall)
    return DifferenceResult(
        delta=delta, low=low, high=high, by_seed=[round(value, DIGITS) for value in found.by_seed]
    )


def _headline(found: Headline) -> HeadlineResult:
    stages = [
        StageResult(
            name=stage.name,
            accuracy=share_result(stage.accuracy),
            tool_use=share_result(stage.tool_use),
        )
        for stage in found.stages
    ]
    return HeadlineResult(sentence=found.sentence, stages=stages, notes=found.notes)


def _measured(found: Mapping[str, Mapping[str, Share]]) -> Measured:
    return {
        part: {name: share_result(share) for name, share in shares.items()} for part, shares in found.items()
    }
