"""What a request asks of the worker, and the events that the worker reports for it, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trice.formats.paper import ParsedResponse
from trice.models.engine import ToolChoice
from trice.models.sampling import Sampling
from trice.server.model_registry import ServedModel
from trice.types import Execution, Question


@dataclass(frozen=True)
class JobRequest:
    """A checked request. If `stream` is set, the worker reports text while it is being written."""

    model: ServedModel
    question: Question
    sampling: Sampling
    tool_choice: ToolChoice = "auto"
    stops: tuple[str, ...] = ()
    probability: bool = False
    stream: bool = False


class Started(NamedTuple):
    """The prompt fits, and the request has entered the batch. `tools` names the tools on offer."""

    tools: tuple[str, ...]


class CallProbability(NamedTuple):
    """The probability that the response begins with each tool's name."""

    tools: dict[str, float]


class TextSoFar(NamedTuple):
    """The text of an unfinished response."""

    sample: int
    text: str


class ResponseParsed(NamedTuple):
    """A complete response. `truncated` means that it reached its length limit."""

    sample: int
    text: str
    reading: ParsedResponse
    truncated: bool


class CallExecuted(NamedTuple):
    """The call of a response was executed."""

    sample: int
    execution: Execution


class SecondTurnDone(NamedTuple):
    """The model has answered over the result of the call."""

    sample: int
    turns: list[str]


class ResponseDone(NamedTuple):
    """A response is finished. `answer` is its final answer, without the text before a call."""

    sample: int
    answer: str


class RequestDone(NamedTuple):
    """All responses are finished. The token counts include those of second turns."""

    prompt_tokens: int
    completion_tokens: int


class RequestFailed(NamedTuple):
    """The request cannot be answered. `error` is an InputError if the request is at fault."""

    error: Exception


ResponseEvent = TextSoFar | ResponseParsed | CallExecuted | SecondTurnDone | ResponseDone
Event = Started | CallProbability | ResponseEvent | RequestDone | RequestFailed
