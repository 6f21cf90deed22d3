"""OpenAI's chat completions: parsing a request, and writing its response.

A field that this server does not support is refused by name, so that no answer differs from what was asked; a field
that has no effect is ignored. A request to a model of the format `paper` holds one question. Conversations and a
client's tools are for models of the format `chat` (`trice.server.conversation`).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trice.server.events import ResponseEvent

MAX_SAMPLES = 8  # of one request
MAX_TOOLS = 128  # of one client
# Fields that have no effect, and values of other fields that have none.
HARMLESS = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "functions": ([],),
    "function_call": ("none",),
}  # fmt: skip
# Fields of a message or a text part that have no effect.
NOTES = {
    "id", "name", "cache_control", "annotations", "citations", "metadata", "status", "type", "created",
    "created_at", "timestamp",
}  # fmt: skip
MAX_QUOTED = 80  # characters of a client's text that an error repeats
MAX_MESSAGE = 600  # characters of an error's message
ONE_QUESTION = "this model answers single questions: send one user message, after an optional system message"


def clip(text: str, most: int = MAX_QUOTED) -> str:
    """Text of a client, shortened for an error message."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Refused(Exception):
    """A request that is not answered: the HTTP status and the fields of OpenAI's error, bounded in length."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, clip(message, MAX_MESSAGE), code
        self.param = None if param is None else clip(param)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's format."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Text(BaseModel):
    """A text part of a message. `_check_others` checks the other fields."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """The name and the arguments, as JSON text, of a call."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of an assistant message."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class EchoedExtension(BaseModel):
    """The extension `trice` of an assistant message that the client sends back."""

    model_config = ConfigDict(extra="ignore", strict=True)

    completion: list[dict[str, Any]] | None = None


class Message(BaseModel):
    """A message. `_check_others` checks the other fields."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Text] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    trice: EchoedExtension | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ToolFunction(_Strict):
    """A tool of the client. `strict` has no effect."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ClientTool(_Strict):
    type: Literal["function"]
    function: ToolFunction


class NamedFunction(_Strict):
    name: str


class NamedTool(_Strict):
    """A tool choice that names the tool."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TriceOptions(_Strict):
    """The field `trice` of a request, which OpenAI's API does not have."""

    task: str | None = None
    probability: bool = False
    call_threshold: Annotated[float, Field(ge=0, le=1)] | Literal["off"] | None = None


class ChatRequest(BaseModel):
    """A request. `_check_others` checks the fields that are not listed here."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    stop: str | list[str] | None = None
    trice: TriceOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a response."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(given)

    @property
    def options(self) -> TriceOptions:
        return self.trice or TriceOptions()

    def instruction_and_question(self) -> tuple[str, str]:
        """The system message, or an empty text, and the question. Raises Refused for a conversation and for what else
        only the format `chat` supports."""
        if self.tools or isinstance(self.tool_choice, NamedTool):
            field = "tools" if self.tools else "tool_choice"
            message = (
                f"{field}: is not supported by this model; a client's tools need a model of the format chat"
            )
            raise Refused(400, message, field, "unsupported_parameter")
        roles = [message.role.replace("developer", "system") for message in self.messages]
        called = any(message.tool_calls or message.tool_call_id for message in self.messages)
        if roles not in (["user"], ["system", "user"]) or called:
            raise Refused(400, ONE_QUESTION, "messages")
        *system, question = (message.text.strip() for message in self.messages)
        if not question:
            raise Refused(400, "the question is empty", "messages")
        return "".join(system), question


def read_request(body: bytes) -> ChatRequest:
    """Parse a request's body. Raises Refused with the name of the invalid field."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object")
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _invalid(error) from None
    _check_others(request.model_extra or {}, HARMLESS)
    for number, message in enumerate(request.messages):
        _check_others(message.model_extra or {}, NOTES, f"messages.{number}.")
        for part in message.content if isinstance(message.content, list) else []:
            _check_others(part.model_extra or {}, NOTES, f"messages.{number}.content.")
    if len(request.stops) > 4 or not all(0 < len(stop) <= 100 for stop in request.stops):
        raise Refused(400, "stop: at most 4 texts of 1 to 100 characters", "stop")
    return request


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _check_others(fields: Mapping[str, Any], harmless: Container[str], prefix: str = "") -> None:
    """Raise Refused for the first field that would change the answer."""
    for name, value in fields.items():
        if value in (None, [], {}) or name in harmless or value in NEUTRAL.get(name, ()):
            continue
        field = prefix + clip(name)
        raise Refused(400, f"{field}: is not supported", field, "unsupported_parameter")


def _invalid(error: ValidationError) -> Refused:
    errors = error.errors(include_url=False, include_input=False)
    first = errors[0]
    *place, last = first["loc"]
    if _is_form(last):  # the value has none of several forms: report the one that it fits furthest
        first = max((each for each in errors if [*each["loc"]][: len(place)] == place), key=_depth)
    field = ".".join(clip(str(part)) for part in first["loc"] if not _is_form(part))
    return Refused(400, f"{field}: {first['msg']}", field)


def _depth(error: Mapping[str, Any]) -> int:
    return len(error["loc"])


def _is_form(part: str | int) -> bool:
    """Whether a part of a location is not a field, but the form that pydantic has tried for a field's value."""
    return str(part) in ("str", NamedTool.__name__) or str(part).startswith(("list[", "literal["))


class Answer(Protocol):
    """One response as far as it is known, in a model's format."""

    probability: dict[str, Any] | None

    def update(self, one: ResponseEvent) -> None:
        """Apply an event of the worker."""

    def deltas(self, one: ResponseEvent) -> list[dict[str, Any]]:
        """What an event that has been applied adds to a stream."""

    def message(self) -> dict[str, Any]:
        """The complete message, with the extension `trice`."""

    def finish_reason(self) -> str:
        """Why the complete message ends, in OpenAI's words."""


class ResponseWriter:
    """Writes the response to one request."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def completion(self, answers: Mapping[int, Answer], usage: dict[str, int]) -> dict[str, Any]:
        """The response of a request that is not streamed."""
        choices = [
            {
                "index": sample,
                "message": {"role": "assistant", "refusal": None} | answer.message(),
                "logprobs": None,
                "finish_reason": answer.finish_reason(),
            }
            for sample, answer in sorted(answers.items())
        ]
        return self.head | {"object": "chat.completion", "choices": choices, "usage": usage}

    def chunk(self, sample: int, delta: dict[str, Any], finish: str | None = None) -> str:
        """One chunk of a stream, as an event."""
        choice = {"index": sample, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(self.head | {"object": "chat.completion.chunk", "choices": [choice]})

    def usage(self, usage: dict[str, int]) -> str:
        """The last chunk, with the token counts."""
        return event(self.head | {"object": "chat.completion.chunk", "choices": [], "usage": usage})


def event(value: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
