"""`results.json`: the results of a run for other programs, in a stable format.

`RunResults` is the file of one run, `SeveralResults` that of several. The number `schema` increases when a field
changes its meaning or is removed. Shares are between 0 and 1, differences between -1 and 1. A part is empty if its
files are missing.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trice.frontier import Point
from trice.report.calls import CallDecisions, compare, measure
from trice.report.headline import Headline
from trice.report.results import Comparisons, Results
from trice.report.run_reader import BOTH, STAGE_1, Round, Run, RunDescription, Step, Yield


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _count(value: float) -> float:
    return int(value) if value == int(value) else round(value, 6)


Rounded = Annotated[float, BeforeValidator(_rounded)]


class StrictModel(BaseModel):
    """An object that has exactly these fields. It can be made from any object with attributes of these names."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, from_attributes=True)


class ShareResult(StrictModel):
    """A share of questions, with its 95% Wilson interval; value, low and high are null where total is 0."""

    count: Annotated[int | float, BeforeValidator(_count)] = Field(
        description="questions that count; a mean over seeds can have decimals"
    )
    total: int = Field(description="questions in all")
    value: Rounded | None = Field(description="count / total")
    low: Rounded | None
    high: Rounded | None


class DifferenceResult(StrictModel):
    """A paired difference of two accuracies on the same questions, with its 95% interval."""

    delta: Rounded
    low: Rounded
    high: Rounded
    by_seed: list[Rounded] = Field(
        description="for each training seed that both sides have, if there are several"
    )


class StageResult(StrictModel):
    """The measures of one stage on all test questions."""

    name: str
    accuracy: ShareResult
    tool_use: ShareResult


class HeadlineResult(StrictModel):
    """The beginning of the report."""

    sentence: str
    stages: list[StageResult]
    notes: list[str]


class AurocResult(StrictModel):
    """An area under the ROC curve with its 95% interval."""

    value: Rounded
    low: Rounded
    high: Rounded


class PointResult(StrictModel):
    """What a call threshold gives on the test questions: how many are right, and how many have a call."""

    threshold: Rounded | None
    questions: int
    right: int
    called: int


class CallsResult(StrictModel):
    """What call thresholds of a model give on the test questions."""

    signal: str
    aim: str
    held_out: int
    chosen: PointResult
    cheapest: PointResult
    oracle: PointResult
    area: Rounded
    auroc: dict[str, AurocResult]
    points: list[PointResult]


Measured = dict[str, dict[str, ShareResult]]


class RunResults(StrictModel):
    """The results of one run."""

    version: Literal[2] = Field(2, alias="schema", description="the version of this form")
    run: RunDescription = Field(description="the run's name, model, seed, versions, hardware and licences")
    headline: HeadlineResult = Field(description="one sentence, the measures of each stage, notes")
    conditions: dict[str, Measured] = Field(
        description="condition → data set or `total` → measure → share; conditions that differ only in their training "
        "seed are one condition, the mean over the seeds. The measures are those of `trice.metrics.measure`"
    )
    seeds: dict[str, dict[str, Measured]] = Field(
        description="condition → condition with its seed → the same, for conditions with several training seeds"
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
        description="conditions for which no other has at least the same accuracy with at most as many calls, on all "
        "questions; sorted by rising tool use"
    )
    split: dict[str, dict[str, int]] = Field(
        description="data set → the numbers of training questions that the base model answered `right` and `wrong`"
    )
    yields: dict[str, Yield] = Field(
        description="data set → tool-call labels: how many were kept, how many were made, and why the others were not "
        "kept"
    )
    rounds: dict[str, list[Round]] = Field(
        {},
        description="variant → the rounds of stage 2 in order: questions, responses drawn, passes of sampling, "
        "questions solved and those of them that are new, targets by outcome, and of the first `samples` responses to "
        "each question the shares that are right, call and are malformed, and the mean number of distinct ones; "
        "`call_gain` is by how much the mean reward is higher with a call than without, over the questions answered "
        "both ways, or null",
    )
    calls: dict[str, CallsResult] = Field(
        {},
        description="variant → its call thresholds on the test questions, as (threshold, questions, right, called): "
        "the one that was `chosen` on `held_out` other questions, the `cheapest` that loses nothing, the `oracle`, and "
        "all `points` from never to always; `area` is the mean accuracy over all shares of calls, and `auroc` is for "
        "each signal the AUROC for need",
    )
    calibrated: dict[str, DifferenceResult] = Field(
        {},
        description="`both - stage-1` → the difference of their accuracies, each with its calibrated thresholds",
    )
    steps: list[Step] = Field(description="the steps of the run: wall time in seconds, peak memory in MB")


class SeveralResults(StrictModel):
    """The results of several runs."""

    version: Literal[2] = Field(2, alias="schema", description="the version of this form")
    runs: dict[str, RunResults] = Field(description="run → its results")
    differences: dict[str, dict[str, str]] = Field(
        description="recipe key → run → its value, for the keys whose values differ"
    )
    comparison: dict[str, dict[str, DifferenceResult]] = Field(
        description="`a - b` → condition → the accuracy of run a minus that of b, on the questions that both were asked"
    )


def run_results(run: Run, results: Results, headline: Headline) -> RunResults:
    """The content of one run's `results.json`."""
    return RunResults(
        run=run.info,
        headline=headline,
        conditions=results.conditions,
        seeds=results.seeds,
        comparison=by_pair(results.comparison),
        need=results.need,
        confusion=results.confusion,
        frontier=results.frontier,
        split=run.split,
        yields=run.yields,
        rounds=run.rounds,
        calls={name: _calls(each) for name, each in run.calls.items()},
        calibrated=_calibrated(run),
        steps=run.info.steps,
    )


def _calls(found: CallDecisions) -> CallsResult:
    measures, calibration = measure(found), found.calibration
    about = {
        "signal": calibration.threshold.signal,
        "aim": calibration.aim,
        "held_out": calibration.questions,
    }
    one = {name: _point(getattr(measures, name)) for name in ("chosen", "cheapest", "oracle")}
    aurocs = {name: AurocResult(**each._asdict()) for name, each in measures.auroc.items()}
    points = [_point(each) for each in measures.points]
    return CallsResult(**about, **one, area=measures.area, auroc=aurocs, points=points)


def _point(one: Point) -> PointResult:
    threshold = None if math.isnan(one.threshold) else one.threshold
    return PointResult(threshold=threshold, questions=one.questions, right=one.right, called=one.called)


def _calibrated(run: Run) -> dict[str, DifferenceResult]:
    found = compare(run.calls, BOTH, STAGE_1)
    return {f"{BOTH} - {STAGE_1}": DifferenceResult(**found._asdict(), by_seed=[])} if found else {}


def by_pair(comparisons: Comparisons) -> dict[str, dict[str, DifferenceResult]]:
    """Comparisons by the text `a - b`."""
    return {
        f"{a} - {b}": {name: DifferenceResult.model_validate(one) for name, one in parts.items()}
        for (a, b), parts in comparisons.items()
    }


def as_json(found: RunResults | SeveralResults) -> str:
    """The text of the file."""
    return found.model_dump_json(by_alias=True, indent=1) + "\n"
