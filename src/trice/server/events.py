"""What a request asks of the worker, and the events that the worker reports for it, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trice.formats.chat import ToolSchema
from trice.formats.paper import ParsedResponse
from trice.models.call_threshold import CallThreshold
from trice.models.engine import ToolChoice
from trice.models.sampling import Sampling
from trice.server.model_registry import ServedModel
from trice.stages.rollouts import MAX_CALLS
from trice.types import Execution, Message, Outcome, Question, ToolCall


@dataclass(frozen=True)
class ConversationRequest:
    """What a request to a model of the format `chat` asks.

    `tools` are the client's. If a call is required, it can be one of the tool `called_tool`. Of a message at most
    `max_calls` calls count."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    called_tool: str | None = None
    max_calls: int = MAX_CALLS


@dataclass(frozen=True)
class JobRequest:
    """A checked request. If `stream` is set, the worker reports text while it is being written. With a model of the
    format `chat` it has a `conversation`. With tool choice `auto`, `call_threshold` decides whether the response begins
    with a call."""

    model: ServedModel
    question: Question
    sampling: Sampling
    tool_choice: ToolChoice = "auto"
    stops: tuple[str, ...] = ()
    probability: bool = False
    stream: bool = False
    conversation: ConversationRequest | None = None
    call_threshold: CallThreshold | None = None


class Started(NamedTuple):
    """The prompt fits, and the request has entered the batch. `tools` names the tools on offer."""

    tools: tuple[str, ...]


class CallProbability(NamedTuple):
    """The probability that the response begins with each tool's name."""

    tools: dict[str, float]


class TextSoFar(NamedTuple):
    """The text of an unfinished response, in the format `chat` of an unfinished message."""

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


class TurnStarted(NamedTuple):
    """In the format `chat`: the model begins a message after `prompt`."""

    sample: int
    prompt: str


class TurnWritten(NamedTuple):
    """In the format `chat`: a message is complete. `outcome` and `reason` are those of the response so far, and
    `returned` the calls that the client executes."""

    sample: int
    text: str
    message: Message
    outcome: Outcome
    reason: str | None
    truncated: bool
    returned: tuple[ToolCall, ...] = ()


class TurnExecuted(NamedTuple):
    """In the format `chat`: the calls of a message were executed."""

    sample: int
    results: list[Message]
    executions: list[Execution]


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


PaperEvent = ResponseParsed | CallExecuted | SecondTurnDone
ChatEvent = TurnStarted | TurnWritten | TurnExecuted
ResponseEvent = TextSoFar | PaperEvent | ChatEvent | ResponseDone
Event = Started | CallProbability | ResponseEvent | RequestDone | RequestFailed
