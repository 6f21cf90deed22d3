"""The form of OpenAI's chat completions: reading a request, writing what it is answered.

A request that would be answered otherwise than it asks is refused with the field's name; fields that change nothing
are passed over. One question a request: no conversations, no tools of the client's own, no log-probabilities.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trice.server.streamed_text import Answer
from trice.types import Outcome

MAX_SAMPLES = 8  # of one request
# Fields that change nothing here, and values with which others do not.
HARMLESS = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "tools": ([],), "functions": ([],),
    "parallel_tool_calls": (True, False),
}  # fmt: skip
# Fields of a message, or of a part of its text, that do not change what is asked.
NOTES = {
    "id", "name", "cache_control", "annotations", "citations", "metadata", "status", "type", "created",
    "created_at", "timestamp",
}  # fmt: skip
SHOWN = 80  # characters of a client's text that an error repeats
LONGEST = 600  # characters of an error's message
SINGLE = "this model answers single questions: one user message, and before it perhaps a system message"


def clip(text: str, most: int = SHOWN) -> str:
    """A text that a client has sent, short enough to be repeated in an error."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Refused(Exception):
    """A request that is not answered, and why: the HTTP status and the members of OpenAI's error. They are bounded,
    whatever a client has sent."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, clip(message, LONGEST), code
        self.param = None if param is None else clip(param)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        """OpenAI's form of it."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Text(BaseModel):
    """A part of a message; other fields are looked at by `_others`."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """Of a conversation of one question; other fields are looked at by `_others`."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user"]
    content: str | list[Text]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Wishes(_Strict):
    """Our own part of a request."""

    task: str | None = None
    probability: bool = False


class ChatRequest(BaseModel):
    """What a client sends; fields that are not ours are looked at by `_others`."""

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
    tool_choice: Literal["auto", "none", "required"] | None = None
    stop: str | list[str] | None = None
    trice: Wishes | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts a response ends before."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(given)

    @property
    def wishes(self) -> Wishes:
        return self.trice or Wishes()

    def parts(self) -> tuple[str, str]:
        """The instruction, perhaps empty, and the question. Raises Refused for a conversation."""
        roles = ["user" if message.role == "user" else "system" for message in self.messages]
        if roles not in (["user"], ["system", "user"]):
            raise Refused(400, SINGLE, "messages")
        *system, question = (message.text.strip() for message in self.messages)
        if not question:
            raise Refused(400, "the question is empty", "messages")
        return "".join(system), question


def read_request(body: bytes) -> ChatRequest:
    """A request's body. Raises Refused naming the field that does not fit."""
    try:
        value = json.loads(body, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object")
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _unfit(error) from None
    _others(request.model_extra or {}, HARMLESS)
    for number, message in enumerate(request.messages):
        _others(message.model_extra or {}, NOTES, f"messages.{number}.")
        for part in message.content if isinstance(message.content, list) else []:
            _others(part.model_extra or {}, NOTES, f"messages.{number}.content.")
    if len(request.stops) > 4 or not all(0 < len(stop) <= 100 for stop in request.stops):
        raise Refused(400, "stop: at most 4 texts of 1 to 100 characters", "stop")
    return request


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _others(fields: Mapping[str, Any], harmless: Container[str], place: str = "") -> None:
    """Refuse the first field that would change the answer."""
    for name, value in fields.items():
        if value in (None, [], {}) or name in harmless or value in NEUTRAL.get(name, ()):
            continue
        field = place + clip(name)
        raise Refused(400, f"{field}: is not supported here", field, "unsupported_parameter")


def _unfit(error: ValidationError) -> Refused:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(clip(str(part)) for part in first["loc"])
    if first["loc"][:1] == ("messages",):
        return Refused(400, f"{place}: {first['msg']}; {SINGLE}", "messages")
    return Refused(400, f"{place}: {first['msg']}", place)


class Writing:
    """Writes what one request is answered; `model` is its name."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def completion(self, answers: Mapping[int, Answer], usage: dict[str, int]) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            {
                "index": sample,
                "message": {
                    "role": "assistant",
                    "content": answer.content(),
                    "refusal": None,
                    "trice": extension(answer),
                },
                "logprobs": None,
                "finish_reason": finish_reason(answer),
            }
            for sample, answer in sorted(answers.items())
        ]
        return self.head | {"object": "chat.completion", "choices": choices, "usage": usage}

    def chunk(self, sample: int, delta: dict[str, Any], finish: str | None = None) -> str:
        """One piece of a stream, as an event."""
        choice = {"index": sample, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(self.head | {"object": "chat.completion.chunk", "choices": [choice]})

    def usage(self, usage: dict[str, int]) -> str:
        """The last piece, where it is asked for."""
        return event(self.head | {"object": "chat.completion.chunk", "choices": [], "usage": usage})


def event(value: Mapping[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def finish_reason(answer: Answer) -> str:
    """`length` where the response got no longer than it may, unless a call is in it."""
    called = answer.reading is not None and answer.reading.outcome is Outcome.CALLED
    return "length" if answer.full and not called else "stop"


def extension(answer: Answer) -> dict[str, Any]:
    """Our part of a message."""
    return (
        {"response": answer.said}
        | decision(answer)
        | {"execution": execution(answer), "turns": answer.turns, "probability": answer.probability}
    )


def decision(answer: Answer) -> dict[str, Any]:
    """What the response turned out to be."""
    assert answer.reading is not None
    outcome, call, reason, _ = answer.reading
    return {"decision": outcome.value, "call": call and call.model_dump(), "reason": reason}


def execution(answer: Answer) -> dict[str, Any] | None:
    """What its call gave, with the seconds it took."""
    done = answer.execution
    return (
        None
        if done is None
        else {"output": done.output, "error": done.error, "seconds": round(done.seconds, 4)}
    )
