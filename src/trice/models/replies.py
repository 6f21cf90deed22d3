"""What came back from an OpenAI-compatible server, read field by field: samples, or why there are none.

A complete reply that holds no usable text is final: no other attempt mends it. Does not cover several tool calls in
one reply: the first one counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, BaseModel, Field, ValidationError, WrapValidator

from trice.formats.calls import MAX_RESPONSE
from trice.models.api_keys import KeyRing
from trice.models.budget import Spent
from trice.models.server_errors import Refusal, page, parse, proxied, read_refusal
from trice.types import ToolCall

REFUSED = (401, 402, 403, 404)  # whatever is asked: the key, the account or the address


class Reply(NamedTuple):
    """One sample. `tokens` are its token ids if the server reports them. `call` is a tool call that the server parsed
    and removed from the text."""

    text: str
    tokens: list[int] | None = None
    call: ToolCall | None = None


@dataclass(eq=False)
class Fault(Exception):
    """Why one attempt failed. `after`: seconds the server asks us to wait; `slow`: the time limit ran out; `final`:
    the reply was complete, so that another attempt gets the same; `of_request`: it concerns this request alone;
    `fields`: those that the server refuses; `url`: the server's."""

    reason: str
    status: int | None = None
    after: float = 0.0
    slow: bool = False
    unreachable: bool = False
    final: bool = False
    of_request: bool = False
    fields: tuple[str, ...] = ()
    url: str = ""

    def __str__(self) -> str:
        return self.reason

    @property
    def sick(self) -> bool:
        """Whether it speaks against the server, not the request, the key or the pace."""
        return not self.of_request and (self.status is None or self.status >= 500)

    @property
    def passing(self) -> bool:
        """Whether another attempt may fare better."""
        return not (self.final or self.of_request) and (self.sick or self.status in (408, 409, 425, 429))

    @property
    def down(self) -> bool:
        """Whether the server is to blame, not the request."""
        return self.sick or self.passing or self.status in REFUSED

    @property
    def spent(self) -> Spent | None:
        """What it cost: no tokens where it was refused; None where nobody knows."""
        if self.unreachable:
            return Spent()
        return None if self.status is None and not self.final else Spent(1)


class Answer(NamedTuple):
    """A whole reply, of as many samples as the server liked, and why others have no usable text; `spent` is None
    where it tells no usage."""

    replies: list[Reply]
    fault: Fault | None
    spent: Spent | None


def _or_none(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        return check(value)
    except ValidationError:
        return None


# What is extra must fit too, but its absence or disorder spoils no reply that is paid for.
_Optional = WrapValidator(_or_none)


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Part(BaseModel):
    """Of a content that is a list, such as `{"type": "text", "text": …}`."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: Annotated[str | None, _Optional] = None
    reasoning: Annotated[str | list[Any] | None, _Optional] = Field(
        None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )
    tool_calls: Annotated[list[Any] | None, _Optional] = None


class _Choice(BaseModel):
    message: _Message = Field(default_factory=_Message)
    text: str | None = None
    finish_reason: Annotated[str | None, _Optional] = None
    error: Any = None
    token_ids: Annotated[list[int] | None, _Optional] = None

    def reply(self, ring: KeyRing, after: float) -> Reply | Fault:
        """The sample, or why it is none."""
        if self.error and (refusal := read_refusal({"error": self.error})):
            return _embedded(refusal, ring, after)
        if self.finish_reason == "content_filter":
            return _unusable("the server's content filter ended the reply")
        text, message = self._text(), self.message
        if message.tool_calls:
            call = _call(message.tool_calls[0])
            return (
                Reply(ring.hide(text or "")[:MAX_RESPONSE], call=call) if call else _unusable(UNREADABLE_CALL)
            )
        if not text and (refused := self._refused()):
            return _unusable(f"the model refused: {ring.message(refused)}")
        ended = f"finish_reason {ring.message(str(self.finish_reason))}"
        if not text and message.reasoning:
            advice = "allow more new tokens, or turn off its thinking"
            return _unusable(f"the model wrote reasoning and no answer ({ended}); {advice}")
        if text is None:
            return _unusable(f"the reply holds no text ({ended})")
        return Reply(ring.hide(text)[:MAX_RESPONSE], self.token_ids)

    def _text(self) -> str | None:
        content = self.message.content
        if not isinstance(content, list):
            return self.text if content is None else content
        texts = [
            part.text for part in content if part.text is not None and part.type in ("text", "output_text")
        ]
        return "".join(texts) if texts else None

    def _refused(self) -> str | None:
        content = self.message.content
        parts = content if isinstance(content, list) else []
        return self.message.refusal or next((part.refusal for part in parts if part.refusal), None)


class _Completion(BaseModel):
    """The part of a completion that is read. The client library would let any other shape pass."""

    choices: list[_Choice]
    usage: Annotated[_Usage | None, _Optional] = None


UNREADABLE_CALL = "the reply holds a tool call without a name, or whose arguments are no JSON object"


def read_reply(body: bytes, ring: KeyRing, after: float) -> Answer | Fault:
    """What a reply with status 200 holds."""
    try:
        value = parse(body)
    except ValueError as error:
        if "EOF" in str(error):
            return Fault(f"the reply ends too early{proxied(ring.server)}")
        said = ring.message(page(body[:MAX_RESPONSE].decode(errors="replace")))
        return Fault(f"the reply is {said}, and not JSON; check the URL{proxied(ring.server)}", final=True)
    choices = value.get("choices") if isinstance(value, dict) else None
    if not choices and (refusal := read_refusal(value)):
        return _embedded(refusal, ring, after)
    if choices is None:
        shown = ring.message(json.dumps(value)[:MAX_RESPONSE])
        return Fault(f"the reply is no completion, but {shown}; check the URL", final=True)
    try:
        completion = _Completion.model_validate(value)
    except ValidationError as error:
        place = ring.message(".".join(map(str, error.errors()[0]["loc"])))
        return Fault(f"the reply is no completion (field {place})", final=True)
    found = [choice.reply(ring, after) for choice in completion.choices]
    faults = [each for each in found if isinstance(each, Fault)] or [_unusable("the reply has no choices")][
        len(found) :
    ]
    told = completion.usage
    spent = Spent(1, told.prompt_tokens, told.completion_tokens) if told else None
    return Answer([each for each in found if isinstance(each, Reply)], faults[0] if faults else None, spent)


def read_error(status: int, body: bytes, ring: KeyRing, after: float) -> Fault:
    """What a reply with an HTTP status of its own means."""
    try:
        refusal = read_refusal(parse(body))
    except ValueError:
        refusal = None
    if refusal is None:
        text = body[:MAX_RESPONSE].decode(errors="replace").strip()
        said = ring.message(page(text)) if text else ""
        return Fault(f"HTTP {status}{': ' * bool(said)}{said}{proxied(ring.server)}", status, after=after)
    reason = f"HTTP {status}: {ring.message(refusal.message)}"
    if status < 500 and refusal.status in (*REFUSED, 429):
        status = refusal.status
    return _fault(reason, status, refusal, after)


def _embedded(refusal: Refusal, ring: KeyRing, after: float) -> Fault:
    """What an error object in a reply with status 200 means: the same as with the status that it names."""
    named = f"error {refusal.status}" if refusal.status else "an error"
    reason = f"{named} in a reply with HTTP status 200: {ring.message(refusal.message)}"
    return _fault(reason, refusal.status or 400, refusal, after)


def _fault(reason: str, status: int, refusal: Refusal, after: float) -> Fault:
    of_request = refusal.of_request and status in (400, 413, 422)
    fields = refusal.fields if status in (400, 422) else ()
    return Fault(reason, status, after=after, of_request=of_request, fields=fields)


def _unusable(reason: str) -> Fault:
    """A complete reply whose model, or filter, gave no text."""
    return Fault(reason, final=True, of_request=True)


def _call(entry: Any) -> ToolCall | None:
    """One of a reply's `tool_calls`, its arguments an object or that as JSON; None for another form."""
    function = entry.get("function") if isinstance(entry, dict) else None
    name, arguments = (
        (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
    )
    if isinstance(arguments, str):
        try:
            arguments = parse(arguments.encode())
        except ValueError:
            return None
    known = isinstance(name, str) and isinstance(arguments, dict)
    return ToolCall(name=name, arguments=arguments) if known else None
