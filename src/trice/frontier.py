"""Accuracy against calls for every call threshold, from questions that were answered with and without a call.

A threshold decides which of the two answers a question gets, so the accuracy and the calls of every threshold are known
without asking again. The measures of signals, AUROC and calibration, are here as well. This module knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, zip_longest
from statistics import fmean
from typing import NamedTuple

from trice.errors import InputError
from trice.metrics import Share, Z

NEVER, ALWAYS = 1.0, 0.0  # thresholds, for signals between 0 and 1


class Side(NamedTuple):
    """An answer: whether it is right, and the number of calls in it."""

    right: bool
    calls: int


class Decision(NamedTuple):
    """A question with its signal, answered without a call and with one."""

    signal: float
    without: Side
    called: Side

    def side(self, threshold: float) -> Side:
        """The answer that a threshold chooses."""
        return self.called if self.signal > threshold else self.without


class Point(NamedTuple):
    """What a threshold gives on n questions: how many are right and have a call, and the number of calls."""

    threshold: float
    questions: int
    right: int
    called: int
    calls: int

    @property
    def accuracy(self) -> float:
        return self.right / self.questions

    @property
    def share(self) -> float:
        """The share of questions with a call."""
        return self.called / self.questions


def point(decisions: Sequence[Decision], threshold: float) -> Point:
    """What a threshold gives."""
    return tally([each.side(threshold) for each in decisions], threshold)


def tally(sides: Sequence[Side], threshold: float = math.nan) -> Point:
    """Count answers, which need not be those of one threshold."""
    right, called = sum(each.right for each in sides), sum(each.calls > 0 for each in sides)
    return Point(threshold, len(sides), right, called, sum(each.calls for each in sides))


def frontier(decisions: Sequence[Decision]) -> list[Point]:
    """What every threshold gives, from never to always calling. A threshold lies in the middle between two signals, and
    equal signals are decided alike."""
    ordered = sorted(decisions, key=lambda each: -each.signal)
    levels = [(signal, list(members)) for signal, members in groupby(ordered, key=lambda each: each.signal)]
    found = [point(ordered, NEVER)]
    for (signal, members), following in zip_longest(levels, [signal for signal, _ in levels[1:]]):
        before = tally([each.without for each in members])
        after = tally([each.called for each in members])
        counts = (
            old - out + into for old, out, into in zip(found[-1][2:], before[2:], after[2:], strict=True)
        )
        found.append(Point(_between(signal, following), len(ordered), *counts))
    return found


def _between(signal: float, following: float | None) -> float:
    """A threshold that `signal` exceeds and the `following` one does not."""
    if following is None:
        return ALWAYS
    middle = (signal + following) / 2
    return middle if following <= middle < signal else following


@dataclass(frozen=True)
class Aim:
    """What a threshold is chosen for; only one of the fields is set. Without any, it is the fewest calls with which no
    accuracy is lost against the best threshold."""

    max_calls: float | None = None
    min_accuracy: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: a threshold has one aim; give one of them")
        for name, value in given.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} {value:g} is not valid; it is between 0 and 1")

    def __str__(self) -> str:
        given = (f"{name}={value:g}" for name, value in vars(self).items() if value is not None)
        return next(given, "the fewest calls without a loss")

    def choose(self, points: Sequence[Point]) -> Point:
        """The best point. Raises InputError if none reaches the aim, with the best value that one reaches."""
        if self.min_accuracy is not None:
            enough = [each for each in points if each.accuracy >= self.min_accuracy]
            if not enough:
                best = Aim().choose(points)
                raise InputError(
                    f"min_accuracy {self.min_accuracy:g} cannot be reached: the best threshold has accuracy "
                    f"{best.accuracy:.3f} with calls on {100 * best.share:.0f}% of the questions; aim at that or less"
                )
            return min(enough, key=lambda each: (each.called, -each.right))
        allowed = [each for each in points if self.max_calls is None or each.share <= self.max_calls]
        if not allowed:
            fewest = min(points, key=lambda each: each.called)
            raise InputError(
                f"max_calls {self.max_calls:g} cannot be reached: without a tool, {100 * fewest.share:.0f}% of the "
                "responses still call"
            )
        return max(allowed, key=lambda each: (each.right - (self.cost or 0) * each.calls, -each.called))


def oracle(decisions: Sequence[Decision]) -> Point:
    """Each question with a call exactly if only the answer with a call is right."""
    sides = [
        each.called if each.called.right and not each.without.right else each.without for each in decisions
    ]
    return tally(sides)


def area(points: Sequence[Point]) -> float:
    """The mean accuracy over all shares of calls from never to always, by trapezoids. A signal that says
    nothing has the mean of the two ends."""
    width = points[-1].share - points[0].share
    if not width:
        return points[0].accuracy
    pairs = pairwise(points)
    return sum((b.share - a.share) * (a.accuracy + b.accuracy) / 2 for a, b in pairs) / width


class Auroc(NamedTuple):
    """An area under the ROC curve with its 95% interval."""

    value: float
    low: float
    high: float


def auroc(signals: Sequence[float], needed: Sequence[bool]) -> Auroc | None:
    """The probability that a needed question has a higher signal than one that is not; equal signals count half. None
    if there are only questions of one kind.

    The interval holds the areas from which the measured one is at most z standard errors away, with the variance of
    Hanley and McNeil (Radiology 143, 1982) at that area (Newcombe, Statistics in Medicine 25, 2006)."""
    positive, negative = sum(needed), len(needed) - sum(needed)
    if not positive or not negative:
        return None
    wins, below = 0.0, 0
    for _, members in groupby(sorted(zip(signals, needed, strict=True)), key=lambda pair: pair[0]):
        labels = [is_needed for _, is_needed in members]
        ups, downs = sum(labels), len(labels) - sum(labels)
        wins, below = wins + ups * (below + downs / 2), below + downs
    value = wins / (positive * negative)
    return Auroc(value, *(_auroc_end(value, end, positive, negative) for end in (0.0, 1.0)))


def _auroc_end(value: float, end: float, positive: int, negative: int) -> float:
    """The area between `value` and `end` that is z of its standard errors away from `value`, by bisection."""
    near, far = value, end
    for _ in range(50):
        a = (near + far) / 2
        spread = 1 + (positive - 1) * (1 - a) / (2 - a) + (negative - 1) * a / (1 + a)
        within = abs(a - value) <= Z * math.sqrt(a * (1 - a) * spread / (positive * negative))
        near, far = (a, far) if within else (near, a)
    return near


def reliability(
    signals: Sequence[float], needed: Sequence[bool], bins: int = 10
) -> list[tuple[float, Share]]:
    """The calibration curve: in bins of equally many questions with similar signals, the mean signal and the share of
    questions that need a tool."""
    pairs, count = sorted(zip(signals, needed, strict=True)), len(signals)
    edges = [round(count * number / bins) for number in range(bins + 1)]
    parts = [pairs[start:end] for start, end in pairwise(edges) if end > start]
    return [
        (fmean(signal for signal, _ in part), Share(sum(is_needed for _, is_needed in part), len(part)))
        for part in parts
    ]
