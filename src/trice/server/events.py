"""What is asked of the worker, and what it tells of it, in the order in which things happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trice.formats.paper import ParsedResponse
from trice.models.engine import ToolChoice
from trice.models.sampling import Sampling
from trice.server.model_registry import Served
from trice.types import Execution, Question


@dataclass(frozen=True)
class Asked:
    """A request that has been read: `live` tells that its text is wanted while it is written."""

    model: Served
    question: Question
    sampling: Sampling
    tool_choice: ToolChoice = "auto"
    stops: tuple[str, ...] = ()
    probability: bool = False
    live: bool = False


class Began(NamedTuple):
    """The prompt fits and is being answered, with the offered tools."""

    tools: tuple[str, ...]


class Chance(NamedTuple):
    """How likely the model is to begin with each tool's name."""

    tools: dict[str, float]


class Said(NamedTuple):
    """What a response says so far."""

    sample: int
    text: str


class Decided(NamedTuple):
    """A whole response, and how it was read."""

    sample: int
    text: str
    reading: ParsedResponse
    full: bool


class Executed(NamedTuple):
    sample: int
    execution: Execution


class Turned(NamedTuple):
    """What the model answered over the output."""

    sample: int
    turns: list[str]


class Over(NamedTuple):
    """Nothing more will come of a response."""

    sample: int


class Finished(NamedTuple):
    """Nothing more will come; tokens of all prompts and of all responses."""

    prompt: int
    completion: int


class Failed(NamedTuple):
    """It was not answered; `error` is an InputError where the request is at fault."""

    error: Exception


Event = Began | Chance | Said | Decided | Executed | Turned | Over | Finished | Failed
