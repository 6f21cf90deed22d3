"""Call thresholds in a run: what each gives on the test questions, from answers with and without a call.

    data/dev/<task>/calls/<variant>/held-out/calibration.json   the threshold, and what it was chosen for
    data/dev/<task>/calls/<variant>/test/decisions.json         a row for each test question

The threshold was chosen on other questions than these. This module does not format anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from trice.frontier import Aim, Auroc, Decision, Point, Side, area, auroc, frontier, oracle, point
from trice.metrics import Difference, Key, paired_difference
from trice.models.call_threshold import Calibration, Signal, read_calibration
from trice.recipes.conditions import Variant
from trice.recipes.paths import CALLS
from trice.storage.files import read_rows

if TYPE_CHECKING:
    from trice.report.run_reader import Run


class CallRow(BaseModel):
    """A test question: its signals, whether it needs a tool, and both answers."""

    model_config = ConfigDict(populate_by_name=True, coerce_numbers_to_str=True)

    dataset: str
    id: str
    needed: bool
    p_call: float = Field(alias="p-call", ge=0, le=1)
    probe: float | None = Field(None, ge=0, le=1)
    without: Side
    called: Side

    def signal(self, name: Signal) -> float:
        """The value of a signal."""
        return self.p_call if name == "p-call" else self.probe or 0.0


@dataclass(frozen=True)
class CallDecisions:
    """What a variant's threshold was chosen for, and its test questions."""

    calibration: Calibration
    rows: list[CallRow]

    @property
    def decisions(self) -> list[Decision]:
        """The questions with the signal that the threshold is for."""
        name = self.calibration.threshold.signal
        return [Decision(row.signal(name), row.without, row.called) for row in self.rows]

    @property
    def right(self) -> dict[Key, bool]:
        """Whether the answer that the threshold chooses is right, by question."""
        value = self.calibration.threshold.value
        pairs = zip(self.rows, self.decisions, strict=True)
        return {(row.dataset, row.id): each.side(value).right for row, each in pairs}


@dataclass(frozen=True)
class CallMeasures:
    """What thresholds of a variant give on the test questions. `points` are from never to always calling; `chosen` is
    that of the calibrated threshold, and `cheapest` has the fewest calls without a loss on these questions."""

    points: list[Point]
    chosen: Point
    cheapest: Point
    oracle: Point
    area: float
    auroc: dict[Signal, Auroc]


def measure(found: CallDecisions) -> CallMeasures:
    """The measures of a variant."""
    decisions = found.decisions
    points = frontier(decisions)
    needed = [row.needed for row in found.rows]
    signals: dict[Signal, list[float]] = {"p-call": [row.p_call for row in found.rows]}
    if all(row.probe is not None for row in found.rows):
        signals["probe"] = [row.signal("probe") for row in found.rows]
    aurocs = {name: value for name, values in signals.items() if (value := auroc(values, needed))}
    chosen = point(decisions, found.calibration.threshold.value)
    return CallMeasures(points, chosen, Aim().choose(points), oracle(decisions), area(points), aurocs)


def compare(found: Mapping[str, CallDecisions], a: str, b: str) -> Difference | None:
    """Accuracy of the condition `a` minus that of `b`, each with its calibrated thresholds, on the questions of both.
    Seeds are averaged by question. None if one is missing, or their questions differ."""
    sides = [
        _by_question([each.right for name, each in found.items() if _condition(name) == side])
        for side in (a, b)
    ]
    return paired_difference(*sides) if sides[0] and sides[0].keys() == sides[1].keys() else None


def _by_question(seeds: Sequence[Mapping[Key, bool]]) -> dict[Key, float]:
    shared = set.intersection(*(set(each) for each in seeds)) if seeds else set()
    return {key: fmean(each[key] for each in seeds) for key in sorted(shared)}


def _condition(name: str) -> str:
    """The condition of a variant, after its task if each task has its own models."""
    task, slash, variant = name.rpartition("/")
    return f"{task}{slash}{Variant.parse(variant).condition}"


def read_calls(run: Run, dev: Path) -> dict[str, CallDecisions]:
    """The calibrated variants of a run whose test questions are answered, by name."""
    found = {}
    for path in sorted(dev.glob(f"*/{CALLS}/*/test/decisions.json")):
        folder = path.parent.parent
        calibration = read_calibration(folder / "held-out")
        rows = read_rows(path, CallRow)
        if calibration is not None and rows:
            task = folder.parent.parent.name
            name = f"{task}/{folder.name}" if run.keys.get("per_task") else folder.name
            found[name] = CallDecisions(calibration, rows)
    return found
