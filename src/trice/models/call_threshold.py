"""The call threshold of a model, and `calibration.json`, which keeps it next to an adapter's files.

A call is made if a signal exceeds the threshold: P(call) (`trice.models.call_signals`), or the score of a probe on a
hidden state. Both are between 0 and 1, so 0 always calls and 1 never does. This module computes no signal, and fits
nothing: that is `trice.stages.calibrate`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from trice.errors import InputError
from trice.formats.prompt import Template
from trice.models.adapters import adapter_weights
from trice.progress import notice
from trice.storage.files import digest, read_object, validate

CALIBRATION = "calibration.json"
OFF = "off"

Signal = Literal["p-call", "probe"]
"""What is compared with the threshold."""


class _Record(BaseModel):
    """A part of `calibration.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Probe(_Record):
    """A linear probe: sigmoid(4 (weights · state + bias − ½)), where the linear part estimates need, 0 or 1. The
    sigmoid keeps the order and bounds the score."""

    layer: int
    """the layer after which the state of the prompt's last token is read, from 1"""
    weights: tuple[float, ...]
    bias: float
    ridge: float
    """the strength of the regularisation that it was fitted with, relative to the mean squared length of the states"""

    def score(self, state: Sequence[float]) -> float:
        """The score of a state."""
        linear = sum(weight * value for weight, value in zip(self.weights, state, strict=True)) + self.bias
        return squash(linear)


def squash(linear: float) -> float:
    """The score of a probe, from its linear part."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, 4 * (linear - 0.5)))))


class CallThreshold(_Record):
    """A call is made if the signal exceeds `value`."""

    value: float = Field(ge=0, le=1)
    probe: Probe | None = None

    @property
    def signal(self) -> Signal:
        """What is compared with the value."""
        return "p-call" if self.probe is None else "probe"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose states the signal needs."""
        return () if self.probe is None else (self.probe.layer,)

    def calls(self, probability: float, states: Sequence[Sequence[float]] = ()) -> bool:
        """Whether a call is made, given P(call) and the states after `layers`."""
        return (probability if self.probe is None else self.probe.score(states[0])) > self.value

    def settings(self) -> dict[str, Any]:
        """What responses depend on, for the input hash of a stage."""
        probe = self.probe and hashlib.sha256(self.probe.model_dump_json().encode()).hexdigest()
        return {"value": self.value} | ({"probe": probe} if probe else {})


class Estimate(_Record):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f})"


class Setting(_Record):
    """What a way to decide gives: the share of right answers, and of questions with a call."""

    accuracy: Estimate
    calls: Estimate


class Calibration(_Record):
    """The content of `calibration.json`, which `trice.calibrate` returns. Printed, it says what was chosen and what it
    costs."""

    threshold: CallThreshold
    aim: str
    """what the threshold was chosen for, such as `max_calls=0.3`"""
    task: str
    prompts: dict[str, str]
    """the format, or the template of the format paper, that it holds for"""
    adapter: str | None
    """sha256 of the adapter's weights that it holds for"""
    few_shot: str | None = None
    """the name of the worked examples, if there were any"""
    questions: int
    expected: Setting
    """on new questions, by cross-validation: the threshold is chosen without the questions that it is measured on"""
    chosen: Setting
    """on the calibration questions themselves, which the threshold was chosen on, so that it is optimistic"""
    never: Setting
    always: Setting
    oracle: Setting
    """a call exactly if it is needed and gives the right answer; the upper bound for every threshold"""
    area: float
    """the mean accuracy over all shares of calls from never to always; calls at random have (never + always) / 2"""
    auroc: dict[Signal, Estimate]
    """for each signal, the probability that a question that needs a tool has a higher signal than one that does not"""

    def __str__(self) -> str:
        rows = {"never": self.never, "always": self.always, "oracle": self.oracle}
        rows |= {"threshold": self.chosen, "threshold, cross-validated": self.expected}
        lines = [
            f"call threshold {self.threshold.value:.4g} on {self.threshold.signal}, for {self.aim}, from "
            f"{self.questions} questions",
            *(f"  {name:<27}correct {each.accuracy}, calls {each.calls}" for name, each in rows.items()),
        ]
        lines += [f"  AUROC of {name} for need: {each.value:.2f} ({each.low:.2f} to {each.high:.2f})"
                  for name, each in self.auroc.items()]  # fmt: skip
        return "\n".join(lines)


def read_calibration(adapter: Path) -> Calibration | None:
    """The calibration of an adapter; None if it has none. Raises InputError for a damaged file."""
    path = adapter / CALIBRATION
    return validate(Calibration, read_object(path), str(path)) if path.is_file() else None


def saved_threshold(adapter: Path | None, template: Template) -> CallThreshold | None:
    """The threshold that is saved with an adapter. It is not applied to other weights or another form of prompts than
    those that were calibrated, which a notice says; the task and worked examples are not compared."""
    found = read_calibration(adapter) if adapter else None
    if adapter is None or found is None:
        return None
    if found.adapter != digest(adapter_weights(adapter)):
        changed = "belongs to other weights of the adapter"
    elif found.prompts != template.record:
        changed = f"belongs to prompts of {' '.join(found.prompts.values())}"
    else:
        return found.threshold
    notice(f"{adapter / CALIBRATION}: {changed}, so it is not applied; run `trice calibrate` again")
    return None


def find_threshold(
    given: float | str | Calibration | CallThreshold | None, adapter: Path | None, template: Template
) -> CallThreshold | None:
    """The threshold to apply: the given one, none for `off`, or else the one that is saved with the adapter. A number
    is compared with the signal of the adapter's calibration, or with P(call) if there is none. Raises InputError for
    an invalid value."""
    if isinstance(given, Calibration):
        return given.threshold
    if isinstance(given, CallThreshold):
        return given
    if given == OFF:
        return None
    saved = saved_threshold(adapter, template)
    if given is None:
        return saved
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(
            f"call threshold '{given}' is not valid; choose a number from 0 (always call) to 1 (never), or off"
        )
    return CallThreshold(value=value, probe=saved.probe if saved else None)


def load_signal(name: str) -> Signal:
    """`name` as a signal. Raises InputError if it is not one."""
    if name not in get_args(Signal):
        raise InputError(f"signal '{name}' is not valid; choose {' or '.join(get_args(Signal))}")
    return name  # type: ignore[return-value]
