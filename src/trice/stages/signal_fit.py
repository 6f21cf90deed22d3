"""Signals of questions that were answered with and without a call, fitted and cross-validated.

P(call) needs no fit. A probe is fitted on the need of the questions, and its values on these are of probes that were
fitted without them. This module asks no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from trice.errors import InputError
from trice.frontier import Aim, Auroc, Decision, Point, Side, auroc, frontier, tally
from trice.models.call_threshold import Probe, Signal
from trice.stages.call_decision import CallSignal
from trice.types import Question

MIN_OF_EACH = 5  # questions that need a tool, and that do not, for a probe
OUTER_FOLDS = 10


class Answered(NamedTuple):
    """A question: its signals, whether it needs a tool, and the answers without and with a call."""

    question: Question
    signal: CallSignal
    needed: bool
    without: Side
    called: Side


class Fitted(NamedTuple):
    """A signal: its values on the questions that it was fitted on, and its value on any question."""

    values: list[float]
    value: Callable[[Answered], float]
    probe: Probe | None = None


@dataclass(frozen=True)
class AnsweredQuestions:
    """Questions that were answered both ways. `layers` are those of the states in their signals."""

    rows: list[Answered]
    layers: list[int]

    @property
    def needed(self) -> list[bool]:
        """Which questions need a tool."""
        return [each.needed for each in self.rows]

    @property
    def can_probe(self) -> bool:
        """Whether there are enough questions of both kinds for a probe."""
        return min(sum(self.needed), len(self.rows) - sum(self.needed)) >= MIN_OF_EACH

    def fit(self, signal: Signal) -> Fitted:
        """A signal on these questions, which must suffice for a probe if it is one."""
        if signal == "p-call":
            return Fitted(
                [each.signal.probability for each in self.rows], lambda each: each.signal.probability
            )
        import numpy as np

        from trice.stages.need_probe import fit_probe

        states = np.asarray([each.signal.states for each in self.rows])
        scores, probe = fit_probe(states, self.layers, self.needed)
        place = self.layers.index(probe.layer)
        return Fitted(scores, lambda each: probe.score(each.signal.states[place]), probe)

    def decisions(self, values: Sequence[float]) -> list[Decision]:
        """The questions with these values of a signal."""
        pairs = zip(self.rows, values, strict=True)
        return [Decision(value, each.without, each.called) for each, value in pairs]

    def cross_validated(self, aim: Aim, signal: Signal) -> Point:
        """What is expected on new questions: each fold is decided with the signal and the threshold that the other
        questions give. Where these do not reach the aim, their best threshold is taken."""
        from trice.stages.need_probe import folds

        sides: list[Side] = []
        for others, fold in folds(self.needed, OUTER_FOLDS):
            known = AnsweredQuestions([self.rows[place] for place in others], self.layers)
            fitted = known.fit(signal)
            points = frontier(known.decisions(fitted.values))
            try:
                chosen = aim.choose(points)
            except InputError:
                chosen = Aim().choose(points)
            held_out = [self.rows[place] for place in fold]
            sides += [
                Decision(fitted.value(each), each.without, each.called).side(chosen.threshold)
                for each in held_out
            ]
        return tally(sides)

    def aurocs(self) -> dict[Signal, Auroc]:
        """The AUROC of every signal for need, where it is defined."""
        found: dict[Signal, Auroc] = {}
        for signal in get_args(Signal):
            if signal == "p-call" or self.can_probe:
                value = auroc(self.fit(signal).values, self.needed)
                found |= {signal: value} if value else {}
        return found
